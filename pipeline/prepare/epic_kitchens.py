"""Read EPIC-KITCHENS-100: `EPIC_100_train.csv`, `EPIC_100_validation.csv`, and the names of the verb or noun classes.

The clips are intervals of videos `P01_01`, or of folders of frames of that name. Classes are those of
`EPIC_100_verb_classes.csv` or `EPIC_100_noun_classes.csv` (`--labels verb` or `noun`). The intervals of a video are a
group.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.prepare.label_files import read_table
from pipeline.prepare.listing import Listing, ListingRequest
from pipeline.prepare.parts import Part, list_parts, needed_file

FILES = {"train": "EPIC_100_train.csv", "val": "EPIC_100_validation.csv"}
COLUMNS = ("narration_id", "video_id", "start_timestamp", "stop_timestamp", "start_frame", "stop_frame")
_TIME = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")


def list_epic_kitchens(request: ListingRequest) -> Listing:
    """Read both lists with the labels that the request names.

    Raises:
        PipelineError: a file or a column is missing, or a class or a time is not valid.
    """
    class_file = needed_file(request, f"EPIC_100_{request.labels}_classes.csv")
    header, rows = read_table(class_file, ",")
    if not {"id", "key"} <= set(header):
        raise PipelineError(f"{class_file} must have the columns id and key; its header is {','.join(header)}.")
    label_of = {row["id"]: row["key"] for _, row in rows}
    parts = []
    for split, name in FILES.items():
        parts += _parts(needed_file(request, name), split, f"{request.labels}_class", label_of)
    return list_parts(request, parts, label_of.values(), f"EPIC-KITCHENS-100, {request.labels}s")


def _parts(path: Path, split: str, column: str, label_of: dict[str, str]) -> list[Part]:
    header, rows = read_table(path, ",")
    missing = [name for name in (*COLUMNS, column) if name not in header]
    if missing:
        raise PipelineError(f"{path} lacks the columns {', '.join(missing)}; its header is {','.join(header)}.")
    parts = []
    for line, row in rows:
        where = f"{path}, line {line}"
        if row[column] not in label_of:
            raise PipelineError(f"{where}: the {column} '{row[column]}' is not among the {len(label_of)} classes.")
        seconds = (_seconds(row["start_timestamp"], where), _seconds(row["stop_timestamp"], where))
        # Frames count from 1.
        frames = (int(row["start_frame"]) - 1, int(row["stop_frame"]) - 1)
        parts.append(
            Part(
                row["narration_id"],
                row["video_id"],
                label_of[row[column]],
                split,
                where,
                group=row["video_id"],
                seconds=seconds,
                frames=frames,
            )
        )
    return parts


def _seconds(time: str, where: str) -> str:
    match = _TIME.fullmatch(time)
    if match is None:
        raise PipelineError(f"{where}: the time '{time}' must have the form 00:01:02.34.")
    value = int(match[1]) * 3600 + int(match[2]) * 60 + Fraction(match[3])
    return f"{float(value):.3f}"
