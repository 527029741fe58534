"""Pairs of classes that are each other's reverse in time: proposed from label texts, confirmed by reversed clips."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.statistics import Interval, accuracy_interval

# Words of the two directions of a movement. Labels that differ only by the direction of such words are proposed.
OPPOSITES = (
    ("left leftward leftwards", "right rightward rightwards"),
    ("up upward upwards above", "down downward downwards below"),
    ("in into inward inwards inside toward towards closer", "out outward outwards outside away"),
    ("forward forwards forth", "backward backwards back"),
    ("clockwise", "counterclockwise anticlockwise"),
    ("open opening opens", "close closing closes shut shutting"),
    ("push pushing", "pull pulling"),
    ("spread spreading", "join joining"),
    ("put putting place placing", "take taking remove removing"),
    ("enter entering", "leave leaving exit exiting"),
    ("attach attaching", "detach detaching"),
    ("raise raising lift lifting", "lower lowering"),
    ("start starting", "stop stopping"),
    ("fill filling", "empty emptying"),
    ("sit sitting", "stand standing"),
    ("expand expanding", "shrink shrinking"),
)
_SIDES = {
    word: (number, side)
    for number, pair in enumerate(OPPOSITES)
    for side, words in enumerate(pair)
    for word in words.split()
}


@dataclass(frozen=True)
class ReversePair:
    """Two classes, and how often a clip of one is taken for the other: reversed, and in order, in percent.

    is_proposed: whether the label texts are opposites. is_confirmed: whether reversed clips of each class are most
        often taken for the other one, and more often than in order, beyond the intervals.
    """

    labels: tuple[str, str]
    is_proposed: bool
    is_confirmed: bool
    swapped_reversed: Interval
    swapped_in_order: Interval


def proposed_pairs(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of labels that differ only by words of opposite directions, in the order of the labels.

    >>> proposed_pairs(["Pushing Hand Away", "Waving", "Pulling Hand In", "Folding paper", "Unfolding paper"])
    [('Pushing Hand Away', 'Pulling Hand In'), ('Folding paper', 'Unfolding paper')]
    """
    return [(one, other) for one, other in itertools.combinations(labels, 2) if _are_opposite(one, other)]


def _are_opposite(one: str, other: str) -> bool:
    texts = [re.findall(r"\w+", label.lower().replace("_", " ")) for label in (one, other)]
    if len(texts[0]) != len(texts[1]):
        return False
    different = [(a, b) for a, b in zip(*texts, strict=True) if a != b]
    return bool(different) and all(_are_opposite_words(a, b) for a, b in different)


def _are_opposite_words(one: str, other: str) -> bool:
    if one in _SIDES and other in _SIDES:
        # Away and in are of one pair of directions, as are their synonyms.
        return _SIDES[one][0] == _SIDES[other][0] and _SIDES[one][1] != _SIDES[other][1]
    return other == f"un{one}" or one == f"un{other}"


def reverse_pairs(
    classes: Sequence[str],
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    predicted_reversed: NDArray[np.int64],
    groups: NDArray[np.int64] | None = None,
) -> list[ReversePair]:
    """Return the proposed pairs, confirmed or not, and the pairs that only the reversed clips show.

    Shape:
        labels, groups: (N,); predicted, predicted_reversed: (S, N), in order and with the frames reversed.
    """
    proposed = set(proposed_pairs(classes))
    partners = {label: _most_frequent(predicted_reversed[:, labels == label]) for label in np.unique(labels)}
    found: list[ReversePair] = []
    for a, b in itertools.combinations(range(len(classes)), 2):
        names = (classes[a], classes[b])
        clips = (labels == a) | (labels == b)
        if not (labels == a).any() or not (labels == b).any():
            continue
        partner = np.where(labels == a, b, a)[clips]
        own_groups = None if groups is None else np.unique(groups[clips], return_inverse=True)[1]
        swapped, before = (
            accuracy_interval(values[:, clips] == partner, groups=own_groups)
            for values in (predicted_reversed, predicted)
        )
        is_mutual = partners[a] == b and partners[b] == a
        is_confirmed = is_mutual and swapped.low > before.high
        if names in proposed or is_confirmed:
            found.append(ReversePair(names, names in proposed, is_confirmed, swapped, before))
    return found


def _most_frequent(predicted: NDArray[np.int64]) -> int:
    return int(np.bincount(predicted.ravel()).argmax())
