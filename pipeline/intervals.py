"""Intervals of long videos: a clip from `start` up to `end`, without the frame at `end`.

The location of such a clip is that of the video followed by ``#t=START,END`` in seconds, or ``#frames=START,END`` in
frame numbers from 0.

Source: the form of times is that of W3C, Media Fragments URI 1.0, Sec. 4.2.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from pipeline.errors import PipelineError

SECONDS: Final = "seconds"
FRAMES: Final = "frames"
UNITS = (SECONDS, FRAMES)
_KEYS = {SECONDS: "t", FRAMES: "frames"}
_NUMBER = r"\d{1,12}(?:\.\d{1,12})?"
_FRAGMENT = re.compile(rf"#(t|frames)=({_NUMBER}),({_NUMBER})\Z")


@dataclass(frozen=True, slots=True)
class Interval:
    """Part of a video; `start` and `end` are decimal numbers as in the manifest, which are not rounded."""

    start: str
    end: str
    unit: Literal["seconds", "frames"]

    @property
    def bounds(self) -> tuple[Fraction, Fraction]:
        """Start and end as exact numbers."""
        return Fraction(self.start), Fraction(self.end)

    @property
    def fragment(self) -> str:
        """The text that follows the location of the video."""
        return f"#{_KEYS[self.unit]}={self.start},{self.end}"


def parse_interval(start: str, end: str, unit: str) -> Interval | None:
    """Return the interval of three fields of a manifest; None if both bounds are empty.

    Raises:
        PipelineError: a bound is missing or no decimal number, the unit is unknown, or the end is not after the start.
    """
    if not start and not end:
        return None
    if unit not in UNITS:
        raise PipelineError(f"the unit '{unit}' of an interval must be one of {', '.join(UNITS)}.")
    for name, text in (("start", start), ("end", end)):
        pattern = r"\d{1,12}" if unit == FRAMES else _NUMBER
        if not re.fullmatch(pattern, text):
            what = "a frame number from 0" if unit == FRAMES else "a number of seconds such as 12.5"
            raise PipelineError(f"the {name} '{text}' of an interval must be {what}; both bounds are needed, or none.")
    interval = Interval(start, end, SECONDS if unit == SECONDS else FRAMES)
    first, last = interval.bounds
    if last <= first:
        raise PipelineError(f"the interval ends at {end}, which is not after its start {start}.")
    return interval


def split_location(location: str) -> tuple[str, Interval | None]:
    """Return the location of the video, and the interval, if the location ends in one.

    >>> split_location("long.mp4#t=10,12.5")
    ('long.mp4', Interval(start='10', end='12.5', unit='seconds'))
    """
    found = _FRAGMENT.search(location)
    if found is None:
        return location, None
    return location[: found.start()], Interval(found[2], found[3], SECONDS if found[1] == "t" else FRAMES)


def without_interval(location: str) -> str:
    """Return the location of the video of a clip."""
    return split_location(location)[0]
