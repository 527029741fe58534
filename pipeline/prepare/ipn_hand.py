"""Read IPN Hand: `Annot_TrainList.txt`, `Annot_TestList.txt` and `classIdx.txt`.

Lines are `video,label,id,t_start,t_end,frames`, with frame numbers from 1, the last one included. Videos are files or
folders of frames named `1CM1_1_R_#217`. The test list is the split `val`; the first part of a name is the person, a
group.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.prepare.label_files import read_lines
from pipeline.prepare.listing import Listing, ListingRequest
from pipeline.prepare.parts import Part, list_parts, needed_file

FILES = {"train": "Annot_TrainList.txt", "val": "Annot_TestList.txt"}


def list_ipn_hand(request: ListingRequest) -> Listing:
    """Read both lists; classes are in the order of `classIdx.txt`, with `D0X` for no gesture.

    Raises:
        PipelineError: a file is missing, or a line is not valid.
    """
    class_file = needed_file(request, "classIdx.txt", "classIndAll.txt")
    lines = [text.replace(",", " ").split() for _, text in read_lines(class_file)]
    classes = [fields[1] for fields in lines if len(fields) > 1 and fields[0].isdecimal()]
    parts = [part for split, name in FILES.items() for part in _parts(needed_file(request, name), split, classes)]
    return list_parts(request, parts, classes, "IPN Hand")


def _parts(path: Path, split: str, classes: list[str]) -> list[Part]:
    parts = []
    for line, text in read_lines(path):
        where = f"{path}, line {line}"
        fields = [field.strip() for field in text.split(",")]
        if fields[:2] == ["video", "label"]:
            continue
        if len(fields) != 6 or not all(field.isdecimal() for field in fields[2:]):
            raise PipelineError(f"{where} must be `video,label,id,t_start,t_end,frames`, but is '{text}'.")
        video, label, start, end = fields[0], fields[1], int(fields[3]), int(fields[4])
        if label not in classes:
            raise PipelineError(f"{where}: the label '{label}' is not among the {len(classes)} classes.")
        parts.append(
            Part(
                f"{video}/{start:06d}",
                video,
                label,
                split,
                where,
                group=video.partition("_")[0],
                frames=(start - 1, end),
            )
        )
    return parts
