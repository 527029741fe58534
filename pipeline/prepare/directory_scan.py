"""Where the clips of a data set lie: every folder is read once, many at a time, since slow disks answer in parallel."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pipeline.errors import ClipError
from pipeline.progress import Progress
from pipeline.video.frame_folder import numbered_images
from pipeline.video.suffixes import is_ignored_folder, is_video_name

NUM_THREADS = 32
# ROOT/20bn-jester-v1/20bn-jester-v1/<id>: people unpack archives into folders of the same name.
MAX_DEPTH = 3
FOLDERS_A_TASK = 64


@dataclass
class Found:
    """Where clips lie. Paths are relative to the root, with slashes.

    folders: the ids of those that are folders of frames. doubled: how many ids lie in more than one place, by the
    places that were not taken.
    """

    path_of: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    num_in: Counter[str] = field(default_factory=Counter)
    doubled: Counter[str] = field(default_factory=Counter)


def find_clips(root: Path, wanted: Collection[str], max_depth: int = MAX_DEPTH) -> Found:
    """Find clips by their ids, as video files or as folders, in any folder below the root.

    A folder that is itself a clip is not looked into. Where an id lies in two places, the folder with the most clips
    counts.
    """
    ids = set(wanted)
    places: defaultdict[str, list[tuple[str, bool]]] = defaultdict(list)
    num_in: Counter[str] = Counter()
    with ThreadPoolExecutor(NUM_THREADS) as pool, Progress("scan", 1, unit="folders") as progress:
        running: dict[Future[list[tuple[str, bool]]], tuple[str, int]] = {pool.submit(_entries, str(root)): ("", 0)}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                folder, depth = running.pop(future)
                progress.advance()
                for name, is_folder in future.result():
                    path = f"{folder}/{name}" if folder else name
                    clip_id = name if is_folder else _clip_id_of_file(name)
                    if clip_id in ids:
                        places[clip_id].append((path, is_folder))
                        num_in[folder] += 1
                    elif is_folder and depth < max_depth - 1 and not is_ignored_folder(name):
                        running[pool.submit(_entries, f"{root}/{path}")] = (path, depth + 1)
                        progress.total += 1
    found = Found(num_in=num_in)
    for clip_id, choices in places.items():
        choices.sort(key=lambda choice: (-num_in[os.path.dirname(choice[0])], choice[0]))
        path, is_folder = choices[0]
        found.path_of[clip_id] = path
        found.doubled.update(os.path.dirname(other) or "." for other, _ in choices[1:])
        if is_folder:
            found.folders.add(clip_id)
    return found


def count_frames(root: Path, path_of: Mapping[str, str], label: str = "count frames") -> dict[str, int | ClipError]:
    """How many images each folder has, or what is wrong with it, by the id of its clip; only names are read."""
    counts: dict[str, int | ClipError] = {}

    def count_all(ids: Sequence[str]) -> list[int | ClipError]:
        return [_count(root / path_of[clip_id]) for clip_id in ids]

    with ThreadPoolExecutor(NUM_THREADS) as pool, Progress(label, len(path_of)) as progress:
        batches = list(_batches(path_of, FOLDERS_A_TASK))
        for ids, results in zip(batches, pool.map(count_all, batches), strict=True):
            counts.update(zip(ids, results, strict=True))
            progress.advance(len(ids))
    return counts


def list_folders(root: Path, paths: Iterable[str]) -> dict[str, list[tuple[str, bool]]]:
    """The entries, as (name, whether it is a folder), of several folders below the root, read in parallel."""
    paths = list(paths)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return dict(zip(paths, pool.map(lambda path: _entries(f"{root}/{path}"), paths), strict=True))


def _clip_id_of_file(name: str) -> str | None:
    return os.path.splitext(name)[0] if is_video_name(name) else None


def _entries(folder: str) -> list[tuple[str, bool]]:
    """The entries of a folder by name; none of one that is missing or may not be read."""
    try:
        with os.scandir(folder) as entries:
            # `is_dir` asks the disk again only for symbolic links.
            return sorted((entry.name, is_folder(entry)) for entry in entries)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or leads to one; a loop of links is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _count(folder: Path) -> int | ClipError:
    try:
        return len(numbered_images(folder))
    except ClipError as error:
        return error


def _batches(ids: Iterable[str], size: int) -> Iterable[list[str]]:
    remaining = iter(ids)
    while batch := list(islice(remaining, size)):
        yield batch
