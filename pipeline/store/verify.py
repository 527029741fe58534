"""Is a store what its record says? Checksums of every object, and the shape of every array."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import zarr

from pipeline.store import layout
from pipeline.store.feature_store import FeatureStore
from pipeline.store.record import checksum
from pipeline.store.writer import delete_record


class Corruption(NamedTuple):
    """Something of a store that is not as it should be. `block` is -1 for what belongs to no block."""

    block: int
    key: str
    what: str


def find_corruption(store: FeatureStore, blocks: Iterable[int] | None = None) -> list[Corruption]:
    """Compare the objects of some blocks (None: all of the store, its metadata too) with their record."""
    found = [] if blocks is not None else [*_damaged_records(store), *_damaged_arrays(store)]
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


def delete_damaged_records(store: FeatureStore, found: Iterable[Corruption]) -> list[int]:
    """Take away what is damaged, so that the next extraction makes it again; the blocks concerned."""
    blocks = set()
    for damage in found:
        if damage.block >= 0:
            delete_record(store.objects, damage.block)
            blocks.add(damage.block)
        else:
            store.objects.delete(damage.key)
    store.reload()
    return sorted(blocks)


def _damaged_records(store: FeatureStore) -> list[Corruption]:
    found = [Corruption(_block_of(key), key, "has another checksum") for key in store.damaged_records]
    id_of_row = {row.row: row.clip_id for row in store.rows}
    for block, record in store.records.items():
        rows = (block * store.block_clips + clip.offset for clip in record.clips)
        others = [clip for row, clip in zip(rows, record.clips, strict=True) if id_of_row.get(row) != clip.clip_id]
        if others:
            what = f"names clip '{others[0].clip_id}', which the table does not have in that row"
            found.append(Corruption(block, layout.record_key(block), what))
    return found


def _damaged_arrays(store: FeatureStore) -> list[Corruption]:
    if store.settings.frames == "all":
        return []
    found = [
        Corruption(-1, key, "is not the metadata of a group")
        for key in layout.group_keys(store.views)
        if not _is_group(store.objects.get(key))
    ]
    num_blocks = max((row.row // store.block_clips for row in store.rows), default=-1) + 1
    group = store.group()
    for kind in layout.kinds_of(store.settings):
        num_rows = num_blocks * store.block_clips
        wanted = _comparable(layout.array_metadata(store.settings, kind, num_rows, store.block_clips))
        for view in store.views:
            path = layout.array_path(view, kind)
            try:
                array = group[path]
                is_right = isinstance(array, zarr.Array) and _comparable(array.metadata.to_dict()) == wanted
                what = "" if is_right else "says something else than the store's settings"
            except (KeyError, ValueError, TypeError) as error:
                what = f"cannot be read ({type(error).__name__}: {error})"
            if what:
                found.append(Corruption(-1, f"{path}/zarr.json", what))
    return found


def _is_group(data: bytes | None) -> bool:
    try:
        value = json.loads(data or b"")
    except ValueError:
        return False
    return isinstance(value, dict) and (value.get("node_type"), value.get("zarr_format")) == ("group", 3)


def _comparable(metadata: Mapping[str, Any]) -> str:
    """The metadata of an array without the level of compression: what any level wrote is read alike."""
    return re.sub(r"'level': -?\d+", "'level': any", repr(metadata))


def _block_of(key: str) -> int:
    return int(key.rpartition("/")[2].removesuffix(".json"))
