"""Resolve the paths in a list to files below the root, allowing for other separators, accents and suffixes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from unicodedata import normalize

from pipeline.errors import PipelineError
from pipeline.manifest import HDF5_SEPARATOR
from pipeline.prepare.directory_scan import NUM_THREADS
from pipeline.prepare.tree import joined, separator_in_name
from pipeline.progress import Progress
from pipeline.video.suffixes import is_array_name, is_video_name, without_suffix

BACKSLASHES = "with backslashes, read as slashes"
ACCENTS = "with accents composed differently from those on disk"
SUFFIX = "without the suffix that the file has"
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass
class Resolved:
    """Paths of a list as they are on disk, in its order.

    faulty: the reason of each missing path, by its number. files: numbers of the paths that are files, not folders.
    """

    paths: list[str] = field(default_factory=list)
    faulty: dict[int, str] = field(default_factory=dict)
    files: set[int] = field(default_factory=set)
    changed: Counter[str] = field(default_factory=Counter)

    def notes(self) -> list[str]:
        """Return a sentence about paths that were changed to match the disk."""
        if not self.changed:
            return []
        return [f"Paths of the list: {', '.join(f'{count:,} {how}' for how, count in sorted(self.changed.items()))}."]


def resolve(root: Path, paths: Sequence[str], where: Sequence[str]) -> Resolved:
    """Find the files or folders of paths, given with their positions in a list; no file is opened.

    Raises:
        PipelineError: a path leads out of the root, or is the name of a file that contains ``::``.
    """
    inside = [relative_to_root(root, path, place) for path, place in zip(paths, where, strict=True)]
    resolved = Resolved()
    finder = _Finder(root)
    with ThreadPoolExecutor(NUM_THREADS) as pool, Progress("look for files", len(paths)) as progress:
        for number, (path, how, reason, is_file) in enumerate(pool.map(finder.find, inside, chunksize=64)):
            resolved.paths.append(path)
            if is_file:
                resolved.files.add(number)
            resolved.changed.update(how)
            if reason:
                resolved.faulty[number] = reason
            progress.advance()
    return resolved


def relative_to_root(root: Path, path: str, where: str) -> str:
    """Return a path relative to the root, with slashes.

    Raises:
        PipelineError: it leads out of the root.
    """
    file, separator, member = path.partition(HDF5_SEPARATOR)
    relative = file
    if os.path.isabs(file):
        # A list may give the root as a link or as the target of the link.
        bases = dict.fromkeys((os.path.abspath(root), os.path.realpath(root)))
        below = (os.path.relpath(file, base) for base in bases)
        relative = next((found for found in below if not found.startswith("..")), file)
    elif file:
        relative = os.path.normpath(file)
    if os.path.isabs(relative) or relative.split(os.sep)[0] == ".." or _DRIVE.match(relative):
        raise PipelineError(
            f"{where}: the path '{path}' is not below {root}. Give the folder that contains all clips of the list "
            "as ROOT, or write the paths relative to it."
        )
    return relative + separator + member


class _Finder:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._entries = cache(self._listed)

    def find(self, path: str) -> tuple[str, list[str], str, bool]:
        """Return the path on disk, how it differs from the written one, the reason if it is missing, whether a file."""
        file, separator, member = path.partition(HDF5_SEPARATOR)
        mode = self._mode(file)
        # In a folder there is no clip of an HDF5 file.
        if mode and not (separator and S_ISDIR(mode)):
            return path, [], "", S_ISREG(mode) and not separator
        if separator and self._mode(path):
            raise separator_in_name(self._root / path)
        how = []
        found = file
        if "\\" in found:
            found, how = found.replace("\\", "/"), [BACKSLASHES]
        if not self._mode(found):
            composed = self._composed(found)
            how += [ACCENTS] if composed and composed != found else []
            found = composed or found
        if not self._mode(found):
            others = self._with_suffix(found)
            if len(others) > 1:
                return path, [], f"missing: {self._root / path} could be any of {', '.join(sorted(others))}.", False
            how += [SUFFIX] if others else []
            found = others[0] if others else found
        if mode := self._mode(found):
            return found + separator + member, how, "", S_ISREG(mode) and not separator
        near = self._in_other_letters(found)
        more = f" There is {near}: paths are case-sensitive." if near else ""
        return path, [], f"missing: {self._root / path} does not exist.{more}", False

    def _mode(self, path: str) -> int:
        """Return the mode of a file or folder, 0 if there is none."""
        try:
            return os.stat(self._root / path).st_mode
        except (OSError, ValueError):  # ValueError: the path contains a zero byte
            return 0

    def _listed(self, folder: str) -> dict[str, str]:
        """Return the entries of a folder by their composed names."""
        try:
            return {normalize("NFC", name): name for name in sorted(os.listdir(self._root / folder))}
        except (OSError, ValueError):
            return {}

    def _composed(self, path: str) -> str | None:
        """Return the existing path with the same letters, with composed or decomposed accents."""
        found = ""
        parts = path.split("/")
        for part in parts[:-1]:
            name = self._entries(found).get(normalize("NFC", part))
            if name is None:
                return None
            found = joined(found, name)
        name = self._entries(found).get(normalize("NFC", parts[-1]), parts[-1])
        return joined(found, name)

    def _with_suffix(self, path: str) -> list[str]:
        folder, name = os.path.split(path)
        wanted = normalize("NFC", name)
        same = [entry for composed, entry in self._entries(folder).items() if without_suffix(composed) == wanted]
        # Features may be beside their videos.
        found = list(filter(is_video_name, same)) or list(filter(is_array_name, same))
        return [os.path.join(folder, entry) for entry in found]

    def _in_other_letters(self, path: str) -> str | None:
        folder, name = os.path.split(path)
        return next((entry for entry in self._entries(folder).values() if entry.lower() == name.lower()), None)
