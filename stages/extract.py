"""`pipeline extract`: extract the features of a manifest's clips into a store."""

from __future__ import annotations

import click

from pipeline.errors import ClipFailure, PipelineError, failure_lines
from pipeline.extract.extract import ExtractionSummary, extract_features
from pipeline.manifest import read_manifest
from pipeline.settings.extract import ExtractSettings


def run(settings: ExtractSettings) -> ExtractionSummary:
    """Extract features into the store and print a summary.

    Raises:
        PipelineError: data or settings are wrong, or more than `max_failed` clips failed.
    """
    summary = extract_features(read_manifest(settings.manifest, settings.root), settings.store, settings)
    click.echo(summary_text(summary))
    if len(summary.failed) == summary.num_clips:
        raise PipelineError(
            f"None of the {summary.num_clips} clips of {settings.manifest} could be used; see the reasons above."
        )
    return summary


def summary_text(summary: ExtractionSummary) -> str:
    """Return a summary of the extraction and of the store, with the failed clips by reason."""
    settings = summary.settings
    rate = summary.num_computed / max(summary.seconds, 1e-9)
    segments = "every frame" if settings.frames == "all" else f"{settings.num_segments} segments"
    lines = [
        f"{summary.location}: {summary.num_clips:,} clips, {len(summary.failed)} failed; "
        f"{settings.backbone} ({settings.weights['name']}), {segments}, {settings.compute_dtype}, "
        f"{settings.compile_mode}; views {', '.join(summary.views) or 'none'}.",
        f"Computed {summary.num_computed:,} clips, {summary.num_frames:,} frames, {summary.num_bytes / 1e6:+,.1f} "
        f"MB in the store, {summary.seconds:,.1f} s with start ({rate:,.1f} clips/s, "
        f"{summary.num_workers or 'no'} worker processes); {summary.num_checked_again} finished ones checked again.",
    ]
    lines += failure_lines([ClipFailure(clip.clip_id, clip.kind, clip.reason) for clip in summary.failed])
    return "\n".join(lines)
