"""Plan an extraction: select the clips of each block to compute, and their views."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import TRANSIENT_KINDS, ClipError, ClipFailure
from pipeline.extract.provenance import ABSENT, FileState, clip_exists, digest_of, state_of
from pipeline.intervals import split_location
from pipeline.manifest import Manifest
from pipeline.store import layout
from pipeline.store.feature_store import FeatureStore
from pipeline.store.layout import TEST_VIEW
from pipeline.store.record import DONE, FAILED, ClipRecord, read_times, write_times
from pipeline.store.table import TableRow
from pipeline.store.writer import TRAIN_SPLIT
from pipeline.video.views import train_view_name

KILLED_WORKER = "killed-worker"
UNREADABLE = "unreadable"
TOO_LARGE = "too-large"


@dataclass(frozen=True)
class ClipJob:
    """A clip to compute in some views. `path` is its location as in the manifest, for recorded messages."""

    offset: int
    clip_id: str
    location: str
    label: str
    views: tuple[str, ...]
    path: str = ""
    fault: ClipFailure | None = None
    """Reason why the clip must not be decoded: it ended the processes that tried."""


@dataclass(frozen=True)
class BlockJob:
    """A block to write: clips to compute, and clips whose record and rows are kept.

    views: views that get new objects. ignores_record: whether the earlier record of the block is ignored.
    """

    block: int
    views: tuple[str, ...]
    clips: tuple[ClipJob, ...]
    kept: tuple[ClipRecord, ...]
    ignores_record: bool = False

    @property
    def num_clips(self) -> int:
        return len(self.clips)

    def with_faults(self, faults: Mapping[str, ClipFailure]) -> BlockJob:
        """Return the job with faults added to some clips, given by their locations."""
        clips = tuple(dataclasses.replace(clip, fault=faults.get(clip.location, clip.fault)) for clip in self.clips)
        return dataclasses.replace(self, clips=clips)


def views_of(split: str, num_draws: int) -> tuple[str, ...]:
    """Return the views of a clip of a split: the test view, and training draws for training clips."""
    draws = num_draws if split == TRAIN_SPLIT else 0
    return (TEST_VIEW, *(train_view_name(draw) for draw in range(draws)))


def plan_blocks(store: FeatureStore, manifest: Manifest, num_draws: int) -> list[BlockJob]:
    """Return the blocks with work, in order. Finished, unchanged and complete clips are not computed again."""
    location_of = {clip.clip_id: os.path.abspath(manifest.locate(clip)) for clip in manifest.clips}
    rows_of: dict[int, list[TableRow]] = {}
    for row in store.rows:
        if row.listed:
            rows_of.setdefault(row.row // store.block_clips, []).append(row)
    jobs = []
    for block in sorted(rows_of):
        rows = sorted(rows_of[block])
        job = _plan_block(store, block, rows, location_of, num_draws)
        if job is not None:
            jobs.append(job)
    return jobs


def _plan_block(
    store: FeatureStore, block: int, rows: Sequence[TableRow], location_of: dict[str, str], num_draws: int
) -> BlockJob | None:
    record = store.records.get(block)
    wanted = views_of(rows[0].split, 0 if store.settings.frames == "all" else num_draws)
    if record is None:
        return BlockJob(
            block, wanted, tuple(_job(store, row, location_of, wanted) for row in rows), (), ignores_record=True
        )
    times = read_times(store.objects.get(layout.times_key(block)))
    known = {clip.offset: clip._replace(modified_ns=times.get(clip.offset, clip.modified_ns)) for clip in record.clips}
    every = (*record.views, *(view for view in wanted if view not in record.views))
    listed = {row.row % store.block_clips for row in rows}
    is_touched = False
    clips, kept = [], [clip for clip in known.values() if clip.offset not in listed]
    for row in rows:
        offset, location = row.row % store.block_clips, location_of[row.clip_id]
        before = known.get(offset)
        state = ABSENT if before is None else state_of(location)
        if before is None or is_stale(before, row, location, state):
            # Compute it in all views of the block, because existing views show the previous file.
            clips.append(_job(store, row, location_of, every))
            continue
        has = record.views_of(offset)
        missing = tuple(view for view in wanted if view not in has)
        if before.status == FAILED or not missing or state == ABSENT:
            if state != ABSENT and state.modified_ns != before.modified_ns:
                # The bytes have not changed: with the new time, the next extraction need not read them again.
                before = known[offset] = before._replace(modified_ns=state.modified_ns)
                is_touched = True
            kept.append(before)
        else:
            clips.append(_job(store, row, location_of, missing))
    if is_touched:
        store.objects.put(layout.times_key(block), write_times(known.values()))
    if not clips:
        return None
    views = tuple(view for view in every if any(view in clip.views for clip in clips))
    return BlockJob(block, views, tuple(clips), tuple(kept))


def is_stale(before: ClipRecord, row: TableRow, location: str, state: FileState) -> bool:
    """Return whether a clip must be computed again, because its label, interval or file has changed.

    A finished clip whose file is missing is kept: its features are still those of that file.
    """
    if before.clip_id != row.clip_id or before.label != row.label:
        return True
    # The digest of an interval ends with it.
    if before.digest and split_location(before.digest)[1] != split_location(location)[1]:
        return True
    # The file was never read (no permission), so the record cannot tell whether it has changed.
    # A limit may have been raised since then.
    if before.kind in (*TRANSIENT_KINDS, TOO_LARGE) or (before.kind == UNREADABLE and not before.digest):
        return True
    if (state.size, state.modified_ns) == (before.size, before.modified_ns):
        return False
    if state == ABSENT:
        return before.status == FAILED
    if state.size != before.size:
        return True
    # Same size and another time: only the bytes tell whether the file was changed or copied.
    try:
        return digest_of(location) != before.digest
    except ClipError:
        return True


def absent_clips(store: FeatureStore, manifest: Manifest) -> list[str]:
    """Return the ids of finished clips whose files are missing."""
    location_of = {clip.clip_id: manifest.locate(clip) for clip in manifest.clips}
    done = (clip.clip_id for clip in store.table() if clip.status == DONE)
    return [clip_id for clip_id in done if clip_id in location_of and not clip_exists(location_of[clip_id])]


def sample_of_done(store: FeatureStore, jobs: Iterable[BlockJob], num_clips: int) -> list[BlockJob]:
    """Return a few finished clips, spread over the store, as jobs of one clip each, to compute again and compare."""
    again = {job.block: {clip.offset for clip in job.clips if TEST_VIEW in clip.views} for job in jobs}
    done = [
        clip
        for clip in store.table()
        if clip.status == "done" and clip.row % store.block_clips not in again.get(clip.block, ())
    ]
    places = sorted({len(done) * number // num_clips for number in range(num_clips)}) if done else []
    return [_sample(store, done[place].row) for place in places]


def _sample(store: FeatureStore, row: int) -> BlockJob:
    block, offset = divmod(row, store.block_clips)
    record = store.records[block]
    clip = next(clip for clip in record.clips if clip.offset == offset)
    views = record.views_of(offset)[:2]
    # `located` adds the location from the manifest.
    return BlockJob(block, views, (ClipJob(offset, clip.clip_id, "", clip.label, views),), ())


def located(job: BlockJob, manifest: Manifest) -> BlockJob:
    """Return the job with the locations of its clips."""
    location_of = {clip.clip_id: os.path.abspath(manifest.locate(clip)) for clip in manifest.clips}
    clips = tuple(dataclasses.replace(clip, location=location_of[clip.clip_id]) for clip in job.clips)
    return dataclasses.replace(job, clips=clips)


def _job(store: FeatureStore, row: TableRow, location_of: dict[str, str], views: Sequence[str]) -> ClipJob:
    offset = row.row % store.block_clips
    return ClipJob(offset, row.clip_id, location_of[row.clip_id], row.label, tuple(views), row.path)
