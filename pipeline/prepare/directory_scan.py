"""Find the clips of a data set on disk. Each folder is read once; parallel reads hide the latency of slow disks."""

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
# ROOT/20bn-jester-v1/20bn-jester-v1/<id>: archives are often unpacked into a folder of the same name.
MAX_DEPTH = 3
FOLDERS_A_TASK = 64


@dataclass
class Found:
    """Locations of clips. Paths are relative to the root, with slashes.

    folders: ids of clips that are folders of frames. doubled: number of ids that exist more than once, by the unused
    location.
    """

    path_of: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    num_in: Counter[str] = field(default_factory=Counter)
    doubled: Counter[str] = field(default_factory=Counter)


def find_clips(root: Path, wanted: Collection[str], max_depth: int = MAX_DEPTH) -> Found:
    """Find clips by id, as video files or folders, anywhere below the root.

    Folders that are clips are not searched. If an id exists twice, the folder with the most clips is used.
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
    """Count the images of each folder by name; return the number, or the reason of a failure, by the id of its clip."""
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
    """List the entries of several folders below the root in parallel, as (name, whether it is a folder)."""
    paths = list(paths)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return dict(zip(paths, pool.map(lambda path: _entries(f"{root}/{path}"), paths), strict=True))


def _clip_id_of_file(name: str) -> str | None:
    return os.path.splitext(name)[0] if is_video_name(name) else None


def _entries(folder: str) -> list[tuple[str, bool]]:
    """Return the entries of a folder by name; none if it is missing or not readable."""
    try:
        with os.scandir(folder) as entries:
            # `is_dir` accesses the disk only for symbolic links.
            return sorted((entry.name, is_folder(entry)) for entry in entries)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one, but not a loop of links."""
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
