"""Records of finished blocks: one JSON per block, written after the block's objects.

Zarr reads a missing chunk as the fill value, so only these records tell whether a row is finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.errors import PipelineError
from pipeline.files import parse_json
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
    """Result of one clip of a block.

    offset: position in the block. modified_ns: time of the newest change of the clip's file; if it is unchanged, the
    digest need not be computed again. It is stored in a separate object (`write_times`), because it differs between
    copies of a data set. kind, reason: why the clip failed.
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
    """Clips of a block, finished views, and length and SHA-256 of each object.

    lacking: by view, the offsets of finished clips without this view, because the clip was not in the manifest or its
    file was missing when the view was extracted. fingerprint: that of the store (`settings.fingerprint_of`); empty in
    records that older versions wrote.
    """

    block: int
    clips: tuple[ClipRecord, ...]
    views: tuple[str, ...]
    objects: dict[str, tuple[int, str]] = field(default_factory=dict)
    lacking: dict[str, tuple[int, ...]] = field(default_factory=dict)
    fingerprint: str = ""

    def belongs_to(self, fingerprint: str) -> bool:
        """Return whether a store with this fingerprint may have written the record."""
        return self.fingerprint in ("", fingerprint)

    def views_of(self, offset: int) -> tuple[str, ...]:
        """Return the views of a finished clip of the block."""
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
    """Return length and SHA-256 of an object."""
    return len(data), hashlib.sha256(data).hexdigest()


def write_record(record: BlockRecord) -> bytes:
    """Return the record as JSON with a checksum; clips are stored by column, so that 100,000 load in under a second."""
    columns = {name: [getattr(clip, name) for clip in record.clips] for name in WRITTEN_FIELDS}
    value = {
        "block": record.block,
        "views": record.views,
        "lacking": record.lacking,
        "clips": columns,
        "objects": record.objects,
    }
    if record.fingerprint:
        value["fingerprint"] = record.fingerprint
    return seal("record", value)


def read_record(data: bytes, key: str) -> BlockRecord:
    """Read a record that `write_record` wrote.

    Its values are checked too, because views and objects become keys and numbers become sizes of arrays.

    Raises:
        PipelineError: it is damaged or invalid.
    """
    value = unseal(data, "record", key)
    try:
        record = _record(value)
        check_record(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PipelineError(f"{key} of the store is damaged: {error}. Run `pipeline store verify --repair`.") from error
    return record


def current_record(objects: ObjectStore, block: int, fingerprint: str) -> BlockRecord | None:
    """Read the record of a block; return None if it is missing, damaged, or that of another store."""
    key = layout.record_key(block)
    data = objects.get(key)
    try:
        record = None if data is None else read_record(data, key)
    except PipelineError:
        return None
    return record if record is not None and record.belongs_to(fingerprint) else None


def verified(objects: ObjectStore, record: BlockRecord, key: str) -> bytes:
    """Read an object and compare it with the checksum in its record.

    Raises:
        PipelineError: they differ, or the object is missing.
    """
    data = objects.get(key)
    if data is None or checksum(data) != record.objects.get(key):
        raise unusable_object(objects, key, "missing" if data is None else "damaged")
    return data


def unusable_object(objects: ObjectStore, key: str, what: str) -> PipelineError:
    """Return the error for an object that is `missing` or `damaged`."""
    return PipelineError(f"{key} of the store {objects.location} is {what}. Run `pipeline store verify --repair`.")


def check_record(record: BlockRecord) -> None:
    """Check the views, names and sizes of a record.

    Raises:
        ValueError: one of them is not possible.
    """
    strange = [view for view in (*record.views, *record.lacking) if not layout.is_view(view)]
    strange += [name for name in record.objects if not layout.is_block_key(name, record.block)]
    if strange:
        raise ValueError(f"'{strange[0]}' is not a name of this store's layout")
    offsets = [clip.offset for clip in record.clips]
    if len(set(offsets)) != len(offsets) or any(offset >= layout.MAX_BLOCK_CLIPS for offset in offsets):
        raise ValueError("the positions of its clips in the block are invalid")
    if any(clip.status not in (DONE, FAILED) for clip in record.clips):
        raise ValueError("a clip is neither done nor failed")


def _record(value: Any) -> BlockRecord:
    columns = dict(value["clips"])
    # Version 0.1 wrote `modified_ns` too.
    columns.setdefault("modified_ns", [0] * len(columns["offset"]))
    for name in ClipRecord._fields:
        if name in NUMBERS:
            # -1: the file was missing.
            wrong = [entry for entry in columns[name] if type(entry) is not int or not -1 <= entry < MAX_NUMBER]
        else:
            wrong = [entry for entry in columns[name] if type(entry) is not str]
        if wrong:
            raise ValueError(f"{wrong[0]!r} cannot be a clip's {name}")
    clips = tuple(ClipRecord(*fields) for fields in zip(*(columns[name] for name in ClipRecord._fields), strict=True))
    if any(clip.offset < 0 for clip in clips):
        raise ValueError("the position of a clip in the block is negative")
    objects = {name: (_number(size), str(digest)) for name, (size, digest) in value["objects"].items()}
    lacking = {view: tuple(map(_number, offsets)) for view, offsets in value.get("lacking", {}).items()}
    fingerprint = str(value.get("fingerprint", ""))
    return BlockRecord(_number(value["block"]), clips, tuple(map(str, value["views"])), objects, lacking, fingerprint)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < MAX_NUMBER:
        raise ValueError(f"{value!r} must be an integer of at least 0")
    return value


def write_times(clips: Iterable[ClipRecord]) -> bytes:
    """Return the modification times of a block's clip files as JSON: nanoseconds by offset."""
    return json.dumps({str(clip.offset): clip.modified_ns for clip in clips}).encode()


def read_times(data: bytes | None) -> dict[int, int]:
    """Read what `write_times` wrote; return an empty mapping if it is damaged, so that the files are hashed again."""
    try:
        return {int(offset): int(value) for offset, value in parse_json(data or b"{}").items()}
    except (ValueError, AttributeError, TypeError):
        return {}
