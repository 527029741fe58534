"""Read label files with any line ends, with or without byte order mark and quotes, with semicolons in labels."""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import parse_json


class LabelBook:
    """Classes of a data set, and lookup of a class by the text in a list. Ids and labels are text, never numbers."""

    def __init__(self, classes: Sequence[str], source: str) -> None:
        self.classes, self._source = tuple(classes), source
        self._known = {label: label for label in self.classes}

    def label(self, text: str, where: str) -> str:
        """Return the class of `text`: unchanged, without surrounding quotes, or without square brackets.

        Raises:
            PipelineError: it is not a class; the message contains the text and its position.
        """
        for spelling in (text, unquoted(text), without_brackets(text), without_brackets(unquoted(text))):
            if spelling in self._known:
                return self._known[spelling]
        raise PipelineError(f"{where}: the label '{text}' is not among the {len(self.classes)} of {self._source}.")


def read_text(path: Path) -> str:
    """Read a text file in UTF-8 or UTF-16 (written by spreadsheets), with or without a byte order mark.

    Raises:
        PipelineError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise PipelineError(f"There is no file {path}. Check the path.") from error
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return data.decode(_encoding_of(data))
    except UnicodeDecodeError as error:
        raise PipelineError(
            f"{path} cannot be read as text in UTF-8: {error}. Save it as UTF-8 if it has another encoding."
        ) from error


def _encoding_of(data: bytes) -> str:
    marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
    marks |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    for mark, encoding in marks.items():
        if data.startswith(mark):
            return encoding
    # The first character of a list is nearly always ASCII: in UTF-16 one of its bytes is zero.
    is_zero = [byte == 0 for byte in data[:4]]
    if is_zero in ([False, True, False, True], [True, False, True, False]):
        return "utf-16-le" if is_zero[1] else "utf-16-be"
    return "utf-8-sig"


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return the stripped lines that are not empty, each with its number."""
    # `splitlines` would also split a label at a form feed or a Unicode line separator.
    lines = read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def read_labels(path: Path) -> tuple[str, ...]:
    """Read a file with one label per line.

    Raises:
        PipelineError: there is no label, or a duplicate.
    """
    labels: dict[str, int] = {}
    for number, line in read_lines(path):
        if unquoted(line) in labels:
            raise PipelineError(f"{path}, line {number}: the label '{line}' is also in line {labels[unquoted(line)]}.")
        labels[unquoted(line)] = number
    if not labels:
        raise PipelineError(f"{path} has no labels.")
    return tuple(labels)


def read_id_label(path: Path) -> list[tuple[int, str, str]]:
    """Read lines of `id;label`, or of an id alone, as (line number, id, label); a label may contain semicolons."""
    rows = []
    for number, line in read_lines(path):
        clip_id, _, label = line.partition(";")
        rows.append((number, unquoted(clip_id.strip()), label.strip()))
    return rows


def read_table(path: Path, delimiter: str | None = None) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Read a CSV with a header as column names and numbered rows; the delimiter is the most frequent in the header.

    A first line such as `sep=;`, which spreadsheets read, names the delimiter.

    Raises:
        PipelineError: it is not a CSV, or a row has more or fewer fields than the header.
    """
    lines = read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    num_before = int(bool(re.fullmatch(r"sep=[,;\t]", lines[0])))
    delimiter = lines[0][4] if num_before else delimiter or max(",;\t", key=lines[0].count)
    reader = csv.reader(lines[num_before:], delimiter=delimiter)
    try:
        header = [name.strip() for name in next(reader, [])]
        rows = []
        for row in reader:
            if not any(field.strip() for field in row):
                continue
            number = num_before + reader.line_num
            if len(row) != len(header):
                raise PipelineError(
                    f"{path}, line {number} has {len(row)} fields, but the header has {len(header)}. "
                    "Put a field that contains the delimiter in double quotes."
                )
            rows.append((number, {name: field.strip() for name, field in zip(header, row, strict=True)}))
    except csv.Error as error:
        raise PipelineError(f"{path} cannot be read as a CSV: {error}.") from error
    return header, rows


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        PipelineError: it is not JSON.
    """
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise PipelineError(f"{path} is not JSON: {error}.") from error


def unquoted(text: str) -> str:
    """Return a CSV field without surrounding double quotes, with doubled inner ones replaced by single ones."""
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"')
    return text


def without_brackets(template: str) -> str:
    """Return a template as a label: `Putting [something] on [something]` is `Putting something on something`."""
    return template.replace("[", "").replace("]", "")


def find_file(folders: Iterable[Path], names: Sequence[str]) -> Path | None:
    """Return the first of `names` that exists, in the first folder that has one, ignoring case."""
    wanted = {name.lower() for name in names}
    for folder in folders:
        if not folder.is_dir():
            continue
        there = {name.lower(): folder / name for name in os.listdir(folder) if name.lower() in wanted}
        for name in names:
            if name.lower() in there:
                return there[name.lower()]
    return None
