"""`pipeline extract`: the clips of a manifest -> features in a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.errors import PipelineError
from pipeline.extract import ExtractionRequest, ExtractionSummary, extract_features
from pipeline.manifest import read_manifest
from pipeline.recipe import named_recipe

NUM_EXAMPLES = 5


def extract(
    *,
    manifest: str | Path,
    store: str | Path,
    backbone: str = "squeezenet",
    weights: str = "bundled",
    num_segments: int = 8,
    views: int = 4,
    maps: str | Sequence[str] = ("pooled", "spatial"),
    root: str | Path | None = None,
    recipe: str = "cached",
    switches: Mapping[str, Any] | None = None,
    flip: str | None = None,
    frames: str = "segments",
    dtype: str = "auto",
    compile: str = "auto",
    seed: int = 0,
    allow_squeezenet_weights: bool = False,
    max_failed: int | None = None,
    rebuild: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    decode_threads: int | None = None,
    device: str = "cpu",
) -> ExtractionSummary:
    """Fill the store and print what was done; `switches` are choices of frames that differ from the recipe's.

    Raises:
        PipelineError: anything that the user can mend; more failed clips than `max_failed` among them.
    """
    changes = {**(switches or {}), **({} if flip is None else {"flip": flip})}
    choices = named_recipe(recipe).changed(**changes).frames
    request = ExtractionRequest(
        backbone=backbone,
        weights=weights,
        num_segments=num_segments,
        num_draws=views,
        maps=tuple(maps.split(",")) if isinstance(maps, str) else tuple(maps),
        frame_choices=choices,
        frames=frames,
        dtype=dtype,
        compile_mode=compile,
        seed=seed,
        device=device,
        allow_squeezenet_weights=allow_squeezenet_weights,
        max_failed=max_failed,
        rebuild=rebuild,
        num_workers=workers,
        scheduler=scheduler,
        decode_threads=decode_threads,
    )
    summary = extract_features(read_manifest(manifest, root), str(store), request)
    for sentence in summary.said:
        click.echo(sentence, err=True)
    click.echo(summary_text(summary))
    if len(summary.failed) == summary.num_clips:
        raise PipelineError(
            f"Not one of the {summary.num_clips} clips of {manifest} could be used; see the reasons above."
        )
    return summary


def summary_text(summary: ExtractionSummary) -> str:
    """What was done and what the store holds, with the failed clips by reason."""
    settings = summary.settings
    segments = "every frame" if settings.frames == "all" else f"{settings.num_segments} segments"
    lines = [
        f"{summary.location}: {summary.num_clips:,} clips, {len(summary.failed)} failed; "
        f"{settings.backbone} ({settings.weights['name']}), {segments}, {settings.compute_dtype}, "
        f"{settings.compile_mode}; views {', '.join(summary.views) or 'none'}.",
        f"Computed {summary.num_computed:,} clips, {summary.num_frames:,} frames, {summary.num_bytes / 1e6:+,.1f} "
        f"MB in the store, {summary.seconds:,.1f} s ({summary.num_computed / max(summary.seconds, 1e-9):,.1f} clips/s, "
        f"{summary.num_workers or 'no'} worker processes); {summary.num_checked_again} finished ones checked again.",
    ]
    for kind, count in Counter(clip.kind for clip in summary.failed).most_common():
        lines.append(f"Failed, {kind}: {count}")
        examples = [clip for clip in summary.failed if clip.kind == kind][:NUM_EXAMPLES]
        lines += [f"  {clip.clip_id}: {clip.reason}" for clip in examples]
        lines += [f"  … and {count - NUM_EXAMPLES} more"] if count > NUM_EXAMPLES else []
    return "\n".join(lines)
