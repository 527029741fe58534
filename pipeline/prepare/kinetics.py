"""Read Kinetics (400, 600, 700): `train.csv`, `val.csv` or `validate.csv`, and `test.csv`.

Their header is `label,youtube_id,time_start,time_end,split`, perhaps with `is_cc`; test lists may lack labels. Clips
are named `YOUTUBE-ID_START_END` with six digits, anywhere below the root. Clips of one video are one group.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.prepare.label_files import read_table
from pipeline.prepare.listing import Listing, ListingRequest
from pipeline.prepare.parts import Part, label_file, list_parts

FILES = {"train": ("train.csv",), "val": ("val.csv", "validate.csv"), "test": ("test.csv",)}
COLUMNS = ("youtube_id", "time_start", "time_end")


def list_kinetics(request: ListingRequest) -> Listing:
    """Read the lists that exist; classes are sorted by name, as everywhere for Kinetics.

    Raises:
        PipelineError: there is no training list, or it has other columns.
    """
    parts: list[Part] = []
    for split, names in FILES.items():
        path = label_file(request, *names, needed=split == "train")
        if path is not None:
            parts += _parts(path, split)
    classes = sorted({part.label for part in parts if part.label})
    return list_parts(request, parts, classes, "Kinetics")


def _parts(path: Path, split: str) -> list[Part]:
    header, rows = read_table(path, ",")
    if not set(COLUMNS) <= set(header):
        raise PipelineError(f"{path} must have the columns {','.join(COLUMNS)}; its header is {','.join(header)}.")
    parts = []
    for line, row in rows:
        where = f"{path}, line {line}"
        try:
            start, end = (int(float(row[name])) for name in COLUMNS[1:])
        except ValueError:
            raise PipelineError(
                f"{where}: times must be seconds, but are {row['time_start']}, {row['time_end']}."
            ) from None
        name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        parts.append(Part(name, name, row.get("label", ""), split, where, group=row["youtube_id"]))
    return parts
