"""Find problems of a manifest and its inspected clips, without access to the files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.manifest import Clip, Manifest
from pipeline.prepare.groups import parted_groups, parted_recordings, places_text
from pipeline.prepare.inspection import Inspected
from pipeline.prepare.look_alikes import look_alikes, text_of

# Columns of a manifest with the expected number of frames.
PROMISES = ("num_frames", "frames")


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem of a clip, or (without an id) of the manifest."""

    kind: str
    clip_id: str
    split: str
    text: str


def find(manifest: Manifest, seen: Mapping[str, Inspected]) -> list[Finding]:
    """Return all problems: first of each clip, then of the manifest."""
    findings: list[Finding] = []
    promise = next((manifest.extra_columns.index(name) for name in PROMISES if name in manifest.extra_columns), None)
    for clip in manifest.clips:
        inspected = seen[clip.clip_id]
        if inspected.kind:
            findings.append(Finding(inspected.kind, clip.clip_id, clip.split, inspected.reason))
            continue
        expected = "" if promise is None else clip.extra[promise]
        if expected and inspected.num_frames and expected != str(inspected.num_frames):
            text = f"{clip.path} has {inspected.num_frames} frames, but {expected} in the manifest."
            findings.append(Finding("frame-count", clip.clip_id, clip.split, text))
    findings += _same_twice(manifest.clips, {clip.clip_id: manifest.locate(clip) for clip in manifest.clips}, "path")
    digests = {clip_id: inspected.digest for clip_id, inspected in seen.items() if inspected.digest}
    findings += _same_twice(manifest.clips, digests, "content")
    findings += [
        Finding(kind, clips[1].clip_id, clips[1].split, f"{what} {name} has {places_text(clips)}.")
        for kind, what, parted in (
            ("group-in-splits", "The group", parted_groups(manifest.clips)),
            ("recording-in-splits", "Going by its name, the recording", parted_recordings(manifest.clips)),
        )
        for name, clips in parted
    ]
    findings += _look_alikes(manifest.clips, seen, digests)
    return findings + missing_classes(manifest)


def _look_alikes(clips: Sequence[Clip], seen: Mapping[str, Inspected], digests: Mapping[str, str]) -> Iterable[Finding]:
    for pair in look_alikes(clips, {clip_id: inspected.look for clip_id, inspected in seen.items()}):
        clip_id = pair.clip.clip_id
        # Clips of equal content are found by it.
        if digests.get(clip_id, clip_id) != digests.get(pair.other.clip_id):
            text = f"The middle frames of {text_of(pair)} look alike, as those of one recording do."
            yield Finding("look-alike-in-splits", clip_id, pair.clip.split, text)


def missing_classes(manifest: Manifest) -> list[Finding]:
    """Return the classes without a clip in a split, except for splits of unlabelled clips."""
    counts = histogram(manifest)
    return [
        Finding("class-missing", "", split, f"No clip of the class '{label}' is in the split {split}.")
        for split in manifest.splits
        if any(counts[label][split] for label in manifest.classes)
        for label in manifest.classes
        if not counts[label][split]
    ]


def histogram(manifest: Manifest) -> dict[str, Counter[str]]:
    """Count the clips of each class in each split."""
    counts: dict[str, Counter[str]] = {label: Counter() for label in manifest.classes}
    for clip in manifest.clips:
        if clip.is_labelled:
            counts[clip.label][clip.split] += 1
    return counts


def _same_twice(clips: Sequence[Clip], key_of: Mapping[str, str], what: str) -> Iterable[Finding]:
    """Find clips with the same path or content: in two splits, with two labels, or duplicates."""
    groups: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.clip_id in key_of:
            groups[key_of[clip.clip_id]].append(clip)
    for group in groups.values():
        # Equal paths imply equal content: report them once.
        if what == "content" and len({clip.path for clip in group}) == 1:
            continue
        first = group[0]
        for other in group[1:]:
            faults = []
            if other.split != first.split:
                faults.append(("two-splits", f"splits {first.split} and {other.split}"))
            if other.label != first.label:
                faults.append(("two-labels", f"labels '{first.label}' and '{other.label}'"))
            for kind, more in faults or [("duplicate", "with one label, in one split")]:
                text = f"The clips {first.clip_id} and {other.clip_id} have the same {what}: {more}."
                yield Finding(kind, other.clip_id, other.split, text)
