"""`pipeline store info/verify/export/import`: what a store holds, whether it is sound, and HDF5."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from pipeline.errors import PipelineError
from pipeline.extract.compute import device_like
from pipeline.extract.extract import extract_features
from pipeline.extract.provenance import is_there
from pipeline.manifest import Manifest, read_manifest
from pipeline.settings.extract import ExtractSettings
from pipeline.store.feature_store import FeatureStore
from pipeline.store.layout import TEST_VIEW
from pipeline.store.record import FAILED
from pipeline.store.verify import Corruption, find_corruption
from pipeline.store_command.hdf5 import export_hdf5, import_hdf5
from pipeline.store_command.hdf5_file import is_sealed
from pipeline.store_command.info import StoreInfo, describe
from pipeline.store_command.recheck import recheck

NUM_SHOWN = 20


def store_info(*, store: str | Path, as_json: bool = False) -> StoreInfo:
    """Print what a store holds."""
    info = describe(FeatureStore.open(store))
    click.echo(json.dumps({**dataclasses.asdict(info), "ratio": info.ratio}, indent=2) if as_json else info_text(info))
    return info


def store_verify(
    *,
    store: str | Path,
    repair: bool = False,
    samples: int = 3,
    manifest: str | Path | None = None,
    root: str | Path | None = None,
    weights: str | None = None,
    workers: int | None = None,
) -> list[Corruption]:
    """Compare every object with its checksum and some clips with their files; with `repair`, make anew what is damaged.

    Manifest, root and weights are those of the extraction unless given.

    Raises:
        PipelineError: something is damaged and not repaired, or clips come out otherwise.
    """
    opened = FeatureStore.open(store, "r+")
    damage = find_corruption(opened)
    for item in damage[:NUM_SHOWN]:
        click.echo(f"{item.key}: {item.what}")
    if len(damage) > NUM_SHOWN:
        click.echo(f"… and {len(damage) - NUM_SHOWN} more")
    num_objects = sum(len(record.objects) for record in opened.records.values())
    blocks = sorted({item.block for item in damage if item.block >= 0})
    click.echo(f"{store}: {num_objects:,} objects of {len(opened.records):,} blocks, {len(damage)} damaged.")
    num_done = opened.num_clips - opened.num_failed - opened.num_pending
    click.echo(
        f"{opened.num_clips:,} clips: {num_done:,} done, {opened.num_failed:,} failed, {opened.num_pending:,} pending."
    )
    if damage and not repair:
        raise PipelineError(
            f"{len(damage)} objects of {store} are damaged (blocks {', '.join(map(str, blocks)) or 'none'}). "
            "`pipeline store verify --repair` makes them anew."
        )
    source = _source(opened, manifest, root)
    weights = weights or str(opened.provenance.get("weights", opened.settings.weights["name"]))
    if damage:
        _repair(opened, damage, source, weights, workers)
    if samples:
        _recheck(FeatureStore.open(store), source, weights, samples)
    return damage


def store_export(*, store: str | Path, out: str | Path) -> None:
    """Write a store to one HDF5 file."""
    num_clips = export_hdf5(FeatureStore.open(store), Path(out))
    click.echo(f"Wrote {num_clips:,} clips to {out}.")


def store_import(*, file: str | Path, store: str | Path) -> None:
    """Make a store from an HDF5 file that `store export` wrote."""
    num_clips = import_hdf5(Path(file), str(store))
    click.echo(f"Read {num_clips:,} clips into {store}.")
    if not is_sealed(Path(file)):
        click.echo(f"{file} was written by version 0.1, without checksums: its bytes could not be checked.", err=True)


def info_text(info: StoreInfo) -> str:
    """A store in lines for a person."""
    settings, provenance = info.settings, dict(info.provenance)
    note = provenance.pop("weights_note", "")
    lines = [
        info.location,
        f"  backbone   {settings['backbone']}, {settings['weights']['name']} (sha256 {settings['weights']['sha256']})"
        + (f"; {note}" if note else ""),
        f"  features   {', '.join(settings['maps'])}; {settings['channels']} channels, "
        f"{settings['map_size']}×{settings['map_size']}; "
        + ("every frame" if settings["frames"] == "all" else f"{settings['num_segments']} segments"),
        f"  computed   {settings['compute_dtype']}, {settings['compile_mode']}, {settings['capability']}, "
        f"batches of {settings['batch_frames']} frames, transform {settings['transform_version']}",
        f"  frames     {', '.join(f'{name}={value}' for name, value in settings['frame_choices'].items())}, "
        f"seed={settings['seed']}",
        f"  classes    {len(info.classes)}",
        f"  size       {info.num_bytes / 1e6:,.1f} MB, {info.ratio:.2f} of plain float16; "
        f"{info.block_clips} clips a block",
    ]
    for split, counts in info.num_by_split.items():
        lines.append(f"  split      {split}: " + ", ".join(f"{count:,} {status}" for status, count in counts.items()))
    lines += [f"  view       {view}: {count:,} clips" for view, count in info.num_by_view.items()]
    lines += [f"  failed     {kind}: {len(ids)} ({', '.join(ids[:5])})" for kind, ids in info.failed_by_kind.items()]
    versions = provenance.pop("versions", {})
    lines.append("  from       " + ", ".join(f"{name} {text}" for name, text in {**provenance, **versions}.items()))
    return "\n".join(lines)


def _source(store: FeatureStore, manifest: str | Path | None, root: str | Path | None) -> Manifest | None:
    provenance = store.provenance
    path = Path(manifest or provenance.get("manifest", ""))
    if manifest is None and not path.is_file():
        return None
    if manifest is None and root is None and Path(provenance.get("root", "")).is_dir():
        root = provenance["root"]
    return read_manifest(path, root)


def _repair(
    store: FeatureStore, damage: list[Corruption], source: Manifest | None, weights: str, workers: int | None
) -> None:
    if source is None:
        raise PipelineError("The manifest of this store is not where it was; name it with --manifest to repair.")
    settings = store.settings
    num_draws = sum(view != TEST_VIEW for view in store.views_made())
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
        overrides=dataclasses.asdict(settings.frame_choices),
        frames=settings.frames,
        dtype=settings.compute_dtype,
        compile=settings.compile_mode,
        seed=settings.seed,
        device=device_like(settings.capability),
        # They are held to the store's SHA-256: what was allowed when it was made is so again.
        allow_squeezenet_weights=True,
        workers=workers,
    )
    summary = extract_features(source, again.store, again, damage=damage)
    click.echo(f"Made {len(blocks)} blocks anew ({summary.num_computed} clips).")
    left = find_corruption(FeatureStore.open(store.objects.location, "r+"))
    if left:
        raise PipelineError(f"Still damaged after the repair: {', '.join(item.key for item in left[:NUM_SHOWN])}.")
    if len(summary.failed) > num_failed:
        clip = summary.failed[-1]
        raise PipelineError(
            f"{len(summary.failed) - num_failed} clips of the damaged blocks could not be made again (the last: "
            f"'{clip.clip_id}', {clip.kind}: {clip.reason}). `pipeline store info` lists them."
        )


def _check_clips_are_there(store: FeatureStore, source: Manifest, blocks: set[int]) -> None:
    """Before a damaged block is forgotten, see that it can be made again.

    Raises:
        PipelineError: the file of one of its clips is not there.
    """
    location_of = {clip.clip_id: source.locate(clip) for clip in source.clips}
    needed = [clip for clip in store.table() if clip.block in blocks and clip.status != FAILED]
    absent = [clip for clip in needed if not is_there(location_of.get(clip.clip_id, ""))]
    if absent:
        where = location_of.get(absent[0].clip_id, "not in the manifest")
        raise PipelineError(
            f"{len(absent)} clips of the damaged blocks are not where they were (the first: '{absent[0].clip_id}', "
            f"{where}), so the blocks cannot be made again. Nothing has been changed. Name the place of the clips with "
            "--root, or their manifest with --manifest."
        )


def _recheck(store: FeatureStore, source: Manifest | None, weights: str, samples: int) -> None:
    if source is None:
        click.echo("No clip was computed again: the manifest is not where it was (name it with --manifest).")
        return
    found = recheck(store, source, weights=weights, num_clips=samples)
    if found.agreeing:
        click.echo(f"{len(found.agreeing)} clips computed again from their files agree (tolerance {found.tolerance}).")
    if found.absent:
        click.echo(f"Not computed again: {', '.join(found.absent)}, whose files are not where they were.")
    if found.changed:
        raise PipelineError(
            f"The files of {', '.join(found.changed)} are not those that {store.objects.location} was made from. "
            "`pipeline extract` computes them anew."
        )
    if found.differing:
        raise PipelineError(
            f"Computed again, {', '.join(found.differing)} come out otherwise than {store.objects.location} has them "
            f"(tolerance {found.tolerance}): decoder, weights or transform are not those of the extraction."
        )
