"""Read a feature store: settings, clips, and features by view and row."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
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
    about_no_store,
    has_store,
    read_attributes,
    read_copy,
    write_attributes,
)
from pipeline.store.chunks import decode_chunk, decode_new, filled, index_size, read_index
from pipeline.store.contents import StoreContents
from pipeline.store.object_store import ObjectStore, open_object_store, path_seen_from
from pipeline.store.quantise import dequantise
from pipeline.store.record import (
    DONE,
    BlockRecord,
    checksum,
    current_record,
    unusable_object,
    verified,
)
from pipeline.store.settings import StoreSettings
from pipeline.store.table import write_table

Float16 = npt.NDArray[np.float16]
Rows = Sequence[int] | npt.NDArray[np.integer[Any]]
NUM_READ_THREADS = min(4, os.cpu_count() or 1)
PROVENANCE_PATHS = ("manifest", "root", "weights", "features")


class FeatureStore(StoreContents):
    """A feature store. Rows are the numbers in `ClipRow.row`; views are `test`, `train-0`, `train-1`, …

    Every byte that is read is compared with a checksum. Reading is safe from several threads and processes, also while
    an extraction runs; `reload` reads its new records.
    """

    def __init__(self, objects: ObjectStore, attributes: Attributes, damage: Mapping[str, str] = {}) -> None:
        self._indices: dict[str, np.ndarray] = {}
        super().__init__(objects, attributes, damage)

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
            raise PipelineError(about_no_store(location))
        damage: dict[str, str] = {}
        try:
            attributes = read_attributes(objects)
        except OldFormatError:
            raise
        except PipelineError as error:
            if mode == "r":
                raise
            attributes, damage[ROOT_KEY] = _copy_instead(objects, error), str(error)
        if not damage:
            damage = _damage_of_copy(objects, attributes)
        if mode == "r":
            damage = {}  # a damaged copy is not read
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

    def read_pooled(self, view: str, rows: Rows) -> Float16:
        """Read pooled features of some rows; unfinished rows are NaN.

        Shape:
            returns: (len(rows), T, C), float16.
        """
        numbers = np.asarray(rows, dtype=np.int64)
        return self._as_float16(self._read_chunks(view, "pooled", numbers), view, "pooled", numbers)

    def read_spatial(self, view: str, row: int) -> Float16:
        """Read the feature maps of one row; an unfinished row is NaN.

        Shape:
            returns: (T, H, W, C), float16, channels last.
        """
        found: Float16 = self.read_spatial_batch(view, [row], num_threads=1)[0]
        return found

    def read_spatial_batch(self, view: str, rows: Rows, num_threads: int = NUM_READ_THREADS) -> Float16:
        """Read the feature maps of some rows in any order.

        Shape:
            returns: (len(rows), T, H, W, C), float16, channels last.
        """
        self._check_kind("spatial")
        shape, dtype = layout.row_shape(self.settings, "spatial"), layout.row_dtype(self.settings, "spatial")
        out = np.empty((len(rows), *shape), dtype=dtype)
        if num_threads > 1 and len(rows) > 1:
            list(self._pool.map(self._read_map, [view] * len(rows), map(int, rows), out))
        else:
            for row, place in zip(rows, out, strict=True):
                self._read_map(view, int(row), place)
        return self._as_float16(out, view, "spatial", np.asarray(rows, dtype=np.int64))

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

    def group(self) -> zarr.Group:
        """Return the store as a read-only Zarr group."""
        return zarr.open_group(self.objects.zarr_store, mode="r", zarr_format=3, use_consolidated=False)

    def _index_records(self) -> None:
        super()._index_records()
        self._indices.clear()

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
        current = current_record(self.objects, record.block, self.attributes.fingerprint)
        return verified(self.objects, current or record, key)

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

    def _as_float16(self, found: npt.NDArray[Any], view: str, kind: str, rows: npt.NDArray[np.int64]) -> Float16:
        """Return features as they are, or int8 features multiplied by their scales."""
        values: Float16 = found if found.dtype == np.float16 else dequantise(found, self._scales(view, kind, rows))
        return values

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
        copy = read_copy(objects)
    except PipelineError as error:
        return {layout.COPY_KEY: str(error)}
    if copy != attributes:
        raise PipelineError(
            f"{ROOT_KEY} and {layout.COPY_KEY} of {objects.location} are of different stores: one of them was "
            "replaced. Put the right file back, or extract again with --rebuild."
        )
    return {}


def _copy_instead(objects: ObjectStore, error: PipelineError) -> Attributes:
    try:
        return read_copy(objects)
    except PipelineError:
        raise error from None
