"""Settings that limit what one clip may cost; several commands have them."""

from __future__ import annotations

from typing import Any

from pipeline.settings.settings import option


def max_clip_pixels() -> Any:
    """Declare the limit on the pixels of a frame; the default is 8192 × 8192."""
    return option(1 << 26, "A clip whose frames have more pixels than this fails.", minimum=1)


def max_clip_bytes() -> Any:
    """Declare the limit on the bytes of a clip; the default is 16 GiB."""
    return option(1 << 34, "A clip of more bytes than this fails.", minimum=1)


def max_clip_seconds() -> Any:
    """Declare the limit on the time in which a clip is decoded."""
    return option(600.0, "A clip that takes more seconds than this to decode fails.", minimum=0)
