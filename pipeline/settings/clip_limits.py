"""Settings of several commands that limit the size and the decoding time of one clip."""

from __future__ import annotations

from typing import Any

from pipeline.settings.quantity import BYTES, PIXELS
from pipeline.settings.settings import option


def max_clip_pixels() -> Any:
    """Declare the limit on the pixels of a frame."""
    help = "Maximum number of pixels of a frame, such as 8192x8192; clips with larger frames fail."
    return option(8192 * 8192, help, minimum=1, unit=PIXELS, metavar="PIXELS")


def max_clip_bytes() -> Any:
    """Declare the limit on the bytes of a clip."""
    help = "Maximum size of a clip, such as 64MiB or 16GiB; larger clips fail."
    return option(16 << 30, help, minimum=1, unit=BYTES, metavar="BYTES")


def max_clip_seconds() -> Any:
    """Declare the limit on the decoding time of a clip."""
    return option(600.0, "Maximum number of seconds for decoding a clip; slower clips fail.", minimum=0)
