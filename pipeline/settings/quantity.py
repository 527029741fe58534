"""Numbers of bytes and pixels in the units that people use: `16GiB`, `8192x8192`."""

from __future__ import annotations

import math
import re

from pipeline.errors import PipelineError

BYTES = "bytes"
PIXELS = "pixels"
_FACTORS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_FORMS = {
    BYTES: "a number of bytes, such as 500000, 64MiB or 16GiB",
    PIXELS: "a number of pixels, such as 2000000 or 1920x1080",
}


def parse_quantity(text: str, unit: str) -> int:
    """Convert a text to a number of bytes or pixels.

    Raises:
        PipelineError: the text is not a number of that unit.

    >>> parse_quantity("64 MiB", BYTES), parse_quantity("1920x1080", PIXELS)
    (67108864, 2073600)
    """
    if unit == BYTES:
        factors = {name.lower(): factor for name, factor in _FACTORS.items()}
        found = re.fullmatch(r"([0-9]+) ?([a-z]*)", text.strip().lower())
        if found and found[2] in factors:
            return int(found[1]) * factors[found[2]]
    elif found := re.fullmatch(r"([0-9]+)(?:x([0-9]+))?", text.strip().lower()):
        return int(found[1]) * int(found[2] or 1)
    raise PipelineError(f"{text!r} is not {_FORMS[unit]}.")


def quantity_text(value: int, unit: str) -> str:
    """Return a number of bytes or pixels as `parse_quantity` reads it.

    >>> quantity_text(1 << 34, BYTES), quantity_text(1 << 26, PIXELS), quantity_text(1001, BYTES)
    ('16GiB', '8192x8192', '1001')
    """
    if unit == BYTES:
        factor, name = max((factor, name) for name, factor in _FACTORS.items() if name != "B" and value % factor == 0)
        return f"{value // factor}{name}"
    side = math.isqrt(value)
    return f"{side}x{side}" if side > 1 and side * side == value else str(value)
