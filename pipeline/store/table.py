"""Table of clips of a store: row, label and split of each clip, as one JSON with its SHA-256."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from pipeline.errors import PipelineError
from pipeline.store import layout
from pipeline.store.sealed import seal, unseal

COLUMNS = ("row", "clip_id", "path", "label", "split", "listed", "group")


class TableRow(NamedTuple):
    """Row of a clip in the store. `listed` is false if the manifest no longer contains the clip."""

    row: int
    clip_id: str
    path: str
    label: str
    split: str
    listed: bool = True
    group: str = ""


class ClipRow(NamedTuple):
    """A clip of the store with its status.

    status: `done`, `failed` (with `kind` and `reason`), or `pending`.
    class_index: -1 for an unlabelled clip.
    size, digest: size and digest of the clip's file at the time of extraction.
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
    """Return the table as JSON with its SHA-256, by columns; `group` only if a clip has one."""
    rows = tuple(rows)
    columns = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
    if not any(columns["group"]):
        del columns["group"]
    return seal("clips", columns)


def read_table(data: bytes | None, location: str, classes: Collection[str]) -> tuple[TableRow, ...]:
    """Read the rows that `write_table` wrote.

    Raises:
        PipelineError: there is no table, or it is damaged.
    """
    try:
        if data is None:
            raise ValueError("it is missing")
        return _rows(unseal(data, "clips", layout.TABLE_KEY), frozenset((*classes, "")))
    except (PipelineError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise PipelineError(
            f"The table of clips of {location} ({layout.TABLE_KEY}) is damaged ({error}). Run `pipeline extract` again "
            "with the same settings to rebuild the table from the manifest; the features are kept."
        ) from error


def _rows(columns: Any, labels: frozenset[str]) -> tuple[TableRow, ...]:
    columns.setdefault("group", [""] * len(columns["row"]))
    rows = tuple(TableRow(*fields) for fields in zip(*(columns[name] for name in COLUMNS), strict=True))
    for row in rows:
        if type(row.row) is not int or not 0 <= row.row < layout.MAX_ROWS or type(row.listed) is not bool:
            raise ValueError(f"{row.row!r} cannot be a row")
        if not all(type(text) is str for text in (row.clip_id, row.path, row.label, row.split, row.group)):
            raise ValueError(f"row {row.row} has a value that is not a string")
        if row.listed and row.label not in labels:
            raise ValueError(f"'{row.label}' is not one of the store's classes")
    if len({row.row for row in rows}) != len(rows):
        raise ValueError("it contains a row twice")
    return rows
