"""Columns of `predictions.csv` and the groups of its clips, without pandas, which takes half a second to import."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

SCORE_PREFIX = "score:"
GROUP_COLUMN = "group"


def group_indices(clip_ids: Sequence[str], groups: Iterable[str]) -> NDArray[np.int64]:
    """Return the index of the group of each clip; a clip without a group is a group by itself."""
    index_of: dict[tuple[str, str], int] = {}
    keys = [("", clip_id) if group == "" else (group, "") for clip_id, group in zip(clip_ids, groups, strict=True)]
    return np.array([index_of.setdefault(key, len(index_of)) for key in keys], dtype=np.int64)
