"""Read a CSV with a row per clip; columns are recognised by common names or given by `--columns`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from pipeline.errors import PipelineError
from pipeline.manifest import COLUMNS, GROUP_COLUMN, Clip
from pipeline.prepare.frame_lists import split_of_name
from pipeline.prepare.label_files import find_file, read_labels, read_table
from pipeline.prepare.listing import Listing, ListingRequest, ordered, split_named
from pipeline.prepare.locating import Row, check_unique_ids
from pipeline.prepare.resolving import relative_to_root, resolve
from pipeline.registry import unknown_name
from pipeline.splitting import LabelledId, stratified_split
from pipeline.video.suffixes import without_suffix

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "file", "filename", "file_name", "video_path", "filepath", "clip_path", "video"),
    "clip_id": ("clip_id", "id", "video_id", "clip", "name", "youtube_id"),
    "label": ("label", "class", "class_name", "category", "action", "gesture", "label_name"),
    "split": ("split", "subset", "set", "partition"),
}


@dataclass(frozen=True)
class _Table:
    """A CSV: its rows, and the meaning of its columns."""

    path: Path
    columns: Mapping[str, str]
    extra: tuple[str, ...]
    rows: Sequence[tuple[int, Mapping[str, str]]]


def list_csv(request: ListingRequest) -> Listing:
    """Read one or more CSVs; the split is a column, follows from the file's name, or is drawn.

    A drawn split keeps the clips of one value of the column `group` (a person, a recording) together.

    Classes are in the order of `classes.txt` or `category.txt` next to the CSV, else of their first row.

    Raises:
        PipelineError: no CSV, no column for paths or labels, or a duplicate id.
    """
    if not request.lists:
        raise PipelineError("`prepare csv` needs the CSV after ROOT, as in `prepare csv ROOT clips.csv --out M.csv`.")
    tables = [_read(path, request.columns) for path in request.lists]
    extra = tuple(dict.fromkeys(name for table in tables for name in table.extra))
    named_by_file = len(tables) > 1 and not any("split" in table.columns for table in tables)
    fields_of = [(table, number, fields) for table in tables for number, fields in table.rows]
    places = [f"{table.path}, line {number}" for table, number, _ in fields_of]
    if not places:
        raise PipelineError(f"{request.lists[0]} has a header, but no rows of clips.")
    resolved = resolve(request.root, [fields[table.columns["path"]] for table, _, fields in fields_of], places)
    ids = _ids(request.root, fields_of, places)
    rows = []
    for (table, _, fields), clip_id, place in zip(fields_of, ids, places, strict=True):
        split_of_file = split_of_name(table.path) if named_by_file else ""
        split = split_named(fields[table.columns["split"]]) if "split" in table.columns else split_of_file
        label = fields[table.columns["label"]] if "label" in table.columns else ""
        rows.append(Row(clip_id, normalize("NFC", label), split, place))
    extras = [tuple(fields.get(name, "") for name in extra) for _, _, fields in fields_of]
    check_unique_ids(rows)
    layout = ", ".join(
        f"{table.path.name} with " + ", ".join(f"{what} in '{name}'" for what, name in table.columns.items())
        for table in tables
    )
    position = extra.index(GROUP_COLUMN) if GROUP_COLUMN in extra else None
    groups = ["" if position is None else values[position] for values in extras]
    is_drawn = not any(row.split for row in rows)
    if is_drawn:
        named = [LabelledId(row.clip_id, row.label, group) for row, group in zip(rows, groups, strict=True)]
        drawn = stratified_split(named, request.val_share, request.seed)
        rows = [Row(row.clip_id, row.label, drawn[row.clip_id], row.where) for row in rows]
        layout += f"; a share of {request.val_share:g} drawn for validation, seed {request.seed}"
        layout += "" if position is None else f", whole groups of the column '{GROUP_COLUMN}'"
    classes_file = find_file([path.parent for path in request.lists], ("classes.txt", "category.txt"))
    labels = [row.label for row in rows if row.label]
    classes = ordered(labels if classes_file is None else read_labels(classes_file), request.class_order)
    clips = tuple(
        Clip(row.clip_id, path, row.label, row.split, values, group)
        for row, path, values, group in zip(rows, resolved.paths, extras, groups, strict=True)
    )
    faulty = {rows[number].clip_id: reason for number, reason in resolved.faulty.items()}
    return Listing(clips, classes, layout, extra, tuple(resolved.notes()), faulty, is_drawn)


def _ids(root: Path, fields_of: Sequence[tuple[_Table, int, Mapping[str, str]]], places: Sequence[str]) -> list[str]:
    """Return the id of each row: from its column, else the path without suffix, or with it if ids would be equal."""
    paths = [
        relative_to_root(root, fields[table.columns["path"]], place).replace("\\", "/")
        for (table, _, fields), place in zip(fields_of, places, strict=True)
    ]
    times = Counter(without_suffix(path) for path in dict.fromkeys(paths))
    return [
        fields[table.columns["clip_id"]]
        if "clip_id" in table.columns
        else (path if times[without_suffix(path)] > 1 else without_suffix(path))
        for (table, _, fields), path in zip(fields_of, paths, strict=True)
    ]


def _read(path: Path, chosen: Mapping[str, str]) -> _Table:
    for what in chosen:
        if what not in COLUMNS:
            raise unknown_name("column of a manifest", what, COLUMNS)
    header, rows = read_table(path)
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise PipelineError(f"{path} has the column '{twice[0]}' more than once. Rename or remove one of them.")
    columns: dict[str, str] = {}
    for what, usual in USUAL_NAMES.items():
        if what in chosen:
            if chosen[what] not in header:
                raise unknown_name(f"column in {path}:", chosen[what], header)
            columns[what] = chosen[what]
            continue
        lower = {name.lower(): name for name in header if name not in chosen.values()}
        name = next((lower[word] for word in usual if word in lower and lower[word] not in columns.values()), None)
        if name is not None:
            columns[what] = name
    if "path" not in columns and "clip_id" in columns:
        columns["path"] = columns["clip_id"]
    if "path" not in columns:
        raise PipelineError(
            f"{path} has no column of paths; its header is {','.join(header)}. Name one: --columns path=NAME."
        )
    extra = tuple(name for name in header if name not in columns.values() and name not in COLUMNS)
    return _Table(path, columns, extra, rows)


def parse_columns(text: str | None) -> dict[str, str]:
    """Parse `path=file,label=gesture` into a mapping.

    Raises:
        PipelineError: a part is not of the form NAME=COLUMN.
    """
    columns: dict[str, str] = {}
    for part in (text or "").split(",") if text else []:
        what, equals, name = part.partition("=")
        if not equals or not what.strip() or not name.strip():
            raise PipelineError(f"--columns must have the form path=file,label=gesture, but has '{part}'.")
        columns[what.strip()] = name.strip()
    return columns
