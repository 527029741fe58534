"""Write the manifest of a listed data set; with `pack`, copy its frames into one HDF5 file first."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.manifest import HDF5_SEPARATOR, manifest_texts, write_manifest
from pipeline.prepare.groups import parted_groups, parted_recordings, sentence
from pipeline.prepare.listing import Listing, ListingRequest
from pipeline.progress import Progress
from pipeline.video.suffixes import is_image_name

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 5


def write_listing(listing: Listing, request: ListingRequest, out: Path, pack: Path | None) -> Path:
    """Log what was found, write the manifest, and return the root of its paths.

    Raises:
        PipelineError: the manifest is not valid, or `pack` is given for video files.
    """
    logger.info(f"Layout: {listing.layout}. Classes in {_order_in_words(listing.classes)}.")
    for note in listing.notes:
        logger.warning(note)
    if listing.faulty:
        logger.warning(
            f"{len(listing.faulty):,} of {len(listing.clips):,} clips cannot be used. They keep their "
            "rows; `extract` records each with its reason and counts it."
        )
        for clip_id, reason in list(listing.faulty.items())[:NUM_EXAMPLES]:
            logger.info(f"  {clip_id}: {reason}")
        if len(listing.faulty) > NUM_EXAMPLES:
            logger.info(f"  … and {len(listing.faulty) - NUM_EXAMPLES:,} more: `pipeline check` lists them.")
    for what, parted in (
        ("groups", parted_groups(listing.clips)),
        ("recordings, going by the names of the clips,", parted_recordings(listing.clips)),
    ):
        if parted:
            logger.warning(sentence(parted, what))
    root = request.folder
    manifest_texts(out, listing.clips, listing.classes, listing.extra_columns)  # check before anything is packed
    if pack is not None:
        listing, root = _packed(listing, request.root, pack), pack.parent
    write_manifest(out, listing.clips, listing.classes, listing.extra_columns)
    return root


def _packed(listing: Listing, root: Path, path: Path) -> Listing:
    """Copy the clips' folders of frames into one HDF5 file; clips that it already contains are skipped."""
    from pipeline.prepare.packing import pack

    videos = [clip for clip in listing.clips if (root / clip.path).is_file() and not is_image_name(clip.path)]
    if videos:
        raise PipelineError(
            f"--pack is for folders of frames, but {videos[0].path} and {len(videos) - 1:,} others are video "
            "files. Omit --pack."
        )
    with Progress("pack", len(listing.clips)) as progress:
        clips = ((clip.clip_id, root / clip.path) for clip in listing.clips)
        summary = pack(path, clips, on_clip=lambda _: progress.advance())
    logger.info(
        f"{path}: {summary.num_packed:,} clips packed, {summary.num_already_there:,} already present, "
        f"{len(summary.failed):,} failed."
    )
    for clip_id, error in list(summary.failed.items())[:NUM_EXAMPLES]:
        logger.warning(f"{clip_id}: {error.kind}: {error}")
    clips_there = tuple(replace(clip, path=f"{path.name}{HDF5_SEPARATOR}{clip.clip_id}") for clip in listing.clips)
    return replace(listing, clips=clips_there)


def _order_in_words(classes: Sequence[str]) -> str:
    # Folders of classes, which no file lists, are always sorted.
    return "sorted order" if list(classes) == sorted(classes) else "the order of the data set's own files"
