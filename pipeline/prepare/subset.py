"""Keep a subset of a data set: the classes or clips that a file names, one a line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.prepare.label_files import read_lines, unquoted
from pipeline.prepare.listing import Listing


def subset_of(listing: Listing, path: Path) -> Listing:
    """Return the clips that a file names, by their ids or by their classes; other classes are left out.

    Raises:
        PipelineError: a line is neither a class nor a clip, or the file has both.
    """
    lines = {unquoted(text): number for number, text in read_lines(path)}
    ids, classes = {clip.clip_id for clip in listing.clips}, set(listing.classes)
    for name, number in lines.items():
        if name not in ids and name not in classes:
            raise PipelineError(f"{path}, line {number}: '{name}' is neither a class nor a clip of the data set.")
    by_class = lines.keys() <= classes
    if not by_class and not lines.keys() <= ids:
        raise PipelineError(f"{path} names classes and clips: it must have only one of them.")
    clips = tuple(clip for clip in listing.clips if (clip.label if by_class else clip.clip_id) in lines)
    if not clips:
        raise PipelineError(f"{path} names no clip of the data set.")
    used = {clip.label for clip in clips}
    return replace(
        listing,
        clips=clips,
        classes=tuple(label for label in listing.classes if label in used),
        layout=f"{listing.layout}; {len(clips):,} of {len(listing.clips):,} clips, by {path.name}",
        faulty={clip.clip_id: listing.faulty[clip.clip_id] for clip in clips if clip.clip_id in listing.faulty},
    )
