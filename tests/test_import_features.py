"""Features that were computed elsewhere: arrays in a folder or an HDF5 file become a store for fit-head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.backbones import build_backbone
from pipeline.compare.comparison import compare_runs
from pipeline.compare.table import markdown_table
from pipeline.errors import ClipError, PipelineError
from pipeline.evaluation.result_reader import find_runs, read_run
from pipeline.finetune.model import fresh_classifier
from pipeline.fit_head.stored_clips import StoredClips
from pipeline.manifest import Clip, write_manifest
from pipeline.model_file import load_model
from pipeline.predict.evaluate_command import evaluate
from pipeline.recipe import named_recipe
from pipeline.settings.fit_head import FitHeadSettings
from pipeline.settings.predict import EvaluateSettings
from pipeline.settings.store import StoreImportFeaturesSettings, StoreInfoSettings, StoreVerifySettings
from pipeline.store.feature_store import FeatureStore
from pipeline.store_command.array_layout import choose_layout
from pipeline.store_command.command import store_info
from pipeline.store_command.hdf5 import export_hdf5, import_hdf5
from pipeline.store_command.import_features import store_import_features
from pipeline.store_command.verify import store_verify
from stages import fit_head
from tests.support.memory_source import settings as native_settings

T, C = 4, 6
CLASSES = ("up", "down")
NUM_CLIPS = 24


def arrays_of(shape: tuple[int, ...], num_clips: int = NUM_CLIPS, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Noise on a ramp that rises or falls, by clip id; every second clip falls."""
    generator = np.random.default_rng(0)
    ramp = np.linspace(-1, 1, shape[0]).reshape(-1, *(1,) * (len(shape) - 1))
    values = [generator.normal(scale=0.1, size=shape) + ramp * (-1) ** clip for clip in range(num_clips)]
    return {f"person/c{clip:02d}": array.astype(dtype) for clip, array in enumerate(values)}


def write_folder(folder: Path, arrays: Mapping[str, np.ndarray], save: Callable[..., Any] = np.save) -> Path:
    for clip_id, array in arrays.items():
        path = folder / f"{clip_id}.{'npy' if save is np.save else 'npz'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, array)
    return folder


def write_clips(path: Path, num_clips: int = NUM_CLIPS) -> Path:
    splits = ["train", "val", "train", "test"]
    clips = [
        Clip(f"person/c{n:02d}", f"{n}.mp4", CLASSES[n % 2], splits[n // 2 % 4], (f"g{n // 2}",), f"g{n // 2}")
        for n in range(num_clips)
    ]
    write_manifest(path, clips, CLASSES, ("group",))
    return path


def imported(folder: Path, arrays: Path, **options: Any) -> FeatureStore:
    folder.mkdir(exist_ok=True)
    store = folder / "store.zarr"
    manifest = write_clips(folder / "clips.csv")
    store_import_features(StoreImportFeaturesSettings(features=arrays, manifest=manifest, store=str(store), **options))
    return FeatureStore.open(store)


def pooled_by_id(store: FeatureStore) -> dict[str, np.ndarray]:
    clips = store.clips()
    return dict(zip([c.clip_id for c in clips], store.read_pooled("test", [c.row for c in clips]), strict=True))


def test_arrays_become_features_and_bad_ones_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = arrays_of((T, C))
    folder = write_folder(tmp_path / "arrays", arrays)
    objects = np.array([{}, 1], dtype=object)
    np.save(folder / "person/c00.npy", objects, allow_pickle=True)
    np.save(folder / "person/c01.npy", np.full((T, C), np.nan))
    np.save(folder / "person/c02.npy", np.zeros((T, C + 1)))
    (folder / "person/c03.npy").unlink()
    whole = (folder / "person/c04.npy").read_bytes()
    (folder / "person/c04.npy").write_bytes(whole[:-10])
    np.save(folder / "person/c05.npy", np.zeros((T, C), dtype=int))
    np.save(folder / "person/c06.npy", np.full((T, C), 1e6))
    np.savez(folder / "person/c07.npz", arrays["person/c07"])
    store = imported(tmp_path, folder, name="mine", note="layer 11 of our ViT", video_encoder=True)
    told = capsys.readouterr().out
    assert "24 clips, 8 failed" in told
    reasons = {clip.clip_id[-2:]: (clip.kind, clip.reason) for clip in store.table() if clip.status == "failed"}
    for clip, (kind, sentence) in {
        "00": ("unreadable", "would run code from the file"),
        "01": ("overflow", "holds NaN"),
        "02": ("other-shape", f"({T}, {C + 1}), most arrays have ({T}, {C})"),
        "03": ("missing", "no array of the clip 'person/c03'"),
        "04": ("unreadable", "cannot be read as an array"),
        "05": ("unreadable", "holds int64"),
        "06": ("overflow", "holds 1e+06, beyond the range of float16"),
        "07": ("unreadable", "two arrays"),
    }.items():
        assert reasons[clip][0] == kind
        assert sentence in reasons[clip][1]
        assert kind == "missing" or f"c{clip}.npy" in reasons[clip][1]
    found = pooled_by_id(store)
    assert len(found) == NUM_CLIPS - 8
    for clip_id, values in found.items():
        np.testing.assert_array_equal(values, arrays[clip_id].astype(np.float16))
    labels = store.labels_of("test", [clip.row for clip in store.clips()])
    assert labels.tolist() == [int(clip.clip_id[-2:]) % 2 for clip in store.clips()]
    assert {clip.group for clip in store.table()} == {f"g{n}" for n in range(NUM_CLIPS // 2)}
    assert store.provenance["features"] == str(folder)
    info = store_info(StoreInfoSettings(store=store.objects.location))
    assert "imported   mine, float32 arrays; a video encoder" in capsys.readouterr().out
    assert info.provenance["note"] == "layer 11 of our ViT"
    assert store_verify(StoreVerifySettings(store=store.objects.location)) == []
    # An export has all of it, too.
    export_hdf5(store, tmp_path / "store.h5")
    import_hdf5(tmp_path / "store.h5", str(tmp_path / "again.zarr"))
    again = FeatureStore.open(tmp_path / "again.zarr")
    assert again.settings == store.settings
    assert again.provenance["features"] == str(folder)


def test_maps_and_tokens_are_stored_channels_last(tmp_path: Path) -> None:
    maps = arrays_of((T, C, 3, 3), dtype="float64")
    of_maps = imported(tmp_path / "a", write_folder(tmp_path / "maps", maps, np.savez))
    # The same values as tokens, behind one of another kind.
    tokens = {
        k: np.concatenate([np.full((T, 1, C), 9.0), a.reshape(T, C, 9).swapaxes(1, 2)], 1) for k, a in maps.items()
    }
    with h5py.File(tmp_path / "tokens.h5", "w") as file:
        for clip_id, array in tokens.items():
            file[f"{clip_id}/features"], file[f"{clip_id}/other"] = array, [1.0]
    of_tokens = imported(tmp_path / "b", tmp_path / "tokens.h5", class_tokens=1, key="features")
    assert of_maps.settings.map_size == of_tokens.settings.map_size == 3
    for store in (of_maps, of_tokens):
        pooled = pooled_by_id(store)
        for clip in store.clips():
            array = maps[clip.clip_id]
            stored = store.read_spatial("test", clip.row)
            np.testing.assert_array_equal(stored, array.transpose(0, 2, 3, 1).astype(np.float16))
            np.testing.assert_allclose(pooled[clip.clip_id], array.mean((2, 3)), atol=1e-3)


def test_features_of_all_frames_have_any_length(tmp_path: Path) -> None:
    arrays = {clip_id: array[: 2 + n % 7] for n, (clip_id, array) in enumerate(arrays_of((9, C)).items())}
    store = imported(tmp_path, write_folder(tmp_path / "arrays", arrays), frames="all")
    assert (store.settings.frames, store.settings.num_segments, store.num_failed) == ("all", 0, 0)
    for clip in store.table():
        np.testing.assert_array_equal(store.read_frames(clip.row), arrays[clip.clip_id].astype(np.float16))


def test_heads_are_fitted_and_compared_but_nothing_runs_on_clips(tmp_path: Path) -> None:
    arrays = write_folder(tmp_path / "arrays", arrays_of((T, C, 2, 2)))
    store = imported(tmp_path, arrays, name="vit", video_encoder=True)
    settings = FitHeadSettings(
        store=store.objects.location, head=("mlp",), out=tmp_path / "r", jobs=1,
        overrides={"epochs": 12, "lr": 0.01, "batch_size": 4}, precision="float32", threads=1,
    )  # fmt: skip
    outcomes = fit_head.run(settings)
    # The frames of a recipe do not matter: they were chosen where the features were computed.
    recipe = StoredClips(store).check_recipe(named_recipe("published-code"))
    assert recipe.frames == store.settings.frame_choices
    metrics = {outcome.metrics["head"]: outcome.metrics for outcome in outcomes}
    assert metrics["mlp"]["report"]["top1"] == 100.0
    assert metrics["mlp"]["video_encoder"] is True
    assert metrics["mlp"]["backbone"] == "imported:vit"
    runs = [read_run(folder) for folder in find_runs([tmp_path / "r"])]
    table = markdown_table(compare_runs(runs))
    assert "order of frames within a segment is part" in table
    assert "imported:vit" in table
    model = tmp_path / "r" / "imported:vit-mlp" / "model.safetensors"
    for runs_network in (
        lambda: load_model(model),  # predict, evaluate --manifest, export, finetune --init
        lambda: fresh_classifier("mlp", "imported:vit", "random", CLASSES, T, named_recipe("paper"), 0),
        lambda: build_backbone("imported:vit"),
    ):
        with pytest.raises(
            PipelineError, match=r"imported from arrays .* cannot be run on clips, exported or finetuned"
        ):
            runs_network()


def test_a_store_is_replaced_on_request_only(tmp_path: Path) -> None:
    arrays = write_folder(tmp_path / "arrays", arrays_of((T, C)))
    imported(tmp_path, arrays)
    with pytest.raises(PipelineError, match=r"exists already .* --rebuild"):
        imported(tmp_path, arrays)
    wider = write_folder(tmp_path / "wider", arrays_of((T, 2 * C)))
    assert imported(tmp_path, wider, rebuild=True).settings.channels == 2 * C


def test_without_an_array_no_store_is_left(tmp_path: Path) -> None:
    (tmp_path / "arrays").mkdir()
    with pytest.raises(PipelineError, match=r"None of the 24 clips .* has an array in .*c00\.npy or \.npz"):
        imported(tmp_path, tmp_path / "arrays")
    write_folder(tmp_path / "arrays", {k: a * np.nan for k, a in arrays_of((T, C)).items()})
    with pytest.raises(PipelineError, match=r"None of the arrays .* can be used.*NaN"):
        imported(tmp_path, tmp_path / "arrays")
    assert not (tmp_path / "store.zarr" / "zarr.json").exists()
    with pytest.raises(PipelineError, match="neither a folder nor an HDF5 file"):
        imported(tmp_path, tmp_path / "clips.csv")


def test_links_of_hdf5_files_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["person/c01"] = np.zeros((T, C))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["person/c00"] = np.zeros((T, C))
        file["person/c01"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "person/c01")
    store = imported(tmp_path, tmp_path / "a.h5")
    reasons = {clip.clip_id: clip.reason for clip in store.table()}
    assert "is a link, which is not followed" in reasons["person/c01"]
    assert [clip.clip_id for clip in store.clips()] == ["person/c00"]


@pytest.mark.parametrize(
    ("shape", "options", "match"),
    [
        ((8, 3, 7, 5), {}, "7×5, and maps of a store are square"),
        ((8, 197, 3), {}, "197 tokens, which is no square map.*--class-tokens"),
        ((8, 768), {"class_tokens": 1}, "is for arrays"),
        ((8,), {}, "not features"),
        ((8, 0), {}, "not features"),
    ],
)
def test_shapes_that_are_no_features(shape: tuple[int, ...], options: dict[str, int], match: str) -> None:
    with pytest.raises(PipelineError, match=match):
        choose_layout([shape], False, True, options.get("class_tokens", 0))


def test_means_need_no_square_map() -> None:
    layout = choose_layout([(8, 197, 3)], False, False, 1)
    values = np.arange(8 * 197 * 3, dtype=np.float64).reshape(8, 197, 3) / 1000
    pooled, maps = layout.convert(values, "x.npy")
    assert maps is None
    np.testing.assert_array_equal(pooled, values[:, 1:].mean(axis=1).astype(np.float16))
    with pytest.raises(ClipError, match=r"\(9, 197, 3\), most arrays have \(8, 197, 3\).*--frames all"):
        layout.check((9, 197, 3), "x.npy")


def test_a_video_encoder_is_never_divided_in_time() -> None:
    with pytest.raises(PipelineError, match="each contains the others"):
        StoreImportFeaturesSettings(features="f", manifest="m.csv", store="s", frames="all", video_encoder=True)  # type: ignore[arg-type]


def test_stores_of_image_encoders_keep_their_bytes() -> None:
    assert "video_encoder" not in native_settings().as_dict()
    assert native_settings(video_encoder=True).as_dict()["video_encoder"] is True
    assert native_settings().differences(native_settings(video_encoder=True)) == ["video_encoder"]


def test_a_model_scores_stores_of_imported_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = write_folder(tmp_path / "vit", arrays_of((T, C)))
    store = imported(tmp_path, arrays, video_encoder=True)
    settings = FitHeadSettings(
        store=store.objects.location, head=("mlp",), out=tmp_path / "r", jobs=1,
        overrides={"epochs": 12, "lr": 0.01, "batch_size": 4}, precision="float32", threads=1,
    )  # fmt: skip
    (outcome,) = fit_head.run(settings)
    model = tmp_path / "r" / "imported:vit-mlp" / "model.safetensors"
    again = evaluate(EvaluateSettings(model=model, store=store.objects.location, out=tmp_path / "e"))
    for key in ("report", "probes"):
        assert again[key] == outcome.metrics[key]
    assert again["video_encoder"] is True
    assert "order of frames within a segment" in capsys.readouterr().out
    # Clips that rise and fall the other way, from the same network: the labels are exchanged.
    turned = write_folder(tmp_path / "new", {name: -array for name, array in arrays_of((T, C)).items()})
    other = imported(tmp_path / "second", turned, name="vit")
    assert evaluate(EvaluateSettings(model=model, store=other.objects.location))["report"]["top1"] == 0.0
    wrong = {
        "wider": (arrays_of((T, 2 * C)), {"name": "vit"}, "made with channels=12, the model with channels=6"),
        "named": (arrays_of((T, C)), {}, "If one network computed the features of both, import those with --name vit"),
    }
    for name, (values, options, words) in wrong.items():
        refused = imported(tmp_path / name, write_folder(tmp_path / "arrays" / name, values), **options)
        with pytest.raises(PipelineError, match=words):
            evaluate(EvaluateSettings(model=model, store=refused.objects.location))
    with pytest.raises(PipelineError, match="cannot be run on clips"):
        evaluate(EvaluateSettings(model=model, manifest=tmp_path / "clips.csv"))
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(PipelineError, match="do not match their SHA-256"):
        evaluate(EvaluateSettings(model=model, store=store.objects.location))
