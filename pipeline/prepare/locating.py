"""Locate the clips of label files: path and length of each clip, and missing clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ClipError, PipelineError
from pipeline.manifest import Clip
from pipeline.prepare.directory_scan import count_frames, find_clips
from pipeline.prepare.listing import Listing, Published

NUM_FRAMES_COLUMN = "num_frames"


@dataclass(frozen=True)
class Row:
    """A clip of a label file; an unlabelled clip has an empty label."""

    clip_id: str
    label: str
    split: str
    where: str = ""


def locate(
    root: Path,
    rows: Sequence[Row],
    classes: Sequence[str],
    layout: str,
    published: Published,
    expected_path: str,
) -> Listing:
    """Find the clips of `rows` below the root. `expected_path` (with ``{}`` for the id) is the path of a missing clip.

    Raises:
        PipelineError: two rows have the same id, or no clip exists.
    """
    check_unique_ids(rows)
    found = find_clips(root, {row.clip_id for row in rows})
    if not found.path_of:
        example = expected_path.replace("{}", rows[0].clip_id)
        raise PipelineError(
            f"None of the {len(rows):,} clips of {published.name} is below {root}: looked for folders or videos "
            f"named by their ids, such as {example}. Give their folder as ROOT."
        )
    # Record a missing clip in the folder with most of the other clips.
    main_folder = found.num_in.most_common(1)[0][0]
    suffix = "" if found.folders else expected_path.partition("{}")[2]
    expected_path = f"{main_folder}/{{}}{suffix}".removeprefix("/")
    counts = count_frames(
        root, {row.clip_id: found.path_of[row.clip_id] for row in rows if row.clip_id in found.folders}
    )
    clips = tuple(
        Clip(
            row.clip_id,
            found.path_of.get(row.clip_id) or expected_path.replace("{}", row.clip_id),
            row.label,
            row.split,
            (as_count(counts.get(row.clip_id)),) if found.folders else (),
        )
        for row in rows
    )
    faulty = {
        clip.clip_id: f"missing: {clip.path} does not exist" for clip in clips if clip.clip_id not in found.path_of
    }
    faulty |= failures_of(counts)
    notes = published.differences(clips, len(classes))
    for place, count in sorted(found.doubled.items()):
        notes.append(f"{count:,} clips are also in {place}, which is not used.")
    columns = (NUM_FRAMES_COLUMN,) if found.folders else ()
    return Listing(clips, tuple(classes), layout, columns, tuple(notes), faulty)


def check_unique_ids(rows: Sequence[Row]) -> None:
    """Check that no two rows have the same id; the message names both rows."""
    seen: dict[str, str] = {}
    for row in rows:
        if row.clip_id in seen:
            raise PipelineError(
                f"{row.where}: the clip '{row.clip_id}' is also in {seen[row.clip_id]}. Each clip must have one "
                "row; give different clips different ids (in a CSV, in a column clip_id)."
            )
        seen[row.clip_id] = row.where


def as_count(count: int | ClipError | None) -> str:
    """Return a frame count as text for the manifest; empty if it could not be counted."""
    return str(count) if isinstance(count, int) else ""


def failures_of(counts: Mapping[str, int | ClipError]) -> dict[str, str]:
    """Return the reasons why folders could not be counted."""
    return {clip_id: f"{count.kind}: {count}" for clip_id, count in counts.items() if isinstance(count, ClipError)}
