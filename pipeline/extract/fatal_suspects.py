"""Test clips that blocked a decoder in an earlier run, before they block a worker again."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipeline.extract.blocks import BlockJob
from pipeline.store.feature_store import FeatureStore
from pipeline.video.fatal_clips import BLOCKS_ITS_DECODER, find_fatal_clips
from pipeline.video.limits import ClipLimits

logger = logging.getLogger(__name__)


def without_fatal_clips(store: FeatureStore, jobs: Sequence[BlockJob], limits: ClipLimits) -> list[BlockJob]:
    """Return the jobs, with a fault for each clip that blocked a decoder earlier and does so again."""
    suspects = {clip.clip_id for clip in store.table() if BLOCKS_ITS_DECODER in clip.reason}
    locations = [clip.location for job in jobs for clip in job.clips if clip.clip_id in suspects and not clip.fault]
    fatal = find_fatal_clips(locations, limits)
    if not fatal:
        return list(jobs)
    for error in fatal.values():
        logger.warning(f"{error} It is recorded as failed.")
    return [job.with_faults({location: error.failure("") for location, error in fatal.items()}) for job in jobs]
