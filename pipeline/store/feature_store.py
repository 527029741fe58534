"""Read a feature store: settings, clips, and features by view and row."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zarr

from pipeline.errors import PipelineError
from pipeline.registry import WEIGHTS_NAMES
from pipeline.store import layout
from pipeline.store.attributes import (
    ROOT_KEY,
    Attributes,
    OldFormatError,
    has_store,
    read_attributes,
    read_copy,
    write_attributes,
)
from pipeline.store.chunks import decode_chunk, decode_new, filled, index_size, read_index
from pipeline.store.object_store import ObjectStore, open_object_store, path_seen_from
from pipeline.store.quantise import dequantise
from pipeline.store.record import (
    DONE,
    FAILED,
    BlockRecord,
    ClipRecord,
    checksum,
    current_record,
    read_record,
    unusable_object,
    verified,
)
from pipeline.store.settings import StoreSettings
from pipeline.store.table import ClipRow, TableRow, read_table, write_table

Float16 = npt.NDArray[np.float16]
Rows = Sequence[int] | npt.NDArray[np.integer[Any]]
NUM_READ_THREADS = min(4, os.cpu_count() or 1)
PENDING = "pending"
PROVENANCE_PATHS = ("manifest", "root", "weights", "features")


class FeatureStore:
    """A feature store. Rows are the numbers in `ClipRow.row`; views are `test`, `train-0`, `train-1`, …

    Every byte that is read is compared with a checksum. Reading is safe from several threads and processes, also while
    an extraction runs; `reload` reads its new records.

    damage: problems of the attributes, the table and the records, by key; empty unless opened with `r+`.
    forgotten: blocks with a record that count as pending, because they will be rewritten. The record is kept until
        then, so that a killed repair can be resumed.
    """

    def __init__(self, objects: ObjectStore, attributes: Attributes, damage: Mapping[str, str] = {}) -> None:
        self.objects = objects
        self.attributes = attributes
        self.settings: StoreSettings = attributes.settings
        self.classes: tuple[str, ...] = attributes.classes
        self.block_clips: int = attributes.block_clips
        self.rows: tuple[TableRow, ...] = ()
        self.records: dict[int, BlockRecord] = {}
        self.damage: dict[str, str] = {}
        self.forgotten: set[int] = set()
        self._attribute_damage = dict(damage)
        self._indices: dict[str, np.ndarray] = {}
        self._record_of_row: dict[int, ClipRecord] = {}
        self.reload()

    @classmethod
    def open(cls, location: str | Path, mode: Literal["r", "r+"] = "r") -> FeatureStore:
        """Open a store. With `r+`, for repair or extension, damaged objects are listed in `damage`.

        Raises:
            PipelineError: there is no store, or it is damaged.
        """
        if mode not in ("r", "r+"):
            raise PipelineError(f"`mode` (={mode!r}) must be 'r' or 'r+'; use FeatureStore.create for a new store.")
        objects = open_object_store(location)
        if not has_store(objects):
            raise PipelineError(
                f"There is no feature store at {location}. Create one with `pipeline extract --store {location}`."
            )
        damage: dict[str, str] = {}
        try:
            attributes = read_attributes(objects)
        except OldFormatError:
            raise
        except PipelineError as error:
            if mode == "r":
                raise
            attributes, damage[ROOT_KEY] = _copy_instead(objects, error), str(error)
        if mode == "r+" and not damage:
            damage = _damage_of_copy(objects, attributes)
        store = cls(objects, attributes, damage)
        if store.damage and mode == "r":
            raise PipelineError(store.damage_text())
        return store

    @classmethod
    def create(
        cls,
        location: str | Path,
        settings: StoreSettings,
        classes: Sequence[str],
        block_clips: int = 64,
        provenance: dict[str, Any] | None = None,
        *,
        is_visible: bool = True,
    ) -> FeatureStore:
        """Create an empty store. With `is_visible=False`, readers find it only after `publish`.

        Raises:
            PipelineError: the location is not empty.
        """
        objects = open_object_store(location)
        if has_store(objects):
            raise PipelineError(f"A store exists already at {location}. Pass --rebuild to replace it.")
        attributes = Attributes(settings, tuple(classes), block_clips, provenance or {})
        objects.put(layout.TABLE_KEY, write_table(()))
        layout.ensure_metadata(objects, settings, (), 0, block_clips)
        store = cls(objects, attributes)
        if is_visible:
            store.publish()
        return store

    def publish(self) -> None:
        """Write the attributes, which make a new store visible to readers."""
        write_attributes(self.objects, self.attributes)

    @property
    def provenance(self) -> dict[str, Any]:
        """Origin of the features: `weights` (a name or path), paths of `manifest`, `root`, imported `features`."""
        found = dict(self.attributes.provenance)
        for name in PROVENANCE_PATHS:
            if found.get(name) and found[name] not in WEIGHTS_NAMES:
                found[name] = path_seen_from(self.objects.location, str(found[name]))
        return found

    def reload(self) -> None:
        """Read table and records again."""
        self.damage = dict(self._attribute_damage)
        try:
            data = self.objects.get(layout.TABLE_KEY)
            self.rows = read_table(data, self.objects.location, self.classes)
            keys = [layout.record_key(block) for block in sorted({row.row // self.block_clips for row in self.rows})]
        except PipelineError as error:
            self.damage[layout.TABLE_KEY] = str(error)
            self.rows, keys = (), layout.record_keys(self.objects.names(layout.RECORDS_FOLDER))
        self.records = {}
        id_of_row = {row.row: row.clip_id for row in self.rows}
        for key, data in zip(keys, self.objects.get_many(keys), strict=True):
            if data is None or layout.block_of_record(key) in self.forgotten:
                continue
            try:
                record = self._checked(read_record(data, key), key, id_of_row)
                self.records[record.block] = record
            except PipelineError as error:
                self.damage[key] = str(error)
        self._index_records()

    def forget(self, blocks: Iterable[int]) -> None:
        """Treat blocks as pending until `remember`, without writing anything."""
        self.forgotten.update(blocks)
        for block in self.forgotten:
            self.records.pop(block, None)
            self.damage.pop(layout.record_key(block), None)
        self._index_records()

    def remember(self) -> None:
        """Read everything again, including the rewritten records of forgotten blocks."""
        self.forgotten.clear()
        self.reload()

    def _index_records(self) -> None:
        self._indices.clear()
        self._record_of_row = {
            record.block * self.block_clips + clip.offset: clip
            for record in self.records.values()
            for clip in record.clips
        }
        vars(self).pop("_listed", None)

    def _checked(self, record: BlockRecord, key: str, id_of_row: Mapping[int, str]) -> BlockRecord:
        if layout.record_key(record.block) != key:
            raise PipelineError(f"{key} of the store is the record of block {record.block}.")
        first = record.block * self.block_clips
        for clip in record.clips:
            if clip.offset >= self.block_clips:
                raise PipelineError(f"{key} of the store has a clip at position {clip.offset} of {self.block_clips}.")
            if self.rows and id_of_row.get(first + clip.offset) != clip.clip_id:
                raise PipelineError(
                    f"{key} of the store names clip '{clip.clip_id}', but the table has another clip in that row."
                )
        return record

    def clear_attribute_damage(self) -> None:
        """Drop the damage of the attributes after both copies were rewritten."""
        for key in self._attribute_damage:
            self.damage.pop(key, None)
        self._attribute_damage.clear()

    def damage_text(self) -> str:
        """Return a sentence with the damaged objects and how to repair them."""
        key, what = next(iter(self.damage.items()))
        if not layout.record_keys([key.rpartition("/")[2]]):
            return what
        count = len(self.damage) - 1
        return (
            f"{key} {f'and {count} more records ' if count else ''}of the store {self.objects.location} "
            f"{'are' if count else 'is'} damaged. Run `pipeline store verify --repair`, or `pipeline extract` again."
        )

    @property
    def num_blocks(self) -> int:
        """Number of blocks that the rows of the table need."""
        return max((row.row // self.block_clips for row in self.rows), default=-1) + 1

    @property
    def num_clips(self) -> int:
        """Number of clips of the manifest, including failed and pending ones."""
        return sum(row.listed for row in self.rows)

    @property
    def num_failed(self) -> int:
        """Number of clips of the manifest that failed."""
        return sum(clip.status == FAILED for clip in self._listed)

    @property
    def num_pending(self) -> int:
        """Number of clips of the manifest that are not extracted yet."""
        return sum(clip.status == PENDING for clip in self._listed)

    @property
    def views(self) -> tuple[str, ...]:
        """Views that at least one block has: `test` first, then the training draws by number."""
        found = {view for record in self.records.values() for view in record.views}
        return tuple(sorted(found, key=lambda view: (view != layout.TEST_VIEW, len(view), view)))

    def array_views(self) -> tuple[str, ...]:
        """Return the views that have arrays, with or without a finished block."""
        return tuple(sorted(filter(layout.is_view, self.objects.names("views"))))

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the order of their first clip."""
        return tuple(dict.fromkeys(row.split for row in self.rows if row.listed))

    def table(self) -> tuple[ClipRow, ...]:
        """Return all clips of the manifest in its order: done, failed and pending."""
        return self._listed

    def clips(self, split: str | None = None, view: str = layout.TEST_VIEW) -> tuple[ClipRow, ...]:
        """Return the finished clips of a split (None: all) that have a view, in the order of the manifest.

        Raises:
            PipelineError: no clip of the split has the view.
        """
        found = tuple(
            clip for clip in self._listed if clip.status == DONE and split in (None, clip.split) and view in clip.views
        )
        if not found:
            raise PipelineError(
                f"The store {self.objects.location} has no clip of split '{split}' with the view '{view}'. "
                f"Splits: {', '.join(self.splits)}; views: {', '.join(self.views)}."
            )
        return found

    def read_pooled(self, view: str, rows: Rows) -> Float16:
        """Read pooled features of some rows; unfinished rows are NaN.

        Shape:
            returns: (len(rows), T, C), float16.
        """
        numbers = np.asarray(rows, dtype=np.int64)
        found = self._read_chunks(view, "pooled", numbers)
        values: Float16 = (
            found if found.dtype == np.float16 else dequantise(found, self._scales(view, "pooled", numbers))
        )
        return values

    def read_spatial(self, view: str, row: int) -> Float16:
        """Read the feature maps of one row; an unfinished row is NaN.

        Shape:
            returns: (T, H, W, C), float16, channels last.
        """
        out = filled(layout.row_shape(self.settings, "spatial"), layout.row_dtype(self.settings, "spatial"))
        self._read_map(view, row, out)
        if out.dtype == np.float16:
            return out
        return dequantise(out, self._scales(view, "spatial", np.array([row]))[0])

    def read_spatial_batch(self, view: str, rows: Rows, num_threads: int = NUM_READ_THREADS) -> Float16:
        """Read the feature maps of some rows in any order.

        Shape:
            returns: (len(rows), T, H, W, C), float16, channels last.
        """
        self._check_kind("spatial")
        shape = (len(rows), *layout.row_shape(self.settings, "spatial"))
        out: Float16 = np.empty(shape, dtype=np.float16)
        if self.settings.store_dtype != "float16":
            for place, row in enumerate(rows):
                out[place] = self.read_spatial(view, int(row))
        elif num_threads > 1 and len(rows) > 1:
            list(self._pool.map(self._read_map, [view] * len(rows), map(int, rows), out))
        else:
            for row, place in zip(rows, out, strict=True):
                self._read_map(view, int(row), place)
        return out

    def read_sampling(self, view: str, rows: Rows) -> npt.NDArray[np.float64]:
        """Read frame numbers, crop box (top, left, height, width in pixels of the frame), flip and label of some rows.

        Shape:
            returns: (len(rows), T + 6), float64 (int32 in stores of transform version 1); the T frame numbers, then the
                columns of `layout.SAMPLING_COLUMNS`.
        """
        found: npt.NDArray[np.float64] = self._read_chunks(view, "sampling", np.asarray(rows, dtype=np.int64))
        return found

    def label_of(self, view: str, row: int) -> int:
        """Read the class index of a row in a view, where a flip may have swapped left and right; -1: unlabelled."""
        return int(self.labels_of(view, [row])[0])

    def labels_of(self, view: str, rows: Rows) -> npt.NDArray[np.int64]:
        """Read the class indices of several rows in a view."""
        return self.read_sampling(view, rows)[:, -1].astype(np.int64)

    def read_frames(self, row: int) -> Float16:
        """Read pooled features of all frames of a clip, from a store with `frames=all`.

        Shape:
            returns: (L, C), float16; (0, C) for an unfinished clip.
        """
        return next(self.iterate_frames([row]))

    def iterate_frames(self, rows: Rows) -> Iterator[Float16]:
        """Yield `read_frames` of several rows; consecutive rows of one block are read together."""
        blocks = (divmod(int(row), self.block_clips) for row in rows)
        for block, members in itertools.groupby(blocks, key=lambda place: place[0]):
            starts, frames = self._frames_of_block(block)
            for _, offset in members:
                yield frames[starts[offset] : starts[offset + 1]]

    def _frames_of_block(self, block: int) -> tuple[npt.NDArray[np.int64], Float16]:
        """Read all frames of a block and the bounds of each clip. Shape: (B + 1,) and (F, C)."""
        record = self.records.get(block)
        counts = np.zeros(self.block_clips, dtype=np.int64)
        for clip in record.clips if record else ():
            counts[clip.offset] = clip.num_frames if clip.status == DONE else 0
        if record is None or not counts.any():
            return np.zeros(self.block_clips + 1, dtype=np.int64), np.empty((0, self.settings.channels), np.float16)
        key = layout.frames_key(block)
        shape = (int(counts.sum()), self.settings.channels)
        frames: Float16 = decode_new(self._verified(record, key, self.objects.get(key)), shape)
        return np.concatenate([[0], np.cumsum(counts)]), frames

    def _verified(self, record: BlockRecord, key: str, data: bytes | None) -> bytes:
        """Read an object and compare it with the checksum in its record.

        Raises:
            PipelineError: they differ, or the object is missing.
        """
        if data is not None and checksum(data) == record.objects.get(key):
            return data
        # An extraction may have rewritten the block since the store was opened.
        return verified(self.objects, current_record(self.objects, record.block) or record, key)

    def group(self) -> zarr.Group:
        """Return the store as a read-only Zarr group."""
        return zarr.open_group(self.objects.zarr_store, mode="r", zarr_format=3, use_consolidated=False)

    @cached_property
    def _listed(self) -> tuple[ClipRow, ...]:
        index_of = {"": -1, **{label: index for index, label in enumerate(self.classes)}}
        return tuple(self._clip_row(row, index_of) for row in self.rows if row.listed)

    def _clip_row(self, row: TableRow, index_of: dict[str, int]) -> ClipRow:
        block = row.row // self.block_clips
        known = (row.row, block, row.clip_id, row.path, row.label, index_of[row.label], row.split)
        found = self._record_of_row.get(row.row)
        if found is None:
            return ClipRow(*known, PENDING, "", "", 0, "", 0, 0, 0, (), row.group)
        what = (found.status, found.kind, found.reason, found.size, found.digest)
        views = self.records[block].views_of(found.offset)
        return ClipRow(*known, *what, found.num_frames, found.height, found.width, views, row.group)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(NUM_READ_THREADS, thread_name_prefix="feature-store")

    def _check_kind(self, kind: str) -> None:
        if kind not in layout.kinds_of(self.settings) or self.settings.frames == "all":
            raise PipelineError(
                f"The store {self.objects.location} holds no {kind} features of segments "
                f"(maps={','.join(self.settings.maps)}, frames={self.settings.frames}). "
                "Extract them into another --store with --maps pooled,spatial."
            )

    def _read_chunks(self, view: str, kind: str, rows: npt.NDArray[np.int64]) -> Any:
        self._check_kind(kind)
        shape, dtype = layout.row_shape(self.settings, kind), layout.row_dtype(self.settings, kind)
        out = np.empty((len(rows), *shape), dtype=dtype)
        blocks = np.unique(rows // self.block_clips)
        chunk = np.empty((self.block_clips, *shape), dtype=dtype)
        keys = [layout.chunk_key(view, kind, int(block)) for block in blocks]
        of_block = rows // self.block_clips
        for block, key, data in zip(blocks, keys, self.objects.get_many(keys), strict=True):
            record = self.records.get(int(block))
            if record is None or view not in record.views:
                chunk[...] = filled((), dtype)
            else:
                decode_chunk(self._verified(record, key, data), chunk)
            here = of_block == block
            out[here] = chunk[rows[here] % self.block_clips]
        return out

    def _scales(self, view: str, kind: str, rows: npt.NDArray[np.int64]) -> Float16:
        """Read the scales of int8 features. Shape: (len(rows), 1, ..., 1, C), as the axes of the rows."""
        found: Float16 = self._read_chunks(view, layout.scale_of(kind), rows)
        num_axes = len(layout.row_shape(self.settings, kind))
        return found.reshape(len(rows), *(1,) * (num_axes - 1), -1)

    def _read_map(self, view: str, row: int, out: npt.NDArray[Any]) -> None:
        self._check_kind("spatial")
        block, offset = divmod(row, self.block_clips)
        key = layout.chunk_key(view, "spatial", block)
        record = self.records.get(block)
        if record is None or view not in record.views:
            out[...] = layout.fill_value(out.dtype)
            return
        index = self._indices.get(key)
        if index is None:
            tail = self.objects.get_range(key, -index_size(self.block_clips), 0)
            if tail is None:
                raise unusable_object(self.objects, key, "missing")
            index = self._indices[key] = read_index(tail, self.block_clips)
        start, length = (int(value) for value in index[offset])
        # The index holds offsets in the shard, so a shard of another size does not match it.
        is_inside = start + length <= record.objects.get(key, (0, ""))[0]
        data = self.objects.get_range(key, start, length) if is_inside else b""
        decode_chunk(data or b"", out)


def _damage_of_copy(objects: ObjectStore, attributes: Attributes) -> dict[str, str]:
    try:
        is_same = read_copy(objects) == attributes
    except PipelineError as error:
        return {layout.COPY_KEY: str(error)}
    return {} if is_same else {layout.COPY_KEY: f"{layout.COPY_KEY} is not a copy of the attributes of zarr.json."}


def _copy_instead(objects: ObjectStore, error: PipelineError) -> Attributes:
    try:
        return read_copy(objects)
    except PipelineError:
        raise error from None
