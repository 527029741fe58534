"""The plan of an extraction: which clips of which blocks are to be computed, in which views."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import TRANSIENT_KINDS, ClipError, ClipFailure
from pipeline.extract.provenance import ABSENT, FileState, digest_of, is_there, state_of
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
    """A clip to compute in some views. `path` is its location as the manifest has it, for messages that are kept."""

    offset: int
    clip_id: str
    location: str
    label: str
    views: tuple[str, ...]
    path: str = ""
    fault: ClipFailure | None = None
    """Why the clip is not to be touched: it has ended the processes that decoded it."""


@dataclass(frozen=True)
class BlockJob:
    """A block to write: clips to compute, and clips whose record and rows stay as they are.

    views: those that get new objects. is_anew: whether nothing of an earlier record of the block is used.
    """

    block: int
    views: tuple[str, ...]
    clips: tuple[ClipJob, ...]
    kept: tuple[ClipRecord, ...]
    is_anew: bool = False

    @property
    def num_clips(self) -> int:
        return len(self.clips)

    def with_faults(self, faults: Mapping[str, ClipFailure]) -> BlockJob:
        """Return the job with the faults of some clips, given by their locations."""
        clips = tuple(dataclasses.replace(clip, fault=faults.get(clip.location, clip.fault)) for clip in self.clips)
        return dataclasses.replace(self, clips=clips)


def views_of(split: str, num_draws: int) -> tuple[str, ...]:
    """The views that a clip of a split has: the test view, and training draws where it is trained on."""
    draws = num_draws if split == TRAIN_SPLIT else 0
    return (TEST_VIEW, *(train_view_name(draw) for draw in range(draws)))


def plan_blocks(store: FeatureStore, manifest: Manifest, num_draws: int) -> list[BlockJob]:
    """Blocks with work, in order. Nothing is planned twice: what is done, unchanged and complete is left out."""
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
        return BlockJob(block, wanted, tuple(_job(store, row, location_of, wanted) for row in rows), (), is_anew=True)
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
            # In every view that the block has or gets: the old ones show another file.
            clips.append(_job(store, row, location_of, every))
            continue
        has = record.views_of(offset)
        missing = tuple(view for view in wanted if view not in has)
        if before.status == FAILED or not missing or state == ABSENT:
            if state != ABSENT and state.modified_ns != before.modified_ns:
                # The bytes are those of the record, so the next extraction need not read them again.
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
    """Whether a clip is to be done again: relabelled, or its file is another than it was.

    A finished clip whose file is not there any more is not: its features say what the file showed.
    """
    if before.clip_id != row.clip_id or before.label != row.label:
        return True
    # Without a byte read (no permission) the record cannot tell whether the file has changed.
    # A limit may have been raised since.
    if before.kind in (*TRANSIENT_KINDS, TOO_LARGE) or (before.kind == UNREADABLE and not before.digest):
        return True
    if (state.size, state.modified_ns) == (before.size, before.modified_ns):
        return False
    if state == ABSENT:
        return before.status == FAILED
    if state.size != before.size:
        return True
    # Same size, another time: copied or touched, or changed; only its bytes tell.
    try:
        return digest_of(location) != before.digest
    except ClipError:
        return True


def absent_clips(store: FeatureStore, manifest: Manifest) -> list[str]:
    """Ids of finished clips whose files are not where the manifest says."""
    location_of = {clip.clip_id: manifest.locate(clip) for clip in manifest.clips}
    done = (clip.clip_id for clip in store.table() if clip.status == DONE)
    return [clip_id for clip_id in done if clip_id in location_of and not is_there(location_of[clip_id])]


def sample_of_done(store: FeatureStore, jobs: Iterable[BlockJob], num_clips: int) -> list[BlockJob]:
    """A few finished clips, spread over the store, as jobs of one clip each: to be computed again and compared."""
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
    # `located` fills the location in from the manifest.
    return BlockJob(block, views, (ClipJob(offset, clip.clip_id, "", clip.label, views),), ())


def located(job: BlockJob, manifest: Manifest) -> BlockJob:
    """The job with the places of its clips."""
    location_of = {clip.clip_id: os.path.abspath(manifest.locate(clip)) for clip in manifest.clips}
    clips = tuple(dataclasses.replace(clip, location=location_of[clip.clip_id]) for clip in job.clips)
    return dataclasses.replace(job, clips=clips)


def _job(store: FeatureStore, row: TableRow, location_of: dict[str, str], views: Sequence[str]) -> ClipJob:
    offset = row.row % store.block_clips
    return ClipJob(offset, row.clip_id, location_of[row.clip_id], row.label, tuple(views), row.path)
