"""Repair damaged metadata of a store from its undamaged metadata and the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.manifest import Clip
from pipeline.store import layout
from pipeline.store.attributes import ROOT_KEY, write_attributes
from pipeline.store.feature_store import FeatureStore
from pipeline.store.record import BlockRecord
from pipeline.store.table import TableRow
from pipeline.store.writer import TRAIN_SPLIT


def repair_metadata(store: FeatureStore, wanted: Sequence[Clip]) -> tuple[str, ...]:
    """Repair attributes and table of a store opened with `r+`, forget damaged records, and return messages about it.

    Forgotten blocks count as pending and are computed again. The table is rebuilt from the records, which name the clip
    of each row, and from the manifest; `assign_rows` completes and writes it.
    """
    messages = []
    for key in sorted(store.damage.keys() & {ROOT_KEY, layout.COPY_KEY}):
        write_attributes(store.objects, store.attributes)
        messages.append(f"{key} of the store was damaged; it was restored from the other copy.")
    store.clear_attribute_damage()
    if layout.TABLE_KEY in store.damage:
        store.rows = tuple(rows_of_records(store, wanted))
        messages.append(
            f"The table of clips was damaged; {len(store.rows):,} rows were rebuilt from records and manifest."
        )
    damaged = {layout.block_of_record(key) for key in store.damage} - {-1}
    if damaged:
        store.forget(damaged)
        messages.append(f"{len(damaged)} records of the store were damaged; their blocks are computed again.")
    return tuple(messages)


def rows_of_records(store: FeatureStore, wanted: Sequence[Clip]) -> list[TableRow]:
    """Return the rows that the records of a store name, all marked as unlisted."""
    split_of = {clip.clip_id: clip.split for clip in wanted}
    return [
        TableRow(block * store.block_clips + clip.offset, clip.clip_id, "", clip.label, split, listed=False)
        for block, record in sorted(store.records.items())
        for split in [_split_of_block(record, split_of)]
        for clip in record.clips
    ]


def _split_of_block(record: BlockRecord, split_of: dict[str, str]) -> str:
    # Only training clips have training views. A block without them has the split of most of its clips.
    if len(record.views) > 1:
        return TRAIN_SPLIT
    votes = Counter(split_of.get(clip.clip_id, "") == TRAIN_SPLIT for clip in record.clips)
    return TRAIN_SPLIT if votes[True] > votes[False] else ""
