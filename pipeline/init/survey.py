"""List the clips of a study, and measure how fast a few of them decode."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ClipError
from pipeline.manifest import Clip
from pipeline.prepare.csv_table import parse_columns
from pipeline.prepare.listing import Listing, ListingRequest
from pipeline.prepare.subset import subset_of
from pipeline.registry import DATA_SETS, FEATURES, LazyTable
from pipeline.settings.init import InitSettings
from pipeline.video.decode import open_clip

logger = logging.getLogger(__name__)

LISTERS: Mapping[str, Callable[[ListingRequest], Listing]] = LazyTable("data sets", DATA_SETS)
TRAIN = "train"
NUM_DECODED = 8
MAX_SECONDS = 2.0
# DVC hashes clips up to this number to see when one changes; more, or folders of frames, take it too long.
MOST_HASHED = 5_000


@dataclass(frozen=True)
class Survey:
    """Counts of the clips of a study.

    decode_seconds: time of one core to decode one clip, by a few of them; None if none could be decoded.
    has_frame_folders: whether a clip is a folder of frames.
    """

    num_train: int
    num_clips: int
    num_classes: int
    decode_seconds: float | None
    has_frame_folders: bool = False

    @property
    def is_hashed(self) -> bool:
        """Whether DVC watches the clips for changes."""
        return self.num_clips <= MOST_HASHED and not self.has_frame_folders

    def num_views(self, views: int) -> int:
        """Return the number of views of all clips: a test view of each, and the training views."""
        return self.num_clips + self.num_train * views


def list_clips(settings: InitSettings, root: Path) -> tuple[Listing, ListingRequest]:
    """List the clips as `pipeline prepare` does.

    Raises:
        PipelineError: the folder or its label files are not as the data set's are.
    """
    request = ListingRequest(
        root=root,
        lists=settings.lists,
        val_share=settings.val_share,
        fold=settings.fold,
        columns=parse_columns(settings.columns),
        group_by=settings.group_by,
        labels=settings.labels,
        takes_file=settings.data == FEATURES,
    )
    listing = LISTERS[settings.data](request)
    return (listing if settings.subset is None else subset_of(listing, settings.subset)), request


def survey(listing: Listing, root: Path, num_segments: int, decodes: bool = True) -> Survey:
    """Count the listed clips, and decode a few of them."""
    counts = Counter(clip.split for clip in listing.clips)
    return Survey(
        num_train=counts[TRAIN],
        num_clips=len(listing.clips),
        num_classes=len(listing.classes),
        decode_seconds=_decode_seconds(listing.clips, root, num_segments) if decodes else None,
        has_frame_folders=any((root / clip.path).is_dir() for clip in listing.clips[:NUM_DECODED]),
    )


def _decode_seconds(clips: tuple[Clip, ...], root: Path, num_segments: int) -> float | None:
    """Return the mean core-seconds to decode the segments of a clip, for clips spread over the list."""
    step = max(len(clips) // NUM_DECODED, 1)
    found: list[float] = []
    for clip in clips[::step]:
        before = time.process_time()
        try:
            with open_clip(root / clip.path) as reader:
                last = reader.num_frames - 1
                reader.read([round(last * (index + 0.5) / num_segments) for index in range(num_segments)])
        except ClipError as error:
            logger.debug(f"{clip.clip_id} is left out of the measurement: {error}")
            continue
        found.append(time.process_time() - before)
        if sum(found) > MAX_SECONDS:
            break
    # The first clip also loads the decoder.
    timed = found[1:] or found
    return sum(timed) / len(timed) if timed else None
