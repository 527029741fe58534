"""Damage and strangers: each byte that a reader trusts is checked, and no store reaches out of its folder."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from pipeline.errors import PipelineError
from pipeline.manifest import Manifest
from pipeline.settings.store import StoreExportSettings, StoreInfoSettings
from pipeline.store import FeatureStore, layout
from pipeline.store.attributes import root_bytes
from pipeline.store.locks import writer_lock
from pipeline.store.object_store import open_object_store
from pipeline.store.record import read_record, write_record
from pipeline.store.sealed import seal
from pipeline.store.verify import find_corruption
from pipeline.store_command.command import store_export, store_info
from pipeline.store_command.hdf5 import export_hdf5, import_hdf5
from tests.support.run_stages import store_verify
from tests.test_extraction import arrays_of, run, write_data
from tests.test_nothing_lost import files_of

METADATA = ("zarr.json", "records/clips.json", "records/attributes.json", "records/000000.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Path]:
    folder = tmp_path_factory.mktemp("made")
    manifest = write_data(folder / "clips", train=3, val=2)
    run(manifest, folder / "s.zarr")
    return manifest, folder / "s.zarr"


@pytest.fixture
def manifest(made: tuple[Manifest, Path]) -> Manifest:
    return made[0]


@pytest.fixture
def location(made: tuple[Manifest, Path]) -> Path:
    """A copy of the store beside the first, so that the paths in it stay right."""
    copy = made[1].with_name("copy.zarr")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(made[1], copy)
    return copy


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def seen_by_readers(location: Path) -> Any:
    """All that training and tables take from a store."""
    store = FeatureStore.open(location)
    rows = [clip.row for clip in store.clips("train", "train-0")]
    values = [store.read_pooled("train-0", rows), store.read_sampling("train-0", rows)]
    return store.settings, store.classes, store.provenance, store.table(), [value.tobytes() for value in values]


@pytest.mark.parametrize("key", METADATA)
def test_any_flipped_bit_of_the_metadata_is_named_or_changes_nothing(location: Path, key: str) -> None:
    whole, expected = (location / key).read_bytes(), seen_by_readers(location)
    rng = np.random.default_rng(0)
    for bit in rng.choice(8 * len(whole), size=min(200, 8 * len(whole)), replace=False):
        (location / key).write_bytes(flipped(whole, int(bit)))
        try:
            assert seen_by_readers(location) == expected
        except PipelineError as error:
            assert key in str(error)  # noqa: PT017 - either the same values or this error


@pytest.mark.parametrize("key", METADATA)
def test_damaged_metadata_is_mended_by_the_next_extraction(
    manifest: Manifest, location: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, arrays, expected = files_of(location), arrays_of(location), seen_by_readers(location)
    for wrong in (flipped(before[key], 8 * (len(before[key]) // 2)), None):
        (location / key).unlink()
        if wrong is not None:
            (location / key).write_bytes(wrong)
        summary = run(manifest, location)
        assert summary.num_computed == (2 if key.endswith("000000.json") else 0)
        assert seen_by_readers(location) == expected
        assert arrays_of(location) == arrays
    assert store_damage(location) == []


def store_damage(location: Path) -> list[str]:
    return [item.key for item in find_corruption(FeatureStore.open(location, "r+"))]


def test_arrays_that_are_gone_or_exchanged_are_named(location: Path) -> None:
    store = FeatureStore.open(location)
    clips = [clip for clip in store.clips("train", "train-0") if clip.block == 0]
    for kind, read in (("sampling", store.read_sampling), ("pooled", store.read_pooled)):
        key = layout.chunk_key("train-0", kind, 0)
        whole = (location / key).read_bytes()
        other = (location / layout.chunk_key("test", kind, 0)).read_bytes()
        for wrong in (None, other, whole[:-1]):
            (location / key).unlink()
            if wrong is not None:
                (location / key).write_bytes(wrong)
            with pytest.raises(PipelineError, match=rf"{key} .*(missing|damaged).*verify --repair"):
                read("train-0", [clip.row for clip in clips])
            (location / key).write_bytes(whole)
    (location / layout.chunk_key("train-0", "spatial", 0)).unlink()
    with pytest.raises(PipelineError, match=r"spatial.* is missing"):
        store.read_spatial("train-0", clips[0].row)


@pytest.mark.parametrize("key", ["zarr.json", "records/attributes.json"])
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_attributes_of_another_store_are_named(location: Path, manifest: Manifest, key: str, mode: Any) -> None:
    other = location.with_name("other.zarr")
    if not other.exists():
        run(manifest, other, seed=1)
    assert (other / key).read_bytes() != (location / key).read_bytes()
    shutil.copy(other / key, location / key)
    with pytest.raises(PipelineError, match=r"zarr.json and records/attributes.json .* of different stores"):
        FeatureStore.open(location, mode)


@pytest.mark.parametrize("change", [{"seed": 1}, {"overrides": {"flip": "plain"}}, {"classes": True}])
def test_a_block_of_another_store_is_named_and_computed_again(
    manifest: Manifest, location: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    """Its record fits its chunks, and has the clips of the table in the same rows."""
    whole = files_of(location)
    classes = manifest.classes[:: -1 if change.pop("classes", False) else 1]
    run(dataclasses.replace(manifest, classes=classes), tmp_path / "other.zarr", **change)
    other, key = FeatureStore.open(tmp_path / "other.zarr"), layout.record_key(0)
    for name in (key, *other.records[0].objects):
        shutil.copy(tmp_path / "other.zarr" / name, location / name)
    with pytest.raises(PipelineError, match=rf"{key} of the store .* is damaged.*verify --repair"):
        FeatureStore.open(location)
    assert "settings or classes" in FeatureStore.open(location, "r+").damage[key]
    run(manifest, location)
    assert files_of(location) == whole


@pytest.mark.parametrize("key", [layout.TABLE_KEY, layout.record_key(0)])
def test_text_that_no_file_can_hold_is_named_under_a_right_digest(manifest: Manifest, location: Path, key: str) -> None:
    """JSON can state half of a surrogate pair; a table or an export cannot be written with it."""
    whole = files_of(location)
    name = "clips" if key == layout.TABLE_KEY else "record"
    body = json.dumps(json.loads((location / key).read_bytes())[name]).encode()
    assert b'"c0"' in body
    body = body.replace(b'"c0"', rb'"c\ud800"')
    head = b'{"sha256": "%s",\n"%s": ' % (hashlib.sha256(body).hexdigest().encode(), name.encode())
    (location / key).write_bytes(head + body + b"}\n")
    with pytest.raises(PipelineError, match=rf"{key}.* is damaged"):
        FeatureStore.open(location)
    run(manifest, location)
    assert files_of(location) == whole


def test_records_of_older_versions_are_read(location: Path) -> None:
    """They have no fingerprint."""
    expected = seen_by_readers(location)
    for path in (location / "records").glob("0*.json"):
        record = read_record(path.read_bytes(), path.name)
        path.write_bytes(write_record(dataclasses.replace(record, fingerprint="")))
        assert b"fingerprint" not in path.read_bytes()
    assert seen_by_readers(location) == expected


def test_plain_zarr_opens_a_store_without_a_warning(location: Path) -> None:
    with writer_lock(open_object_store(location)), warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(location, mode="r")
        found = {name for name, _ in group.members(max_depth=None)}
    assert {"views/test/pooled", "views/train-0/sampling", "records"} <= found
    assert not [name for name in found if "clips" in name or "lock" in name]
    assert group.attrs["format"] == layout.FORMAT


def as_format_1(location: Path) -> None:
    """Rewrite a store as version 0.1 wrote it."""
    store = FeatureStore.open(location)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row", "clip_id", "path", "label", "split", "listed"))
    writer.writerows((*row[:5], int(row.listed)) for row in store.rows)
    (location / "clips.csv").write_text(text.getvalue())
    (location / ".lock").write_text("")
    shutil.move(location / "records/.local", location / ".local")
    for name in ("zarr.json", "clips.json", "attributes.json"):
        (location / "records" / name).unlink()
    values = {**store.attributes.as_dict(), "format": "st-pipeline feature store 1"}
    node = {"attributes": values, "zarr_format": 3, "node_type": "group"}
    (location / "zarr.json").write_text(json.dumps(node))


def test_a_store_of_format_1_is_refused_by_readers_and_upgraded_by_extraction(
    manifest: Manifest, location: Path
) -> None:
    before, expected = files_of(location), seen_by_readers(location)
    as_format_1(location)
    with pytest.raises(PipelineError, match=r"format 1.*Run the `pipeline extract` that made it again"):
        FeatureStore.open(location)
    table = (location / "clips.csv").read_text()
    (location / "clips.csv").write_text(table.replace(",c0,", ",c9,", 1))
    with pytest.raises(PipelineError, match=r"row 0 is 'c9' in clips\.csv"):
        run(manifest, location)
    (location / "clips.csv").write_text(table)
    assert run(manifest, location).num_computed == 0
    assert seen_by_readers(location) == expected
    hidden = {"records/.lock", "records/.workers"}
    assert {key: data for key, data in files_of(location).items() if key not in hidden} == {
        key: data for key, data in before.items() if key not in hidden
    }


def test_an_export_is_checked_before_it_is_read(location: Path, tmp_path: Path) -> None:
    export_hdf5(FeatureStore.open(location), tmp_path / "s.h5")
    whole = (tmp_path / "s.h5").read_bytes()
    with h5py.File(tmp_path / "s.h5") as file:  # h5py alone reads it
        assert file["views/test/pooled"].shape[0] == 5
    rng = np.random.default_rng(0)
    for bit in (*range(0, 1600, 37), *rng.integers(0, 8 * len(whole), 60)):
        (tmp_path / "s.h5").write_bytes(flipped(whole, int(bit)))
        with pytest.raises(PipelineError, match=r"s\.h5"):
            import_hdf5(tmp_path / "s.h5", str(tmp_path / "again.zarr"))
    (tmp_path / "s.h5").write_bytes(whole[:-1])
    with pytest.raises(PipelineError, match="does not match the SHA-256"):
        import_hdf5(tmp_path / "s.h5", str(tmp_path / "again.zarr"))
    (tmp_path / "s.h5").write_bytes(whole)
    assert import_hdf5(tmp_path / "s.h5", str(tmp_path / "again.zarr")) == 5


def changed_record(location: Path, **changes: Any) -> None:
    path = location / "records/000000.json"
    record = read_record(path.read_bytes(), "records/000000.json")
    path.write_bytes(write_record(dataclasses.replace(record, **changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"views": ("test", "../../victim/views/test")},
        {"views": ("test", "/etc")},
        {"objects": {"../victim/file": (1, "x")}},
        {"objects": {"records/000001.json": (1, "x")}},
        {"lacking": {"../victim": (0,)}},
        {"block": 7},
    ],
)
def test_names_in_a_record_are_never_paths(location: Path, changes: dict[str, Any]) -> None:
    victim = location.with_name("victim")
    (victim / "views/test").mkdir(parents=True, exist_ok=True)
    (victim / "views/test/zarr.json").write_text("mine")
    (victim / "file").write_text("mine")
    before = files_of(victim)
    changed_record(location, **changes)
    with pytest.raises(PipelineError, match=r"records/000000\.json"):
        FeatureStore.open(location)
    store_verify(store=location, repair=True, workers=0, samples=0)
    assert files_of(victim) == before
    assert store_damage(location) == []


def test_links_are_not_followed_out_of_a_store(manifest: Manifest, location: Path) -> None:
    outside = location.with_name("outside")
    shutil.rmtree(outside, ignore_errors=True)
    outside.mkdir()
    (outside / "file").write_text("mine")
    for name in (".lock", ".workers"):
        (location / "records" / name).unlink(missing_ok=True)
        (location / "records" / name).symlink_to(outside / "file")
        with pytest.raises(PipelineError, match=rf"{name} cannot be opened"):
            run(manifest, location)
        (location / "records" / name).unlink()
    shutil.move(location / "views", outside / "views")
    (location / "views").symlink_to(outside / "views")
    before = files_of(outside)
    key = layout.chunk_key("test", "pooled", 0)
    (location / "records/000000.json").unlink()
    with pytest.raises(PipelineError, match="views is a link"):
        run(manifest, location)
    with pytest.raises(PipelineError, match="views is a link"):
        open_object_store(location).delete(key)
    assert files_of(outside) == before


@pytest.mark.timeout(60)
@pytest.mark.parametrize("key", ["zarr.json", "records/clips.json", "records/000000.json", "views/test/pooled/c/0/0/0"])
def test_what_is_no_file_is_not_waited_for(location: Path, key: str) -> None:
    (location / key).unlink()
    os.mkfifo(location / key)
    with pytest.raises(PipelineError, match=r"missing|damaged"):
        seen_by_test_view(location)
    (location / key).unlink()
    (location / key).symlink_to("/dev/zero")
    with pytest.raises(PipelineError, match=r"missing|damaged"):
        seen_by_test_view(location)


def seen_by_test_view(location: Path) -> None:
    store = FeatureStore.open(location)
    if any(clip.block == 0 and clip.status == "pending" for clip in store.table()):
        raise PipelineError("the record is missing")
    store.read_pooled("test", [clip.row for clip in store.clips("train")])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_segments", 10**9), ("channels", 10**12), ("map_size", 10**6), ("channels", "many"), ("channels", True),
        ("maps", ["pooled", "../x"]), ("frames", "none"), ("weights", {}), ("seed", -1),
    ],
)  # fmt: skip
def test_sizes_that_no_store_has_are_refused_before_memory_is_asked_for(location: Path, name: str, value: Any) -> None:
    values = FeatureStore.open(location).attributes.as_dict()
    values["settings"][name] = value
    (location / "zarr.json").write_bytes(root_bytes(values))
    (location / "records/attributes.json").write_bytes(seal("attributes", values))
    for mode in ("r", "r+"):
        with pytest.raises(PipelineError, match="attributes of the store are invalid"):
            FeatureStore.open(location, mode)  # type: ignore[arg-type]


def test_info_names_the_damage(location: Path) -> None:
    path = location / "records/clips.json"
    path.write_bytes(flipped(path.read_bytes(), 900))
    with pytest.raises(PipelineError, match=r"clips\.json\) is damaged.*pipeline extract. again"):
        store_info(StoreInfoSettings(store=location))


@pytest.mark.parametrize("name", ["e.h5", "e.HDF5", "notes.txt", "folder"])
def test_a_path_that_is_no_store_is_called_what_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"x")
    for command in (
        lambda: store_info(StoreInfoSettings(store=str(path))),
        lambda: store_export(StoreExportSettings(store=str(path), out=tmp_path / "o.h5")),
        lambda: store_verify(store=path),
    ):
        with pytest.raises(PipelineError, match="not a feature store") as error:
            command()
        assert ("`pipeline store import" in str(error.value)) is name.startswith("e.")
    with pytest.raises(PipelineError, match="There is no feature store"):
        store_info(StoreInfoSettings(store=str(tmp_path / "none.zarr")))
