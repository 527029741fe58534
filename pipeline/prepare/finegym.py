"""Read FineGym (Gym99 or Gym288): `gym99_train_element_v1.1.txt`, `gym99_val_element.txt`, `gym99_categories.txt`.

Lines are `VIDEO_E_START_END_A_START_END label`. Clips are files of that name, or intervals of the YouTube videos by
the times of `finegym_annotation_info_v1.1.json`. Clips of one video are a group.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.prepare.directory_scan import find_clips
from pipeline.prepare.label_files import read_json, read_lines
from pipeline.prepare.listing import Listing, ListingRequest
from pipeline.prepare.parts import Part, label_file, list_parts, needed_file

SETS = ("gym99", "gym288")
TIMES_FILES = ("finegym_annotation_info_v1.1.json", "finegym_annotation_info_v1.0.json")
_CATEGORY = re.compile(r"Clabel:\s*(\d+);.*?Glabel:\s*\d+;\s*(.+)")
_NAME = re.compile(r"(.+)_(E_\d+_\d+)_(A_\d+_\d+)")


def list_finegym(request: ListingRequest) -> Listing:
    """Read the lists of Gym99, or of Gym288 if only these are there.

    Raises:
        PipelineError: a file is missing, or a line is not valid.
    """
    has_99 = label_file(request, "gym99_categories.txt", needed=False) is not None
    name = SETS[0] if has_99 or label_file(request, "gym288_categories.txt", needed=False) is None else SETS[1]
    category_file = needed_file(request, f"{name}_categories.txt")
    classes = [
        _category(text, number, f"{category_file}, line {line}")
        for number, (line, text) in enumerate(read_lines(category_file))
    ]
    lists = {
        "train": needed_file(request, f"{name}_train_element_v1.1.txt", f"{name}_train_element_v1.0.txt"),
        "val": needed_file(request, f"{name}_val_element.txt"),
    }
    parts = [part for split, path in lists.items() for part in _parts(path, split, classes)]
    if parts and not find_clips(request.root, [part.video for part in parts]).path_of:
        parts = _of_whole_videos(request, parts)
    return list_parts(request, parts, classes, name.capitalize())


def _category(text: str, number: int, where: str) -> str:
    match = _CATEGORY.fullmatch(text)
    if match is None or int(match[1]) != number:
        raise PipelineError(f"{where} must be `Clabel: {number}; set: …; Glabel: …; NAME`, but is '{text}'.")
    return match[2].strip()


def _parts(path: Path, split: str, classes: list[str]) -> list[Part]:
    parts = []
    for line, text in read_lines(path):
        where = f"{path}, line {line}"
        clip, _, label = text.rpartition(" ")
        match = _NAME.fullmatch(clip.strip())
        if match is None or not label.isdecimal() or int(label) >= len(classes):
            raise PipelineError(f"{where} must be `VIDEO_E_…_A_… label` with one of {len(classes)} labels: '{text}'.")
        parts.append(Part(clip.strip(), clip.strip(), classes[int(label)], split, where, group=match[1]))
    return parts


def _of_whole_videos(request: ListingRequest, parts: list[Part]) -> list[Part]:
    """Return the parts as intervals of the YouTube videos."""
    path = label_file(request, *TIMES_FILES, needed=False)
    if path is None:
        return parts
    times = read_json(path)
    return [replace(part, video=part.group, seconds=_seconds(times, part, path)) for part in parts]


def _seconds(times: Any, part: Part, path: Path) -> tuple[str, str]:
    match = _NAME.fullmatch(part.clip_id)
    assert match is not None
    try:
        event = times[match[1]][match[2]]
        starts = event["timestamps"][0][0]
        # The stages of an element follow each other.
        stages = event["segments"][match[3]]["timestamps"]
        return f"{starts + stages[0][0]:.3f}", f"{starts + stages[-1][1]:.3f}"
    except (KeyError, IndexError, TypeError):
        raise PipelineError(f"{path} has no times of {part.clip_id}, which {part.where} names.") from None
