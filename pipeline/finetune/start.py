"""Start a training end to end: resume from a checkpoint, or score the initial model."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from pipeline.evaluation.metrics import hits
from pipeline.evaluation.result_writer import MODEL_FILE
from pipeline.finetune.cache_check import cache_against_clips, cached_predictions
from pipeline.finetune.scoring import ScoredClips
from pipeline.finetune.trainer import Finetuner
from pipeline.recipe import SamplingConfig

logger = logging.getLogger(__name__)

# Value of `init` for a training from scratch.
NONE = "none"


def begin(tuner: Finetuner, init: str, force: bool) -> ScoredClips | None:
    """Resume from a checkpoint, or score the initial model and compare it with the results of `fit-head`."""
    if not force and tuner.choices.epochs > 0 and tuner.resume():
        return None
    tuner.world.barrier()  # all processes have finished looking for a checkpoint
    if tuner.world.is_main and tuner.choices.epochs > 0:
        tuner.checkpoints.clear()
    frames = tuner.classifier.spec.recipe["frames"] if init != NONE else None
    samples = tuner.data.samples
    if frames is not None:
        # Use exactly the frames of the cache, even if the recipe samples short clips differently.
        samples = dataclasses.replace(samples, choices=SamplingConfig(**frames))
    data = tuner.data
    if tuner.choices.epochs == 0:
        start = tuner.score(data.report, samples)
        tuner.start_without_epochs(start)
    else:
        start = tuner.score(data.select, samples)
        tuner.start(start)
        if data.report is not data.select and init != NONE:
            # `fit-head` wrote the scores of the reported clips. They are compared here and select nothing.
            start = tuner.score(data.report, samples)
    if init != NONE:
        tuner.start_correct = dict(
            zip(start.clip_ids, hits(start.scores, start.labels).astype(int).tolist(), strict=True)
        )
    top1 = start.metrics()["top1"]
    cached = cached_predictions(Path(init).parent) if init != NONE else None
    if cached is None:
        logger.info(
            f"start: top-1 {top1:.2f} on the clips"
            + (f"; no cached scores in the folder of {init}" if init != NONE else "")
        )
        return start
    report = cache_against_clips(cached, start)
    if report is None:
        logger.info(f"start: top-1 {top1:.2f} on the clips; {MODEL_FILE} was not validated on any of them")
        return start
    logger.info(f"start: cached top-1 {report['cached_top1']:.2f}, now top-1 {top1:.2f} on the clips")
    logger.info(
        f"cache against end-to-end: {report['num_clips']} clips, largest difference of a score "
        f"{report['largest_difference']:.4f} (scores reach {report['largest_score']:.2f}), mean "
        f"{report['mean_difference']:.4f}; {report['num_other_class']} clips get another class"
    )
    tuner.start_report = report
    return start
