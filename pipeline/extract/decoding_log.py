"""Record which clips this process decodes, so that the next run knows the one that crashed or blocked it."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from pipeline.extract.blocks import BlockJob
from pipeline.store import layout
from pipeline.store.feature_store import FeatureStore
from pipeline.store.locks import lock_path, opened_lock
from pipeline.store.object_store import ObjectStore, Phase
from pipeline.video.fatal_clips import BLOCKS_ITS_DECODER, find_fatal_clips
from pipeline.video.limits import ClipLimits
from pipeline.video.watchdog import DECODE, DECODED

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 20


class DecodingLog:
    """Context manager and callback of an extraction: the clips being decoded stand in a file until they are decoded."""

    def __init__(self, objects: ObjectStore, on_phase: Phase) -> None:
        self._objects, self._on_phase = objects, on_phase
        self._clips: dict[str, None] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> DecodingLog:
        self._opened = opened_lock(self._objects, layout.DECODING_KEY)
        self._handle = self._opened.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, traceback)
        _remove(self._objects)

    def on_phase(self, phase: str, subject: str) -> None:
        """Write the clips that are being decoded when one starts or ends."""
        if phase in (DECODE, DECODED):
            with self._lock:
                if phase == DECODE:
                    self._clips[subject] = None
                else:
                    self._clips.pop(subject, None)
                text = json.dumps(list(self._clips)).encode()
                os.ftruncate(self._handle, 0)
                os.pwrite(self._handle, text, 0)
        self._on_phase(phase, subject)


def without_fatal_clips(store: FeatureStore, jobs: Sequence[BlockJob], limits: ClipLimits) -> list[BlockJob]:
    """Return the jobs, with a fault for each clip that ends a process by crashing or blocking its decoder.

    Suspects are the clips that the run before was decoding when it ended, and those that blocked a decoder earlier.
    """
    suspects = _taken(store.objects)
    suspects |= {clip.clip_id for clip in store.table() if BLOCKS_ITS_DECODER in clip.reason}
    locations = [clip.location for job in jobs for clip in job.clips if clip.clip_id in suspects and not clip.fault]
    fatal = find_fatal_clips(locations, limits)
    if not fatal:
        return list(jobs)
    for error in fatal.values():
        logger.warning(f"{error} It is recorded as failed.")
    return [job.with_faults({location: error.failure("") for location, error in fatal.items()}) for job in jobs]


def _taken(objects: ObjectStore) -> set[str]:
    """Read and remove what a run left that did not end by itself."""
    if not lock_path(objects, layout.DECODING_KEY).exists():
        return set()
    with opened_lock(objects, layout.DECODING_KEY) as handle:
        text = os.pread(handle, MAX_BYTES, 0)
    _remove(objects)
    with suppress(ValueError):
        clips = json.loads(text)
        if isinstance(clips, list):
            return {clip for clip in clips if isinstance(clip, str)}
    return set()


def _remove(objects: ObjectStore) -> None:
    lock_path(objects, layout.DECODING_KEY).unlink(missing_ok=True)
