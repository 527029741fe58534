"""Compare all objects of a store with their checksums, and the metadata of its arrays with the settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.store import layout
from pipeline.store.feature_store import FeatureStore
from pipeline.store.record import checksum


class Corruption(NamedTuple):
    """A missing or damaged object. `block` is -1 if the object belongs to no block."""

    block: int
    key: str
    what: str


def find_corruption(store: FeatureStore, blocks: Iterable[int] | None = None) -> list[Corruption]:
    """Compare the objects of some blocks with their records (None: all blocks and the metadata of the store)."""
    found = [] if blocks is not None else [*_damaged_metadata(store), *_damaged_arrays(store)]
    for block in sorted(store.records) if blocks is None else blocks:
        record = store.records[block]
        for key, stated in record.objects.items():
            data = store.objects.get(key)
            if data is None:
                found.append(Corruption(block, key, "missing"))
            elif len(data) != stated[0]:
                found.append(Corruption(block, key, f"has {len(data):,} bytes, not {stated[0]:,}"))
            elif checksum(data) != stated:
                found.append(Corruption(block, key, "has another checksum"))
    return found


def _damaged_metadata(store: FeatureStore) -> list[Corruption]:
    return [Corruption(layout.block_of_record(key), key, what) for key, what in store.damage.items()]


def _damaged_arrays(store: FeatureStore) -> list[Corruption]:
    num_rows = store.num_blocks * store.block_clips
    wanted = layout.expected_metadata(store.settings, store.views, num_rows, store.block_clips)
    found = zip(wanted.items(), store.objects.get_many(list(wanted)), strict=True)
    return [
        Corruption(-1, key, "is not the metadata that belongs to the store's settings")
        for (key, right), data in found
        if not layout.is_same_metadata(data, right)
    ]
