"""Write a store: assign rows and blocks to the clips of a manifest, build a block, write it and its record."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.manifest import Clip
from pipeline.store import layout
from pipeline.store.chunks import decode_chunk, encode_chunk, filled, join_shard, split_shard
from pipeline.store.feature_store import FeatureStore
from pipeline.store.object_store import ObjectStore, Phase, no_phase
from pipeline.store.quantise import quantise
from pipeline.store.record import DONE, BlockRecord, ClipRecord, checksum, verified, write_record, write_times
from pipeline.store.settings import StoreSettings
from pipeline.store.table import TableRow, write_table

TRAIN_SPLIT = "train"


def default_block_clips(num_clips: int) -> int:
    """Return the number of clips in a block: 64, or fewer in a small data set, so that all workers stay busy."""
    size = 64
    while size > 4 and num_clips < 16 * size:
        size //= 2
    return size


def assign_rows(store: FeatureStore, wanted: Sequence[Clip]) -> None:
    """Assign a row to every wanted clip and write the table; known clips keep their rows, new clips get new blocks.

    Training clips and other clips are in separate blocks, because only training clips have training views. A clip that
    is no longer in the manifest keeps its row as unlisted, and gets it back if the manifest contains it again.
    """
    old = {(row.clip_id, row.split == TRAIN_SPLIT): row for row in store.rows}
    size = store.block_clips
    used = {row.row // size for row in store.rows}
    unused = (block for block in itertools.count() if block not in used)
    rows: dict[tuple[str, bool], TableRow] = {}
    for is_train in (True, False):
        fresh = [
            clip for clip in wanted if (clip.split == TRAIN_SPLIT) == is_train and (clip.clip_id, is_train) not in old
        ]
        for start in range(0, len(fresh), size):
            first = next(unused) * size
            for row, clip in enumerate(fresh[start : start + size], first):
                rows[clip.clip_id, is_train] = TableRow(
                    row, clip.clip_id, clip.path, clip.label, clip.split, group=clip.group
                )
    listed = []
    for clip in wanted:
        key = (clip.clip_id, clip.split == TRAIN_SPLIT)
        known = rows.get(key) or old[key]
        listed.append(known._replace(path=clip.path, label=clip.label, split=clip.split, listed=True, group=clip.group))
    here = {row.row for row in listed}
    unlisted = [row._replace(listed=False) for row in store.rows if row.row not in here]
    table = (*listed, *unlisted)
    if table != store.rows or layout.TABLE_KEY in store.damage:
        store.objects.put(layout.TABLE_KEY, write_table(table))
        store.reload()


def ensure_views(store: FeatureStore, views: Iterable[str]) -> None:
    """Create or extend the arrays of these views to the length of the table."""
    num_rows = store.num_blocks * store.block_clips
    # The arrays of earlier views grow with the table too.
    layout.ensure_metadata(store.objects, store.settings, {*views, *store.views}, num_rows, store.block_clips)


@dataclass
class BlockBuilder:
    """Builder of a block: rows are added one by one and compressed immediately.

    views: views that get new objects. Rows that are not added read as NaN. fingerprint: that of the store.
    """

    settings: StoreSettings
    block: int
    block_clips: int
    views: tuple[str, ...]
    fingerprint: str
    _maps: dict[tuple[str, int], bytes] = field(default_factory=dict)
    _rows: dict[tuple[str, str, int], np.ndarray] = field(default_factory=dict)
    _frames: dict[int, np.ndarray] = field(default_factory=dict)

    def add(self, offset: int, view: str, pooled: np.ndarray, spatial: np.ndarray | None, sampling: np.ndarray) -> None:
        """Add the features of one clip in one view.

        Shape:
            pooled:   (T, C), float16.
            spatial:  (T, H, W, C), float16, or None if the store has no spatial maps.
            sampling: (T + 6,), float64.
        """
        if "pooled" in self.settings.maps:
            self._rows["pooled", view, offset] = self._codes("pooled", offset, view, pooled)
        self._rows["sampling", view, offset] = sampling
        if "spatial" in self.settings.maps:
            if spatial is None:
                raise ValueError("the store has spatial maps, but none were given")
            self._maps[view, offset] = encode_chunk(self._codes("spatial", offset, view, spatial))

    def _codes(self, kind: str, offset: int, view: str, features: np.ndarray) -> np.ndarray:
        """Return features as they are stored; keep the scales of int8."""
        if self.settings.store_dtype == "float16":
            return features
        codes, scales = quantise(features)
        self._rows[layout.scale_of(kind), view, offset] = scales
        return codes

    def add_frames(self, offset: int, frames: np.ndarray) -> None:
        """Add the pooled features of all frames of one clip (`--frames all`).

        Shape:
            frames: (L, C), float16.
        """
        self._frames[offset] = frames

    def offsets_in(self, view: str) -> set[int]:
        """Return the offsets of the clips that were added in a view."""
        if self.settings.frames == "all":
            return set(self._frames)
        return {offset for kind, of_view, offset in self._rows if (kind, of_view) == ("sampling", view)}

    def drop(self, offset: int) -> None:
        """Remove the rows of a clip, because it failed."""
        self._frames.pop(offset, None)
        for view in self.views:
            self._maps.pop((view, offset), None)
            for kind in layout.kinds_of(self.settings):
                self._rows.pop((kind, view, offset), None)

    def copy_rows(self, objects: ObjectStore, record: BlockRecord, view: str, offsets: Sequence[int]) -> None:
        """Copy finished rows of a view from the store, so that only the missing ones are computed.

        Raises:
            PipelineError: the objects of the block are damaged.
        """
        lacking = record.lacking.get(view, ())
        offsets = [offset for offset in offsets if offset not in lacking]
        if view not in record.views or not offsets:
            return
        if self.settings.frames == "all":
            self._copy_frames(objects, record, set(offsets))
            return
        for kind in layout.kinds_of(self.settings):
            data = verified(objects, record, layout.chunk_key(view, kind, self.block))
            if kind == "spatial":
                chunks = split_shard(data, self.block_clips)
                self._maps.update({(view, at): chunk for at in offsets if (chunk := chunks[at]) is not None})
                continue
            rows = self._empty_rows(kind)
            decode_chunk(data, rows)
            self._rows.update({(kind, view, at): rows[at] for at in offsets})

    def _copy_frames(self, objects: ObjectStore, record: BlockRecord, offsets: set[int]) -> None:
        done = [clip for clip in record.clips if clip.status == DONE]
        frames = np.empty((sum(clip.num_frames for clip in done), self.settings.channels), dtype=np.float16)
        decode_chunk(verified(objects, record, layout.frames_key(self.block)), frames)
        starts = np.cumsum([0, *(clip.num_frames for clip in done)])
        for clip, start in zip(done, starts, strict=False):
            if clip.offset in offsets:
                self._frames[clip.offset] = frames[start : start + clip.num_frames]

    def encoded(self) -> dict[str, bytes]:
        """Encode the block; return its objects by key."""
        if self.settings.frames == "all":
            return self._encoded_frames()
        objects: dict[str, bytes] = {}
        for view in self.views:
            for kind in layout.kinds_of(self.settings):
                key = layout.chunk_key(view, kind, self.block)
                if kind == "spatial":
                    objects[key] = self._encoded_shard(view)
                    continue
                rows = self._empty_rows(kind)
                for offset in range(self.block_clips):
                    if (kind, view, offset) in self._rows:
                        rows[offset] = self._rows[kind, view, offset]
                objects[key] = encode_chunk(rows)
        return objects

    def _encoded_shard(self, view: str) -> bytes:
        dtype = layout.row_dtype(self.settings, "spatial")
        empty = encode_chunk(filled(layout.row_shape(self.settings, "spatial"), dtype))
        return join_shard([self._maps.get((view, offset), empty) for offset in range(self.block_clips)])

    def _encoded_frames(self) -> dict[str, bytes]:
        path = layout.frames_path(self.block)
        parts = [self._frames[offset] for offset in sorted(self._frames)]
        channels = self.settings.channels
        frames = np.concatenate([np.empty((0, channels), dtype=np.float16), *parts])
        objects = {f"{path}/zarr.json": layout.frames_metadata(len(frames), channels)}
        return {**objects, layout.frames_key(self.block): encode_chunk(frames)} if len(frames) else objects

    def _empty_rows(self, kind: str) -> np.ndarray:
        return filled((self.block_clips, *layout.row_shape(self.settings, kind)), layout.row_dtype(self.settings, kind))


def write_block(
    objects: ObjectStore,
    builder: BlockBuilder,
    clips: Sequence[ClipRecord],
    before: BlockRecord | None,
    on_phase: Phase = no_phase,
) -> BlockRecord:
    """Write the objects of a block, then its record, and return the record.

    Raises:
        PipelineError: the disk is full; the previous block remains valid.
    """
    checksums = dict(before.objects) if before else {}
    views = dict.fromkeys((*(before.views if before else ()), *builder.views))
    for key, data in builder.encoded().items():
        objects.put(key, data, on_phase)
        checksums[key] = checksum(data)
    done = [clip.offset for clip in clips if clip.status == DONE]
    lacking = {}
    for view in views:
        if view in builder.views:
            has = builder.offsets_in(view)
            without = [offset for offset in done if offset not in has]
        else:
            without = [offset for offset in done if before and offset in before.lacking.get(view, ())]
        if without:
            lacking[view] = tuple(without)
    record = BlockRecord(builder.block, tuple(clips), tuple(views), checksums, lacking, builder.fingerprint)
    key = layout.record_key(builder.block)
    on_phase("mark", key)
    objects.put(key, write_record(record))
    objects.put(layout.times_key(builder.block), write_times(clips))
    return record


def delete_record(objects: ObjectStore, block: int) -> None:
    """Delete the record of a block, so that the next extraction computes it again."""
    objects.delete(layout.record_key(block))
