"""Read lists of V-JEPA and VideoMAE: a CSV without header, each line `path label` with a space, label as a number.

`train.csv`, `val.csv`, `test.csv` name the split. A path with spaces is in double quotes. Class names, if any, are
the lines of `classes.txt` or `category.txt`; else the numbers.
"""

from __future__ import annotations

import csv
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.manifest import Clip
from pipeline.prepare.frame_lists import CATEGORY_FILES, split_of_name
from pipeline.prepare.label_files import find_file, read_labels, read_lines
from pipeline.prepare.listing import Listing, ListingRequest, ordered
from pipeline.prepare.locating import Row, check_unique_ids
from pipeline.prepare.resolving import resolve
from pipeline.video.suffixes import without_suffix


def list_vjepa_csv(request: ListingRequest) -> Listing:
    """Read the lists given after ROOT, or `train.csv`, `val.csv` and `test.csv` in ROOT.

    Raises:
        PipelineError: there is no list, or a line is not a path and a number.
    """
    lists = request.lists or tuple(filter(None, (find_file([request.root], [f"{split}.csv"]) for split in _SPLITS)))
    if not lists:
        raise PipelineError(f"{request.root} has no train.csv. Give the lists after ROOT.")
    entries = [(*entry, split_of_name(path)) for path in lists for entry in _entries(path)]
    category_file = find_file([path.parent for path in lists] + [request.root], CATEGORY_FILES)
    numbers = sorted({number for _, number, _, _ in entries})
    classes = tuple(map(str, numbers)) if category_file is None else read_labels(category_file)
    label_of = dict(zip(numbers, classes, strict=True)) if category_file is None else dict(enumerate(classes))
    for _, number, where, _ in entries:
        if number not in label_of:
            raise PipelineError(f"{where}: class {number} is not among the {len(classes)} of {category_file}.")
    resolved = resolve(request.root, [path for path, *_ in entries], [where for _, _, where, _ in entries])
    clips = tuple(
        Clip(without_suffix(path), path, label_of[number], split)
        for path, (_, number, _, split) in zip(resolved.paths, entries, strict=True)
    )
    check_unique_ids(
        [Row(clip.clip_id, clip.label, clip.split, entry[2]) for clip, entry in zip(clips, entries, strict=True)]
    )
    faulty = {clips[number].clip_id: reason for number, reason in resolved.faulty.items()}
    layout = f"{len(lists)} lists of paths and labels"
    return Listing(clips, ordered(classes, request.class_order), layout, (), tuple(resolved.notes()), faulty)


_SPLITS = ("train", "val", "test")


def _entries(path: Path) -> list[tuple[str, int, str]]:
    entries = []
    for line, text in read_lines(path):
        fields = next(csv.reader([text], delimiter=" "))
        where = f"{path}, line {line}"
        if len(fields) != 2 or not fields[1].isdecimal():
            raise PipelineError(f"{where} must be `path label` with a number as label, but is '{text}'.")
        entries.append((fields[0], int(fields[1]), where))
    return entries
