"""Summarise a store: contents, settings, origin and size."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any

from pipeline.registry import IMPORTED_PREFIX, is_imported
from pipeline.store import layout
from pipeline.store.feature_store import FeatureStore
from pipeline.store.quantise import ABOUT
from pipeline.store.record import DONE


@dataclass(frozen=True)
class StoreInfo:
    """Summary of a store.

    num_by_split: number of clips of each split by status. num_by_view: number of finished clips of each view.
    num_bytes: size of all objects of all blocks; num_raw_bytes: size of the same features as uncompressed float16.
    failed_by_kind: ids of failed clips by kind of failure.
    """

    location: str
    settings: dict[str, Any]
    provenance: dict[str, Any]
    classes: tuple[str, ...]
    block_clips: int
    num_by_split: dict[str, dict[str, int]]
    num_by_view: dict[str, int]
    num_bytes: int
    num_raw_bytes: int
    failed_by_kind: dict[str, list[str]]

    @property
    def ratio(self) -> float:
        """Size in the store divided by the size as uncompressed float16."""
        return self.num_bytes / self.num_raw_bytes if self.num_raw_bytes else 0.0


def describe(store: FeatureStore) -> StoreInfo:
    """Summarise a store from its table and records, without reading features."""
    by_split: dict[str, Counter[str]] = {}
    by_view: Counter[str] = Counter()
    failed: dict[str, list[str]] = {}
    num_frames = 0
    for clip in store.table():
        by_split.setdefault(clip.split, Counter())[clip.status] += 1
        if clip.status == DONE:
            by_view.update(clip.views)
            num_frames += clip.num_frames
        elif clip.kind:
            failed.setdefault(clip.kind, []).append(clip.clip_id)
    return StoreInfo(
        location=store.objects.location,
        settings=store.settings.as_dict(),
        provenance=store.provenance,
        classes=store.classes,
        block_clips=store.block_clips,
        num_by_split={split: dict(counts) for split, counts in by_split.items()},
        num_by_view={view: by_view[view] for view in store.views},
        num_bytes=sum(record.num_bytes for record in store.records.values()),
        num_raw_bytes=_raw_bytes(store, sum(by_view.values()), num_frames),
        failed_by_kind=failed,
    )


def info_text(info: StoreInfo) -> str:
    """Format the contents of a store as text."""
    settings, provenance = info.settings, dict(info.provenance)
    note = provenance.pop("weights_note", "")
    origin, how = _origin_lines(settings, note)
    lines = [
        info.location,
        origin,
        f"  features   {', '.join(settings['maps'])}; {settings['channels']} channels, "
        f"{settings['map_size']}×{settings['map_size']}; "
        + ("every frame" if settings["frames"] == "all" else f"{settings['num_segments']} segments")
        + (f"; int8: {ABOUT}" if "store_dtype" in settings else ""),
        *how,
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


def _origin_lines(settings: dict[str, Any], note: str) -> tuple[str, list[str]]:
    """Return a line about the network, and those about its run."""
    encoder = "; a video encoder, which mixes the frames of a clip" if settings.get("video_encoder") else ""
    if is_imported(settings["backbone"]):
        name = settings["backbone"].removeprefix(IMPORTED_PREFIX)
        return f"  imported   {name}, {settings['compute_dtype']} arrays{encoder}", []
    weights = settings["weights"]
    origin = f"  backbone   {settings['backbone']}, {weights['name']} (sha256 {weights['sha256']})"
    if "license" in weights:
        origin += f", licence {weights['license']}"
    return origin + (f"; {note}" if note else "") + encoder, [
        f"  computed   {settings['compute_dtype']}, {settings['compile_mode']}, {settings['capability']}, "
        f"batches of {settings['batch_frames']} frames, transform {settings['transform_version']}",
        f"  frames     {', '.join(f'{name}={value}' for name, value in settings['frame_choices'].items())}, "
        f"seed={settings['seed']}",
    ]


def _raw_bytes(store: FeatureStore, num_views: int, num_frames: int) -> int:
    if store.settings.frames == "all":
        return num_frames * store.settings.channels * 2
    return num_views * sum(prod(layout.row_shape(store.settings, kind)) * 2 for kind in store.settings.maps)
