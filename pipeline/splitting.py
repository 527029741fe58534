"""Draw a share of clips to hold out: stratified by label, and by whole groups if clips have them."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

MIN_GAIN = 1e-9  # larger than the rounding of a squared distance


class LabelledId(NamedTuple):
    """A clip to draw from. `group` names clips that belong together, such as those of one person; "" is none."""

    clip_id: str
    label: str
    group: str = ""


def stratified_split(clips: Iterable[LabelledId], val_share: float, seed: int) -> dict[str, str]:
    """Return the split, `train` or `val`, of each clip by its id, for data sets without published splits."""
    clips = list(clips)
    held_out = draw_held_out(clips, val_share, seed, purpose="split")
    return {clip.clip_id: "val" if clip.clip_id in held_out else "train" for clip in clips}


def draw_held_out(clips: Sequence[LabelledId], share: float, seed: int, purpose: str) -> frozenset[str]:
    """Draw the ids of a share of the clips of each label.

    Without groups, that is the rounded share of each label, with at least one clip on either side if there are two.
    With groups, whole groups are drawn, so the shares hold approximately, and no label loses its last clip.

    The rank of a clip or group in the draw depends only on `seed`, `purpose` and its name, so clips that are added
    later move others only at the border between the two sides.
    """
    if any(clip.group for clip in clips):
        return _draw_groups(clips, share, f"{purpose}\x1f{seed}")
    ids_of: defaultdict[str, list[str]] = defaultdict(list)
    for clip in clips:
        ids_of[clip.label].append(clip.clip_id)
    held_out: list[str] = []
    for ids in ids_of.values():
        count = round(share * len(ids))
        if share > 0 and len(ids) > 1:
            count = min(max(count, 1), len(ids) - 1)
        held_out += _drawn_order(ids, f"{purpose}\x1f{seed}")[:count]
    return frozenset(held_out)


def _draw_groups(clips: Sequence[LabelledId], share: float, key: str) -> frozenset[str]:
    members: defaultdict[str, list[LabelledId]] = defaultdict(list)
    for clip in clips:
        # A clip without a group is its own group; the separator keeps its name different from those of groups.
        members[clip.group or f"\x1f{clip.clip_id}"].append(clip)
    total = Counter(clip.label for clip in clips)
    wanted = {label: max(share * count, 1.0) if share > 0 and count > 1 else 0.0 for label, count in total.items()}
    counts_of = {group: Counter(clip.label for clip in clips) for group, clips in members.items()}
    taken: Counter[str] = Counter()
    chosen: set[str] = set()
    order = _drawn_order(list(members), key)
    # Each step lowers the distance, so this ends. A group with several labels may be worth less after later steps.
    is_changed = True
    while is_changed:
        is_changed = False
        for group in order:
            counts = counts_of[group]
            others = taken - counts if group in chosen else taken
            keeps_all = all(others[label] + count < total[label] for label, count in counts.items())
            gain = _distance(others, wanted, counts) - _distance(others + counts, wanted, counts)
            if group in chosen and gain < -MIN_GAIN and all(others[label] for label in counts):
                chosen.remove(group)
                taken, is_changed = others, True
            elif group not in chosen and gain > MIN_GAIN and keeps_all:
                chosen.add(group)
                taken, is_changed = others + counts, True
    return frozenset(clip.clip_id for group in chosen for clip in members[group])


def _distance(taken: Mapping[str, int], wanted: Mapping[str, float], labels: Iterable[str]) -> float:
    """Return the squared distance of the number of clips of some labels to the wanted one."""
    return sum((wanted[label] - taken[label]) ** 2 for label in labels)


def _drawn_order(names: Iterable[str], key: str) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{key}\x1f{name}".encode()).digest())
