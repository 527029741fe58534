"""The store's own record of what is done: one JSON a block, written after the block's objects are in place.

Zarr reads a chunk that was never written as the fill value, so whether a row is there is asked here and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.errors import PipelineError
from pipeline.store import layout
from pipeline.store.object_store import ObjectStore
from pipeline.store.sealed import seal, unseal

DONE, FAILED = "done", "failed"
WRITTEN_FIELDS = (
    "offset", "clip_id", "label", "status", "size", "digest", "num_frames", "height", "width", "kind", "reason",
)  # fmt: skip
NUMBERS = frozenset({"offset", "size", "num_frames", "height", "width", "modified_ns"})
MAX_NUMBER = 1 << 63


class ClipRecord(NamedTuple):
    """What happened to one clip of a block.

    offset: its place in the block. modified_ns: the newest change of its file, which only saves reading the file
    again to find its digest; it is kept beside the record (`write_times`), since it differs between copies of a data
    set. kind, reason: why it failed.
    """

    offset: int
    clip_id: str
    label: str
    status: str
    size: int
    digest: str
    modified_ns: int
    num_frames: int = 0
    height: int = 0
    width: int = 0
    kind: str = ""
    reason: str = ""


@dataclass(frozen=True)
class BlockRecord:
    """The clips of a block, the views that are done, and length and SHA-256 of each of its objects.

    lacking: by view, the offsets of clips that are done but not in this view: those that the manifest did not have, or
    whose file was not there, when the view was made.
    """

    block: int
    clips: tuple[ClipRecord, ...]
    views: tuple[str, ...]
    objects: dict[str, tuple[int, str]] = field(default_factory=dict)
    lacking: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def views_of(self, offset: int) -> tuple[str, ...]:
        """The views that a finished clip of the block has."""
        if not self.lacking:
            return self.views
        return tuple(view for view in self.views if offset not in self.lacking.get(view, ()))

    @property
    def num_failed(self) -> int:
        return sum(clip.status == FAILED for clip in self.clips)

    @property
    def num_bytes(self) -> int:
        return sum(size for size, _ in self.objects.values())


def checksum(data: bytes) -> tuple[int, str]:
    """Length and SHA-256 of an object."""
    return len(data), hashlib.sha256(data).hexdigest()


def write_record(record: BlockRecord) -> bytes:
    """Return the record as JSON with a checksum; clips by column, so that 100,000 open in under a second."""
    columns = {name: [getattr(clip, name) for clip in record.clips] for name in WRITTEN_FIELDS}
    value = {
        "block": record.block,
        "views": record.views,
        "lacking": record.lacking,
        "clips": columns,
        "objects": record.objects,
    }
    return seal("record", value)


def read_record(data: bytes, key: str) -> BlockRecord:
    """The record that `write_record` wrote.

    A record is also checked for what it says: its views and objects become keys, and its numbers sizes of arrays.

    Raises:
        PipelineError: it is damaged, or says what no record can.
    """
    value = unseal(data, "record", key)
    try:
        record = _record(value)
        check_record(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PipelineError(f"{key} of the store is damaged: {error}. Run `pipeline store verify --repair`.") from error
    return record


def current_record(objects: ObjectStore, block: int) -> BlockRecord | None:
    """Return the present record of a block; None if it is missing or damaged."""
    key = layout.record_key(block)
    data = objects.get(key)
    try:
        return None if data is None else read_record(data, key)
    except PipelineError:
        return None


def verified(objects: ObjectStore, record: BlockRecord, key: str) -> bytes:
    """Read an object, whose bytes must be those that its record names.

    Raises:
        PipelineError: they are not, or the object is missing.
    """
    data = objects.get(key)
    if data is None or checksum(data) != record.objects.get(key):
        raise unusable_object(objects, key, "missing" if data is None else "damaged")
    return data


def unusable_object(objects: ObjectStore, key: str, what: str) -> PipelineError:
    """Return the error for an object that is `missing` or `damaged`."""
    return PipelineError(f"{key} of the store {objects.location} is {what}. Run `pipeline store verify --repair`.")


def check_record(record: BlockRecord) -> None:
    """Check that a record can be one: its views, and the names and sizes in it.

    Raises:
        ValueError: it cannot.
    """
    strange = [view for view in (*record.views, *record.lacking) if not layout.is_view(view)]
    strange += [name for name in record.objects if not layout.is_block_key(name, record.block)]
    if strange:
        raise ValueError(f"'{strange[0]}' is no name of this store's layout")
    offsets = [clip.offset for clip in record.clips]
    if len(set(offsets)) != len(offsets) or any(offset >= layout.MAX_BLOCK_CLIPS for offset in offsets):
        raise ValueError("the places of its clips in the block are wrong")
    if any(clip.status not in (DONE, FAILED) for clip in record.clips):
        raise ValueError("a clip is neither done nor failed")


def _record(value: Any) -> BlockRecord:
    columns = dict(value["clips"])
    # Version 0.1 wrote `modified_ns` too.
    columns.setdefault("modified_ns", [0] * len(columns["offset"]))
    for name in ClipRecord._fields:
        if name in NUMBERS:
            # -1: the size of a file that was missing.
            wrong = [entry for entry in columns[name] if type(entry) is not int or not -1 <= entry < MAX_NUMBER]
        else:
            wrong = [entry for entry in columns[name] if type(entry) is not str]
        if wrong:
            raise ValueError(f"{wrong[0]!r} cannot be a clip's {name}")
    clips = tuple(ClipRecord(*fields) for fields in zip(*(columns[name] for name in ClipRecord._fields), strict=True))
    if any(clip.offset < 0 for clip in clips):
        raise ValueError("the place of a clip in the block is negative")
    objects = {name: (_number(size), str(digest)) for name, (size, digest) in value["objects"].items()}
    lacking = {view: tuple(map(_number, offsets)) for view, offsets in value.get("lacking", {}).items()}
    return BlockRecord(_number(value["block"]), clips, tuple(map(str, value["views"])), objects, lacking)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < MAX_NUMBER:
        raise ValueError(f"{value!r} must be a whole number from 0 on")
    return value


def write_times(clips: Iterable[ClipRecord]) -> bytes:
    """Return when the files of a block's clips last changed, as JSON: nanoseconds by offset."""
    return json.dumps({str(clip.offset): clip.modified_ns for clip in clips}).encode()


def read_times(data: bytes | None) -> dict[int, int]:
    """Read what `write_times` wrote; nothing where it is missing or damaged, so that files are read again instead."""
    try:
        return {int(offset): int(value) for offset, value in json.loads(data or b"{}").items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        return {}
