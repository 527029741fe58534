"""Read Something-Something V2 (20BN): webm videos or extracted frames, 174 templates, in both published layouts.

`original`: `something-something-v2-labels.json` (`{"label": "index"}`), `…-{train,validation}.json` (a list of
`{id, label, template, placeholders}`), `…-test.json` (`{id}` only).
`newer`: `labels/{labels,train,validation,test}.json` with `test-answers.csv` (`id;label`).
 The class of a clip is its template without the square brackets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.prepare.jester import SPLIT_FILES, label_folders, names_of, with_answers
from pipeline.prepare.label_files import LabelBook, find_file, read_json, without_brackets
from pipeline.prepare.listing import Listing, ListingRequest, Published, ordered
from pipeline.prepare.locating import Row, locate

PUBLISHED = Published("Something-Something V2", 174, {"train": 168_913, "val": 24_777, "test": 27_157})
PREFIX = "something-something-v2"
EXPECTED_PATH = "20bn-something-something-v2/{}.webm"


def list_something_v2(request: ListingRequest) -> Listing:
    """Read Something-Something's label files, whichever layout they have, and find its clips.

    Raises:
        PipelineError: no label files, an unknown template, or no clip is found.
    """
    folders = label_folders(request)
    files = {split: find_file(folders, names_of(word, PREFIX, ".json")) for split, word in SPLIT_FILES.items()}
    labels_file = find_file(folders, names_of("labels", PREFIX, ".json"))
    train_file = files["train"]
    if train_file is None or labels_file is None:
        lacking = "training list" if train_file is None else "file of labels"
        raise PipelineError(
            f"{request.root} has no {lacking} of Something-Something V2: looked for {PREFIX}-train.json with "
            f"{PREFIX}-labels.json, and for labels/train.json with labels/labels.json. Give the folder of the label "
            "files after ROOT if they are elsewhere."
        )
    classes = _read_classes(labels_file)
    book = LabelBook(classes, str(labels_file))
    rows = [row for split, path in files.items() if path is not None for row in _rows(path, split, book)]
    original = train_file.name.lower().startswith(PREFIX)
    layout = f"{'original' if original else 'newer'} ({train_file.name} and {labels_file.name})"
    rows, layout = with_answers(rows, find_file(folders, ["test-answers.csv"]), book, layout)
    order = ordered(classes, request.class_order)
    return locate(request.root, rows, order, layout, PUBLISHED, EXPECTED_PATH)


def _read_classes(path: Path) -> tuple[str, ...]:
    """Read the labels in the order of their indices."""
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise PipelineError(f"{path} must be an object of labels with their indices, but is {type(content).__name__}.")
    label_of: dict[str, str] = {}
    for label, index in content.items():
        if str(index) in label_of:
            raise PipelineError(f"{path}: '{label}' and '{label_of[str(index)]}' have the same index {index}.")
        label_of[str(index)] = without_brackets(label)
    lacking = [index for index in range(len(label_of)) if str(index) not in label_of]
    if lacking:
        raise PipelineError(f"{path}: indices must count from 0 to {len(label_of) - 1}, but {lacking[0]} is missing.")
    return tuple(label_of[str(index)] for index in range(len(label_of)))


def _rows(path: Path, split: str, book: LabelBook) -> list[Row]:
    content = read_json(path)
    if not isinstance(content, list):
        raise PipelineError(f"{path} must be a list of clips, but is {type(content).__name__}.")
    return [_row(entry, split, f"{path}, entry {number}", book) for number, entry in enumerate(content, 1)]


def _row(entry: Any, split: str, where: str, book: LabelBook) -> Row:
    if not isinstance(entry, dict) or "id" not in entry:
        raise PipelineError(f"{where} must be an object with an `id`.")
    template = entry.get("template", "")
    if not template and split != "test":
        raise PipelineError(f"{where}: clip '{entry['id']}' has no `template`, so its class is unknown.")
    return Row(str(entry["id"]), book.label(template, where) if template else "", split, where)
