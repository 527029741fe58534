"""Hash the middle frames of clips in expendable processes, which a clip may crash or hold up."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pipeline.clip_errors import clip_errors
from pipeline.errors import ClipError
from pipeline.manifest import Clip, Manifest
from pipeline.prepare.difference_hash import difference_hash
from pipeline.prepare.groups import parted_recordings
from pipeline.prepare.look_alikes import look_alikes, look_alikes_sentence
from pipeline.processes import num_cores
from pipeline.video.decode import open_clip

logger = logging.getLogger(__name__)

MAX_SECONDS = 60
# More clips are compared in part: in runs of neighbours, since clips of one recording often follow one another.
MAX_CLIPS = 2_000
RUN_CLIPS = 20


def report_look_alikes(manifest: Manifest) -> None:
    """Log which clips of different splits look alike, if they have no groups, and their names do not tell already."""
    if len(manifest.splits) < 2 or any(clip.group for clip in manifest.clips) or parted_recordings(manifest.clips):
        return
    clips = spread_clips(manifest.clips)
    hash_of = hash_middle_frames([(clip.clip_id, manifest.locate(clip)) for clip in clips])
    pairs = look_alikes(clips, hash_of)
    if pairs:
        logger.warning(look_alikes_sentence(pairs))
    if pairs and len(hash_of) < len(manifest.clips):
        logger.info(
            f"{len(hash_of):,} of {len(manifest.clips):,} clips were compared; `pipeline check --decode` compares all."
        )


def spread_clips(clips: Sequence[Clip]) -> list[Clip]:
    """Return the clips, or runs of neighbours at equal distances if there are more than `MAX_CLIPS`."""
    if len(clips) <= MAX_CLIPS:
        return list(clips)
    num_runs = MAX_CLIPS // RUN_CLIPS
    starts = [run * (len(clips) - RUN_CLIPS) // (num_runs - 1) for run in range(num_runs)]
    return [clip for start in starts for clip in clips[start : start + RUN_CLIPS]]


def hash_middle_frames(clips: Sequence[tuple[str, str]], max_seconds: int = MAX_SECONDS) -> dict[str, bytes]:
    """Return the difference hashes of clips, given as (id, location), by their ids.

    Clips that cannot be decoded, or not within the time, have none.
    """
    num_processes = min(num_cores(), len(clips))
    shares = [clips[start::num_processes] for start in range(num_processes)]
    with ThreadPoolExecutor(max(num_processes, 1)) as threads:
        found = threads.map(partial(_hash_share, max_seconds=max_seconds), shares)
        return {clip_id: value for part in found for clip_id, value in part.items()}


def _hash_share(clips: Sequence[tuple[str, str]], max_seconds: int) -> dict[str, bytes]:
    request = json.dumps({"locations": [location for _, location in clips], "max_seconds": max_seconds})
    # One that crashes or runs out of time has written the hashes of the clips before.
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.prepare.middle_frames"],
        input=request.encode("utf-8", "surrogateescape"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    lines = done.stdout.decode("ascii").split("\n")[:-1]
    return {clip_id: b64decode(line) for (clip_id, _), line in zip(clips, lines, strict=False) if line}


def _hash_all() -> None:
    request = json.load(sys.stdin)
    # The signal ends the process also in a decoder that does not return.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(request["max_seconds"])
    for location in request["locations"]:
        sys.stdout.write(b64encode(_hash(location)).decode("ascii") + "\n")
        sys.stdout.flush()


def _hash(location: str) -> bytes:
    try:
        with clip_errors(location), open_clip(location) as reader:
            return difference_hash(reader.read([reader.num_frames // 2])[0])
    except ClipError:
        return b""


if __name__ == "__main__":
    _hash_all()
