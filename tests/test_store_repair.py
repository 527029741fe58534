"""`pipeline store verify --repair` needs only the store, which contains the settings that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.backbones import build_backbone
from pipeline.errors import PipelineError
from pipeline.manifest import read_manifest, write_manifest
from pipeline.store import FeatureStore, layout
from pipeline.store.object_store import LocalObjectStore
from pipeline.store_command.info import describe, info_text
from tests.support.run_stages import extract, store_verify
from tests.test_extraction import arrays_of, write_data
from tests.test_extraction import run as extract_tiny


def files_of(location: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(location)): path.read_bytes()
        for path in location.rglob("*")
        if path.name != ".lock" and path.is_file()
    }


def damage(location: Path) -> None:
    damaged = location / layout.chunk_key("test", "pooled", 0)
    damaged.write_bytes(damaged.read_bytes()[:-1])


def test_a_repair_removes_what_one_left_that_was_killed_after_its_last_block(tmp_path: Path) -> None:
    extract_tiny(write_data(tmp_path / "clips", train=2, val=1), tmp_path / "s.zarr")
    location = tmp_path / "s.zarr"
    before = files_of(location)
    part = location / layout.LOCAL_FOLDER / "modified" / ".000000.json.a1b2c3d4.part"
    part.write_bytes(b"{")
    store_verify(store=location, samples=0)
    assert part.exists(), "without --repair, nothing is changed"
    store_verify(store=location, samples=0, repair=True)
    assert files_of(location) == before


def test_squeezenet_weights_in_the_bypass_are_repaired_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path, train=1, val=1)
    backbone, _ = build_backbone("squeezenet", "random", seed=3)
    torch.save(dict(backbone.state_dict()), tmp_path / "weights.pth")
    monkeypatch.chdir(tmp_path)
    extract(
        manifest="m.csv",
        store="s.zarr",
        backbone="squeezenet_bypass",
        weights="weights.pth",
        allow_squeezenet_weights=True,
        num_segments=1,
        views=1,
        dtype="float32",
        compile="eager",
        workers=0,
    )
    location, before = tmp_path / "s.zarr", arrays_of(tmp_path / "s.zarr")
    assert "weights of squeezenet, loaded into squeezenet_bypass on request" in info_text(
        describe(FeatureStore.open(location))
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store_verify(store=location) == []
    damage(location)
    assert len(store_verify(store=location, repair=True, workers=0)) == 1
    assert arrays_of(location) == before
    # Other weights than the store's are refused, whatever is allowed.
    other, _ = build_backbone("squeezenet", "random", seed=4)
    torch.save(dict(other.state_dict()), tmp_path / "weights.pth")
    with pytest.raises(PipelineError, match="weights"):
        store_verify(store=location)


class Killed(BaseException):
    """Simulates SIGKILL: nothing handles it."""


@pytest.mark.parametrize("num_written", [0, 1, 3, 6, 10, 14])
def test_a_repair_that_was_killed_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_written: int) -> None:
    manifest = write_data(tmp_path / "clips", train=5, val=2)
    location = tmp_path / "s.zarr"
    extract_tiny(manifest, location)
    whole = files_of(location)
    damage(location)
    for key in (layout.chunk_key("train-0", "spatial", 1), layout.record_key(2), layout.TABLE_KEY, layout.COPY_KEY):
        (location / key).write_bytes((location / key).read_bytes()[:-9])
    put, count = LocalObjectStore.put, iter(range(num_written))

    def put_some(objects: LocalObjectStore, *arguments: Any) -> None:
        if next(count, None) is None:
            raise Killed
        put(objects, *arguments)

    monkeypatch.setattr(LocalObjectStore, "put", put_some)
    with pytest.raises(Killed):
        store_verify(store=location, repair=True, workers=0)
    monkeypatch.undo()
    with pytest.raises(PipelineError, match="damaged"):
        store_verify(store=location)
    store_verify(store=location, repair=True, workers=0)
    assert files_of(location) == whole


def test_a_damaged_record_of_clips_that_the_manifest_no_longer_has_goes(tmp_path: Path) -> None:
    manifest = write_data(tmp_path / "clips", train=4, val=2)
    extract_tiny(manifest, tmp_path / "s.zarr")
    kept = manifest.clips[2:]
    write_manifest(manifest.path, kept, manifest.classes)
    record = tmp_path / "s.zarr" / layout.record_key(0)
    record.write_bytes(record.read_bytes()[:-9])
    extract_tiny(read_manifest(manifest.path), tmp_path / "s.zarr")
    assert [clip.clip_id for clip in FeatureStore.open(tmp_path / "s.zarr").clips()] == [clip.clip_id for clip in kept]
    assert not record.exists()
