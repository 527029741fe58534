"""One contract for every kind of objects that a store may lie in: a folder, and a file system of fsspec.

`test_store_s3.py` fills, reads and verifies a store on a real S3 server.
"""

from __future__ import annotations

import importlib.util
import uuid
from pathlib import Path

import pytest
import zarr

from pipeline.errors import PipelineError
from pipeline.store.object_store import ObjectStore, open_object_store, path_from, path_seen_from


@pytest.fixture(params=["folder", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return open_object_store(tmp_path / "store" if request.param == "folder" else f"memory://{uuid.uuid4()}/store")


def test_an_s3_url_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "s3fs" else find_spec(name))
    with pytest.raises(PipelineError, match=r"s3://bucket/a\.zarr needs s3fs\. Install the extra: pip install 'st-pip"):
        open_object_store("s3://bucket/a.zarr")


def test_an_empty_place_has_nothing(objects: ObjectStore) -> None:
    assert objects.get("a") is None
    assert objects.get_range("a", 0, 1) is None
    assert objects.get_many(["a", "b/c"]) == [None, None]
    assert objects.sizes() == {}
    assert objects.names() == set()
    objects.delete("a")
    objects.remove_parts()


def test_what_is_put_comes_back(objects: ObjectStore) -> None:
    contents = {"zarr.json": b"{}", "views/test/c/0": bytes(range(256)), "views/train-0/c/0": b"", "a": b"\x00\xff"}
    for key, data in contents.items():
        objects.put(key, data)
    assert {key: objects.get(key) for key in contents} == contents
    assert objects.get_many([*contents, "none"]) == [*contents.values(), None]
    assert objects.sizes() == {key: len(data) for key, data in contents.items()}
    assert objects.names() == {"zarr.json", "views", "a"}
    assert objects.names("views") == {"test", "train-0"}


def test_ranges_are_those_of_the_bytes(objects: ObjectStore) -> None:
    data = bytes(range(200))
    objects.put("k", data)
    assert objects.get_range("k", 0, 5) == data[:5]
    assert objects.get_range("k", 195, 5) == data[195:]
    assert objects.get_range("k", -7, 0) == data[-7:]
    assert objects.get_ranges([("k", 3, 4), ("none", 0, 1), ("k", -1, 0)]) == [data[3:7], None, data[-1:]]


def test_an_object_is_replaced_whole_and_deleted(objects: ObjectStore) -> None:
    objects.put("k", b"long before")
    objects.put("k", b"now")
    assert objects.get("k") == b"now"
    objects.delete("k")
    assert objects.get("k") is None
    assert objects.sizes() == {}


def test_zarr_reads_the_same_objects(objects: ObjectStore) -> None:
    group = zarr.create_group(objects.zarr_store, zarr_format=3, attributes={"format": "x"})
    group.create_array("numbers", shape=(4,), dtype="int16", chunks=(4,))[:] = [1, 2, 3, 4]
    assert b'"format"' in (objects.get("zarr.json") or b"")
    assert "numbers" in objects.names()
    assert zarr.open_group(objects.zarr_store, mode="r")["numbers"][:].tolist() == [1, 2, 3, 4]  # type: ignore[index]


def test_paths_are_recorded_relative_to_a_folder_and_absolute_for_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, manifest = tmp_path / "cache" / "s.zarr", tmp_path / "data" / "m.csv"
    monkeypatch.chdir(tmp_path)
    recorded = path_from("cache/s.zarr", "data/m.csv")
    assert recorded == "../../data/m.csv"
    monkeypatch.chdir("/")
    assert path_seen_from(str(store), recorded) == str(manifest)
    assert path_seen_from(str(store), str(manifest)) == str(manifest)  # version 0.1 recorded absolute paths
    assert path_from("s3://bucket/s.zarr", manifest) == str(manifest)
