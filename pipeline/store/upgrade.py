"""Convert a store of version 0.1 (format 1) to the current layout without changing its features.

Format 1 has a table `clips.csv` and attributes without checksums. Each row is compared with the record of its block,
which has a checksum; the other columns of the table are replaced by the manifest of the extraction that upgrades.
"""

from __future__ import annotations

import csv
import io
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import parse_json
from pipeline.store import layout
from pipeline.store.attributes import ROOT_KEY, Attributes, attributes_from_dict, write_attributes
from pipeline.store.object_store import ObjectStore
from pipeline.store.record import read_record
from pipeline.store.table import TableRow, write_table

OLD_TABLE_KEY = "clips.csv"
OLD_LOCAL_FOLDER = ".local"
COLUMNS = ("row", "clip_id", "path", "label", "split", "listed")


def upgrade(objects: ObjectStore) -> str:
    """Rewrite table and attributes of a format 1 store, and return a message about it.

    If the process is killed, the store has either format 1 or, after the last object, format 2.

    Raises:
        PipelineError: its table or attributes are damaged.
    """
    attributes = _old_attributes(objects)
    rows = _old_rows(objects)
    _check_against_records(objects, attributes, rows)
    objects.put(layout.TABLE_KEY, write_table(rows))
    for name in sorted(objects.names(f"{OLD_LOCAL_FOLDER}/modified")):
        data = objects.get(f"{OLD_LOCAL_FOLDER}/modified/{name}")
        if data is not None and layout.record_keys([name]):
            objects.put(f"{layout.LOCAL_FOLDER}/modified/{name}", data)
    write_attributes(objects, attributes)
    remove_leftovers(objects)
    return "The store was of format 1; its table and settings now have checksums (format 2)."


def remove_leftovers(objects: ObjectStore) -> None:
    """Delete the objects that only format 1 has, also after an interrupted upgrade."""
    local = [f"{OLD_LOCAL_FOLDER}/modified/{name}" for name in objects.names(f"{OLD_LOCAL_FOLDER}/modified")]
    for key in (OLD_TABLE_KEY, ".lock", ".workers", *local):
        objects.delete(key)


def _old_attributes(objects: ObjectStore) -> Attributes:
    try:
        values: dict[str, Any] = parse_json(objects.get(ROOT_KEY) or b"")["attributes"]
        return attributes_from_dict({**values, "format": layout.FORMAT})
    except (ValueError, KeyError, TypeError, PipelineError) as error:
        raise _damaged(objects, f"zarr.json: {error}") from error


def _old_rows(objects: ObjectStore) -> list[TableRow]:
    data = objects.get(OLD_TABLE_KEY)
    lines = csv.reader(io.StringIO("" if data is None else data.decode(errors="replace"), newline=""))
    try:
        if tuple(next(lines, ()))[:6] != COLUMNS:
            raise ValueError("it has no table of clips")
        return [
            TableRow(int(row), clip_id, path, label, split, listed == "1", *group)
            for row, clip_id, path, label, split, listed, *group in lines
        ]
    except (TypeError, ValueError, csv.Error) as error:
        raise _damaged(objects, f"clips.csv, line {lines.line_num}: {error}") from error


def _check_against_records(objects: ObjectStore, attributes: Attributes, rows: list[TableRow]) -> None:
    id_of_row = {row.row: row.clip_id for row in rows}
    for key in layout.record_keys(objects.names(layout.RECORDS_FOLDER)):
        try:
            record = read_record(objects.get(key) or b"", key)
        except PipelineError:
            continue  # the extraction that follows repairs it
        for clip in record.clips:
            row = record.block * attributes.block_clips + clip.offset
            if id_of_row.get(row) != clip.clip_id:
                raise _damaged(
                    objects, f"row {row} is '{id_of_row.get(row)}' in clips.csv and '{clip.clip_id}' in {key}"
                )


def _damaged(objects: ObjectStore, what: str) -> PipelineError:
    return PipelineError(
        f"The store {objects.location} of format 1 is damaged ({what}). Restore a copy of the file, or extract again "
        "with --rebuild."
    )
