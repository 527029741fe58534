"""Read UCF101: videos in class folders, with three published splits in `ucfTrainTestlist/`."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.manifest import Clip
from pipeline.prepare.directory_scan import list_folders
from pipeline.prepare.label_files import find_file, read_lines
from pipeline.prepare.listing import Listing, ListingRequest, Published, ordered
from pipeline.prepare.locating import Row, check_unique_ids

FOLDS = (1, 2, 3)
VIDEO_FOLDERS = ("UCF-101", "UCF101", "videos", "")
# Published counts of the folds.
PUBLISHED = {
    1: Published("UCF101, fold 1", 101, {"train": 9_537, "val": 3_783}),
    2: Published("UCF101, fold 2", 101, {"train": 9_586, "val": 3_734}),
    3: Published("UCF101, fold 3", 101, {"train": 9_624, "val": 3_696}),
}


def list_ucf101(request: ListingRequest) -> Listing:
    """Read one fold: `trainlist0N.txt` is the split `train`, `testlist0N.txt` the split `val`.

    Raises:
        PipelineError: a list is missing, or contains a class that is not in `classInd.txt`.
    """
    checked_fold(request.fold)
    folders = [*request.lists, request.root / "ucfTrainTestlist", request.root / "splits", request.root]
    files = {
        split: find_file(folders, [f"{word}list{request.fold:02d}.txt"])
        for split, word in (("train", "train"), ("val", "test"))
    }
    class_file = find_file(folders, ["classInd.txt"])
    present = {split: path for split, path in files.items() if path is not None}
    if len(present) < len(files) or class_file is None:
        raise PipelineError(
            f"{request.root} lacks split files of UCF101: looked for ucfTrainTestlist/trainlist{request.fold:02d}.txt, "
            f"testlist{request.fold:02d}.txt and classInd.txt. Give their folder after ROOT if they are elsewhere."
        )
    classes = tuple(line.partition(" ")[2].strip() for _, line in read_lines(class_file))
    rows = [
        Row(*_id_and_label(line, classes, f"{path}, line {number}"), split, f"{path}, line {number}")
        for split, path in present.items()
        for number, line in read_lines(path)
    ]
    check_unique_ids(rows)
    where = video_folder(request.root, VIDEO_FOLDERS, classes)
    clips, faulty = clips_of(request.root, where, rows)
    notes = PUBLISHED[request.fold].differences(clips, len(classes))
    layout = f"{present['train'].name} as train, {present['val'].name} as val"
    return Listing(clips, ordered(classes, request.class_order), layout, (), tuple(notes), faulty)


def checked_fold(fold: int) -> int:
    """Check the fold and return it.

    Raises:
        PipelineError: it is not one of the three.
    """
    if fold not in FOLDS:
        raise PipelineError(f"`fold` (={fold}) must be one of {', '.join(map(str, FOLDS))}.")
    return fold


def video_folder(root: Path, names: tuple[str, ...], classes: tuple[str, ...]) -> str:
    """Return the first of some folders below the root that has a folder of a class."""
    for name in names:
        entries = list_folders(root, [name])[name]
        if {entry for entry, is_folder in entries if is_folder} & set(classes):
            return name
    raise PipelineError(
        f"{root} has no folder of videos: looked for folders named by class, such as {classes[0]}, in "
        f"{', '.join(name or 'ROOT itself' for name in names)}."
    )


def clips_of(root: Path, where: str, rows: list[Row]) -> tuple[tuple[Clip, ...], dict[str, str]]:
    """Return the clips of rows with ids `class/file` without suffix, and the reasons of missing ones."""
    labels = sorted({row.clip_id.partition("/")[0] for row in rows})
    prefix = f"{where}/" if where else ""
    there: dict[str, str] = {}
    for folder, entries in list_folders(root, [prefix + label for label in labels]).items():
        for name, is_folder in entries:
            path = f"{folder}/{name}"
            there[(path if is_folder else path.rpartition(".")[0]).removeprefix(prefix)] = path
    clips = tuple(
        Clip(row.clip_id, there.get(row.clip_id, f"{prefix}{row.clip_id}.avi"), row.label, row.split) for row in rows
    )
    faulty = {c.clip_id: f"missing: {c.path} does not exist" for c in clips if c.clip_id not in there}
    return clips, faulty


def _id_and_label(line: str, classes: tuple[str, ...], where: str) -> tuple[str, str]:
    """Parse `Class/v_Class_g01_c01.avi`, which a class index follows in training lists."""
    path = line.split()[0]
    label = path.partition("/")[0]
    if label not in classes:
        raise PipelineError(f"{where}: '{label}' is not among the {len(classes)} classes of classInd.txt.")
    return path.rpartition(".")[0] or path, label
