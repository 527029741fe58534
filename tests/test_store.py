"""The feature store: what is written is what is read, by us and by Zarr, and nothing damaged passes for sound."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec

from pipeline.errors import PipelineError
from pipeline.manifest import Clip
from pipeline.recipe import SamplingConfig
from pipeline.store import FeatureStore, StoreSettings, layout, settings_from_dict
from pipeline.store.chunks import join_shard, split_shard
from pipeline.store.locks import writer_lock
from pipeline.store.object_store import open_object_store
from pipeline.store.record import ClipRecord, read_record, read_times, write_record, write_times
from pipeline.store.verify import find_corruption
from pipeline.store.writer import (
    BlockBuilder,
    assign_rows,
    default_block_clips,
    ensure_views,
    write_block,
)
from pipeline.store_command.hdf5 import export_hdf5, import_hdf5
from pipeline.store_command.info import describe

BLOCK_CLIPS = 4
SETTINGS = StoreSettings(
    backbone="squeezenet",
    weights={"name": "random", "sha256": "ab" * 32},
    compute_dtype="float32",
    capability="none",
    compile_mode="eager",
    batch_frames=2,
    transform_version=2,
    frame_choices=SamplingConfig(),
    num_segments=2,
    seed=0,
    maps=("pooled", "spatial"),
    channels=5,
    map_size=3,
    preprocessing={"mean": (0.5, 0.5, 0.5)},
)


def wanted(train: int, val: int) -> list[Clip]:
    clips = [Clip(f"t{n}", f"t{n}.webm", "left", "train") for n in range(train)]
    return clips + [Clip(f"v{n}", f"v{n}.webm", "right", "val") for n in range(val)]


def features_of(clip_id: str, view: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrays that depend on clip and view alone, with many zeros, as maps after a ReLU have them."""
    rng = np.random.default_rng(sum(f"{clip_id} {view}".encode()))
    spatial = np.maximum(rng.standard_normal((2, 3, 3, 5)), 0).astype(np.float16)
    sampling = np.array([1, 4, 0.25, 0, 9, 9.5, 0, int(clip_id[1:]) % 2])
    return spatial.mean((1, 2), dtype=np.float32).astype(np.float16), spatial, sampling


def fill(store: FeatureStore, views: Sequence[str], failing: Sequence[str] = (), blocks: Sequence[int] = ()) -> None:
    """Write every block (or some) with the arrays of `features_of`."""
    ensure_views(store, views)
    rows_of: dict[int, list[tuple[int, str, str, str]]] = {}
    for row in store.rows:
        block, offset = divmod(row.row, BLOCK_CLIPS)
        rows_of.setdefault(block, []).append((offset, row.clip_id, row.label, row.split))
    for block in blocks or rows_of:
        here = tuple(view for view in views if view == "test" or rows_of[block][0][3] == "train")
        builder = BlockBuilder(SETTINGS, block, BLOCK_CLIPS, here, store.attributes.fingerprint)
        records = []
        for offset, clip_id, label, _ in sorted(rows_of[block]):
            fails = clip_id in failing
            status, kind, reason = ("failed", "empty", "It has no frames.") if fails else ("done", "", "")
            records.append(ClipRecord(offset, clip_id, label, status, 10, "d", 7, 20, 9, 12, kind, reason))
            if not fails:
                for view in here:
                    builder.add(offset, view, *features_of(clip_id, view))
        write_block(store.objects, builder, records, None)
    store.reload()


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    made = FeatureStore.create(tmp_path / "s.zarr", SETTINGS, ["left", "right"], BLOCK_CLIPS)
    assign_rows(made, wanted(train=6, val=3))
    fill(made, ["test", "train-0"], failing=["t1"])
    return made


def row_of(store: FeatureStore, clip_id: str) -> int:
    return next(clip.row for clip in store.table() if clip.clip_id == clip_id)


def test_features_come_back_by_view_and_row_in_any_order(store: FeatureStore) -> None:
    clips = store.clips("train", "train-0")[::-1]
    rows = [clip.row for clip in clips]
    assert [clip.clip_id for clip in clips] == ["t5", "t4", "t3", "t2", "t0"]
    for view in ("test", "train-0"):
        expected = [features_of(clip.clip_id, view) for clip in clips]
        np.testing.assert_array_equal(store.read_pooled(view, rows), np.stack([pooled for pooled, _, _ in expected]))
        for threads in (1, 2):
            read = store.read_spatial_batch(view, rows, threads)
            np.testing.assert_array_equal(read, np.stack([spatial for _, spatial, _ in expected]))
        np.testing.assert_array_equal(store.read_spatial(view, rows[1]), expected[1][1])
    assert [store.label_of("test", row) for row in rows] == [1, 0, 1, 0, 0]


def test_zarr_alone_reads_the_same_and_nan_where_nothing_is_done(store: FeatureStore) -> None:
    group = zarr.open_group(store.objects.zarr_store, mode="r")
    for clip in store.table():
        for view in ("test", "train-0"):
            spatial = group[f"views/{view}/spatial"][clip.row]
            pooled = group[f"views/{view}/pooled"][clip.row]
            if clip.status == "done" and view in clip.views:
                np.testing.assert_array_equal(spatial, features_of(clip.clip_id, view)[1])
                np.testing.assert_array_equal(pooled, features_of(clip.clip_id, view)[0])
                np.testing.assert_array_equal(
                    store.read_sampling(view, [clip.row])[0], features_of(clip.clip_id, view)[2]
                )
            else:
                assert np.isnan(spatial).all()
                assert np.isnan(pooled).all()
                assert np.isnan(store.read_spatial(view, clip.row)).all()
                assert np.isnan(store.read_pooled(view, [clip.row])).all()
                assert (store.read_sampling(view, [clip.row]) == -1).all()
    assert group["views/test/sampling"].attrs["columns"][:3] == ["frame_0", "frame_1", "top"]


def test_a_shard_that_zarr_writes_is_split_and_joined_to_the_same_bytes(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=(4, 2, 3),
        chunks=(1, 2, 3),
        shards=(4, 2, 3),
        dtype="float16",
        compressors=[ZstdCodec(level=3, checksum=True)],
        fill_value=float("nan"),
        config={"write_empty_chunks": True},
    )
    array[:] = np.arange(24, dtype=np.float16).reshape(4, 2, 3)
    shard = (tmp_path / "a.zarr/c/0/0/0").read_bytes()
    chunks = split_shard(shard, 4)
    assert all(chunks)
    assert len(join_shard(chunks)) == len(shard)
    (tmp_path / "a.zarr/c/0/0/0").write_bytes(join_shard([chunks[1], None, chunks[0], chunks[3]]))
    swapped = zarr.open_array(tmp_path / "a.zarr", mode="r")[:]
    np.testing.assert_array_equal(swapped[0], np.arange(6, 12).reshape(2, 3))
    np.testing.assert_array_equal(swapped[2], np.arange(6).reshape(2, 3))
    assert np.isnan(swapped[1]).all()


def test_blocks_without_training_views_cost_nothing_for_them(store: FeatureStore) -> None:
    blocks = {clip.block for clip in store.table() if clip.split == "val"}
    assert blocks.isdisjoint({clip.block for clip in store.table() if clip.split == "train"})
    sizes = {key: size for key, size in store.objects.sizes().items() if key.startswith("views/train-0/")}
    assert not [key for key in sizes for block in blocks if f"/c/{block}/" in key]


def test_rows_are_found_again_by_id_whatever_the_order(store: FeatureStore) -> None:
    before = {clip.clip_id: clip.row for clip in store.table()}
    shuffled = wanted(train=6, val=3)[::-1]
    assign_rows(store, shuffled)
    assert [clip.clip_id for clip in store.table()] == [clip.clip_id for clip in shuffled]
    assert {clip.clip_id: clip.row for clip in store.table()} == before
    assert {clip.status for clip in store.table() if clip.clip_id != "t1"} == {"done"}


def test_groups_are_kept_and_a_store_without_any_has_no_column(store: FeatureStore, tmp_path: Path) -> None:
    assert b"group" not in (store.objects.get(layout.TABLE_KEY) or b"")
    clips = [dataclasses.replace(clip, group=f"person{number % 2}") for number, clip in enumerate(wanted(6, 3))]
    assign_rows(store, clips)
    reopened = FeatureStore.open(store.objects.location)
    assert {clip.clip_id: clip.group for clip in reopened.table()} == {clip.clip_id: clip.group for clip in clips}
    export_hdf5(reopened, tmp_path / "s.h5")
    import_hdf5(tmp_path / "s.h5", str(tmp_path / "copy.zarr"))
    assert [clip.group for clip in FeatureStore.open(str(tmp_path / "copy.zarr")).table()] == [
        clip.group for clip in reopened.table()
    ]
    assign_rows(reopened, wanted(6, 3))
    assert b"group" not in (store.objects.get(layout.TABLE_KEY) or b"")


def test_new_clips_get_new_blocks_and_leave_old_rows_alone(store: FeatureStore) -> None:
    before = {clip.clip_id: clip.row for clip in store.table()}
    assign_rows(store, wanted(train=7, val=4))
    after = {clip.clip_id: clip for clip in store.table()}
    assert {name: after[name].row for name in before} == before
    assert {after["t6"].status, after["v3"].status} == {"pending"}
    assert {after["t6"].block, after["v3"].block}.isdisjoint({row // BLOCK_CLIPS for row in before.values()})
    assert store.num_pending == 2


def test_clips_that_leave_the_manifest_are_not_offered_and_come_back(store: FeatureStore) -> None:
    row = row_of(store, "t0")
    assign_rows(store, wanted(train=6, val=3)[1:])
    assert "t0" not in {clip.clip_id for clip in store.table()}
    assert store.num_clips == 8
    assign_rows(store, wanted(train=6, val=3))
    assert row_of(store, "t0") == row
    np.testing.assert_array_equal(store.read_spatial("test", row), features_of("t0", "test")[1])


def test_failed_clips_are_counted_and_never_offered(store: FeatureStore) -> None:
    assert store.num_failed == 1
    assert "t1" not in {clip.clip_id for clip in store.clips()}
    failed = next(clip for clip in store.table() if clip.status == "failed")
    assert (failed.clip_id, failed.kind, failed.reason) == ("t1", "empty", "It has no frames.")
    with pytest.raises(PipelineError, match="no clip of split 'val' with the view 'train-0'"):
        store.clips("val", "train-0")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 1}, "seed"),
        ({"weights": {"name": "imagenet", "sha256": "cd" * 32}}, "weights"),
        ({"frame_choices": SamplingConfig(flip="swap")}, "flip"),
        ({"num_segments": 16}, "num_segments"),
        ({"compute_dtype": "bfloat16"}, "compute_dtype"),
        ({"preprocessing": {"mean": (0.0, 0.5, 0.5)}}, "preprocessing"),
        ({"transform_version": 3}, "transform_version"),
    ],
)
def test_a_difference_is_named_by_its_field(change: dict[str, object], field: str) -> None:
    assert SETTINGS.differences(dataclasses.replace(SETTINGS, **change)) == [field]  # type: ignore[arg-type]
    assert SETTINGS.described(field).startswith(f"{field}=")


def test_settings_survive_the_way_through_a_store(store: FeatureStore) -> None:
    opened = FeatureStore.open(store.objects.location)
    assert SETTINGS.differences(opened.settings) == []
    assert settings_from_dict(opened.settings.as_dict()).frame_choices == SETTINGS.frame_choices
    assert opened.classes == ("left", "right")
    assert opened.views == ("test", "train-0")


def test_what_is_no_store_is_refused(tmp_path: Path, store: FeatureStore) -> None:
    with pytest.raises(PipelineError, match="There is no feature store"):
        FeatureStore.open(tmp_path / "nothing")
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(PipelineError, match="not a feature store"):
        FeatureStore.open(tmp_path / "other.zarr")
    with pytest.raises(PipelineError, match="--rebuild"):
        FeatureStore.create(store.objects.location, SETTINGS, ["left"])


def objects_of(store: FeatureStore) -> list[str]:
    return [key for record in store.records.values() for key in record.objects]


def flip_bit(path: Path, seed: int) -> None:
    data = bytearray(path.read_bytes())
    place = int(np.random.default_rng(seed).integers(len(data) * 8))
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)


def test_a_flipped_bit_in_any_object_is_found(store: FeatureStore) -> None:
    root = Path(store.objects.location)
    assert find_corruption(store) == []
    for seed, key in enumerate(objects_of(store)):
        whole = (root / key).read_bytes()
        flip_bit(root / key, seed)
        assert [damage.key for damage in find_corruption(store)] == [key]
        (root / key).unlink()
        assert [damage.what for damage in find_corruption(store)] == ["missing"]
        (root / key).write_bytes(whole[:-1])
        assert [damage.key for damage in find_corruption(store)] == [key]
        (root / key).write_bytes(whole)


def test_a_flipped_bit_in_a_map_never_reads_as_features(store: FeatureStore) -> None:
    key = Path(store.objects.location) / layout.chunk_key("test", "spatial", 0)
    whole = key.read_bytes()
    rows = [clip.row for clip in store.table() if clip.block == 0 and clip.status == "done"]
    good = {row: store.read_spatial("test", row) for row in rows}
    for seed in range(60):
        flip_bit(key, seed)
        opened = FeatureStore.open(store.objects.location)
        for row in rows:
            try:
                np.testing.assert_array_equal(opened.read_spatial("test", row), good[row])
            except PipelineError as error:
                assert "verify --repair" in str(error)  # noqa: PT017 - either the features or this error
        key.write_bytes(whole)


def test_damaged_records_and_metadata_are_found_and_forgotten(store: FeatureStore) -> None:
    root = Path(store.objects.location)
    for seed in range(20):
        whole = (root / "records/000001.json").read_bytes()
        flip_bit(root / "records/000001.json", seed)
        with pytest.raises(PipelineError, match=r"records/000001\.json"):
            FeatureStore.open(root)
        opened = FeatureStore.open(root, "r+")
        assert {clip.status for clip in opened.table() if clip.block == 1} == {"pending"}
        assert find_corruption(opened)[0].block == 1
        (root / "records/000001.json").write_bytes(whole)
    metadata = root / "views/test/pooled/zarr.json"
    metadata.write_text(metadata.read_text().replace("float16", "float32"))
    damage = find_corruption(FeatureStore.open(root, "r+"))
    assert [(item.block, item.key) for item in damage] == [(-1, "views/test/pooled/zarr.json")]
    ensure_views(store, ["test"])
    assert find_corruption(FeatureStore.open(root)) == []


def test_a_store_of_another_compression_level_is_sound_and_can_be_extended(store: FeatureStore) -> None:
    """Each level of zstd is read alike; the first stores were written with level 3."""
    root = Path(store.objects.location)
    for path in root.glob("views/*/*/zarr.json"):
        written = path.read_text()
        assert f'"level": {layout.ZSTD_LEVEL}' in written
        path.write_text(written.replace(f'"level": {layout.ZSTD_LEVEL}', '"level": 3'))
    opened = FeatureStore.open(root, "r+")
    assert find_corruption(opened) == []
    ensure_views(opened, ["test", "train-0", "train-1"])
    assert find_corruption(FeatureStore.open(root)) == []
    metadata = root / "views/test/pooled/zarr.json"
    metadata.write_text(metadata.read_text().replace('"zstd"', '"gzip"').replace(', "checksum": true', ""))
    assert [item.key for item in find_corruption(FeatureStore.open(root))] == ["views/test/pooled/zarr.json"]


def test_rows_are_copied_as_they_are_when_others_are_made_anew(store: FeatureStore) -> None:
    record = store.records[0]
    builder = BlockBuilder(SETTINGS, 0, BLOCK_CLIPS, record.views, record.fingerprint)
    for view in record.views:
        builder.copy_rows(store.objects, record, view, [clip.offset for clip in record.clips if clip.status == "done"])
    assert {key: store.objects.get(key) for key in builder.encoded()} == builder.encoded()
    (Path(store.objects.location) / layout.chunk_key("test", "pooled", 0)).write_bytes(b"rotten")
    with pytest.raises(PipelineError, match="damaged"):
        builder.copy_rows(store.objects, record, "test", [0])


def test_records_survive_any_text() -> None:
    clip = ClipRecord(0, 'a"b\n\u2028é', "l\\", "failed", -1, "", 3, kind="k", reason='"record": {}\n')
    from pipeline.store.record import BlockRecord

    record = BlockRecord(3, (clip,), ("test",), {layout.chunk_key("test", "pooled", 3): (1, "x")})
    # Times of files are kept apart: a record is the same in every copy of a data set.
    assert read_record(write_record(record), "r") == BlockRecord(
        3, (clip._replace(modified_ns=0),), ("test",), {layout.chunk_key("test", "pooled", 3): (1, "x")}
    )
    assert read_times(write_times([clip])) == {0: 3}
    assert read_times(None) == read_times(b"rotten") == read_times(b"[1]") == {}


def test_small_data_sets_have_smaller_blocks() -> None:
    assert [default_block_clips(clips) for clips in (1, 100, 720, 2000, 200_000)] == [4, 4, 32, 64, 64]


HOLD = """
import sys
from pipeline.store.locks import writer_lock
from pipeline.store.object_store import open_object_store
with writer_lock(open_object_store(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(store: FeatureStore) -> None:
    command = [sys.executable, "-c", HOLD, store.objects.location]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(PipelineError, match=f"another process.*{holder.pid}"), writer_lock(store.objects):
            pass
        holder.send_signal(signal.SIGKILL)
    with writer_lock(store.objects):
        pass


LIMITED = """
import resource, sys
from pipeline.errors import PipelineError
from pipeline.store.object_store import open_object_store
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
place = open_object_store(sys.argv[1])
place.put("small", b"x" * 900)
try:
    place.put("clips.csv", b"x" * 2000)
except PipelineError as error:
    print(error)
"""


def test_a_full_disk_is_a_sentence_and_leaves_the_old_object(store: FeatureStore) -> None:
    before = store.objects.get("clips.csv")
    command = [sys.executable, "-c", LIMITED, store.objects.location]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "No room for 2,000 more bytes" in said
    assert store.objects.get("clips.csv") == before
    assert not [name for name in os.listdir(store.objects.location) if name.endswith(".part")]


def test_hdf5_holds_the_same_for_h5py_alone_and_comes_back(store: FeatureStore, tmp_path: Path) -> None:
    assert export_hdf5(store, tmp_path / "s.h5") == 9
    with h5py.File(tmp_path / "s.h5", "r") as file:
        ids = list(file["clips/clip_id"].asstr()[:])
        assert ids == [clip.clip_id for clip in store.table()]
        shown = [ids[index] for index in file["views/train-0/clip"][:]]
        assert shown == ["t0", "t2", "t3", "t4", "t5"]
        np.testing.assert_array_equal(file["views/train-0/spatial"][2], features_of("t3", "train-0")[1])
    assert import_hdf5(tmp_path / "s.h5", str(tmp_path / "back.zarr")) == 9
    back = FeatureStore.open(tmp_path / "back.zarr")
    assert back.table() == store.table()
    assert {key: back.objects.get(key) for key in objects_of(store)} == {
        key: store.objects.get(key) for key in objects_of(store)
    }
    assert find_corruption(back) == []


def test_info_counts_clips_bytes_and_failures(store: FeatureStore) -> None:
    info = describe(store)
    assert info.num_by_split == {"train": {"done": 5, "failed": 1}, "val": {"done": 3}}
    assert info.num_by_view == {"test": 8, "train-0": 5}
    assert info.num_raw_bytes == 13 * 2 * (2 * 5 + 2 * 3 * 3 * 5)
    assert info.failed_by_kind == {"empty": ["t1"]}
    assert info.num_bytes == sum(len(store.objects.get(key) or b"") for key in objects_of(store))


def test_every_frame_of_a_block_is_one_array_with_offsets(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, frames="all", num_segments=0, maps=("pooled",))
    store = FeatureStore.create(tmp_path / "all.zarr", settings, ["left", "right"], BLOCK_CLIPS)
    assign_rows(store, wanted(train=3, val=0))
    frames = [np.random.default_rng(n).standard_normal((n + 2, 5)).astype(np.float16) for n in range(3)]
    builder = BlockBuilder(settings, 0, BLOCK_CLIPS, ("test",), store.attributes.fingerprint)
    records = []
    for offset, values in enumerate(frames):
        status = "failed" if offset == 1 else "done"
        records.append(ClipRecord(offset, f"t{offset}", "left", status, 1, "d", 1, len(values), 9, 9))
        if status == "done":
            builder.add_frames(offset, values)
    write_block(store.objects, builder, records, None)
    store.reload()
    assert store.read_frames(1).shape == (0, 5)
    for row in (0, 2):
        np.testing.assert_array_equal(store.read_frames(row), frames[row])
    np.testing.assert_array_equal(store.group()["frames/000000"][:], np.concatenate([frames[0], frames[2]]))
    assert export_hdf5(store, tmp_path / "all.h5") == 3
    import_hdf5(tmp_path / "all.h5", str(tmp_path / "back.zarr"))
    np.testing.assert_array_equal(FeatureStore.open(tmp_path / "back.zarr").read_frames(2), frames[2])


def test_a_store_in_memory_of_fsspec_is_as_good_as_a_folder() -> None:
    location = f"memory://stores/{os.getpid()}.zarr"
    store = FeatureStore.create(location, SETTINGS, ["left", "right"], BLOCK_CLIPS)
    assign_rows(store, wanted(train=6, val=3))
    fill(store, ["test", "train-0"])
    opened = FeatureStore.open(location)
    rows = [clip.row for clip in opened.clips("train")]
    np.testing.assert_array_equal(opened.read_spatial_batch("test", rows)[4], features_of("t4", "test")[1])
    assert find_corruption(opened) == []
    assert open_object_store(location).get("records/000009.json") is None
