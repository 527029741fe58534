"""Export a store to one HDF5 file that h5py alone can read, and import it.

    attributes    format, settings (JSON), classes (JSON), provenance (JSON), block_clips
    clips         group of columns, one entry per clip in the order of the manifest: clip_id, path, label, split,
                  class_index, status, kind, reason, size, digest, group, num_frames, height, width
    views/test    clip (index into `clips`), pooled (n, T, C), spatial (n, T, H, W, C), sampling (n, T + 6)
    views/train-0 …
    frames        clip, offset, length, pooled (frame, C): with `--frames all`

Unfinished clips are in `clips` and in no view.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.errors import PipelineError
from pipeline.files import parse_json
from pipeline.manifest import Clip
from pipeline.registry import WEIGHTS_NAMES
from pipeline.store import layout
from pipeline.store.attributes import Attributes, attributes_from_dict, has_store
from pipeline.store.feature_store import PROVENANCE_PATHS, FeatureStore
from pipeline.store.object_store import open_object_store, path_from
from pipeline.store.record import DONE, WRITTEN_FIELDS, ClipRecord
from pipeline.store.table import ClipRow
from pipeline.store.writer import BlockBuilder, assign_rows, ensure_views, write_block
from pipeline.store_command.hdf5_file import child, dataset, opened_hdf5, sealed_hdf5, texts
from pipeline.store_command.new_store import new_store

FORMAT = "st-pipeline features in HDF5 2"
FORMATS = (FORMAT, "st-pipeline features in HDF5 1")
TEXT_COLUMNS = ("clip_id", "path", "label", "split", "status", "kind", "reason", "digest", "group")
NUMBER_COLUMNS = ("class_index", "size", "num_frames", "height", "width")
PENDING = "pending"


def export_hdf5(store: FeatureStore, path: Path) -> int:
    """Write a store to one file with a SHA-256 of its bytes, and return the number of clips.

    Raises:
        PipelineError: there is not enough disk space.
    """
    clips = store.table()
    _check_room(store, path)
    with sealed_hdf5(path) as file:
        file.attrs["format"] = FORMAT
        file.attrs["settings"] = json.dumps(store.settings.as_dict())
        file.attrs["classes"] = json.dumps(store.classes)
        file.attrs["provenance"] = json.dumps(store.provenance)
        file.attrs["block_clips"] = store.block_clips
        _write_columns(file.create_group("clips"), store, clips)
        done = [(index, clip) for index, clip in enumerate(clips) if clip.status == DONE]
        if store.settings.frames == "all":
            _write_frames(file.create_group("frames"), store, done)
        else:
            for view in store.views:
                members = [(index, clip) for index, clip in done if view in clip.views]
                _write_view(file.create_group(f"views/{view}"), store, view, members)
    return len(clips)


def import_hdf5(path: Path, location: str) -> int:
    """Create a store from a file that `export_hdf5` wrote, and return the number of clips.

    Raises:
        PipelineError: the file is not an export, is damaged, or the location already has another store.
    """
    with opened_hdf5(path) as file:
        if file.attrs.get("format") not in FORMATS:
            raise PipelineError(f"{path} is not an exported feature store ({FORMAT}).")
        objects = open_object_store(location)
        if has_store(objects):
            num_clips = _num_clips_imported(file, location)
            if num_clips is not None:
                return num_clips
            raise PipelineError(
                f"Another store exists already at {location}. Import into another --store, or delete it."
            )
        try:
            with new_store(location, _attributes(file, location)) as store:
                return _fill(store, file)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise PipelineError(f"{path} is damaged: {type(error).__name__}: {error}.") from error


def _num_clips_imported(file: h5py.File, location: str) -> int | None:
    """Return the number of clips in the store at `location` if it was made from this export, else None.

    An import that was killed when the store was complete is thus completed by the same command.
    """
    try:
        store = FeatureStore.open(location)
        if store.attributes != _attributes(file, location):
            return None
        clips, columns = store.table(), _read_columns(child(file, "clips"))
        members = _members(store, file, len(clips))
    except (PipelineError, KeyError, TypeError, ValueError):
        return None
    has_clips = all(values == [getattr(clip, name) for clip in clips] for name, values in columns.items())
    has_views = set(store.views) <= {layout.TEST_VIEW, *members} and all(
        set(places) == {index for index, clip in enumerate(clips) if view in clip.views}
        for view, places in members.items()
    )
    return len(clips) if has_clips and has_views else None


def _attributes(file: h5py.File, location: str) -> Attributes:
    """Read and check the attributes of an export."""
    values = {name: parse_json(file.attrs[name]) for name in ("settings", "classes", "provenance")}
    values["provenance"] = _recorded(values["provenance"], location)
    return attributes_from_dict({**values, "format": layout.FORMAT, "block_clips": int(file.attrs["block_clips"])})


def _recorded(provenance: dict[str, Any], location: str) -> dict[str, Any]:
    """Return the provenance of an export as the store at `location` records it."""
    paths = {
        name: path_from(location, provenance[name])
        for name in PROVENANCE_PATHS
        if provenance.get(name) and provenance[name] not in WEIGHTS_NAMES
    }
    return {**provenance, **paths}


def _check_room(store: FeatureStore, path: Path) -> None:
    # Check first, because the HDF5 library aborts the process if the disk is full when it closes a file.
    path.parent.mkdir(parents=True, exist_ok=True)
    num_bytes = sum(record.num_bytes for record in store.records.values())
    num_free_bytes = shutil.disk_usage(path.parent).free
    if num_free_bytes < num_bytes:
        raise PipelineError(
            f"{path} needs about {num_bytes / 1e6:,.0f} MB, but {path.parent} has only "
            f"{num_free_bytes / 1e6:,.0f} MB of free space. Free some space, or give another path with --out."
        )


def _fill(store: FeatureStore, file: h5py.File) -> int:
    columns = _read_columns(child(file, "clips"))
    named = zip(*(columns[name] for name in ("clip_id", "path", "label", "split", "group")), strict=True)
    assign_rows(store, [Clip(clip_id, path, label, split, group=group) for clip_id, path, label, split, group in named])
    members = _members(store, file, len(columns["clip_id"]))
    ensure_views(store, members)
    index_of_row = {row.row: index for index, row in enumerate(store.rows)}
    frames = child(file, "frames") if "frames" in file else None
    for block in range(store.num_blocks):
        here = (row for row in sorted(index_of_row) if row // store.block_clips == block)
        rows = [row for row in here if columns["status"][index_of_row[row]] != PENDING]
        if not rows:
            continue
        views_here = tuple(view for view, places in members.items() if any(index_of_row[row] in places for row in rows))
        builder = BlockBuilder(store.settings, block, store.block_clips, views_here, store.attributes.fingerprint)
        for row in rows:
            index, offset = index_of_row[row], row % store.block_clips
            for view in views_here:
                if index in members[view]:
                    _copy_row(builder, child(child(file, "views"), view), members[view][index], offset, view)
            if frames is not None:
                _copy_frames(builder, frames, index, offset)
        records = [_record(columns, index_of_row[row], row % store.block_clips) for row in rows]
        write_block(store.objects, builder, records, None)
    store.reload()
    if store.damage:
        raise ValueError(next(iter(store.damage.values())))
    return len(index_of_row)


def _read_columns(group: h5py.Group) -> dict[str, list[Any]]:
    ids = texts(group, "clip_id")
    # Files of version 0.1 have no groups.
    columns: dict[str, list[Any]] = {"group": [""] * len(ids)}
    for name in TEXT_COLUMNS:
        if name in group or name != "group":
            columns[name] = texts(group, name, len(ids))
    for name in NUMBER_COLUMNS:
        columns[name] = dataset(group, name, (len(ids),), "int64")[:].tolist()
    return columns


def _members(store: FeatureStore, file: h5py.File, num_clips: int) -> dict[str, dict[int, int]]:
    """Return the position of each clip in each view, after checking the shapes of the arrays."""
    if store.settings.frames == "all" or "views" not in file:
        return {}
    views = child(file, "views")
    strange = [view for view in views if not layout.is_view(view)]
    if strange:
        raise ValueError(f"'{strange[0]}' is not a name of a view")
    members = {}
    # Use the order of an extracted store: the test view first, then the draws by number.
    for view in sorted(views, key=lambda view: (view != layout.TEST_VIEW, len(view), view)):
        group = child(views, view)
        clips = dataset(group, "clip", (None,), "int64")[:].tolist()
        if len(set(clips)) != len(clips) or any(not 0 <= clip < num_clips for clip in clips):
            raise ValueError(f"views/{view}/clip does not hold indices of clips")
        # Features are float16 in the file, also those of an int8 store.
        dtypes = {
            **dict.fromkeys(store.settings.maps, "float16"),
            "sampling": layout.row_dtype(store.settings, "sampling"),
        }
        for kind, dtype in dtypes.items():
            shape = (len(clips), *layout.row_shape(store.settings, kind))
            dataset(group, kind, shape, str(dtype))
        members[view] = {clip: at for at, clip in enumerate(clips)}
    return members


def _record(columns: dict[str, list[Any]], index: int, offset: int) -> ClipRecord:
    return ClipRecord(offset=offset, modified_ns=0, **{name: columns[name][index] for name in WRITTEN_FIELDS[1:]})


def _copy_row(builder: BlockBuilder, group: h5py.Group, at: int, offset: int, view: str) -> None:
    spatial = group["spatial"][at] if "spatial" in builder.settings.maps else None
    pooled = group["pooled"][at] if "pooled" in builder.settings.maps else np.empty(0, dtype=np.float16)
    builder.add(offset, view, pooled, spatial, group["sampling"][at])


def _copy_frames(builder: BlockBuilder, group: h5py.Group, index: int, offset: int) -> None:
    clips = dataset(group, "clip", (None,), "int64")[:]
    found = np.flatnonzero(clips == index)
    if len(found):
        start = int(dataset(group, "offset", (len(clips),), "int64")[found[0]])
        length = int(dataset(group, "length", (len(clips),), "int64")[found[0]])
        pooled = dataset(group, "pooled", (None, builder.settings.channels), "float16")
        if not 0 <= start <= start + length <= len(pooled):
            raise ValueError(f"the frames of clip {index} lie outside frames/pooled")
        builder.add_frames(offset, pooled[start : start + length])


def _write_columns(group: h5py.Group, store: FeatureStore, clips: tuple[ClipRow, ...]) -> None:
    text = h5py.string_dtype("utf-8")
    for name in TEXT_COLUMNS:
        group.create_dataset(name, data=[getattr(clip, name) for clip in clips], dtype=text)
    for name in NUMBER_COLUMNS:
        group.create_dataset(name, data=np.array([getattr(clip, name) for clip in clips], dtype=np.int64))


def _write_view(group: h5py.Group, store: FeatureStore, view: str, members: list[tuple[int, ClipRow]]) -> None:
    rows = [clip.row for _, clip in members]
    group.create_dataset("clip", data=np.array([index for index, _ in members], dtype=np.int64))
    sampling = group.create_dataset("sampling", data=store.read_sampling(view, rows))
    sampling.attrs["columns"] = json.dumps(layout.sampling_columns(store.settings))
    if "pooled" in store.settings.maps:
        group.create_dataset("pooled", data=store.read_pooled(view, rows))
    if "spatial" in store.settings.maps:
        shape = layout.row_shape(store.settings, "spatial")
        # HDF5 cannot chunk an array without rows.
        packed = {"chunks": (1, *shape), "compression": "gzip", "compression_opts": 1} if rows else {}
        maps = group.create_dataset("spatial", (len(rows), *shape), "float16", **packed)
        for at, row in enumerate(rows):
            maps[at] = store.read_spatial(view, row)


def _write_frames(group: h5py.Group, store: FeatureStore, done: list[tuple[int, ClipRow]]) -> None:
    lengths = np.array([clip.num_frames for _, clip in done], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64) if done else lengths
    group.create_dataset("clip", data=np.array([index for index, _ in done], dtype=np.int64))
    group.create_dataset("offset", data=offsets)
    group.create_dataset("length", data=lengths)
    frames = group.create_dataset("pooled", (int(lengths.sum()), store.settings.channels), "float16")
    for (_, clip), start, length in zip(done, offsets, lengths, strict=True):
        frames[start : start + length] = store.read_frames(clip.row)
