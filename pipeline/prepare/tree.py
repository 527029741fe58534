"""Folder tree of clips: decide which files and folders are clips."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.manifest import HDF5_SEPARATOR
from pipeline.prepare.directory_scan import NUM_THREADS, is_folder
from pipeline.video.decode import is_moving_image
from pipeline.video.suffixes import is_ignored_folder, is_image_name, is_video_name, suffix_of

MAX_DEPTH = 32


@dataclass(frozen=True)
class Folder:
    """Entries of one folder, sorted by name; of its images only the first one."""

    folders: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    images: tuple[str, ...] = ()


@dataclass
class Tree:
    """Folders below a root by their paths, with slashes; "" is the root. Folders of frames are leaves."""

    root: Path
    folders: dict[str, Folder] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)

    def has_clips(self, path: str) -> bool:
        """Return whether a folder or a folder below it contains a clip."""
        folder = self.folders[path]
        return bool(folder.videos or folder.images) or any(
            self.has_clips(joined(path, name)) for name in folder.folders
        )

    def clips(self, path: str) -> Iterator[tuple[str, bool]]:
        """Yield the clips in a folder and below it in order, as (path, whether it is a folder of frames).

        A folder without clips counts as a clip whose frames are missing.
        """
        folder = self.folders[path]
        for name in sorted((*folder.videos, *folder.folders)):
            inner = joined(path, name)
            if name in folder.videos:
                yield inner, False
                continue
            below = self.folders[inner]
            if below.images or not self.has_clips(inner):
                yield inner, True
            else:
                yield from self.clips(inner)

    def left_out(self) -> list[str]:
        """Return sentences about ignored files, by suffix, and ignored folders, by name."""
        notes = []
        if self.others:
            notes.append(f"Ignored because their suffix is not that of a clip or frame: {_counted(self.others)}.")
        if self.ignored:
            notes.append(f"Ignored folders of operating systems and drives: {_counted(self.ignored)}.")
        return notes


def read_tree(root: Path, is_clip: Callable[[str], bool] = is_video_name) -> Tree:
    """List the folders below a root, level by level, reading each once; `is_clip` recognises the file of a clip.

    Raises:
        PipelineError: a name is not UTF-8, or would be read as a clip in an HDF5 file; folders are nested too deep.
    """
    tree = Tree(root)
    level = [""]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for _ in range(MAX_DEPTH + 1):
            for path, (folder, ignored, others) in zip(
                level, pool.map(partial(_read, root, is_clip), level), strict=True
            ):
                tree.folders[path] = folder
                tree.ignored.update(ignored)
                tree.others.update(others)
            level = [joined(path, name) for path in level for name in tree.folders[path].folders]
    if level:
        raise PipelineError(
            f"{root / level[0]} is more than {MAX_DEPTH} folders below {root}. Move it up, or elsewhere."
        )
    return tree


def joined(folder: str, name: str) -> str:
    """Return the path of an entry of a folder."""
    return f"{folder}/{name}" if folder else name


def _read(root: Path, is_clip: Callable[[str], bool], path: str) -> tuple[Folder, list[str], list[str]]:
    """Read one folder, and return it with the names of ignored folders and the suffixes of other files."""
    folders, files, ignored = [], [], []
    try:
        with os.scandir(root / path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                _check_name(root, joined(path, entry.name))
                if not is_folder(entry):
                    files.append(entry.name)
                elif is_ignored_folder(entry.name) or _leads_back(root, entry):
                    ignored.append(entry.name)
                else:
                    folders.append(entry.name)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return Folder(), ignored, []
    images = [name for name in files if is_image_name(name)]
    videos = [name for name in files if is_clip(name)]
    # An animated image is a clip. Other images are inspected only if the first one is animated.
    if images and is_moving_image(root / path / images[0]):
        moving = {name for name in images if is_moving_image(root / path / name)}
        videos, images = sorted([*videos, *moving]), [name for name in images if name not in moving]
    if videos:  # images next to videos are previews or covers
        images = []
    known = {*videos, *images}
    others = [suffix_of(name) or name for name in files if name not in known and not name.startswith("._")]
    # One image identifies a folder of frames; millions of names need not be kept.
    folder = Folder(tuple(folders), tuple(videos), tuple(images[:1]))
    return folder, ignored, others


def _leads_back(root: Path, entry: os.DirEntry[str]) -> bool:
    """Return whether a folder is a link to one of its parents, also to one that is reached through another link."""
    if not entry.is_symlink():
        return False
    target = os.path.realpath(entry.path)
    parents = [Path(entry.path).parent]
    while parents[-1] != root and parents[-1] != parents[-1].parent:
        parents.append(parents[-1].parent)
    return any(os.path.commonpath((os.path.realpath(parent), target)) == target for parent in parents)


def _check_name(root: Path, path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise PipelineError(
            f"{root} contains a name that is not UTF-8, which a manifest cannot hold: {shown}. Rename it, for example "
            "with `convmv -r -f latin1 -t utf-8 --notest ROOT` for names of an old zip."
        ) from None
    if HDF5_SEPARATOR in path:
        raise separator_in_name(root / path)


def separator_in_name(path: Path) -> PipelineError:
    """Return the error for a file whose name would be read as a clip in an HDF5 file."""
    return PipelineError(
        f"{path}: the name contains '{HDF5_SEPARATOR}', which separates an HDF5 file from a clip in it. Rename it."
    )


def _counted(names: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(names.items(), key=lambda item: (-item[1], item[0])))
