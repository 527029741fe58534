"""Find the class of a mirrored clip: left and right are swapped, and clockwise and counterclockwise.

The classes are derived from the label texts, so that no data set needs a list. A label that names a side and has no
counterpart is an error, because its mirrored clips would have no correct class.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.errors import PipelineError

# A whole word, also in snake_case and CamelCase, but not a part of another word (upright, leftover, brightness).
_LEFT = r"(?<![A-Za-z])left(?![a-z])|(?<![A-Z])Left(?![a-z])|(?<![A-Za-z])LEFT(?![A-Za-z])"
_RIGHT = r"(?<![A-Za-z])right(?![a-z])|(?<![A-Z])Right(?![a-z])|(?<![A-Za-z])RIGHT(?![A-Za-z])"
# The longer word is first, because it contains "clockwise".
_COUNTERCLOCKWISE = r"(?i:(?:counter|anti)[-_ ]?clockwise)"
_CLOCKWISE = r"(?i:clockwise)"
_SIDES = re.compile(
    f"(?P<left>{_LEFT})|(?P<right>{_RIGHT})|(?P<counterclockwise>{_COUNTERCLOCKWISE})|(?P<clockwise>{_CLOCKWISE})"
)
# Idioms in which the word is not a side, such as "pulling it right out".
_NO_SIDE = re.compile(r"(?i)\b(right (?:out|away|after|before|now|angle|side up)|left (?:over|behind|alone|out))\b")
_MIRRORED = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}


def swapped_labels(classes: Sequence[str]) -> tuple[int, ...]:
    """Return for each class the index of its mirrored class, which is the same index if the label names no side.

    Raises:
        PipelineError: a label names a side, and not exactly one label names the other side in the same words.

    >>> swapped_labels(["Swiping Left", "Swiping Right", "Thumb Up"])
    (1, 0, 2)
    """
    indices_of_key: dict[str, list[int]] = {}
    for index, label in enumerate(classes):
        indices_of_key.setdefault(_key(label, mirrored=False), []).append(index)
    swapped: list[int] = []
    for index, label in enumerate(classes):
        key = _key(label, mirrored=True)
        if key == _key(label, mirrored=False):
            swapped.append(index)
            continue
        partners = indices_of_key.get(key, [])
        if len(partners) != 1:
            found = "there is none" if not partners else f"there are {len(partners)}"
            raise PipelineError(
                f"The label '{label}' names a side, so mirrored clips need one label with the other side, but {found}. "
                "Use --flip off, or correct the labels."
            )
        swapped.append(partners[0])
    return tuple(swapped)


def _key(label: str, *, mirrored: bool) -> str:
    """Return the label in lower case with uniform spelling of its sides, or of the opposite sides."""
    idioms = [match.span() for match in _NO_SIDE.finditer(label)]

    def spelling(match: re.Match[str]) -> str:
        side = match.lastgroup or ""
        if any(start <= match.start() < end for start, end in idioms):
            return match[0]
        # Mark sides, so that "right" in an idiom is not taken for one.
        return f"<{_MIRRORED[side] if mirrored else side}>"

    return _SIDES.sub(spelling, label).lower()
