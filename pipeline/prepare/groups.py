"""Find clips that belong together, such as those of one person or one recording, and those that splits part."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from pipeline.errors import PipelineError
from pipeline.manifest import HDF5_SEPARATOR, Clip
from pipeline.video.suffixes import without_suffix

NUM_EXAMPLES = 3
# Names that number the parts of recordings have many recordings a class; fewer are those of classes or cameras.
MIN_STEMS_PER_CLASS = 3


def grouped(clips: Sequence[Clip], pattern: str | None) -> list[Clip]:
    """Return the clips with the group that a regular expression finds in their paths, as their only further column.

    Raises:
        PipelineError: the pattern is not a regular expression, or finds nothing in a path.
    """
    if pattern is None:
        return list(clips)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise PipelineError(f"`group-by` (={pattern!r}) is not a regular expression: {error}.") from None
    found = []
    for clip in clips:
        match = expression.search(clip.path)
        group = "" if match is None else next((text for text in match.groups() if text), "") or match[0]
        if not group:
            raise PipelineError(
                f"`group-by` (={pattern!r}) finds no group in {clip.path}. It must find one in the path of every clip, "
                "such as person(\\d+)."
            )
        found.append(replace(clip, extra=(group,), group=group))
    return found


def parted_groups(clips: Iterable[Clip]) -> list[tuple[str, list[Clip]]]:
    """Return each group with clips in several splits, with the first of its clips in each split."""
    return _parted((clip.group, clip) for clip in clips if clip.group)


def parted_recordings(clips: Sequence[Clip]) -> list[tuple[str, list[Clip]]]:
    """Return each recording with parts in several splits, with the first part in each, if no clip has a group.

    Clips are parts of one recording if their names differ only in a last number behind another one: `walk_g01_c01`,
    `walk_g01_c02`. Intervals of one video are, too.
    """
    if any(clip.group for clip in clips):
        return []
    stems: dict[str, str] = {}
    # Rows that differ in nothing are one clip, which `check` reports by another name.
    times = Counter(path for path, *_ in {(clip.path, clip.interval, clip.extra) for clip in clips})
    for clip in clips:
        if times[clip.path] > 1:
            stems[clip.clip_id] = clip.path
            continue
        name = without_suffix(clip.path.rpartition(HDF5_SEPARATOR)[2] or clip.path)
        stem = PurePosixPath(name).name.rstrip("0123456789")
        if stem != PurePosixPath(name).name and re.search("[^\\W\\d_]", stem) and re.search(r"\d", stem):
            stems[clip.clip_id] = str(PurePosixPath(name).with_name(stem))
    num_classes = len({clip.label for clip in clips if clip.is_labelled}) or 1
    is_telling = len(set(stems.values())) >= MIN_STEMS_PER_CLASS * num_classes
    return _parted(
        (stems[clip.clip_id], clip) for clip in clips if clip.clip_id in stems and (is_telling or times[clip.path] > 1)
    )


def sentence(parted: Sequence[tuple[str, list[Clip]]], what: str) -> str:
    """Return a sentence about groups or recordings with clips in several splits."""
    examples = "; ".join(f"{name}: {places_text(clips)}" for name, clips in parted[:NUM_EXAMPLES])
    return (
        f"{len(parted):,} {what} have clips in several splits, so accuracies will be too high ({examples}). Keep each "
        "on one side: give groups, with --group-by or a column `group`, and let the split be drawn."
    )


def places_text(clips: Sequence[Clip]) -> str:
    """Return the clips with their splits: `c1 in train, c2 in val`."""
    return ", ".join(f"{clip.clip_id} in {clip.split}" for clip in clips)


def _parted(members: Iterable[tuple[str, Clip]]) -> list[tuple[str, list[Clip]]]:
    first_of: defaultdict[str, dict[str, Clip]] = defaultdict(dict)
    for name, clip in members:
        first_of[name].setdefault(clip.split, clip)
    return [(name, list(of_split.values())) for name, of_split in first_of.items() if len(of_split) > 1]
