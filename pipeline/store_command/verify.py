"""`pipeline store verify`: compare a store with its checksums and its clips, and repair damaged blocks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from pipeline.backbones.preprocessing import stated_input_size
from pipeline.errors import PipelineError
from pipeline.extract.compute import device_like
from pipeline.extract.extract import extract_features
from pipeline.extract.provenance import clip_exists
from pipeline.manifest import Manifest, read_manifest
from pipeline.registry import is_imported
from pipeline.settings.extract import ExtractSettings
from pipeline.settings.store import StoreVerifySettings
from pipeline.store.feature_store import FeatureStore
from pipeline.store.layout import TEST_VIEW
from pipeline.store.locks import writer_lock
from pipeline.store.object_store import ObjectStore
from pipeline.store.record import FAILED
from pipeline.store.verify import Corruption, find_corruption
from pipeline.store_command.recheck import recheck

NUM_SHOWN = 20


def store_verify(settings: StoreVerifySettings) -> list[Corruption]:
    """Compare every object with its checksum and a sample of clips with their files; repair damage on request.

    Manifest, root and weights default to those of the extraction.

    Raises:
        PipelineError: something is damaged and not repaired, or clips give other features when computed again.
    """
    store = FeatureStore.open(settings.store, "r+")
    damage = find_corruption(store)
    _print_damage(store, damage)
    if settings.repair and not damage:
        _remove_parts(store.objects)
    if is_imported(store.settings.backbone):
        if damage:
            raise PipelineError(
                f"{len(damage)} objects of {settings.store} are damaged. Its features were imported, so they cannot be "
                "computed again: run `pipeline store import-features` again with --rebuild."
            )
        return damage
    if damage and not settings.repair:
        blocks = sorted({item.block for item in damage if item.block >= 0})
        raise PipelineError(
            f"{len(damage)} objects of {settings.store} are damaged (blocks {', '.join(map(str, blocks)) or 'none'}). "
            "Run `pipeline store verify --repair` to compute them again."
        )
    source = _source(store, settings)
    weights = settings.weights or str(store.provenance.get("weights", store.settings.weights["name"]))
    if damage:
        _repair(store, damage, source, weights, settings.workers)
    if settings.samples:
        _recheck(FeatureStore.open(settings.store), source, weights, settings.samples)
    return damage


def _remove_parts(objects: ObjectStore) -> None:
    """Remove incomplete files, which a repair leaves if it is killed after its last block."""
    if objects.parts():
        with writer_lock(objects):
            objects.remove_parts()


def _print_damage(store: FeatureStore, damage: list[Corruption]) -> None:
    for item in damage[:NUM_SHOWN]:
        click.echo(f"{item.key}: {item.what}")
    if len(damage) > NUM_SHOWN:
        click.echo(f"… and {len(damage) - NUM_SHOWN} more")
    num_objects = sum(len(record.objects) for record in store.records.values())
    click.echo(
        f"{store.objects.location}: {num_objects:,} objects of {len(store.records):,} blocks, {len(damage)} damaged."
    )
    num_done = store.num_clips - store.num_failed - store.num_pending
    click.echo(
        f"{store.num_clips:,} clips: {num_done:,} done, {store.num_failed:,} failed, {store.num_pending:,} pending."
    )


def _source(store: FeatureStore, settings: StoreVerifySettings) -> Manifest | None:
    """Read the manifest of the store's clips; return None if it was not given and is not where it was recorded."""
    recorded = store.provenance
    path, root = settings.manifest or Path(recorded.get("manifest", "")), settings.root
    if settings.manifest is None:
        if not path.is_file():
            return None
        if root is None and Path(recorded.get("root", "")).is_dir():
            root = Path(recorded["root"])
    return read_manifest(path, root)


def _repair(
    store: FeatureStore, damage: list[Corruption], source: Manifest | None, weights: str, workers: int | None
) -> None:
    if source is None:
        raise PipelineError(
            "The manifest of this store is not at its recorded path; give it with --manifest to repair the store."
        )
    settings = store.settings
    num_draws = sum(view != TEST_VIEW for view in store.array_views())
    blocks = {item.block for item in damage if item.block >= 0}
    _check_clips_are_there(store, source, blocks)
    num_failed = store.num_failed
    again = ExtractSettings(
        manifest=source.path,
        root=source.root,
        store=store.objects.location,
        backbone=settings.backbone,
        weights=weights,
        num_segments=settings.num_segments or 1,
        views=num_draws,
        maps=settings.maps,
        map_size=settings.map_size,
        store_dtype=settings.store_dtype,
        input_size=stated_input_size(settings.preprocessing),
        overrides=dataclasses.asdict(settings.frame_choices),
        frames=settings.frames,
        dtype=settings.compute_dtype,
        compile=settings.compile_mode,
        seed=settings.seed,
        device=device_like(settings.capability),
        # The SHA-256 in the store identifies the weights, so the exception granted at extraction applies again.
        allow_squeezenet_weights=True,
        workers=workers,
    )
    summary = extract_features(source, again.store, again, damage=damage)
    click.echo(f"Computed {len(blocks)} blocks again ({summary.num_computed} clips).")
    left = find_corruption(FeatureStore.open(store.objects.location, "r+"))
    if left:
        raise PipelineError(f"The repair left damaged objects: {', '.join(item.key for item in left[:NUM_SHOWN])}.")
    if len(summary.failed) > num_failed:
        clip = summary.failed[-1]
        raise PipelineError(
            f"{len(summary.failed) - num_failed} clips of the damaged blocks could not be computed again (the last: "
            f"'{clip.clip_id}', {clip.kind}: {clip.reason}). `pipeline store info` lists them."
        )


def _check_clips_are_there(store: FeatureStore, source: Manifest, blocks: set[int]) -> None:
    """Check that the clips of damaged blocks exist, before the records of those blocks are deleted.

    Raises:
        PipelineError: a clip file is missing.
    """
    location_of = {clip.clip_id: source.locate(clip) for clip in source.clips}
    needed = [clip for clip in store.table() if clip.block in blocks and clip.status != FAILED]
    absent = [clip for clip in needed if not clip_exists(location_of.get(clip.clip_id, ""))]
    if absent:
        where = location_of.get(absent[0].clip_id, "not in the manifest")
        raise PipelineError(
            f"{len(absent)} clips of the damaged blocks are missing (the first: '{absent[0].clip_id}', {where}), so "
            "the blocks cannot be computed again. Nothing was changed. Give the folder with --root, or the manifest "
            "with --manifest."
        )


def _recheck(store: FeatureStore, source: Manifest | None, weights: str, samples: int) -> None:
    if source is None:
        click.echo("No clip was computed again: the manifest is not at its recorded path (give it with --manifest).")
        return
    found = recheck(store, source, weights=weights, num_clips=samples)
    if found.agreeing:
        click.echo(f"{len(found.agreeing)} clips computed again from their files agree (tolerance {found.tolerance}).")
    if found.absent:
        click.echo(f"Not computed again: {', '.join(found.absent)}, whose files are missing.")
    if found.changed:
        raise PipelineError(
            f"The files of {', '.join(found.changed)} have changed since {store.objects.location} was written. Run "
            "`pipeline extract` to compute them again."
        )
    if found.differing:
        raise PipelineError(
            f"Features of {', '.join(found.differing)}, computed again, differ from those in {store.objects.location} "
            f"(tolerance {found.tolerance}): decoder, weights or transform are not those of the extraction."
        )
