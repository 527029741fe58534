"""`pipeline store import-features`: create a store from arrays that were computed elsewhere."""

from __future__ import annotations

import itertools
from collections import Counter
from importlib.metadata import version

import click
import numpy as np

from pipeline.errors import ClipError, ClipFailure, PipelineError, failure_lines
from pipeline.extract.provenance import digest_of, state_of
from pipeline.manifest import Manifest, read_manifest
from pipeline.progress import Progress
from pipeline.recipe import SamplingConfig
from pipeline.registry import IMPORTED_PREFIX
from pipeline.settings.store import StoreImportFeaturesSettings
from pipeline.store.attributes import Attributes, has_store
from pipeline.store.feature_store import FeatureStore
from pipeline.store.layout import SAMPLING_COLUMNS, TEST_VIEW
from pipeline.store.object_store import open_object_store, path_from
from pipeline.store.record import DONE, FAILED, ClipRecord
from pipeline.store.settings import StoreSettings, settings_from_dict
from pipeline.store.table import TableRow
from pipeline.store.writer import BlockBuilder, assign_rows, default_block_clips, ensure_views, write_block
from pipeline.store_command.array_layout import ArrayLayout, choose_layout
from pipeline.store_command.feature_arrays import ArrayHeader, ArraySource, open_arrays
from pipeline.store_command.new_store import new_store
from pipeline.video.views import TRANSFORM_VERSION

NOT_KNOWN = "unknown"  # how the features were computed


def store_import_features(settings: StoreImportFeaturesSettings) -> None:
    """Import the arrays of a manifest's clips; a clip whose array cannot be used is recorded with its reason.

    Raises:
        PipelineError: no array can be used, most have a shape that is not that of features, or a store exists.
    """
    if has_store(open_object_store(settings.store)) and not settings.rebuild:
        raise PipelineError(f"A store exists already at {settings.store}. Pass --rebuild to replace it.")
    manifest = read_manifest(settings.manifest)
    with open_arrays(settings.features, settings.key) as arrays:
        headers = _headers(arrays, manifest)
        if not headers:
            first = manifest.clips[0].clip_id
            raise PipelineError(
                f"None of the {len(manifest.clips):,} clips of {manifest.path} has an array in {settings.features}. "
                f"{_reason(arrays, first)}"
            )
        shapes = [header.shape for header in headers.values()]
        wants_maps = "spatial" in settings.maps
        layout = choose_layout(shapes, settings.frames == "all", wants_maps, settings.class_tokens)
        attributes = _attributes(settings, manifest, layout, list(headers.values()))
        with new_store(settings.store, attributes) as store:
            failed = _fill(store, arrays, manifest, layout)
            if len(failed) == len(manifest.clips):
                raise PipelineError(f"None of the arrays in {settings.features} can be used. {failed[0].reason}")
    click.echo(_summary(settings, manifest, store, failed))


def _headers(arrays: ArraySource, manifest: Manifest) -> dict[str, ArrayHeader]:
    """Read the headers of the arrays that have one."""
    headers = {}
    for clip in manifest.clips:
        try:
            headers[clip.clip_id] = arrays.header(clip.clip_id)
        except ClipError:
            continue  # `_fill` records the reason
    return headers


def _reason(arrays: ArraySource, clip_id: str) -> str:
    try:
        arrays.header(clip_id)
    except ClipError as error:
        return str(error)
    return ""


def _attributes(
    settings: StoreImportFeaturesSettings, manifest: Manifest, layout: ArrayLayout, headers: list[ArrayHeader]
) -> Attributes:
    location = settings.store
    dtype = Counter(header.dtype.name for header in headers).most_common(1)[0][0]
    name = settings.name or settings.features.resolve().stem
    values = StoreSettings(
        backbone=IMPORTED_PREFIX + name,
        weights={"name": "imported", "sha256": ""},
        compute_dtype=dtype,
        capability=NOT_KNOWN,
        compile_mode=NOT_KNOWN,
        batch_frames=1,
        transform_version=TRANSFORM_VERSION,
        frame_choices=SamplingConfig(),
        num_segments=layout.num_segments,
        seed=0,
        maps=("pooled", "spatial") if layout.has_maps else ("pooled",),
        channels=layout.channels,
        map_size=layout.map_size,
        preprocessing={},
        frames="all" if layout.has_all_frames else "segments",
        video_encoder=settings.video_encoder,
    )
    try:
        settings_from_dict(values.as_dict())
    except ValueError as error:
        raise PipelineError(f"The arrays of {settings.features} are too large for a store: {error}.") from error
    provenance = {
        "features": path_from(location, settings.features),
        "manifest": path_from(location, manifest.path),
        "root": path_from(location, manifest.root),
        **({"note": settings.note} if settings.note else {}),
        "versions": {"numpy": version("numpy")},
    }
    return Attributes(values, manifest.classes, default_block_clips(len(manifest.clips)), provenance)


def _fill(store: FeatureStore, arrays: ArraySource, manifest: Manifest, layout: ArrayLayout) -> list[ClipRecord]:
    """Write every clip of the manifest, block by block, and return the failed ones."""
    assign_rows(store, manifest.clips)
    ensure_views(store, () if layout.has_all_frames else (TEST_VIEW,))
    size = store.block_clips
    failed: list[ClipRecord] = []
    with Progress("import", len(manifest.clips)) as progress:
        in_order = sorted(store.rows, key=lambda row: row.row)
        for block, rows in itertools.groupby(in_order, key=lambda row: row.row // size):
            builder = BlockBuilder(store.settings, block, size, (TEST_VIEW,), store.attributes.fingerprint)
            records = []
            for row in rows:
                records.append(_add(builder, row, arrays, layout, manifest.class_index(row.label)))
                progress.advance()
            write_block(store.objects, builder, records, None)
            failed += [record for record in records if record.status == FAILED]
    store.reload()
    return failed


def _add(
    builder: BlockBuilder, row: TableRow, arrays: ArraySource, layout: ArrayLayout, class_index: int
) -> ClipRecord:
    """Add the array of one clip to its block, and return its record."""
    offset = row.row % builder.block_clips
    record = ClipRecord(offset, row.clip_id, row.label, DONE, -1, "", -1)
    try:
        location = arrays.location(row.clip_id)
        state = state_of(location)
        record = record._replace(size=state.size, modified_ns=state.modified_ns)
        layout.check(arrays.header(row.clip_id).shape, location)
        record = record._replace(digest=digest_of(location))
        pooled, maps = layout.convert(arrays.read(row.clip_id), location)
    except ClipError as error:
        return record._replace(status=FAILED, kind=error.kind, reason=str(error))
    if layout.has_all_frames:
        builder.add_frames(offset, pooled)
    else:
        box = (0,) * (len(SAMPLING_COLUMNS) - 1)
        builder.add(
            offset, TEST_VIEW, pooled, maps, np.array((*range(len(pooled)), *box, class_index), dtype=np.float64)
        )
    return record._replace(num_frames=len(pooled))


def _summary(
    settings: StoreImportFeaturesSettings, manifest: Manifest, store: FeatureStore, failed: list[ClipRecord]
) -> str:
    values = store.settings
    shape = "every frame" if values.frames == "all" else f"{values.num_segments} segments"
    size = f", maps of {values.map_size}×{values.map_size}" if "spatial" in values.maps else ""
    told = (
        f"{settings.store}: {len(manifest.clips):,} clips, {len(failed):,} failed; {values.backbone}, {shape} of "
        f"{values.channels:,} channels{size}, from {settings.features}."
    )
    failures = [ClipFailure(record.clip_id, record.kind, record.reason) for record in failed]
    return "\n".join([told, *failure_lines(failures)])
