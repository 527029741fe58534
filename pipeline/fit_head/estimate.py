"""Estimate the time of fits before they start, from one measured training step of each head."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from pipeline.calibration import Calibration, clock_of
from pipeline.fit_head.compute import HeadSizes, calibration_key, training_step
from pipeline.fit_head.run import HeadRun
from pipeline.heads import HEADS
from pipeline.progress import clock_text

# Fits of fewer training clips, over all epochs and fits, end before an estimate is of use.
MIN_CLIPS = 50_000
# A forward pass takes a third of the time of a training step.
SHARE_OF_SCORING = 1 / 3


def seconds_of_fit(run: HeadRun, num_train: int, num_select: int, sizes: HeadSizes, calibration: Calibration) -> float:
    """Return the seconds of one fit; each epoch trains `num_train` clips and scores `num_select`.

    A step of the head is measured once for a machine and these sizes.
    """
    if HEADS[run.head].is_closed_form:
        return 0.0
    compute, num_clips = run.compute, run.recipe.training.batch_size
    step = functools.partial(training_step, run.head, sizes, compute, num_clips, with_optimiser=True)
    key = {**calibration_key(sizes, compute.device, compute.threads), "dtype": compute.precision, "clips": num_clips}
    clock = clock_of(compute.device.type, compute.threads)
    seconds = calibration.measure(f"training of head {run.head}", key, {"step": step}, clock, is_logged=False)["step"]
    return run.recipe.training.epochs * (num_train + SHARE_OF_SCORING * num_select) * seconds / num_clips


def estimate_text(together: Mapping[str, float], alone: Mapping[str, float], slots: int) -> str:
    """Return a sentence with the seconds of each head and of all.

    together: seconds of heads whose fits run in `slots` processes at once. alone: those of the heads that follow, one
        fit at a time.
    """
    of_heads = {head: seconds / slots for head, seconds in together.items()} | dict(alone)
    heads = ", ".join(f"{head} {clock_text(seconds)}" for head, seconds in of_heads.items())
    return f"Estimated time, from a measured step of each head: {heads}; all {clock_text(sum(of_heads.values()))}."
