"""Replace the decoder by one that clips with certain names crash, block or starve, if this folder is on the path."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pipeline.video.decode
import pipeline.video.fatal_clips

open_sound_clip = pipeline.video.decode.open_clip
SIGNALS = {"crash": signal.SIGSEGV, "starve": signal.SIGKILL}


def open_clip(location: str | Path, *arguments: Any) -> Any:
    """Open a clip with any other name."""
    name = Path(location).name
    if name in SIGNALS:
        os.kill(os.getpid(), SIGNALS[name])
    if name == "spin":
        time.sleep(3600)
    return open_sound_clip(location, *arguments)


pipeline.video.decode.open_clip = open_clip
pipeline.video.fatal_clips.SECONDS_TO_START = 10.0
