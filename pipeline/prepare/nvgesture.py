"""Read NVGesture: `nvgesture_{train,test}_correct_cvpr2016_v2.lst`, with the colour videos `sk_color.avi`.

A line is `path:./Video_data/class_01/subject13_r0 depth:sk_depth:138:218 color:sk_color:138:218 … label:1`: frame
numbers from 0, the last one excluded. The test list is the split `val`; the subject is the group. Classes have the
names of their folders.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from pipeline.errors import PipelineError
from pipeline.prepare.label_files import read_lines
from pipeline.prepare.listing import Listing, ListingRequest
from pipeline.prepare.parts import Part, list_parts, needed_file

VERSIONS = ("_cvpr2016_v2", "_cvpr2016", "")
FILES = {"train": "nvgesture_train_correct", "val": "nvgesture_test_correct"}


def list_nvgesture(request: ListingRequest) -> Listing:
    """Read both lists.

    Raises:
        PipelineError: a list is missing, or a line is not valid.
    """
    parts: list[Part] = []
    for split, name in FILES.items():
        parts += _parts(needed_file(request, *(f"{name}{version}.lst" for version in VERSIONS)), split)
    classes = sorted({part.label for part in parts})
    return list_parts(request, parts, classes, "NVGesture, colour videos")


def _parts(path: Path, split: str) -> list[Part]:
    parts = []
    for line, text in read_lines(path):
        where = f"{path}, line {line}"
        fields = dict(field.split(":", 1) for field in text.split() if ":" in field)
        name, _, bounds = fields.get("color", "").partition(":")
        start, _, end = bounds.partition(":")
        label = fields.get("label", "")
        if "path" not in fields or not all(number.isdecimal() for number in (start, end, label)):
            raise PipelineError(f"{where} must have path, color with two frame numbers, and label, but is '{text}'.")
        folder = PurePosixPath(fields["path"])
        parts.append(
            Part(
                f"{folder.parent.name}/{folder.name}",
                str(folder / name),
                f"class_{int(label):02d}",
                split,
                where,
                group=folder.name.partition("_")[0],
                frames=(int(start), int(end)),
            )
        )
    return parts
