"""Inspect a clip for `pipeline check`: open it, count its frames and hash its content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from pipeline.clip_errors import clip_errors
from pipeline.errors import ClipError
from pipeline.intervals import split_location, without_interval
from pipeline.manifest import HDF5_SEPARATOR
from pipeline.prepare.difference_hash import difference_hash
from pipeline.video.decode import open_clip
from pipeline.video.frame_folder import FrameFolder
from pipeline.video.interval_reader import VideoInterval
from pipeline.video.limits import DEFAULT_LIMITS, ClipLimits
from pipeline.video.packed import PackedClip
from pipeline.video.video_file import VideoFile
from pipeline.video.watchdog import Watchdog


@dataclass(frozen=True, slots=True)
class Inspected:
    """Result of an inspection. `kind` and `reason` describe a problem; the other fields need decoding.

    num_frames: counted by decoding. rate: frames per second in the file's header; 0 for images.
    digest: digest of the encoded pixels, independent of the names of frames and of packing.
    look: difference hash of the middle frame.
    """

    clip_id: str
    kind: str = ""
    reason: str = ""
    num_frames: int = 0
    height: int = 0
    width: int = 0
    rate: float = 0.0
    digest: str = ""
    look: bytes = b""


def stat_clips(clips: Sequence[tuple[str, str]]) -> list[Inspected]:
    """Check that the files of clips, given as (id, location), exist and are not empty, without opening them."""
    return [_stat_clip(clip_id, location) for clip_id, location in clips]


def decode_clips(clips: Sequence[tuple[str, str]], limits: ClipLimits = DEFAULT_LIMITS) -> list[Inspected]:
    """Open clips, given as (id, location), and decode all of their frames."""
    return [_inspected(clip_id, location, limits) for clip_id, location in clips]


def decode_clips_watched(clips: Sequence[tuple[str, str]], limits: ClipLimits) -> list[Inspected]:
    """Decode clips as `decode_clips` does in a worker process that ends if a decoder does not return."""
    found = []
    for clip_id, location in clips:
        with _watchdog(limits).watching(clip_id):
            found.append(_inspected(clip_id, location, limits))
    return found


@cache
def _watchdog(limits: ClipLimits) -> Watchdog:
    return Watchdog(limits)


def _stat_clip(clip_id: str, location: str) -> Inspected:
    file = without_interval(location).partition(HDF5_SEPARATOR)[0]
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return Inspected(clip_id, "missing", f"{file} does not exist or cannot be reached.")
    if not (S_ISREG(found.st_mode) or S_ISDIR(found.st_mode)):
        return Inspected(clip_id, "unreadable", f"{file} is neither a file nor a folder.")
    if S_ISDIR(found.st_mode) and file != without_interval(location):
        return Inspected(clip_id, "unreadable", f"{file} is a folder, not an HDF5 file.")
    # Only --decode lists folders, which may have millions of frames.
    if found.st_size == 0 and not os.path.isdir(file):
        return Inspected(clip_id, "empty", f"{file} is empty (0 bytes).")
    return Inspected(clip_id)


def _inspected(clip_id: str, location: str, limits: ClipLimits) -> Inspected:
    try:
        with clip_errors(location), open_clip(location, limits) as reader:
            reader.decodes_whole = True
            is_video = isinstance(reader, VideoFile | VideoInterval)
            middle = reader.num_frames // 2
            ordinals = [middle] if is_video else range(reader.num_frames)
            look = b""
            for ordinal, frame in zip(ordinals, reader.stream(ordinals), strict=True):
                if ordinal == middle:
                    look = difference_hash(frame)
            rate = (reader.frames_per_second or 0.0) if isinstance(reader, VideoFile | VideoInterval) else 0.0
            digest = _digest(reader, location)
            return Inspected(clip_id, "", "", reader.num_frames, reader.height, reader.width, rate, digest, look)
    except ClipError as error:
        return Inspected(clip_id, error.kind, str(error))


def _digest(reader: object, location: str) -> str:
    if isinstance(reader, FrameFolder | PackedClip):
        digest = hashlib.sha256()
        for ordinal in range(reader.num_frames):
            digest.update(hashlib.sha256(reader.encoded(ordinal)).digest())
        return digest.hexdigest()
    if split_location(location)[1] is not None:
        return ""  # intervals of one video differ, and are compared by their times
    with open(Path(location), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
