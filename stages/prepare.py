"""`pipeline prepare`: what lies on disk, or is drawn now, as a validated manifest."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from pipeline.errors import PipelineError
from pipeline.manifest import HDF5_SEPARATOR, Manifest, classes_path, manifest_texts, read_manifest, write_manifest
from pipeline.prepare.gestures.data_set import GestureSettings, write_gestures
from pipeline.prepare.listing import Listing, ListingRequest
from pipeline.registry import DATA_SETS, LazyTable
from pipeline.settings.prepare import PrepareSettings
from pipeline.video.flips import swapped_labels
from pipeline.video.suffixes import is_image_name

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 5

# Functions that list the clips of a data set, by its name.
LISTERS: Mapping[str, Callable[[ListingRequest], Listing]] = LazyTable("data sets", DATA_SETS)


def run(settings: PrepareSettings) -> Manifest:
    """Write the manifest of a data set and read it back.

    With `pack`, folders of frames are copied into that HDF5 file and the manifest names its clips; its folder is then
    their root.

    Raises:
        PipelineError: a missing or superfluous argument, or a manifest that is not valid.
    """
    out = settings.out
    if settings.classes is not None and settings.classes != classes_path(out):
        raise PipelineError(
            f"The class file of {out} is always {classes_path(out)}, so it cannot be {settings.classes}."
        )
    where = _draw_gestures(settings) if settings.dataset == "gestures" else _list_clips(settings)
    manifest = read_manifest(out, where)
    counts = ", ".join(f"{split} {len(manifest.in_split(split)):,}" for split in manifest.splits)
    unlabelled = sum(not clip.is_labelled for clip in manifest.clips)
    without = f", {unlabelled:,} without a label" if unlabelled else ""
    click.echo(
        f"{out}: {len(manifest.clips):,} clips ({counts}{without}) of {len(manifest.classes):,} classes, root {where}"
    )
    click.echo(flip_policy(manifest.classes))
    return manifest


def flip_policy(classes: Sequence[str]) -> str:
    """What mirroring does to these labels, and so which `--flip` is sound, in words."""
    try:
        swapped = swapped_labels(classes)
    except PipelineError as error:
        return f"Flip: only --flip off is sound. {error}"
    pairs = [(index, other) for index, other in enumerate(swapped) if index < other]
    if not pairs:
        return "Flip: no label names a side, so --flip swap mirrors clips and changes no label."
    lines = [f"Flip: --flip swap exchanges {len(pairs)} pairs of labels and leaves the others:"]
    lines += [f"  {index} {classes[index]} <-> {other} {classes[other]}" for index, other in pairs]
    return "\n".join(lines)


def _list_clips(settings: PrepareSettings) -> Path:
    """List the clips of a data set on disk, write the manifest, and return the root of its paths."""
    if settings.root is None:
        raise PipelineError(
            f"`prepare {settings.dataset}` needs the folder of the data set: `prepare {settings.dataset} ROOT`."
        )
    request = ListingRequest(
        root=settings.root,
        lists=settings.lists,
        class_order=settings.class_order,
        val_share=settings.val_share,
        seed=settings.seed,
        fold=settings.fold,
        columns=_columns(settings.columns),
    )
    return _write_listing(LISTERS[settings.dataset](request), request, settings.out, settings.pack)


def _write_listing(listing: Listing, request: ListingRequest, out: Path, pack: Path | None) -> Path:
    """Say what was found, write the manifest, and return the root of its paths."""
    logger.info(f"Layout: {listing.layout}. Classes in {_order_in_words(request.class_order)}.")
    for note in listing.notes:
        logger.warning(note)
    if listing.faulty:
        logger.warning(
            f"{len(listing.faulty):,} of {len(listing.clips):,} clips cannot be used as they lie there. They "
            "keep their rows; `extract` records each with its reason and counts it."
        )
        for clip_id, reason in list(listing.faulty.items())[:NUM_EXAMPLES]:
            logger.info(f"  {clip_id}: {reason}")
        if len(listing.faulty) > NUM_EXAMPLES:
            logger.info(f"  … and {len(listing.faulty) - NUM_EXAMPLES:,} more: `pipeline check` lists them.")
    root = request.root
    manifest_texts(out, listing.clips, listing.classes, listing.extra_columns)  # before anything is packed
    if pack is not None:
        listing, root = _packed(listing, request.root, pack), pack.parent
    write_manifest(out, listing.clips, listing.classes, listing.extra_columns)
    return root


def _packed(listing: Listing, root: Path, path: Path) -> Listing:
    """Copy the clips' folders of frames into one HDF5 file; clips that it has already are left alone."""
    from pipeline.prepare.packing import pack
    from pipeline.progress import Progress

    videos = [clip for clip in listing.clips if (root / clip.path).is_file() and not is_image_name(clip.path)]
    if videos:
        raise PipelineError(
            f"--pack is for folders of frames, but {videos[0].path} and {len(videos) - 1:,} others are video files: "
            "one file a clip already. Leave --pack out."
        )
    with Progress("pack", len(listing.clips)) as progress:
        clips = ((clip.clip_id, root / clip.path) for clip in listing.clips)
        summary = pack(path, clips, on_clip=lambda _: progress.advance())
    logger.info(
        f"{path}: {summary.num_packed:,} clips packed, {summary.num_already_there:,} were there, "
        f"{len(summary.failed):,} failed."
    )
    for clip_id, error in list(summary.failed.items())[:NUM_EXAMPLES]:
        logger.warning(f"{clip_id}: {error.kind}: {error}")
    clips_there = tuple(replace(clip, path=f"{path.name}{HDF5_SEPARATOR}{clip.clip_id}") for clip in listing.clips)
    return replace(listing, clips=clips_there)


def _order_in_words(class_order: str) -> str:
    return "sorted order" if class_order == "sorted" else "the order of the data set's own files"


def _columns(text: str | None) -> dict[str, str]:
    """`path=file,label=gesture` as a mapping.

    Raises:
        PipelineError: a part is not of the form NAME=COLUMN.
    """
    columns: dict[str, str] = {}
    for part in (text or "").split(",") if text else []:
        what, equals, name = part.partition("=")
        if not equals or not what.strip() or not name.strip():
            raise PipelineError(f"--columns must be such as path=file,label=gesture, but has '{part}'.")
        columns[what.strip()] = name.strip()
    return columns


def _draw_gestures(settings: PrepareSettings) -> Path:
    """Draw the clips of the demo, write their manifest, and return the root of its paths."""
    if settings.root is None:
        raise PipelineError(
            "`prepare gestures` needs a folder to draw into: `pipeline prepare gestures data/gestures`."
        )
    if settings.lists:
        raise PipelineError(f"`prepare gestures` draws its clips and takes no list, but was given {settings.lists[0]}.")
    if settings.pack is not None:
        raise PipelineError("`prepare gestures` draws its clips where they stay, so it takes no --pack.")
    names = [field.name for field in dataclasses.fields(GestureSettings)]
    gestures = GestureSettings(**{name: getattr(settings, name) for name in names})
    write_gestures(settings.out, settings.root, gestures, settings.workers)
    return settings.root
