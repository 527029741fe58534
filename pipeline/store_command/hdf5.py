"""A store as one HDF5 file that h5py alone can read, and back.

    attributes    format, settings (JSON), classes (JSON), provenance (JSON), block_clips
    clips         group of columns, one entry a clip in the order of the manifest: clip_id, path, label, split,
                  class_index, status, kind, reason, size, digest, group, num_frames, height, width
    views/test    clip (index into `clips`), pooled (n, T, C), spatial (n, T, H, W, C), sampling (n, T + 6)
    views/train-0 …
    frames        clip, offset, length, pooled (frame, C): with `--frames all`

Clips that are not done are in `clips` and in no view.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.errors import PipelineError
from pipeline.files import written_aside
from pipeline.registry import WEIGHTS_NAMES
from pipeline.store import layout
from pipeline.store.clearing import check_location_is_free, remove_store
from pipeline.store.feature_store import FeatureStore
from pipeline.store.locks import writer_lock
from pipeline.store.object_store import open_object_store, path_from
from pipeline.store.record import DONE, WRITTEN_FIELDS, ClipRecord
from pipeline.store.settings import settings_from_dict
from pipeline.store.table import ClipRow
from pipeline.store.writer import BlockBuilder, WantedClip, assign_rows, ensure_views, write_block

FORMAT = "st-pipeline features in HDF5 1"
TEXT_COLUMNS = ("clip_id", "path", "label", "split", "status", "kind", "reason", "digest", "group")
NUMBER_COLUMNS = ("class_index", "size", "num_frames", "height", "width")
PENDING = "pending"


def export_hdf5(store: FeatureStore, path: Path) -> int:
    """Write the whole store to one file; the number of clips in it.

    Raises:
        PipelineError: there is no room for it.
    """
    clips = store.table()
    _check_room(store, path)
    with written_aside(path) as aside, h5py.File(aside, "w") as file:
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
    """Make a store from a file that `export_hdf5` wrote; the number of clips in it.

    Raises:
        PipelineError: the file is not such a one, or a store is there already.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise PipelineError(f"{path} cannot be read as HDF5: {error}.") from error
    with file:
        if file.attrs.get("format") != FORMAT:
            raise PipelineError(f"{path} is not an exported feature store ({FORMAT}).")
        objects = open_object_store(location)
        if objects.get("zarr.json") is not None:
            raise PipelineError(f"There is a store at {location} already. Import into another --store, or delete it.")
        check_location_is_free(objects)
        with writer_lock(objects):
            remove_store(objects)
            try:
                store = FeatureStore.create(
                    location,
                    settings_from_dict(json.loads(file.attrs["settings"])),
                    json.loads(file.attrs["classes"]),
                    int(file.attrs["block_clips"]),
                    _recorded(json.loads(file.attrs["provenance"]), location),
                )
                return _fill(store, file)
            except BaseException:
                # Half a store would look like one that an extraction has to finish.
                remove_store(objects)
                raise


def _recorded(provenance: dict[str, Any], location: str) -> dict[str, Any]:
    """Return the provenance of an export as the store at `location` records it."""
    paths = {
        name: path_from(location, provenance[name])
        for name in ("manifest", "root", "weights")
        if provenance.get(name) and provenance[name] not in WEIGHTS_NAMES
    }
    return {**provenance, **paths}


def _check_room(store: FeatureStore, path: Path) -> None:
    # Before the first byte: the HDF5 library takes the whole process down when a file that it closes has no room.
    path.parent.mkdir(parents=True, exist_ok=True)
    num_bytes = sum(record.num_bytes for record in store.records.values())
    num_free_bytes = shutil.disk_usage(path.parent).free
    if num_free_bytes < num_bytes:
        raise PipelineError(
            f"{path} will take about {num_bytes / 1e6:,.0f} MB, and {path.parent} has room for "
            f"{num_free_bytes / 1e6:,.0f} MB. Make room, or name another place with --out."
        )


def _fill(store: FeatureStore, file: h5py.File) -> int:
    columns: dict[str, list[Any]] = {
        name: list(values.asstr()[:]) if name in TEXT_COLUMNS else values[:].tolist()
        for name, values in file["clips"].items()
    }
    # Files of version 0.1 have no groups.
    columns.setdefault("group", [""] * len(columns["clip_id"]))
    named = zip(*(columns[name] for name in ("clip_id", "path", "label", "split", "group")), strict=True)
    assign_rows(store, [WantedClip(*clip) for clip in named])
    views = tuple(file["views"]) if "views" in file else ()
    # The order of a store made by extraction: test first, then the draws by number.
    views = tuple(sorted(views, key=lambda view: (view != layout.TEST_VIEW, len(view), view)))
    ensure_views(store, views)
    index_of_row = {row.row: index for index, row in enumerate(store.rows)}
    place_in = {view: {int(clip): at for at, clip in enumerate(file[f"views/{view}/clip"])} for view in views}
    for block in sorted({row // store.block_clips for row in index_of_row}):
        here = (row for row in sorted(index_of_row) if row // store.block_clips == block)
        rows = [row for row in here if columns["status"][index_of_row[row]] != PENDING]
        if not rows:
            continue
        views_here = tuple(view for view in views if any(index_of_row[row] in place_in[view] for row in rows))
        builder = BlockBuilder(store.settings, block, store.block_clips, views_here)
        for row in rows:
            index, offset = index_of_row[row], row % store.block_clips
            for view in views_here:
                if index in place_in[view]:
                    _copy_row(builder, file[f"views/{view}"], place_in[view][index], offset, view)
            if "frames" in file:
                _copy_frames(builder, file["frames"], index, offset)
        write_block(
            store.objects, builder, [_record(columns, index_of_row[row], row % store.block_clips) for row in rows], None
        )
    store.reload()
    return len(index_of_row)


def _record(columns: dict[str, list[Any]], index: int, offset: int) -> ClipRecord:
    return ClipRecord(offset=offset, modified_ns=0, **{name: columns[name][index] for name in WRITTEN_FIELDS[1:]})


def _copy_row(builder: BlockBuilder, group: h5py.Group, at: int, offset: int, view: str) -> None:
    spatial = group["spatial"][at] if "spatial" in group else None
    pooled = group["pooled"][at] if "pooled" in group else np.empty(0, dtype=np.float16)
    builder.add(offset, view, pooled, spatial, group["sampling"][at])


def _copy_frames(builder: BlockBuilder, group: h5py.Group, index: int, offset: int) -> None:
    found = np.flatnonzero(group["clip"][:] == index)
    if len(found):
        start, length = int(group["offset"][found[0]]), int(group["length"][found[0]])
        builder.add_frames(offset, group["pooled"][start : start + length])


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
        # HDF5 has no chunks of an array without rows.
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
