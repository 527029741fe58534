"""Replace the decoder by one that clips with certain names crash, block or starve, if this folder is on the path."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pipeline.video.decode
import pipeline.video.fatal_clips

open_sound_clip = pipeline.video.decode._opened
SIGNALS = {"crash": signal.SIGSEGV, "starve": signal.SIGKILL}


def opened(location: str, *arguments: Any) -> Any:
    """Open a clip with any other name."""
    name = Path(location).name
    if name in SIGNALS:
        signal.raise_signal(SIGNALS[name])  # in this thread, as a crash does
    if name == "spin":
        time.sleep(3600)
    return open_sound_clip(location, *arguments)


pipeline.video.decode._opened = opened
pipeline.video.fatal_clips.SECONDS_TO_START = 10.0
