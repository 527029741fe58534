"""List the clips of published annotations: find the video of each, which may be the clip or a longer video."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.intervals import FRAMES, SECONDS
from pipeline.manifest import END_COLUMN, GROUP_COLUMN, START_COLUMN, UNIT_COLUMN, Clip
from pipeline.prepare.directory_scan import find_clips
from pipeline.prepare.label_files import find_file
from pipeline.prepare.listing import Listing, ListingRequest, ordered
from pipeline.prepare.locating import Row, check_unique_ids
from pipeline.prepare.resolving import resolve

LABEL_FOLDERS = ("", "annotations", "labels", "splits", "annot")


@dataclass(frozen=True)
class Part:
    """A clip of an annotation.

    video: name of the file without suffix, or of the folder of frames, anywhere below the root; or a path with slashes.
    seconds, frames: start and end of the clip in the video, if it is a part of it. Frames count from 0; the last one is
        excluded. If both are given, seconds are for video files and frames for folders of frames.
    group: person or source of the clip.
    """

    clip_id: str
    video: str
    label: str
    split: str
    where: str
    group: str = ""
    seconds: tuple[str, str] | None = None
    frames: tuple[int, int] | None = None


def list_parts(
    request: ListingRequest, parts: Sequence[Part], classes: Iterable[str], layout: str, notes: Sequence[str] = ()
) -> Listing:
    """Find the videos of the parts, and list the clips with their groups and intervals.

    Raises:
        PipelineError: two clips have one id, or no video is found.
    """
    if not parts:
        raise PipelineError(f"{layout} has no clip.")
    rows = [Row(part.clip_id, part.label, part.split, part.where) for part in parts]
    check_unique_ids(rows)
    videos = list(dict.fromkeys(part.video for part in parts))
    path_of, folders = _paths(request.root, videos)
    if not path_of:
        raise PipelineError(
            f"None of the {len(videos):,} videos of {layout} is below {request.root}: looked for files or folders with "
            f"their names, such as {videos[0]}. Give their folder as ROOT."
        )
    units = {_unit(part, part.video in folders) for part in parts} - {""}
    if len(units) > 1:
        raise PipelineError(
            f"Some videos below {request.root} are folders of frames and some are files. Keep one kind."
        )
    has_group = any(part.group for part in parts)
    columns = (*((START_COLUMN, END_COLUMN, UNIT_COLUMN) if units else ()), *((GROUP_COLUMN,) if has_group else ()))
    clips = []
    for part in parts:
        unit = _unit(part, part.video in folders)
        bounds = part.seconds if unit == SECONDS else part.frames if unit else ("", "")
        interval = (*map(str, bounds or ("", "")), unit) if units else ()
        extra = (*interval, *((part.group,) if has_group else ()))
        path = path_of.get(part.video, part.video)
        clips.append(Clip(part.clip_id, path, part.label, part.split, extra, part.group))
    faulty = {
        part.clip_id: f"missing: {part.video} is not below {request.root}"
        for part in parts
        if part.video not in path_of
    }
    return Listing(tuple(clips), ordered(tuple(classes), request.class_order), layout, columns, tuple(notes), faulty)


def label_file(request: ListingRequest, *names: str, needed: bool = True) -> Path | None:
    """Return the first of some label files among the given lists, in the given folder, or in the usual folders.

    Raises:
        PipelineError: it is needed and there is none.
    """
    wanted = {name.lower() for name in names}
    for path in request.lists:
        if path.name.lower() in wanted and path.is_file():
            return path
    folders = [path for path in request.lists if path.is_dir()]
    found = find_file([*folders, *(request.root / name for name in LABEL_FOLDERS)], names)
    if found is None and needed:
        raise PipelineError(
            f"{request.root} has no file {' or '.join(names)}: looked there and in its folders "
            f"{', '.join(filter(None, LABEL_FOLDERS))}. Give the file, or its folder, after ROOT."
        )
    return found


def needed_file(request: ListingRequest, *names: str) -> Path:
    """Return a label file as `label_file` does.

    Raises:
        PipelineError: there is none.
    """
    found = label_file(request, *names)
    assert found is not None
    return found


def _unit(part: Part, is_folder: bool) -> str:
    if part.seconds is not None and not (is_folder and part.frames is not None):
        return SECONDS
    return "" if part.frames is None else FRAMES


def _paths(root: Path, videos: Sequence[str]) -> tuple[dict[str, str], set[str]]:
    """Return the paths of the videos that exist, and those that are folders."""
    named = [video for video in videos if "/" not in video]
    found = find_clips(root, named) if named else None
    path_of = dict(found.path_of) if found else {}
    folders = set(found.folders) if found else set()
    listed = [video for video in videos if "/" in video]
    resolved = resolve(root, listed, listed)
    for number, (video, path) in enumerate(zip(listed, resolved.paths, strict=True)):
        if number not in resolved.faulty:
            path_of[video] = path
            if (root / path).is_dir():
                folders.add(video)
    return path_of, folders
