"""Settings of several commands that limit the size and the decoding time of one clip."""

from __future__ import annotations

from typing import Any

from pipeline.settings.settings import option


def max_clip_pixels() -> Any:
    """Declare the limit on the pixels of a frame; the default is 8192 × 8192."""
    return option(1 << 26, "Maximum number of pixels of a frame; clips with larger frames fail.", minimum=1)


def max_clip_bytes() -> Any:
    """Declare the limit on the bytes of a clip; the default is 16 GiB."""
    return option(1 << 34, "Maximum number of bytes of a clip; larger clips fail.", minimum=1)


def max_clip_seconds() -> Any:
    """Declare the limit on the decoding time of a clip."""
    return option(600.0, "Maximum number of seconds for decoding a clip; slower clips fail.", minimum=0)
