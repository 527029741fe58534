"""`pipeline prepare`: write a validated manifest of clips on disk, or draw the clips of the demo."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from pipeline.errors import PipelineError
from pipeline.manifest import Manifest, classes_path, read_manifest
from pipeline.prepare.csv_table import parse_columns
from pipeline.prepare.flip_policy import flip_policy
from pipeline.prepare.gestures.data_set import GestureSettings, write_gestures
from pipeline.prepare.listing import Listing, ListingRequest
from pipeline.prepare.middle_frames import report_look_alikes
from pipeline.prepare.subset import subset_of
from pipeline.prepare.write_listing import write_listing
from pipeline.registry import DATA_SETS, FEATURES, LazyTable
from pipeline.settings.prepare import PrepareSettings

logger = logging.getLogger(__name__)

# Functions that list the clips of a data set, by its name.
LISTERS: Mapping[str, Callable[[ListingRequest], Listing]] = LazyTable("data sets", DATA_SETS)


def run(settings: PrepareSettings) -> Manifest:
    """Write the manifest of a data set and read it back.

    With `pack`, folders of frames are copied into that HDF5 file and the manifest names its clips; its folder is then
    their root.

    Raises:
        PipelineError: an argument is missing or superfluous, or the manifest is not valid.
    """
    out = settings.out
    if settings.classes is not None and settings.classes != classes_path(out):
        raise PipelineError(
            f"The class file of {out} is always {classes_path(out)}, so it cannot be {settings.classes}."
        )
    where, is_drawn = (_draw_gestures(settings), False) if settings.dataset == "gestures" else _list_clips(settings)
    manifest = read_manifest(out, where)
    if is_drawn:
        report_look_alikes(manifest)
    counts = ", ".join(f"{split} {len(manifest.in_split(split)):,}" for split in manifest.splits)
    unlabelled = sum(not clip.is_labelled for clip in manifest.clips)
    without = f", {unlabelled:,} without a label" if unlabelled else ""
    click.echo(
        f"{out}: {len(manifest.clips):,} clips ({counts}{without}) of {len(manifest.classes):,} classes, root {where}"
    )
    click.echo(flip_policy(manifest.classes))
    return manifest


def _list_clips(settings: PrepareSettings) -> tuple[Path, bool]:
    """List clips on disk and write the manifest; return the root of its paths, and whether splits were drawn."""
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
        columns=parse_columns(settings.columns),
        group_by=settings.group_by,
        labels=settings.labels,
        takes_file=settings.dataset == FEATURES,
    )
    listing = LISTERS[settings.dataset](request)
    if settings.subset is not None:
        listing = subset_of(listing, settings.subset)
    return write_listing(listing, request, settings.out, settings.pack), listing.is_drawn


def _draw_gestures(settings: PrepareSettings) -> Path:
    """Draw the clips of the demo, write their manifest, and return the root of its paths."""
    if settings.root is None:
        raise PipelineError(
            "`prepare gestures` needs a folder to draw into: `pipeline prepare gestures data/gestures`."
        )
    if settings.lists:
        raise PipelineError(
            f"`prepare gestures` draws its clips and accepts no list, but was given {settings.lists[0]}."
        )
    if settings.pack is not None:
        raise PipelineError("`prepare gestures` cannot pack its clips: omit --pack.")
    names = [field.name for field in dataclasses.fields(GestureSettings)]
    gestures = GestureSettings(**{name: getattr(settings, name) for name in names})
    write_gestures(settings.out, settings.root, gestures, settings.workers)
    return settings.root
