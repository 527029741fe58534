"""Draw a share of clips to hold out: stratified by label, and by whole groups if clips have them."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


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
    taken: Counter[str] = Counter()
    held_out: list[str] = []
    for group in _drawn_order(list(members), key):
        counts = Counter(clip.label for clip in members[group])
        if all(taken[label] + count < total[label] for label, count in counts.items()) and _comes_closer(
            counts, taken, wanted
        ):
            taken += counts
            held_out += [clip.clip_id for clip in members[group]]
    return frozenset(held_out)


def _comes_closer(counts: Mapping[str, int], taken: Mapping[str, int], wanted: Mapping[str, float]) -> bool:
    """Return whether taking `counts` more clips lowers the squared distance to the wanted number of each label."""
    before = sum((wanted[label] - taken[label]) ** 2 for label in counts)
    after = sum((wanted[label] - taken[label] - count) ** 2 for label, count in counts.items())
    return after < before


def _drawn_order(names: Iterable[str], key: str) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{key}\x1f{name}".encode()).digest())
