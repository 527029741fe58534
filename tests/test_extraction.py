"""Extraction: features of the right pixels, and a second run that does what is missing and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.backbones import build_backbone
from pipeline.errors import PipelineError
from pipeline.extract.blocks import BlockJob, ClipJob
from pipeline.extract.compute import (
    BFLOAT16_ERROR_BOUND,
    batch_frames_of,
    bfloat16_error,
    choose_compile_mode,
    choose_dtype,
)
from pipeline.extract.extract import choose_num_workers, extract_features
from pipeline.extract.forward import all_finite
from pipeline.manifest import Clip, Manifest, read_manifest, write_manifest
from pipeline.prepare.gestures.encode import write_frame_folder
from pipeline.progress import Progress
from pipeline.settings.extract import ExtractSettings
from pipeline.store import FeatureStore, layout
from pipeline.video.crops import CropBox, centre_crop
from pipeline.video.decode import open_clip
from pipeline.video.render import render
from pipeline.video.sampling import test_frame_indices
from stages.extract import summary_text
from tests.support.run_stages import extract, extract_settings

CLASSES = ("swipe left", "swipe right")
REQUEST = extract_settings(
    weights="random",
    num_segments=2,
    views=1,
    compile="eager",
    dtype="float32",
    workers=0,
    block_clips=2,
)


def draw_clip(path: Path, seed: int, num_frames: int = 7) -> None:
    """A folder of frames: a bright square that moves over noise."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 90, (num_frames, 60, 80, 3), dtype=np.uint8)
    for index in range(num_frames):
        frames[index, 10:40, 5 * index : 5 * index + 20] = (250, 40 * index % 255, 20 * seed % 255)
    write_frame_folder(path, frames)


def write_data(root: Path, train: int, val: int) -> Manifest:
    clips = []
    for number in range(train + val):
        name = f"c{number}"
        split = "train" if number < train else "val"
        if not (root / name).exists():
            draw_clip(root / name, seed=number, num_frames=5 + number)
        clips.append(Clip(name, name, CLASSES[number % 2], split))
    write_manifest(root / "m.csv", clips, CLASSES)
    return read_manifest(root / "m.csv")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_data(tmp_path, train=3, val=2)


def arrays_of(location: Path) -> dict[str, str]:
    """Digests of every object under `views` and `frames`."""
    files = [path for path in sorted(location.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    inside = [path for path in files if path.relative_to(location).parts[0] in ("views", "frames")]
    return {str(path.relative_to(location)): hashlib.sha256(path.read_bytes()).hexdigest() for path in inside}


def run(manifest: Manifest, location: Path, **changes: Any) -> Any:
    return extract_features(manifest, str(location), dataclasses.replace(REQUEST, **changes))


def test_stored_features_are_those_of_the_clip_itself(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "s.zarr")
    store = FeatureStore.open(tmp_path / "s.zarr")
    backbone, _ = build_backbone("squeezenet", "random", seed=0)
    for clip in manifest.clips:
        with open_clip(manifest.locate(clip)) as reader:
            frames = reader.read(test_frame_indices(reader.num_frames, 2))
            pixels = render(frames, centre_crop(reader.height, reader.width), flip=False)
        with torch.no_grad():
            maps = backbone(pixels)  # (T, C, h, w)
        row = next(row for row in store.clips(clip.split) if row.clip_id == clip.clip_id).row
        stored = torch.from_numpy(store.read_spatial("test", row)).float().permute(0, 3, 1, 2)
        torch.testing.assert_close(stored, maps, rtol=1e-3, atol=1e-4)
        pooled = torch.from_numpy(store.read_pooled("test", [row])[0]).float()
        torch.testing.assert_close(pooled, maps.mean((2, 3)), rtol=1e-3, atol=1e-4)
        assert store.label_of("test", row) == CLASSES.index(clip.label)


def test_a_drawn_view_is_what_its_numbers_say(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "s.zarr", views=2, overrides={"flip": "plain"})
    store = FeatureStore.open(tmp_path / "s.zarr")
    backbone, _ = build_backbone("squeezenet", "random", seed=0)
    flips, sides = set(), set()
    for view in ("train-0", "train-1"):
        for clip in store.clips("train", view):
            *indices, top, left, height, width, flip, label = store.read_sampling(view, [clip.row])[0].tolist()
            flips.add(flip)
            assert label == clip.class_index
            with open_clip(str(tmp_path / clip.path)) as reader:
                frames = reader.read([int(index) for index in indices])
            pixels = render(frames, CropBox(top, left, height, width), flip=False)
            with torch.no_grad():
                maps = backbone(pixels.flip(3) if flip else pixels)
            stored = torch.from_numpy(store.read_spatial(view, clip.row)).float().permute(0, 3, 1, 2)
            torch.testing.assert_close(stored, maps, rtol=1e-3, atol=1e-4)
            sides.update((height, width))
    assert flips == {0, 1}
    assert any(side != int(side) for side in sides)


def test_a_mirrored_view_has_the_other_sides_label(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "s.zarr", views=4, maps=("pooled",), overrides={"flip": "swap"})
    store = FeatureStore.open(tmp_path / "s.zarr")
    seen = set()
    for clip in store.clips("train"):
        for view in clip.views:
            flip = int(store.read_sampling(view, [clip.row])[0, -2])
            seen.add(flip)
            assert store.label_of(view, clip.row) == (1 - clip.class_index if flip else clip.class_index)
    assert seen == {0, 1}


def test_validation_clips_have_the_test_view_alone(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "s.zarr")
    store = FeatureStore.open(tmp_path / "s.zarr")
    assert {clip.split: clip.views for clip in store.table()} == {"train": ("test", "train-0"), "val": ("test",)}


def test_a_second_run_computes_nothing_and_changes_nothing(manifest: Manifest, tmp_path: Path) -> None:
    assert run(manifest, tmp_path / "s.zarr").num_computed == 5
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s.zarr").rglob("*.json")}
    again = run(manifest, tmp_path / "s.zarr")
    assert (again.num_computed, again.num_frames) == (0, 0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s.zarr").rglob("*.json")} == before


def test_more_views_compute_only_those_and_equal_one_run_for_all(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "s.zarr", views=1)
    more = run(manifest, tmp_path / "s.zarr", views=3)
    assert (more.num_computed, more.num_frames, more.num_checked_again) == (3, 3 * 2 * 2, 3)
    run(manifest, tmp_path / "once.zarr", views=3)
    assert arrays_of(tmp_path / "s.zarr") == arrays_of(tmp_path / "once.zarr")
    assert run(manifest, tmp_path / "s.zarr", views=2).num_computed == 0


def test_new_rows_extend_and_a_reordered_manifest_is_matched_by_id(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "s.zarr")
    before = arrays_of(tmp_path / "s.zarr")
    longer = write_data(tmp_path, train=3, val=4)
    reordered = dataclasses.replace(longer, clips=longer.clips[::-1])
    assert run(reordered, tmp_path / "s.zarr").num_computed == 2
    after = arrays_of(tmp_path / "s.zarr")
    assert {key: after[key] for key in before if "/c/" in key} == {key: before[key] for key in before if "/c/" in key}
    store = FeatureStore.open(tmp_path / "s.zarr")
    assert [clip.clip_id for clip in store.table()] == [clip.clip_id for clip in reordered.clips]


def test_a_changed_clip_is_done_again_and_only_that_one(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "s.zarr")
    draw_clip(tmp_path / "c1", seed=77, num_frames=9)
    changed = run(manifest, tmp_path / "s.zarr")
    assert (changed.num_computed, changed.num_frames) == (1, 2 * 2)
    run(manifest, tmp_path / "fresh.zarr")
    assert arrays_of(tmp_path / "s.zarr") == arrays_of(tmp_path / "fresh.zarr")


def test_a_touched_clip_of_the_same_bytes_is_left_alone(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "s.zarr")
    for frame in (tmp_path / "c1").iterdir():
        os.utime(frame, ns=(1, 1))
    assert run(manifest, tmp_path / "s.zarr").num_computed == 0


def test_a_touched_clip_beside_a_changed_one_is_not_read_twice(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(manifest, tmp_path / "s.zarr")
    for frame in (tmp_path / "c1").iterdir():
        os.utime(frame, ns=(1, 1))
    draw_clip(tmp_path / "c0", seed=77, num_frames=9)
    assert run(manifest, tmp_path / "s.zarr").num_computed == 1
    read: list[str] = []
    monkeypatch.setattr("pipeline.extract.blocks.digest_of", lambda location: read.append(location) or "")
    assert run(manifest, tmp_path / "s.zarr").num_computed == 0
    assert read == []


def test_same_size_and_other_bytes_are_seen(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "s.zarr")
    frame = tmp_path / "c0" / "00001.jpg"
    data = bytearray(frame.read_bytes())
    data[-1] ^= 1
    frame.write_bytes(data)
    assert run(manifest, tmp_path / "s.zarr").num_computed == 1


def test_a_relabelled_clip_is_done_again_with_its_new_label(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "s.zarr")
    clips = (dataclasses.replace(manifest.clips[0], label=CLASSES[1]), *manifest.clips[1:])
    assert run(dataclasses.replace(manifest, clips=clips), tmp_path / "s.zarr").num_computed == 1
    store = FeatureStore.open(tmp_path / "s.zarr")
    assert store.label_of("train-0", store.table()[0].row) == 1


def test_a_clip_that_moves_to_training_gets_its_views(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "s.zarr")
    clips = (*manifest.clips[:4], dataclasses.replace(manifest.clips[4], split="train"))
    assert run(dataclasses.replace(manifest, clips=clips), tmp_path / "s.zarr").num_computed == 1
    store = FeatureStore.open(tmp_path / "s.zarr")
    assert len(store.clips("train", "train-0")) == 4
    assert store.num_clips == 5


def test_bad_clips_are_recorded_counted_and_tried_again_when_mended(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "c1" / "00003.jpg").unlink()
    for frame in (tmp_path / "c4").iterdir():
        frame.unlink()
    (tmp_path / "c4").rmdir()
    summary = run(manifest, tmp_path / "s.zarr")
    assert [clip.clip_id for clip in summary.failed] == ["c1", "c4"]
    assert "c4" in summary_text(summary)
    store = FeatureStore.open(tmp_path / "s.zarr")
    assert store.num_failed == 2
    assert np.isnan(store.read_pooled("test", [store.table()[1].row])).all()
    assert run(manifest, tmp_path / "s.zarr").num_computed == 0
    draw_clip(tmp_path / "c1", seed=1, num_frames=6)
    draw_clip(tmp_path / "c4", seed=4, num_frames=9)
    mended = run(manifest, tmp_path / "s.zarr")
    assert (mended.num_computed, len(mended.failed)) == (2, 0)
    run(manifest, tmp_path / "fresh.zarr")
    assert arrays_of(tmp_path / "s.zarr") == arrays_of(tmp_path / "fresh.zarr")


def test_more_failures_than_allowed_stop_the_run_with_a_sentence(manifest: Manifest, tmp_path: Path) -> None:
    for name in ("c0", "c1", "c2"):
        (tmp_path / name / "00002.jpg").write_bytes(b"")
    with pytest.raises(PipelineError, match=r"2 clips have failed, more than --max-failed 1 allows.*c1"):
        run(manifest, tmp_path / "s.zarr", max_failed=1)
    assert len(run(manifest, tmp_path / "s.zarr", max_failed=3).failed) == 3


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 5}, "seed=0.*but the request has.*seed=5"),
        ({"num_segments": 3}, "num_segments=2"),
        ({"overrides": {"crops": "centre"}}, "crops=multiscale.*but the request has crops=centre"),
        ({"compile": "jit"}, "compile_mode=eager"),
    ],
)
def test_other_settings_are_refused_by_name(
    manifest: Manifest, tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    run(manifest, tmp_path / "s.zarr", maps=("pooled",))
    with pytest.raises(PipelineError, match=field):
        run(manifest, tmp_path / "s.zarr", maps=("pooled",), **change)
    with pytest.raises(PipelineError, match="maps=pooled, but the request has maps=pooled,spatial"):
        run(manifest, tmp_path / "s.zarr")


def test_a_store_of_an_older_transform_is_read_and_not_extended(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.extract.resolve.TRANSFORM_VERSION", 1)
    run(manifest, tmp_path / "s.zarr", maps=("pooled",))
    monkeypatch.undo()
    with pytest.raises(PipelineError, match=r"transform_version=1, but the request has.*transform_version=2"):
        run(manifest, tmp_path / "s.zarr", maps=("pooled",))
    store = FeatureStore.open(tmp_path / "s.zarr")
    rows = [clip.row for clip in store.clips("train")]
    assert store.read_sampling("test", rows).dtype == np.int32
    assert store.labels_of("test", rows).tolist() == [clip.class_index for clip in store.clips("train")]


def test_rebuild_makes_a_store_of_the_new_settings(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "s.zarr")
    run(manifest, tmp_path / "s.zarr", num_segments=1, views=0, rebuild=True)
    run(manifest, tmp_path / "fresh.zarr", num_segments=1, views=0)
    assert arrays_of(tmp_path / "s.zarr") == arrays_of(tmp_path / "fresh.zarr")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(PipelineError, match="not a feature store"):
        run(manifest, tmp_path / "other", rebuild=True)


def test_a_decoder_that_changed_cannot_pass_unnoticed(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(manifest, tmp_path / "s.zarr")

    def brighter(frames: np.ndarray, *rest: Any) -> torch.Tensor:
        return render(np.where(frames < 255, frames + 1, frames).astype(np.uint8), *rest)

    monkeypatch.setattr("pipeline.video.clip_views.render", brighter)
    with pytest.raises(PipelineError, match="give other features when computed again"):
        run(manifest, tmp_path / "s.zarr", views=2)


def test_a_damaged_block_met_on_the_way_is_made_again(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "s.zarr")
    damaged = tmp_path / "s.zarr" / layout.chunk_key("test", "spatial", 0)
    damaged.write_bytes(damaged.read_bytes()[:-3])
    run(manifest, tmp_path / "s.zarr", views=2)
    run(manifest, tmp_path / "fresh.zarr", views=2)
    assert arrays_of(tmp_path / "s.zarr") == arrays_of(tmp_path / "fresh.zarr")


def test_workers_of_its_own_and_a_cluster_are_one_too_many() -> None:
    with pytest.raises(PipelineError, match="give only one of them"):
        dataclasses.replace(REQUEST, workers=2, scheduler="tcp://host:8786")


def test_every_float16_is_told_from_those_that_are_no_finite_number() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    assert [all_finite(every[at : at + 1]) for at in range(len(every))] == np.isfinite(every).tolist()
    finite = every[np.isfinite(every)].reshape(2, -1)
    assert all_finite(finite)
    for value in (np.inf, -np.inf, np.nan):
        spoilt = finite.copy()
        spoilt[1, 17] = value
        assert not all_finite(spoilt)


def test_a_value_beyond_float16_fails_its_clip(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(*arguments: Any) -> Any:
        backbone, record = build_backbone(*arguments)
        with torch.no_grad():
            for parameter in backbone.features[-1].parameters():
                parameter.mul_(1e6)
        return backbone, record

    monkeypatch.setattr("pipeline.extract.clip_steps.build_backbone", built)
    summary = run(manifest, tmp_path / "s.zarr")
    assert {clip.kind for clip in summary.failed} == {"overflow"}
    assert len(summary.failed) == 5
    with pytest.raises(PipelineError, match="None of the 5 clips"):
        extract(
            manifest=manifest.path,
            store=tmp_path / "s.zarr",
            weights="random",
            num_segments=2,
            views=1,
            compile="eager",
            dtype="float32",
            workers=0,
        )


def test_every_frame_gives_the_pooled_features_of_any_sampling(manifest: Manifest, tmp_path: Path) -> None:
    run(manifest, tmp_path / "all.zarr", frames="all")
    run(manifest, tmp_path / "s.zarr", views=0)
    every, some = FeatureStore.open(tmp_path / "all.zarr"), FeatureStore.open(tmp_path / "s.zarr")
    for clip in every.clips():
        frames = every.read_frames(clip.row)
        assert frames.shape == (clip.num_frames, 512)
        row = next(found.row for found in some.clips() if found.clip_id == clip.clip_id)
        sampled = frames[test_frame_indices(clip.num_frames, 2)].astype(np.float32)
        stored = some.read_pooled("test", [row])[0].astype(np.float32)
        np.testing.assert_allclose(sampled, stored, rtol=2e-3, atol=1e-4)
    draw_clip(tmp_path / "c1", seed=50, num_frames=4)
    run(manifest, tmp_path / "all.zarr", frames="all")
    run(manifest, tmp_path / "fresh.zarr", frames="all")
    assert arrays_of(tmp_path / "all.zarr") == arrays_of(tmp_path / "fresh.zarr")


@pytest.mark.parametrize("mode", ["jit", "eager"])
def test_compiled_features_stay_near_plain_ones(manifest: Manifest, tmp_path: Path, mode: str) -> None:
    run(manifest, tmp_path / "plain.zarr", views=0)
    run(manifest, tmp_path / "s.zarr", views=0, compile=mode)
    plain, compiled = FeatureStore.open(tmp_path / "plain.zarr"), FeatureStore.open(tmp_path / "s.zarr")
    for clip in plain.clips():
        expected = plain.read_spatial("test", clip.row).astype(np.float32)
        found = compiled.read_spatial("test", clip.row).astype(np.float32)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)


@pytest.mark.slow
def test_inductor_features_stay_near_plain_ones(manifest: Manifest, tmp_path: Path) -> None:
    test_compiled_features_stay_near_plain_ones(manifest, tmp_path, "inductor")


@dataclass(frozen=True)
class KnownSpeeds:
    """Seconds that were not measured: of a batch of 8 frames."""

    of_dtypes: Mapping[str, float]
    jit: float = 0.1
    compiling: float = 20.0
    inductor: float = 0.06
    converting: float = 5.0
    onnxruntime: float | None = None  # None: it cannot be converted
    openvino: float | None = None
    batch_frames: int = 8

    def of_jit(self, dtype: str) -> float:
        return self.jit

    def of_preparing(self, mode: str, dtype: str) -> tuple[float, float]:
        if mode == "inductor":
            return self.compiling, self.inductor
        batch = self.onnxruntime if mode == "onnxruntime" else self.openvino
        if batch is None:
            raise PipelineError("It cannot be converted.")
        return self.converting, batch


def test_bfloat16_is_taken_where_it_is_much_faster_and_within_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, _ = build_backbone("squeezenet", "random", seed=0)
    frames = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    module = "pipeline.extract.compute"
    fast, slow = (KnownSpeeds({"float32": gain, "bfloat16": 1.0}) for gain in (1.31, 1.29))
    monkeypatch.setattr(f"{module}.bfloat16_error", lambda *given: BFLOAT16_ERROR_BOUND / 2)
    assert choose_dtype("auto", "cpu", backbone, frames, fast) == ("bfloat16", "")
    assert choose_dtype("auto", "cpu", backbone, frames, slow) == ("float32", "")
    monkeypatch.setattr(f"{module}.bfloat16_error", lambda *given: BFLOAT16_ERROR_BOUND * 2)
    dtype, why = choose_dtype("auto", "cpu", backbone, frames, fast)
    assert dtype == "float32"
    assert f"squeezenet have an error of {BFLOAT16_ERROR_BOUND * 2:.3f}" in why
    assert choose_dtype("auto", "cpu", backbone, None, fast) == ("float32", "")  # bfloat16 is slow, or no clip decodes
    assert choose_dtype("bfloat16", "cpu", backbone, None, slow) == ("bfloat16", "")


@pytest.mark.parametrize(
    ("num_frames", "speeds", "expected"),
    [
        (1_000, KnownSpeeds({}, onnxruntime=0.001), "jit"),  # not worth a measurement
        (10_000, KnownSpeeds({}, jit=0.01, openvino=0.001), "jit"),  # 6 s: compiling cannot pay
        (10_000, KnownSpeeds({}), "inductor"),  # 20 + 37.5 s instead of 62.5 s
        (8_000, KnownSpeeds({}), "jit"),  # 20 + 30 s instead of 50 s
        (10_000, KnownSpeeds({}, inductor=0.09), "jit"),
        (1_000_000, KnownSpeeds({}, inductor=0.09), "inductor"),
        (10_000, KnownSpeeds({}, onnxruntime=0.07), "onnxruntime"),  # 5 + 43.75 s instead of 57.5 s
        (1_000_000, KnownSpeeds({}, onnxruntime=0.07), "inductor"),
        (10_000, KnownSpeeds({}, inductor=0.09, onnxruntime=0.095), "jit"),  # 5 + 59.4 s instead of 62.5 s
        (1_000_000, KnownSpeeds({}, inductor=0.09, onnxruntime=0.08), "onnxruntime"),
        (1_000_000, KnownSpeeds({}, onnxruntime=0.05, openvino=0.049), "openvino"),
        (1_000_000, KnownSpeeds({}, onnxruntime=0.049, openvino=0.05), "onnxruntime"),
        (10_000, KnownSpeeds({}, openvino=0.07), "openvino"),
        # 12.5 s by OpenVINO: no other way is measured. If it is slower than the frozen backbone, the next one is.
        (4_000, KnownSpeeds({}, openvino=0.03, compiling=0.0, inductor=0.001), "openvino"),
        (4_000, KnownSpeeds({}, openvino=0.3, compiling=0.0, inductor=0.001), "inductor"),
    ],
)
def test_compilation_is_chosen_where_the_number_of_frames_pays_for_it(
    monkeypatch: pytest.MonkeyPatch, num_frames: int, speeds: KnownSpeeds, expected: str
) -> None:
    monkeypatch.setattr("pipeline.extract.compute.num_cores", lambda: 2)
    monkeypatch.setattr("pipeline.extract.compute.has_compiler", lambda: True)
    monkeypatch.setattr("pipeline.extract.compute.has_engine", lambda engine: True)
    assert choose_compile_mode("auto", "cpu", num_frames, "float32", speeds)[0] == expected


def test_an_engine_is_chosen_only_in_its_number_types_and_if_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = KnownSpeeds({}, onnxruntime=0.01)
    monkeypatch.setattr("pipeline.extract.compute.has_compiler", lambda: False)
    monkeypatch.setattr("pipeline.extract.compute.has_engine", lambda engine: True)
    mode, why = choose_compile_mode("auto", "cpu", 10**6, "float32", speeds)
    assert mode == "onnxruntime"
    assert "The backbone runs by onnxruntime: 1,000,000 frames take" in why
    assert choose_compile_mode("auto", "cpu", 10**6, "bfloat16", speeds)[0] == "jit"
    assert choose_compile_mode("auto", "cpu", 10**6, "bfloat16", KnownSpeeds({}, openvino=0.01))[0] == "openvino"
    monkeypatch.setattr("pipeline.extract.compute.has_engine", lambda engine: False)
    assert choose_compile_mode("auto", "cpu", 10**6, "float32", speeds)[0] == "jit"


@pytest.mark.parametrize(
    ("engine", "device", "dtype"),
    [("onnxruntime", "cpu", "bfloat16"), ("onnxruntime", "cuda", "float32"), ("openvino", "cuda", "bfloat16")],
)
def test_an_engine_on_a_gpu_or_in_another_number_type_is_refused(engine: str, device: str, dtype: str) -> None:
    with pytest.raises(PipelineError, match=rf"on the CPU, but the request has {dtype} on {device}\. Use jit, or"):
        choose_compile_mode(engine, device, 10, dtype, KnownSpeeds({}))


def test_an_engine_that_is_not_installed_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.onnx_program._missing_packages", lambda engine: [engine])
    for engine, extra in (("onnxruntime", "onnx"), ("openvino", "openvino")):
        with pytest.raises(PipelineError, match=rf"needs {engine}\. Install the extra: .*\[{extra}\].*; or use jit\."):
            choose_compile_mode(engine, "cpu", 10, "float32", KnownSpeeds({}))


def test_the_error_of_bfloat16_on_bundled_or_random_weights_is_measured(manifest: Manifest) -> None:
    backbone, _ = build_backbone("squeezenet", "random", seed=0)
    with open_clip(manifest.locate(manifest.clips[0])) as reader:
        pixels = render(reader.read([0, 3]), centre_crop(reader.height, reader.width), flip=False)
    assert 1e-4 < bfloat16_error(backbone, pixels) < BFLOAT16_ERROR_BOUND


def test_without_a_compiler_the_next_best_way_is_taken_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.extract.compute.has_compiler", lambda: False)
    monkeypatch.setattr("pipeline.extract.compute.has_engine", lambda engine: False)
    mode, said = choose_compile_mode("auto", "cpu", 10**6, "float32", KnownSpeeds({}))
    assert mode == "jit"
    assert "No C++ compiler" in said
    with pytest.raises(PipelineError, match="needs a C\\+\\+ compiler"):
        choose_compile_mode("inductor", "cpu", 10, "float32", KnownSpeeds({}))
    assert choose_compile_mode("auto", "cpu", 10, "float32", KnownSpeeds({})) == ("jit", "")


def test_batches_hold_the_segments_of_a_view_without_waste() -> None:
    for segments in range(1, 80):
        batch = batch_frames_of(segments)
        num_batches = -(-segments // batch)
        assert batch <= 16
        assert num_batches * batch - segments < num_batches


@pytest.mark.parametrize(
    ("num_cores", "gigabytes", "expected"), [(64, 256, 64), (64, 8, 5), (4, 64, 4), (8, 1, 0), (1, 64, 0)]
)
def test_no_more_workers_are_started_than_cores_and_memory_allow(
    manifest: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_cores: int,
    gigabytes: int,
    expected: int,
) -> None:
    run(manifest, tmp_path / "s.zarr", views=0)
    settings = FeatureStore.open(tmp_path / "s.zarr").settings
    clips = tuple(ClipJob(offset, f"c{offset}", "", "wave", ("test",)) for offset in range(64))
    jobs = [BlockJob(block, ("test",), clips, ()) for block in range(100)]
    # What Dask finds, in a container its share: of the cores by their quota, of the memory by its limit.
    monkeypatch.setattr("pipeline.extract.cluster.CPU_COUNT", num_cores)
    monkeypatch.setattr("pipeline.extract.cluster.MEMORY_LIMIT", gigabytes << 30)
    request = dataclasses.replace(REQUEST, workers=None)
    assert choose_num_workers(request, settings, jobs) == expected
    assert choose_num_workers(request, settings, jobs[:1]) == 0
    assert choose_num_workers(dataclasses.replace(request, workers=3), settings, jobs) == 3


def test_no_more_workers_are_started_than_open_files_allow(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(manifest, tmp_path / "s.zarr", views=0)
    settings = FeatureStore.open(tmp_path / "s.zarr").settings
    clips = tuple(ClipJob(offset, f"c{offset}", "", "wave", ("test",)) for offset in range(64))
    jobs = [BlockJob(block, ("test",), clips, ()) for block in range(100)]
    monkeypatch.setattr("pipeline.extract.cluster.CPU_COUNT", 64)
    monkeypatch.setattr("pipeline.extract.cluster.MEMORY_LIMIT", 1 << 40)
    for num_files, num_workers in ((44, 0), (54, 2), (1024, 64)):
        monkeypatch.setattr("pipeline.extract.cluster.allow_many_files", lambda num=num_files: num)
        assert choose_num_workers(dataclasses.replace(REQUEST, workers=None), settings, jobs) == num_workers
    monkeypatch.setattr("pipeline.extract.cluster.allow_many_files", lambda: 44)
    with pytest.raises(PipelineError, match=r"--workers 2 needs about 54 open files, but `ulimit -n` allows 44"):
        run(manifest, tmp_path / "t.zarr", workers=2)


def test_progress_shows_frames_before_the_first_block_is_written(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(Progress, "advance", lambda progress, count, note: notes.append(note))
    run(manifest, tmp_path / "s.zarr", views=0, block_clips=64)
    assert len(notes) == 5
    assert not any(note.startswith("0 frames/s") for note in notes)


@pytest.mark.parametrize("changes", [{"num_segments": 0}, {"views": -1}, {"maps": ("pool",)}, {"frames": "some"}])
def test_impossible_requests_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match="must be"):
        dataclasses.replace(REQUEST, **changes)


def test_paths_and_views_do_not_depend_on_the_working_folder(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = read_manifest("m.csv")
    extract_features(relative, "s.zarr", REQUEST)
    assert run(manifest, tmp_path / "s.zarr").num_computed == 0


def equal_runs(manifest: Manifest, locations: Sequence[Path], requests: Sequence[ExtractSettings]) -> None:
    for location, request in zip(locations, requests, strict=True):
        extract_features(manifest, str(location), request)
    assert arrays_of(locations[0]) == arrays_of(locations[1])
