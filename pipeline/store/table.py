"""Clips of a store: which row each has, and what is known of it. A CSV beside the arrays."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.errors import PipelineError

COLUMNS = ("row", "clip_id", "path", "label", "split", "listed")
# Written where a clip has a group; other stores keep the shorter table.
GROUP_COLUMN = "group"


class TableRow(NamedTuple):
    """Where a clip of the manifest lies in the store. `listed` is false once the manifest no longer has it."""

    row: int
    clip_id: str
    path: str
    label: str
    split: str
    listed: bool = True
    group: str = ""


class ClipRow(NamedTuple):
    """A clip as a reader of the store sees it.

    status: `done`, `failed` (with `kind` and `reason`), or `pending`.
    class_index: -1 for an unlabelled clip.
    size, digest: of the clip's file when its features were made.
    """

    row: int
    block: int
    clip_id: str
    path: str
    label: str
    class_index: int
    split: str
    status: str
    kind: str
    reason: str
    size: int
    digest: str
    num_frames: int
    height: int
    width: int
    views: tuple[str, ...]
    group: str = ""


def write_table(rows: Iterable[TableRow]) -> bytes:
    """The table as the bytes of a CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    rows = tuple(rows)
    has_groups = any(row.group for row in rows)
    writer.writerow((*COLUMNS, GROUP_COLUMN) if has_groups else COLUMNS)
    writer.writerows((*row[:5], int(row.listed), *([row.group] if has_groups else [])) for row in rows)
    return text.getvalue().encode()


def read_table(data: bytes | None, location: str) -> tuple[TableRow, ...]:
    """The rows that `write_table` wrote.

    Raises:
        PipelineError: there is no table, or it is damaged.
    """
    lines = csv.reader(io.StringIO("" if data is None else data.decode(errors="replace"), newline=""))
    if tuple(next(lines, ())) not in (COLUMNS, (*COLUMNS, GROUP_COLUMN)):
        raise PipelineError(
            f"{location} has no table of clips; it is not a whole feature store. Pass --rebuild to make it anew."
        )
    try:
        return tuple(
            TableRow(int(row), clip_id, path, label, split, listed == "1", *group)
            for row, clip_id, path, label, split, listed, *group in lines
        )
    except (TypeError, ValueError) as error:
        raise PipelineError(
            f"The table of clips of {location} is damaged in line {lines.line_num} ({error}): without it nobody knows "
            "which row is which clip. Put a copy of clips.csv back, or extract anew with --rebuild."
        ) from error
