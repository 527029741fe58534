"""Maps averaged to a smaller size: the same in the store, in prediction, in finetuning and in an exported model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.extract.extract import extract_features
from pipeline.manifest import read_manifest
from pipeline.model_file import load_model
from pipeline.predict.export import export_model
from pipeline.predict.predict import predict
from pipeline.store.feature_store import FeatureStore
from tests.support.run_stages import extract_settings, finetune, fit_head
from tests.support.small_clips import T, write_clips

FULL, SMALL = 13, 4
MANIFEST = "small.csv"


def extract_maps(folder: Path, name: str, map_size: int | None) -> FeatureStore:
    request = extract_settings(
        weights="random",
        num_segments=T,
        views=1,
        compile="eager",
        dtype="float32",
        workers=0,
        map_size=map_size,
    )
    extract_features(read_manifest(folder / MANIFEST), str(folder / name), request)
    return FeatureStore.open(str(folder / name))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_clips(folder)
    extract_maps(folder, "full.zarr", None)
    extract_maps(folder, "small.zarr", SMALL)
    fit_head(
        store=folder / "small.zarr",
        head=("fcn3d", "lstm"),
        out=folder / "fit",
        overrides={"epochs": 1, "batch_size": 4},
        precision="float32",
        threads=1,
        jobs=1,
    )
    return folder


def averaged(maps: np.ndarray, size: int) -> np.ndarray:
    """Means over the windows [floor(i·n/size), ceil((i+1)·n/size)). Shape: (..., n, n, C) -> (..., size, size, C)."""
    n = maps.shape[-2]
    edges = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
    rows = [[maps[..., a:b, c:d, :].mean(axis=(-3, -2)) for c, d in edges] for a, b in edges]
    return np.stack([np.stack(row, axis=-2) for row in rows], axis=-3)


def test_stored_maps_are_means_and_pooled_features_do_not_change(study: Path) -> None:
    full, small = FeatureStore.open(str(study / "full.zarr")), FeatureStore.open(str(study / "small.zarr"))
    rows = [clip.row for clip in full.clips()]
    large = full.read_spatial_batch("test", rows).astype(np.float64)
    found = small.read_spatial_batch("test", rows)
    assert large.shape[2:4] == (FULL, FULL)
    assert found.shape[2:4] == (SMALL, SMALL)
    # Both were rounded to float16: half a unit in the last place of the largest value of a window each.
    np.testing.assert_allclose(found, averaged(large, SMALL), rtol=2**-10, atol=2**-11 * large.max())
    np.testing.assert_array_equal(small.read_pooled("test", rows), full.read_pooled("test", rows))


def test_prediction_averages_as_the_store_does(study: Path) -> None:
    model = load_model(study / "fit" / "squeezenet-fcn3d" / "model.safetensors")
    manifest = read_manifest(study / MANIFEST)
    clips = manifest.in_split("val")
    store = FeatureStore.open(str(study / "small.zarr"))
    maps = torch.from_numpy(store.read_spatial_batch("test", [clip.row for clip in store.clips("val")]))
    with torch.no_grad():
        expected = model.head(maps.permute(0, 1, 4, 2, 3).float()).numpy()
    predictions = predict(model, [manifest.locate(clip) for clip in clips])
    by_label = [{score.label: score.score for score in found.ranked} for found in predictions]
    found = np.array([[scores[label] for label in model.spec.classes] for scores in by_label])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_finetuning_starts_from_the_same_scores(study: Path, tmp_path: Path) -> None:
    metrics = finetune(
        manifest=study / MANIFEST,
        init=study / "fit" / "squeezenet-fcn3d" / "model.safetensors",
        out=tmp_path / "finetune",
        epochs=0,
        batch_size=4,
        workers=0,
        precision="float32",
    )
    assert metrics["start"]["largest_difference"] < 2e-3


def test_an_exported_model_averages_too(study: Path, tmp_path: Path) -> None:
    model = load_model(study / "fit" / "squeezenet-fcn3d" / "model.safetensors")
    assert export_model(model, tmp_path / "m.onnx").difference < 1e-3


def test_maps_larger_than_those_of_the_backbone_are_refused(study: Path) -> None:
    with pytest.raises(PipelineError, match=r"`map_size` \(=14\) must be at most 13, .*squeezenet"):
        extract_maps(study, "large.zarr", FULL + 1)


def test_a_store_of_another_map_size_is_refused_by_name(study: Path) -> None:
    with pytest.raises(PipelineError, match=r"made with map_size=4, but the request has map_size=13"):
        extract_maps(study, "small.zarr", None)
