"""The manifest: a list of clips with their labels and splits.

It is a CSV with the columns ``clip_id,path,label,split`` (further columns are kept). ``NAME.classes.csv`` in the same
folder (``class_id,label``) defines the order of the classes. Paths are relative to the manifest's folder or to a given
root. A path is a video file, a folder of numbered frames, or ``file.h5::clip``. An empty label marks an unlabelled
clip, which is predicted and never scored.

Optional columns: `group`; `start` and `end`, if a clip is an interval of a long video, in the `unit` seconds or frames.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipeline.errors import PipelineError
from pipeline.files import write_text
from pipeline.intervals import SECONDS, Interval, parse_interval

COLUMNS = ("clip_id", "path", "label", "split")
HDF5_SEPARATOR = "::"
# Optional column: groups clips that belong together, such as those of one person or of one recording.
GROUP_COLUMN = "group"
# Optional columns of intervals; `unit` is `seconds` where it is missing or empty.
START_COLUMN, END_COLUMN, UNIT_COLUMN = "start", "end", "unit"


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of a manifest. `Manifest.locate` makes `path` absolute.

    extra: values of the further columns, in their order. group, interval: the values of optional columns among them.
    """

    clip_id: str
    path: str
    label: str
    split: str
    extra: tuple[str, ...] = ()
    group: str = ""
    interval: Interval | None = None

    @property
    def is_labelled(self) -> bool:
        return self.label != ""


@dataclass(frozen=True)
class Manifest:
    """Validated clips, in the order of the file, and the classes in their fixed order."""

    path: Path
    root: Path
    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    extra_columns: tuple[str, ...] = ()
    _index_of_class: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index_of_class", {label: index for index, label in enumerate(self.classes)})

    @property
    def name(self) -> str:
        """The file name without `.csv`."""
        return self.path.stem

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the clips, in the order of their first clip."""
        return tuple(dict.fromkeys(clip.split for clip in self.clips))

    def in_split(self, split: str) -> tuple[Clip, ...]:
        """Return the clips of one split.

        Raises:
            PipelineError: no clip is in that split.
        """
        clips = tuple(clip for clip in self.clips if clip.split == split)
        if not clips:
            raise PipelineError(f"{self.path} has no clip in split '{split}'. Its splits: {', '.join(self.splits)}.")
        return clips

    def class_index(self, label: str) -> int:
        """Return the index of a label in the order of classes; -1 for the empty label of an unlabelled clip."""
        return -1 if label == "" else self._index_of_class[label]

    def locate(self, clip: Clip) -> str:
        """Return the absolute path of a clip, followed by ``::clip`` in an HDF5 file, and by its interval, if any."""
        file, separator, member = clip.path.partition(HDF5_SEPARATOR)
        return str(self.root / file) + separator + member + (clip.interval.fragment if clip.interval else "")


def classes_path(manifest_path: Path) -> Path:
    """Return the path of the class file: ``NAME.classes.csv`` in the folder of ``NAME.csv``."""
    return manifest_path.with_name(manifest_path.stem + ".classes.csv")


def read_manifest(path: Path | str, root: Path | str | None = None) -> Manifest:
    """Read and validate a manifest with its class file. The clips are not opened.

    Raises:
        PipelineError: the file or a column is missing, an id is empty or not unique, a path is absolute or leaves the
            root, a split is empty, a label is not in the class file, or an interval is not possible.
    """
    path = Path(path)
    base = Path(root) if root is not None else path.parent
    header, rows = _read_csv(path, COLUMNS)
    return _validated(path, base, header, rows, read_classes(classes_path(path)))


def _validated(
    path: Path, root: Path, header: Sequence[str], rows: Iterable[tuple[int, Sequence[str]]], classes: tuple[str, ...]
) -> Manifest:
    positions = [header.index(column) for column in COLUMNS]
    extra_positions = [index for index, column in enumerate(header) if column not in COLUMNS]
    known_labels = {"", *classes}
    group_position = header.index(GROUP_COLUMN) if GROUP_COLUMN in header else None
    intervals = _IntervalColumns(path, header)
    clips: list[Clip] = []
    seen: dict[str, int] = {}
    for line, row in rows:
        clip_id, clip_path, label, split = (row[position] for position in positions)
        where = f"{path}, line {line}"
        if not clip_id:
            raise PipelineError(f"{where}: the clip_id is empty. Give every clip a unique id.")
        if clip_id in seen:
            raise PipelineError(
                f"{where}: the clip_id '{clip_id}' is already used in line {seen[clip_id]}. Ids must be unique."
            )
        if not split:
            raise PipelineError(f"{where}: clip '{clip_id}' has no split. Name one, such as train, val or test.")
        if label not in known_labels:
            raise PipelineError(
                f"{where}: the label '{label}' of clip '{clip_id}' is not in {classes_path(path).name}. "
                "Add it there or correct the label."
            )
        _check_inside_root(where, clip_id, clip_path)
        seen[clip_id] = line
        extra = tuple(row[position] for position in extra_positions)
        group = "" if group_position is None else row[group_position]
        clips.append(Clip(clip_id, clip_path, label, split, extra, group, intervals.of(row, where)))
    if not clips:
        raise PipelineError(f"{path} has no clips: a manifest needs at least one row below its header.")
    extra_columns = tuple(header[position] for position in extra_positions)
    return Manifest(path, root.absolute(), tuple(clips), classes, extra_columns)


class _IntervalColumns:
    """The columns of intervals, if a manifest has them; all intervals have one unit."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        present = [name for name in (START_COLUMN, END_COLUMN) if name in header]
        if len(present) == 1:
            raise PipelineError(
                f"{path} has a column {present[0]} alone: an interval needs both {START_COLUMN} and {END_COLUMN}."
            )
        self._bounds = [header.index(name) for name in present]
        self._unit = header.index(UNIT_COLUMN) if present and UNIT_COLUMN in header else None
        self._first: tuple[str, str] | None = None

    def of(self, row: Sequence[str], where: str) -> Interval | None:
        """Return the interval of a row; None if it has none.

        Raises:
            PipelineError: it is not possible, or its unit is not that of the others.
        """
        if not self._bounds:
            return None
        start, end = (row[position].strip() for position in self._bounds)
        unit = ("" if self._unit is None else row[self._unit].strip()) or SECONDS
        try:
            interval = parse_interval(start, end, unit)
        except PipelineError as error:
            raise PipelineError(f"{where}: {error}") from None
        if interval is not None:
            self._first = self._first or (unit, where)
            if unit != self._first[0]:
                raise PipelineError(
                    f"{where}: the interval is in {unit}, but that of {self._first[1]} in {self._first[0]}. All "
                    "intervals of a manifest must have one unit."
                )
        return interval


def read_classes(path: Path) -> tuple[str, ...]:
    """Read the order of classes from ``NAME.classes.csv``.

    Raises:
        PipelineError: the file or a column is missing, an id is out of order, or a label is empty or not unique.
    """
    header, rows = _read_csv(path, ("class_id", "label"))
    id_position, label_position = header.index("class_id"), header.index("label")
    return _validated_classes(path, [(line, row[id_position], row[label_position]) for line, row in rows])


def _validated_classes(path: Path, rows: Iterable[tuple[int, str, str]]) -> tuple[str, ...]:
    labels: dict[str, None] = {}
    for line, class_id, label in rows:
        if class_id != str(len(labels)):
            raise PipelineError(
                f"{path}, line {line}: class_id must count up from 0, so {len(labels)} here, but is '{class_id}'."
            )
        if not label or label in labels:
            fault = "is empty" if not label else f"'{label}' occurs twice"
            raise PipelineError(f"{path}, line {line}: the label {fault}. Each class needs a unique label.")
        labels[label] = None
    if not labels:
        raise PipelineError(f"{path} has no classes. It needs one row for each class.")
    return tuple(labels)


def write_manifest(
    path: Path | str,
    clips: Iterable[Clip],
    classes: Sequence[str],
    extra_columns: Sequence[str] = (),
) -> None:
    """Write a manifest and its class file atomically, with Unix line ends.

    Raises:
        PipelineError: the manifest would not be valid; nothing is written then.
    """
    for target, text in manifest_texts(path, clips, classes, extra_columns).items():
        write_text(target, text)


def manifest_texts(
    path: Path | str,
    clips: Iterable[Clip],
    classes: Sequence[str],
    extra_columns: Sequence[str] = (),
) -> dict[Path, str]:
    """Return the texts of the class file and the manifest, keyed by their paths.

    Raises:
        PipelineError: they are not valid.
    """
    path = Path(path)
    header = (*COLUMNS, *extra_columns)
    rows = [(clip.clip_id, clip.path, clip.label, clip.split, *clip.extra) for clip in clips]
    numbered_classes = [(str(index), label) for index, label in enumerate(classes)]
    # Line 1 is the header.
    labels = _validated_classes(classes_path(path), ((index + 2, *row) for index, row in enumerate(numbered_classes)))
    _validated(path, path.parent, header, enumerate(rows, 2), labels)
    texts = {
        classes_path(path): _as_csv(("class_id", "label"), numbered_classes),
        path: _as_csv(header, rows),
    }
    for target, text in texts.items():
        _check_is_text(target, text)
    return texts


def _check_is_text(path: Path, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = text[text.rfind("\n", 0, error.start) + 1 :].partition("\n")[0]
        raise PipelineError(
            f"{path} cannot contain {line!a}: a name in it is not UTF-8. Rename the file or folder."
        ) from None


def _as_csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def _read_csv(path: Path, columns: Sequence[str]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read the header and the rows of a CSV, each with its line number; every row has the length of the header."""
    try:
        # utf-8-sig: spreadsheets write a byte order mark, which would become part of the first column's name.
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist. `pipeline prepare --help` shows how one is made.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PipelineError(
            f"{path} cannot be read as a CSV in UTF-8: {error}. Save it as UTF-8 if it has another encoding."
        ) from error
    missing = [column for column in columns if column not in header]
    if missing:
        raise PipelineError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}. "
            f"It needs {','.join(columns)}; its header is {','.join(header) or 'empty'}."
        )
    for line, row in rows:
        if len(row) != len(header):
            raise PipelineError(
                f"{path}, line {line} has {len(row)} fields, but the header names {len(header)}. "
                "Put a field that contains a comma in double quotes."
            )
    return header, rows


def _check_inside_root(where: str, clip_id: str, clip_path: str) -> None:
    file = clip_path.partition(HDF5_SEPARATOR)[0]
    if not file:
        raise PipelineError(f"{where}: clip '{clip_id}' has no path.")
    parts = PurePosixPath(file).parts
    # Most paths have no `..` at all; only the others pay for a normalisation.
    leaves = ".." in parts and os.path.normpath(file).startswith("..")
    if leaves or os.path.isabs(file):
        raise PipelineError(
            f"{where}: the path '{clip_path}' of clip '{clip_id}' leaves the root of the data set. "
            "Paths must be relative to it; give another root with --root."
        )
