"""Find clips that crash or block the process that decodes them, by decoding them in expendable processes.

A damaged file can crash a decoder or send it into an endless loop, which raises no exception. If a block kills its
workers, its clips are decoded one after another, and each is announced first, so that the last one is responsible.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module

from pipeline.errors import ClipError
from pipeline.processes import die_with_parent
from pipeline.video.limits import ClipLimits

OPENER = "pipeline.video.decode:open_clip"
# Maximum time to start a process. It is added to the time limit of a clip, so that a slow clip ends normally.
SECONDS_TO_START = 60.0
BLOCKS_ITS_DECODER = "blocks its decoder"
CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP})


def find_fatal_clips(locations: Sequence[str], limits: ClipLimits, opener: str = OPENER) -> dict[str, ClipError]:
    """Decode clips in other processes; return the error of each clip that crashed or blocked its process."""
    fatal: dict[str, ClipError] = {}
    remaining = list(locations)
    while remaining:
        with subprocess.Popen(
            [sys.executable, "-m", "pipeline.video.fatal_clips", opener],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as child:
            try:
                num_begun, is_stuck = _watch(child, remaining, limits, limits.max_seconds + SECONDS_TO_START)
            finally:
                child.kill()
        if child.returncode == 0 and not is_stuck:
            break
        if num_begun == 0:
            break  # not caused by a clip
        location = remaining[num_begun - 1]
        fatal[location] = _error(location, limits, is_stuck, -child.returncode)
        remaining = remaining[num_begun:]
    return fatal


def _watch(
    child: subprocess.Popen[bytes], locations: Sequence[str], limits: ClipLimits, seconds: float
) -> tuple[int, bool]:
    """Return the number of clips that a child has started, and whether the last one exceeded its time."""
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("the child has no pipes")
    request = {"locations": locations, "limits": limits.as_tuple(), "parent": os.getpid()}
    child.stdin.write(json.dumps(request).encode())
    child.stdin.close()
    num_begun = 0
    while select.select([child.stdout], [], [], seconds)[0]:
        heard = os.read(child.stdout.fileno(), 1 << 16)
        if not heard:
            child.wait()
            return num_begun, False
        num_begun += heard.count(b"\n")
    return num_begun, True


def blocking_error(location: str, limits: ClipLimits) -> ClipError:
    """Return the error of a clip whose decoder does not return."""
    return ClipError(
        "too-large",
        f"{location} {BLOCKS_ITS_DECODER} for longer than the {limits.max_seconds:g} s of --max-clip-seconds. "
        "Encode it again.",
    )


def _error(location: str, limits: ClipLimits, is_stuck: bool, number: int) -> ClipError:
    if is_stuck:
        return blocking_error(location, limits)
    if number in CRASHES:
        return ClipError("corrupt", f"{location} crashes its decoder ({signal.Signals(number).name}). Encode it again.")
    return ClipError("no-memory", f"{location} ends the process that decodes it, probably for lack of memory.")


def _decode_all(opener: str) -> None:
    request = json.load(sys.stdin)
    die_with_parent(request["parent"])
    module, _, name = opener.partition(":")
    open_clip = getattr(import_module(module), name)
    limits = ClipLimits(*request["limits"])
    for location in request["locations"]:
        os.write(1, b"\n")
        try:
            with open_clip(location, limits) as reader:
                reader.decodes_whole = True
                reader.read([reader.num_frames - 1])
        except Exception:
            continue


if __name__ == "__main__":
    _decode_all(sys.argv[1])
