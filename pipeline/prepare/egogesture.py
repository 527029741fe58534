"""Read EgoGesture: `labels-final-revised1/subject01/Scene1/Group1.csv`, with the colour videos or frames of each group.

A label file has lines `class,start,end` without header: classes from 1 to 83, frame numbers from 1, the last one
included. Its video is `Subject01/Scene1/Color/rgb1`, a file or a folder of frames, in any folder of the root. The
published split is by subjects, which are the groups.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.prepare.label_files import read_lines
from pipeline.prepare.listing import Listing, ListingRequest
from pipeline.prepare.parts import Part, list_parts

LABELS = "labels-final-revised1"
NUM_CLASSES = 83
# Source: Zhang et al., EgoGesture: a new dataset and benchmark, 2018: 30 subjects train, 10 validate, 10 test.
VAL_SUBJECTS = frozenset({1, 7, 12, 13, 24, 29, 33, 34, 35, 37})
TEST_SUBJECTS = frozenset({2, 9, 11, 14, 18, 19, 28, 31, 41, 47})
_PLACE = re.compile(r"subject(\d+)/scene(\d+)/group(\d+)\.csv", re.IGNORECASE)


def list_egogesture(request: ListingRequest) -> Listing:
    """Read the label files of all subjects; a class has its number as its name.

    Raises:
        PipelineError: there are no label files, or a line is not valid.
    """
    folder = next((path for path in request.lists if path.is_dir()), request.root / LABELS)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.glob("*/*/*.csv"))}
    found = {match.groups(): files[name] for name in files if (match := _PLACE.fullmatch(name))}
    if not found:
        raise PipelineError(
            f"{folder} has no label files of EgoGesture, such as subject01/Scene1/Group1.csv. Give the folder "
            f"{LABELS} after ROOT."
        )
    places = _subject_folders(request.root)
    parts = []
    for (subject, scene, group), path in found.items():
        place = places.get(int(subject), f"Subject{int(subject):02d}")
        parts += _parts(path, int(subject), f"{place}/Scene{int(scene)}/Color/rgb{int(group)}")
    return list_parts(request, parts, map(str, range(1, NUM_CLASSES + 1)), "EgoGesture, colour videos")


def _subject_folders(root: Path) -> dict[int, str]:
    """Return the folder of the videos of each subject: in the root, or in a folder of it, such as images_320-240_1."""
    found: dict[int, str] = {}
    for top in ("", *sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name != LABELS)):
        for entry in sorted(os.listdir(root / top)):
            match = re.fullmatch(r"Subject(\d+)", entry)
            if match:
                found.setdefault(int(match[1]), f"{top}/{entry}" if top else entry)
    return found


def _parts(path: Path, subject: int, video: str) -> list[Part]:
    split = "val" if subject in VAL_SUBJECTS else "test" if subject in TEST_SUBJECTS else "train"
    parts = []
    for line, text in read_lines(path):
        where = f"{path}, line {line}"
        fields = [field.strip() for field in text.split(",")]
        if len(fields) != 3 or not all(field.isdecimal() for field in fields) or not 0 < int(fields[0]) <= NUM_CLASSES:
            raise PipelineError(f"{where} must be `class,start,end` with a class from 1 to 83, but is '{text}'.")
        label, start, end = map(int, fields)
        name = "/".join(video.split("/")[-4:])
        parts.append(
            Part(
                f"{name}/{start:06d}",
                video,
                str(label),
                split,
                where,
                group=f"subject{subject:02d}",
                frames=(start - 1, end),
            )
        )
    return parts
