"""Pack folders of frames into one HDF5 file, in the layout that `packed` describes.

HDF5 has no journal: if the process is killed while it writes, the whole file can become unreadable. Therefore clips are
written to parts of about a thousand; each part is a temporary file that is moved when complete, and all parts are
joined in the same way at the end. A kill loses at most one part, and the next run resumes.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from pipeline.errors import ClipError, PipelineError
from pipeline.files import atomic_path
from pipeline.hdf5_output import hdf5_to_write
from pipeline.video.frame_folder import FrameFolder
from pipeline.video.packed import FRAME_SIZES

CLIPS_A_PART = 1024
# Allows attributes of any size (more than 16,000 frames); readable since HDF5 1.10.
FILE_VERSIONS = ("v108", "v110")


@dataclass
class PackSummary:
    """Summary of a packing. `failed` has the reason of each omitted clip, by its name."""

    num_packed: int = 0
    num_already_there: int = 0
    failed: dict[str, ClipError] = field(default_factory=dict)


def pack(
    path: Path | str,
    clips: Iterable[tuple[str, str | Path]],
    *,
    clips_a_part: int = CLIPS_A_PART,
    on_clip: Callable[[str], None] | None = None,
) -> PackSummary:
    """Add clips, as (name, folder of frames), to the HDF5 file `path`; clips that it already contains are skipped.

    The images are copied without encoding them again. `on_clip` is called with the name of each processed clip.

    Raises:
        PipelineError: another process packs into the same file, or a name is not valid in HDF5.
    """
    path = Path(path)
    parts = path.with_name(path.name + ".parts")
    summary = PackSummary()
    with _locked(parts):
        part_paths = sorted(parts.glob("*.h5"))
        there = set(_names([*part_paths, *([path] if path.exists() else [])]))
        pending = _pending(clips, there, summary, on_clip)
        while batch := list(itertools.islice(pending, clips_a_part)):
            part = parts / f"{len(part_paths):06d}.h5"
            with atomic_path(part) as aside, hdf5_to_write(aside, "w", libver=FILE_VERSIONS) as file:
                for name, images in batch:
                    _add(file, name, images)
            part_paths.append(part)
            summary.num_packed += len(batch)
        if part_paths:
            _put_together(path, part_paths)
        shutil.rmtree(parts)
    return summary


def _pending(
    clips: Iterable[tuple[str, str | Path]],
    there: set[str],
    summary: PackSummary,
    on_clip: Callable[[str], None] | None,
) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the clips to pack, read from their folders; failures are added to the summary."""
    for name, folder in clips:
        if not name or any(part in ("", ".", "..") for part in name.split("/")):
            raise PipelineError(f"The clip name '{name}' is not valid in an HDF5 file: its parts must not be empty.")
        if name in there:
            summary.num_already_there += 1
        else:
            there.add(name)
            try:
                with FrameFolder(Path(folder)) as reader:
                    images = [reader.encoded(ordinal) for ordinal in range(reader.num_frames)]
                yield name, images
            except ClipError as error:
                summary.failed[name] = error
        if on_clip is not None:
            on_clip(name)


def _add(file: h5py.File, name: str, images: Sequence[bytes]) -> None:
    data = np.frombuffer(b"".join(images), np.uint8)
    _create(file, name, data, np.array([len(image) for image in images], np.int32))


def _create(file: h5py.File, name: str, data: np.ndarray, frame_sizes: np.ndarray) -> None:
    try:
        dataset = file.create_dataset(name, data=data)
    except (TypeError, ValueError) as error:
        raise PipelineError(
            f"The clip name '{name}' conflicts with another: a name must not be the folder of another name ({error})."
        ) from error
    dataset.attrs[FRAME_SIZES] = frame_sizes


def _put_together(path: Path, part_paths: Sequence[Path]) -> None:
    with atomic_path(path) as aside:
        if path.exists():
            shutil.copyfile(path, aside)
        with hdf5_to_write(aside, "r+" if path.exists() else "w", libver=FILE_VERSIONS) as whole:
            for part_path in part_paths:
                with h5py.File(part_path, "r") as part:
                    for name in _names([part_path]):
                        # After a kill between moving the file and removing the parts, clips are in both.
                        if name not in whole:
                            _create(whole, name, part[name][()], part[name].attrs[FRAME_SIZES])


def _names(paths: Iterable[Path]) -> list[str]:
    names: list[str] = []

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            names.append(name)

    for path in paths:
        try:
            with h5py.File(path, "r") as file:
                file.visititems(note)
        except OSError as error:
            raise PipelineError(
                f"{path} is not an HDF5 file that can be read ({error}). Move it away to pack again."
            ) from error
    return names


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock, which the kernel releases when the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PipelineError(f"Another process is packing into {folder}. Wait for it, or stop it.") from error
        yield
    finally:
        os.close(handle)
