"""`pipeline finetune`: train backbone and head together on clips, and write a result folder."""

from __future__ import annotations

from typing import Any

import click

from pipeline.evaluation.tensorboard import check_tensorboard, write_events
from pipeline.finetune.run import finetune
from pipeline.settings.finetune import FinetuneSettings

NUM_SHOWN_FAULTS = 5


def run(settings: FinetuneSettings) -> dict[str, Any]:
    """Train end to end, print the result and return the metrics; return {} in all processes except the main one.

    Raises:
        PipelineError: data or settings are wrong.
    """
    if settings.tensorboard:
        check_tensorboard()
    result = finetune(settings)
    if result is None:
        return {}
    if settings.tensorboard:
        write_events(result.folder)
    metrics, report = result.metrics, result.metrics["report"]
    click.echo(
        f"{result.folder}: {metrics['reported_on']} top-1 {report['top1']:.2f} ({report['top1_low']:.1f} to "
        f"{report['top1_high']:.1f}), top-5 {report['top5']:.2f}, epoch {result.best_epoch}; "
        f"{metrics['num_failed']} clips failed; {result.seconds:.1f} s"
    )
    for clip_id, (_, kind, reason) in list(result.faults.items())[:NUM_SHOWN_FAULTS]:
        click.echo(f"  failed: {clip_id}, {kind}: {reason}")
    return metrics
