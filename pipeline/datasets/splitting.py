"""A drawn split of clips into training and validation, for data sets that bring none."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable


def stratified_split(clips: Iterable[tuple[str, str]], val_share: float, seed: int) -> dict[str, str]:
    """The split, `train` or `val`, of each clip given as (id, label), by its id.

    Of each label the share `val_share` is for validation, rounded, with at least one clip on either side where there
    are two. A clip's place follows from the seed and its id alone: a clip that is added later moves others only at the
    border between the two.
    """
    ids_of: defaultdict[str, list[str]] = defaultdict(list)
    for clip_id, label in clips:
        ids_of[label].append(clip_id)
    split_of: dict[str, str] = {}
    for ids in ids_of.values():
        num_val = round(val_share * len(ids))
        if val_share > 0 and len(ids) > 1:
            num_val = min(max(num_val, 1), len(ids) - 1)
        drawn = sorted(ids, key=lambda clip_id: hashlib.sha256(f"split\x1f{seed}\x1f{clip_id}".encode()).digest())
        split_of.update({clip_id: "val" if place < num_val else "train" for place, clip_id in enumerate(drawn)})
    return split_of
