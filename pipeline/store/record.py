"""The store's own record of what is done: one JSON a block, written after the block's objects are in place.

Zarr reads a chunk that was never written as the fill value, so whether a row is there is asked here and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.errors import PipelineError

DONE, FAILED = "done", "failed"
WRITTEN_FIELDS = (
    "offset", "clip_id", "label", "status", "size", "digest", "num_frames", "height", "width", "kind", "reason",
)  # fmt: skip


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
    """The record as JSON with a checksum of its own; clips by column: a hundred thousand open in under a second."""
    columns = {name: [getattr(clip, name) for clip in record.clips] for name in WRITTEN_FIELDS}
    value = {
        "block": record.block,
        "views": record.views,
        "lacking": record.lacking,
        "clips": columns,
        "objects": record.objects,
    }
    body = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    digest = hashlib.sha256(body).hexdigest()
    return b'{"sha256": "%s",\n"record": %s}\n' % (digest.encode(), body)


def read_record(data: bytes, key: str) -> BlockRecord:
    """The record that `write_record` wrote.

    Raises:
        PipelineError: it is damaged.
    """
    head, _, rest = data.partition(b"\n")
    body = rest.removeprefix(b'"record": ').removesuffix(b"}\n")
    if head != b'{"sha256": "%s",' % hashlib.sha256(body).hexdigest().encode():
        raise PipelineError(f"The record {key} of the store is damaged. Run `pipeline store verify --repair`.")
    value = json.loads(body)
    columns = value["clips"]
    # Version 0.1 wrote `modified_ns` too.
    columns.setdefault("modified_ns", [0] * len(columns["offset"]))
    clips = tuple(map(ClipRecord, *(columns[name] for name in ClipRecord._fields)))
    objects = {name: tuple(stated) for name, stated in value["objects"].items()}
    lacking = {view: tuple(offsets) for view, offsets in value.get("lacking", {}).items()}
    return BlockRecord(value["block"], clips, tuple(value["views"]), objects, lacking)


def write_times(clips: Iterable[ClipRecord]) -> bytes:
    """Return when the files of a block's clips last changed, as JSON: nanoseconds by offset."""
    return json.dumps({str(clip.offset): clip.modified_ns for clip in clips}).encode()


def read_times(data: bytes | None) -> dict[int, int]:
    """Read what `write_times` wrote; nothing where it is missing or damaged, so that files are read again instead."""
    try:
        return {int(offset): int(value) for offset, value in json.loads(data or b"{}").items()}
    except (ValueError, AttributeError, TypeError):
        return {}
