"""Features stored as int8: the bound of the error, exact copies, and every command that reads a store."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.errors import PipelineError
from pipeline.extract.extract import extract_features
from pipeline.manifest import read_manifest
from pipeline.store import layout
from pipeline.store.feature_store import FeatureStore
from pipeline.store.quantise import as_stored, dequantise, quantise
from pipeline.store.verify import find_corruption
from pipeline.store_command.hdf5 import export_hdf5, import_hdf5
from pipeline.store_command.info import describe, info_text
from pipeline.store_command.recheck import recheck
from tests.support.run_stages import extract_settings, fit_head, store_verify
from tests.support.small_clips import T, write_clips


def features(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    scale = 10.0 ** generator.uniform(-6, 4, shape[-1])  # channels of very different sizes
    return np.clip(generator.standard_normal(shape) * scale, -65504, 65504).astype(np.float16)


@pytest.mark.parametrize("shape", [(8, 512), (8, 4, 4, 64), (1, 1)])
def test_the_error_is_at_most_half_a_scale(shape: tuple[int, ...]) -> None:
    values = features(shape)
    codes, scales = quantise(values)
    assert (codes.dtype, scales.dtype, scales.shape) == (np.int8, np.float16, (shape[-1],))
    error = np.abs(dequantise(codes, scales).astype(np.float64) - values.astype(np.float64))
    largest = np.abs(values.astype(np.float64)).max(axis=tuple(range(len(shape) - 1)))
    assert (error <= scales.astype(np.float64) / 2).all()
    assert (scales.astype(np.float64) / 2 <= np.maximum(largest / 127, 2.0**-25)).all()
    np.testing.assert_array_equal(np.log2(scales.astype(np.float64)) % 1, 0)


def test_a_second_quantisation_changes_nothing() -> None:
    once = as_stored(features((8, 7, 7, 96), seed=1), "int8")
    np.testing.assert_array_equal(as_stored(once, "int8"), once)
    zeros = np.zeros((2, 3), dtype=np.float16)
    np.testing.assert_array_equal(as_stored(zeros, "int8"), zeros)
    assert as_stored(once, "float16") is once


def extract(folder: Path, name: str, store_dtype: str) -> FeatureStore:
    request = extract_settings(
        weights="random", num_segments=T, views=1, compile="eager", dtype="float32", workers=0, map_size=4,
        input_size=96, store_dtype=store_dtype,
    )  # fmt: skip
    extract_features(read_manifest(folder / "small.csv"), str(folder / name), request)
    return FeatureStore.open(str(folder / name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dtypes")
    write_clips(folder)
    extract(folder, "full.zarr", "float16")
    extract(folder, "small.zarr", "int8")
    return folder


def test_a_store_returns_the_rounded_features(folder: Path) -> None:
    full, small = FeatureStore.open(folder / "full.zarr"), FeatureStore.open(folder / "small.zarr")
    rows = [clip.row for clip in full.clips()]
    for kind in ("pooled", "spatial"):
        read = "read_pooled" if kind == "pooled" else "read_spatial_batch"
        exact, found = getattr(full, read)("test", rows), getattr(small, read)("test", rows)
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, np.stack([as_stored(of_clip, "int8") for of_clip in exact]))
    np.testing.assert_array_equal(small.read_spatial("test", rows[3]), small.read_spatial_batch("test", rows)[3])
    np.testing.assert_array_equal(small.read_sampling("test", rows), full.read_sampling("test", rows))
    # A row of no clip is NaN, as in a float16 store.
    assert np.isnan(small.read_pooled("train-0", [rows[-1]])).all()
    assert np.isnan(small.read_spatial("train-0", rows[-1])).all()


def test_plain_zarr_reads_codes_scales_and_the_bound(folder: Path) -> None:
    array = zarr.open_group(folder / "small.zarr", mode="r")["views/test/spatial"]
    assert array.dtype == np.int8
    assert "at most 1/127" in str(array.attrs["quantisation"])
    assert zarr.open_group(folder / "small.zarr", mode="r")["views/test/spatial_scale"].shape[1] == 512


def test_old_stores_keep_their_bytes(folder: Path) -> None:
    assert "store_dtype" not in (folder / "full.zarr" / "zarr.json").read_text()
    assert '"store_dtype": "int8"' in (folder / "small.zarr" / "zarr.json").read_text()


def test_it_is_smaller_and_says_so(folder: Path) -> None:
    full, small = (describe(FeatureStore.open(folder / name)) for name in ("full.zarr", "small.zarr"))
    assert small.num_bytes < 0.75 * full.num_bytes
    text = info_text(small)
    assert "int8: value = code * scale" in text
    assert "int8" not in info_text(full)


def test_the_dtype_is_part_of_the_fingerprint(folder: Path) -> None:
    with pytest.raises(PipelineError, match=r"made with store_dtype=int8, but the request has store_dtype=float16"):
        extract(folder, "small.zarr", "float16")


def test_it_verifies_and_is_computed_again(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "small.zarr"
    shutil.copytree(folder / "small.zarr", copy)
    store = FeatureStore.open(copy)
    assert find_corruption(store) == []
    manifest = read_manifest(folder / "small.csv")
    found = recheck(store, manifest, weights="random", num_clips=3)
    assert (len(found.agreeing), found.differing, found.tolerance) == (3, (), 0.0)


def test_a_damaged_store_is_repaired_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "study"
    shutil.copytree(folder, copy)
    damaged = copy / "small.zarr" / layout.chunk_key("test", "spatial_scale", 0)
    before = damaged.read_bytes()
    damaged.write_bytes(before[:-1])
    with pytest.raises(PipelineError, match=r"1 objects of .* are damaged"):
        store_verify(store=copy / "small.zarr", manifest=copy / "small.csv")
    store_verify(store=copy / "small.zarr", manifest=copy / "small.csv", repair=True)
    assert damaged.read_bytes() == before
    assert find_corruption(FeatureStore.open(copy / "small.zarr")) == []


def test_export_and_import_keep_every_byte(folder: Path, tmp_path: Path) -> None:
    export_hdf5(FeatureStore.open(folder / "small.zarr"), tmp_path / "s.h5")
    import_hdf5(tmp_path / "s.h5", str(tmp_path / "back.zarr"))
    first, second = FeatureStore.open(folder / "small.zarr"), FeatureStore.open(tmp_path / "back.zarr")
    assert second.settings == first.settings
    for block, record in first.records.items():
        assert second.records[block].objects == record.objects


def test_heads_fit_on_it(folder: Path, tmp_path: Path) -> None:
    fit_head(
        store=folder / "small.zarr", head=("lstm", "fcn3d"), out=tmp_path / "fit", precision="float32", threads=1,
        jobs=1, overrides={"epochs": 1, "batch_size": 4},
    )  # fmt: skip
    assert (tmp_path / "fit" / "squeezenet-fcn3d" / "metrics.json").is_file()


def test_every_frame_is_float16() -> None:
    with pytest.raises(PipelineError, match="`store_dtype` int8 is for frames=segments"):
        extract_settings(frames="all", store_dtype="int8")
