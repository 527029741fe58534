"""Read HMDB51: videos in class folders, with three published splits in `testTrainMulti_7030_splits/`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.prepare.label_files import read_lines
from pipeline.prepare.listing import Listing, ListingRequest, Published, ordered
from pipeline.prepare.locating import Row, check_unique_ids
from pipeline.prepare.ucf101 import checked_fold, clips_of, video_folder

VIDEO_FOLDERS = ("hmdb51_org", "hmdb51", "videos", "")
# Marks in the split files: 1: training, 2: testing, 0: not used in this fold.
SPLIT_OF_MARK = {"1": "train", "2": "val"}


def list_hmdb51(request: ListingRequest) -> Listing:
    """Read one fold of `{class}_test_split{fold}.txt`: mark 1 is `train`, mark 2 `val`; mark 0 is not in the fold.

    Raises:
        PipelineError: no split files, or an invalid line.
    """
    fold = checked_fold(request.fold)
    folders = [
        *request.lists,
        request.root / "testTrainMulti_7030_splits",
        request.root / "test_train_splits" / "testTrainMulti_7030_splits",
        request.root / "splits",
        request.root,
    ]
    named = re.compile(rf"(.+)_test_split{fold}\.txt")
    files: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir() and not files:
            matches = ((named.fullmatch(name), folder / name) for name in sorted(os.listdir(folder)))
            files = {match[1]: path for match, path in matches if match}
    if not files:
        raise PipelineError(
            f"{request.root} has no split files of HMDB51: looked for testTrainMulti_7030_splits/"
            f"CLASS_test_split{fold}.txt. Give their folder after ROOT if they are elsewhere."
        )
    rows: list[Row] = []
    num_unused = 0
    for label, path in files.items():
        for number, line in read_lines(path):
            where = f"{path}, line {number}"
            name, _, mark = line.rpartition(" ")
            if mark not in ("0", *SPLIT_OF_MARK):
                raise PipelineError(f"{where} must be a file and 0, 1 or 2, but is '{line}'.")
            if mark == "0":
                num_unused += 1
            else:
                clip_id = f"{label}/{os.path.splitext(name.strip())[0]}"
                rows.append(Row(clip_id, label, SPLIT_OF_MARK[mark], where))
    check_unique_ids(rows)
    classes = tuple(files)
    clips, faulty = clips_of(request.root, video_folder(request.root, VIDEO_FOLDERS, classes), rows)
    published = Published(f"HMDB51, fold {fold}", 51, {"train": 3_570, "val": 1_530})
    notes = published.differences(clips, len(classes))
    if num_unused:
        notes.append(f"{num_unused:,} clips have the mark 0 and are not used in fold {fold}.")
    layout = f"CLASS_test_split{fold}.txt, mark 1 as train, mark 2 as val"
    return Listing(clips, ordered(classes, request.class_order), layout, (), tuple(notes), faulty)
