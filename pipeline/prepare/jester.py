"""Read Jester (20BN): folders of JPGs, 27 hand gestures, in its published layouts.

`original`: `jester-v1-labels.csv` (one label per line), `jester-v1-{train,validation}.csv` (`id;label`), `…-test.csv`.
`labels folder`: the same files as `labels/{labels,train,validation,test}.csv`, with `test-answers.csv` (`id;label`).
`header`: `Train.csv`, `Validation.csv`, `Test.csv` with a header `video_id,label,frames,label_id,shape,format`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.prepare.label_files import LabelBook, find_file, read_id_label, read_labels, read_lines, read_table
from pipeline.prepare.listing import Listing, ListingRequest, Published, ordered
from pipeline.prepare.locating import Row, locate

PUBLISHED = Published("Jester", 27, {"train": 118_562, "val": 14_787, "test": 14_743})
SPLIT_FILES = {"train": "train", "val": "validation", "test": "test"}
EXPECTED_PATH = "20bn-jester-v1/{}"
ID_COLUMNS = ("video_id", "id")


def list_jester(request: ListingRequest) -> Listing:
    """Read Jester's label files, whichever layout they have, and find its clips.

    Raises:
        PipelineError: no label files, an unknown label, or no clip is found.
    """
    folders = label_folders(request)
    files = {split: find_file(folders, names_of(word, "jester-v1", ".csv")) for split, word in SPLIT_FILES.items()}
    if files["train"] is None:
        raise PipelineError(
            f"{request.root} has no training list of Jester: looked for jester-v1-train.csv, labels/train.csv and "
            "Train.csv. Give the folder of the label files after ROOT if they are elsewhere."
        )
    present = {split: path for split, path in files.items() if path is not None}
    labels_file = find_file(folders, names_of("labels", "jester-v1", ".csv"))
    if _has_header(files["train"]):
        layout = f"CSVs with a header ({files['train'].name})"
        rows, classes, source = _rows_with_header(present, labels_file)
    elif labels_file is None:
        raise PipelineError(
            f"{files['train'].parent} has no file with the order of the classes: looked for jester-v1-labels.csv and "
            "labels.csv, with one label per line."
        )
    else:
        original = files["train"].name.lower().startswith("jester-v1")
        layout = f"{'original' if original else 'newer'} ({files['train'].name} and {labels_file.name})"
        rows, classes, source = _rows(present), read_labels(labels_file), str(labels_file)
    book = LabelBook(classes, source)
    rows = [replace(row, label=book.label(row.label, row.where)) if row.label else row for row in rows]
    rows, layout = with_answers(rows, find_file(folders, ["test-answers.csv"]), book, layout)
    order = ordered(classes, request.class_order)
    return locate(request.root, rows, order, layout, PUBLISHED, EXPECTED_PATH)


def label_folders(request: ListingRequest) -> list[Path]:
    """Return the folders to search for label files: the folder given after ROOT, or ROOT and common subfolders."""
    if len(request.lists) > 1 or any(not path.is_dir() for path in request.lists):
        raise PipelineError(
            f"Only one folder, that of the label files, may follow ROOT, but {request.lists[-1]} was given."
        )
    return list(request.lists) or [request.root, request.root / "labels", request.root / "annotations"]


def names_of(word: str, prefix: str, suffix: str) -> list[str]:
    """Return the possible names of a label file: the original name, and the newer name without prefix."""
    return [f"{prefix}-{word}{suffix}", f"{word}{suffix}"]


def with_answers(rows: list[Row], answers_file: Path | None, book: LabelBook, layout: str) -> tuple[list[Row], str]:
    """Return the rows, with labels from `test-answers.csv` for unlabelled rows of the test split.

    Raises:
        PipelineError: an answer has an unknown label.
    """
    if answers_file is None:
        return rows, layout
    answers = {
        clip_id: book.label(label, f"{answers_file}, line {number}")
        for number, clip_id, label in read_id_label(answers_file)
        if label
    }
    answered = [
        Row(row.clip_id, answers.get(row.clip_id, ""), row.split, row.where)
        if row.split == "test" and not row.label
        else row
        for row in rows
    ]
    return answered, f"{layout}, test labels from {answers_file.name}"


def _has_header(path: Path) -> bool:
    lines = read_lines(path)
    return bool(lines) and lines[0][1].partition(",")[0].strip('" ') in ID_COLUMNS


def _rows(files: dict[str, Path]) -> list[Row]:
    return [
        Row(clip_id, "" if split == "test" else label, split, f"{path}, line {number}")
        for split, path in files.items()
        for number, clip_id, label in read_id_label(path)
    ]


def _rows_with_header(files: dict[str, Path], labels_file: Path | None) -> tuple[list[Row], tuple[str, ...], str]:
    """Read rows and classes; classes are in the order of `label_id`, unless there is a label file."""
    rows: list[Row] = []
    index_of: dict[str, str] = {}
    for split, path in files.items():
        header, table = read_table(path)
        id_column = next((name for name in ID_COLUMNS if name in header), None)
        if id_column is None:
            raise PipelineError(f"{path} has no column {' or '.join(ID_COLUMNS)}; its header is {','.join(header)}.")
        for number, fields in table:
            where = f"{path}, line {number}"
            label, index = fields.get("label", ""), fields.get("label_id", "")
            if label and index_of.setdefault(label, index) != index:
                raise PipelineError(f"{where}: '{label}' has label_id {index}, but had {index_of[label]} before.")
            rows.append(Row(fields[id_column], label, split, where))
    if labels_file is not None:
        return rows, read_labels(labels_file), str(labels_file)
    source = "the column label_id" if all(index_of.values()) else "the column label"
    if all(index.isascii() and index.isdigit() for index in index_of.values()):
        if len(set(map(int, index_of.values()))) != len(index_of):
            raise PipelineError(f"{files['train']}: two labels have the same label_id.")
        return rows, tuple(sorted(index_of, key=lambda label: int(index_of[label]))), source
    return rows, tuple(index_of), source
