"""`pipeline train-bundled`: train the bundled weights again, without any external data."""

from __future__ import annotations

import click
import torch

from pipeline.backbones.weights import BUNDLED_FOLDER
from pipeline.bundled.train import BundledSettings, BundledSummary, train_bundled
from pipeline.settings.bundled import TrainBundledSettings


def train_bundled_weights(settings: TrainBundledSettings) -> BundledSummary:
    """Train until the schedule or the time limit ends; the same call resumes from the checkpoint.

    Raises:
        PipelineError: the checkpoint belongs to other settings.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        summary = train_bundled(
            settings.out or BUNDLED_FOLDER / "squeezenet.safetensors",
            settings.checkpoint,
            BundledSettings(seed=settings.seed),
            minutes=settings.minutes,
            device=settings.device,
        )
    finally:
        torch.set_num_threads(before)
    click.echo(
        f"{summary.out}: {summary.steps_done:,} of {summary.num_steps:,} steps in {summary.seconds / 60:.1f} min"
    )
    errors = ", ".join(f"{name} {error:.3f}" for name, error in summary.errors.items())
    click.echo(
        f"mean absolute errors on held-out stills: {errors}; largest activation {summary.largest_activation:.1f}"
    )
    if not summary.is_finished:
        click.echo(f"Stopped at the time limit: the same command resumes from {settings.checkpoint}.")
    return summary
