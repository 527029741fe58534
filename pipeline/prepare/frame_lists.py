"""Read frame lists in TSN's format: `*_videofolder.txt` with `id num_frames class_index`, and `category.txt`.

Lines with a video path are in mmaction2's format: `path class_index`. Frames may be named by any template with a number
(`{:05d}.jpg`, `img_{:05d}.jpg`), counted from 0 or 1; the reader of frame folders detects it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.manifest import Clip
from pipeline.prepare.directory_scan import count_frames
from pipeline.prepare.label_files import find_file, read_labels, read_lines
from pipeline.prepare.listing import Listing, ListingRequest, ordered, split_named
from pipeline.prepare.locating import NUM_FRAMES_COLUMN, Row, check_unique_ids, failures_of
from pipeline.prepare.resolving import resolve
from pipeline.video.suffixes import is_video_name

CATEGORY_FILES = ("category.txt", "categories.txt", "classes.txt")


@dataclass(frozen=True)
class Entry:
    """A line of a list: the clip, the expected number of frames, and the class (None: unknown)."""

    path: str
    num_frames: int | None
    class_index: int | None
    split: str
    where: str


def list_frame_lists(request: ListingRequest) -> Listing:
    """Read frame lists; the split of each follows from its name (`train_videofolder.txt`).

    Raises:
        PipelineError: no list, no categories, an invalid line, or a class index out of range.
    """
    if not request.lists:
        raise PipelineError(
            "`prepare frame-lists` needs the lists: `pipeline prepare frame-lists ROOT train_videofolder.txt "
            "val_videofolder.txt --out data_manifests/NAME.csv`."
        )
    category_file = find_file([path.parent for path in request.lists] + [request.root], CATEGORY_FILES)
    if category_file is None:
        raise PipelineError(
            f"There is no category.txt next to {request.lists[0]} or in {request.root}, so the class indices of the "
            "list have no labels. Add one, with a label per line in the order of the indices."
        )
    classes = read_labels(category_file)
    notes: list[str] = []
    entries = [entry for path in request.lists for entry in _read_list(path)]
    # Before any file is looked for, which may take minutes.
    _first_index(entries, classes, category_file, [])
    resolved = resolve(request.root, [entry.path for entry in entries], [entry.where for entry in entries])
    entries = [
        _of_file(entry, resolved.paths[number]) if number in resolved.files else replace(entry, path=path)
        for number, (entry, path) in enumerate(zip(entries, resolved.paths, strict=True))
    ]
    entries = _without_placeholders(entries, len(classes), notes)
    first = _first_index(entries, classes, category_file, notes)
    notes += resolved.notes()
    rows = [Row(entry.path, _label(entry.class_index, first, classes), entry.split, entry.where) for entry in entries]
    check_unique_ids(rows)
    faulty = {entries[number].path: reason for number, reason in resolved.faulty.items()}
    if len(faulty) == len(entries):
        raise PipelineError(
            f"None of the {len(entries):,} clips in the lists is below {request.root}. The first one, "
            f"{entries[0].path}: {faulty[entries[0].path]} Give the folder to which the paths in the lists are "
            f"relative."
        )
    folders = [entry for entry in entries if entry.num_frames is not None and entry.path not in faulty]
    counts = count_frames(request.root, {entry.path: entry.path for entry in folders}) if folders else {}
    faulty |= failures_of(counts)
    for entry in folders:
        counted = counts[entry.path]
        if isinstance(counted, int) and counted != entry.num_frames:
            reason = f"{entry.path} has {counted} frames, but {entry.num_frames} in {entry.where}"
            faulty[entry.path] = f"frame-count: {reason}"
    columns = (NUM_FRAMES_COLUMN,) if any(entry.num_frames is not None for entry in entries) else ()
    clips = tuple(
        # The expected number: `check` finds differences, and the manifest keeps it.
        Clip(row.clip_id, row.clip_id, row.label, row.split, _extra(entry) if columns else ())
        for row, entry in zip(rows, entries, strict=True)
    )
    kind = "frame lists" if columns else "lists of videos"
    layout = f"{len(request.lists)} {kind} with {category_file.name}, class indices from {first}"
    order = ordered(classes, request.class_order)
    return Listing(clips, order, layout, columns, tuple(notes), faulty)


def split_of_name(path: Path) -> str:
    """Return the split of a list, from the words in its name.

    Raises:
        PipelineError: the name contains no split, or more than one.
    """
    words = "".join(char if char.isalpha() else " " for char in path.stem.lower()).split()
    names = {split_named(word) for word in words} & {"train", "val", "test"}
    # `trainlist`, `vallist`: no separator follows the word.
    names |= {split_named(word[: -len("list")]) for word in words if word.endswith("list")} & {"train", "val", "test"}
    if len(names) != 1:
        raise PipelineError(f"The split of {path} is unknown: its name must contain exactly one of train, val, test.")
    return names.pop()


def _read_list(path: Path) -> list[Entry]:
    if not path.is_file():
        raise PipelineError(f"{path} does not exist: give the frame lists after ROOT.")
    split = split_of_name(path)
    entries = []
    for number, line in read_lines(path):
        where = f"{path}, line {number}"
        entries.append(_entry(line, split, where))
    if not entries:
        raise PipelineError(f"{path} is empty.")
    return entries


def _entry(line: str, split: str, where: str) -> Entry:
    """Parse a line from the right, because a clip's path may contain spaces."""
    fields = line.rsplit(maxsplit=2)
    if len(fields) == 3 and _is_number(fields[1]) and _is_number(fields[2].removeprefix("-")):
        if is_video_name(os.path.basename(fields[0])):
            raise _two_numbers(fields[0], where)
        return Entry(fields[0], int(fields[1]), _class_index(fields[2]), split, where)
    path, _, number = line.rpartition("\t" if "\t" in line else " ")
    path = path.strip()
    if path and _is_number(number.removeprefix("-")):
        if is_video_name(os.path.basename(path)):
            return Entry(path, None, _class_index(number), split, where)
        if _is_number(number):
            return Entry(path, int(number), None, split, where)
    if is_video_name(os.path.basename(line)):
        return Entry(line, None, None, split, where)
    raise PipelineError(
        f"{where} must be `id num_frames class_index`, or `path class_index` for a video, but is '{line}'."
    )


def _of_file(entry: Entry, path: str) -> Entry:
    """Return the entry of a clip that is a file on disk, whatever its name: the only number is its class.

    Raises:
        PipelineError: it has two numbers.
    """
    if entry.num_frames is None:
        return replace(entry, path=path)
    if entry.class_index is not None:
        raise _two_numbers(path, entry.where)
    return replace(entry, path=path, num_frames=None, class_index=entry.num_frames)


def _two_numbers(path: str, where: str) -> PipelineError:
    return PipelineError(f"{where}: {path} is a video and has two numbers, but the line must be `path class_index`.")


def _class_index(text: str) -> int | None:
    return int(text) if int(text) >= 0 else None


def _extra(entry: Entry) -> tuple[str, ...]:
    return ("" if entry.num_frames is None else str(entry.num_frames),)


def _label(class_index: int | None, first: int, classes: tuple[str, ...]) -> str:
    return "" if class_index is None else classes[class_index - first]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _without_placeholders(entries: list[Entry], num_classes: int, notes: list[str]) -> list[Entry]:
    """Remove the class of a test list with only class 0, which tools write for unlabelled clips."""
    test = [entry for entry in entries if entry.split == "test"]
    if len(test) < 2 or num_classes < 2 or {entry.class_index for entry in test} != {0}:
        return entries
    notes.append(f"All {len(test):,} clips of the test list have class index 0; they are treated as unlabelled.")
    return [replace(entry, class_index=None) if entry.split == "test" else entry for entry in entries]


def _first_index(entries: list[Entry], classes: tuple[str, ...], category_file: Path, notes: list[str]) -> int:
    """Return the first class index, 0 or 1."""
    known = [entry for entry in entries if entry.class_index is not None]
    indices = {entry.class_index for entry in known if entry.class_index is not None}
    first = 1 if indices and len(classes) in indices and 0 not in indices else 0
    if first == 1:
        notes.append(f"Class indices start at 1: {len(classes)} occurs, and 0 does not.")
    for entry in known:
        if entry.class_index is not None and entry.class_index - first >= len(classes):
            raise PipelineError(
                f"{entry.where}: class index {entry.class_index} is out of range for the {len(classes)} classes of "
                f"{category_file}."
            )
    return first
