"""Search the settings of a training: each trial trains one seed and is judged by the selection clips alone."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DivergenceError, PipelineError
from pipeline.finetune.best import load_selected
from pipeline.finetune.opening import open_tuner
from pipeline.finetune.prepared import CommonSetup, prepare_training
from pipeline.finetune.scoring import ScoredClips
from pipeline.finetune.trainer import Finetuner
from pipeline.params import settings_text
from pipeline.recipe import HeadConfig
from pipeline.search.curve import CURVE_DECIMALS, Curve
from pipeline.search.kept import keep_curve, read_kept_curves, trial_name
from pipeline.search.search import search_trials
from pipeline.search.trials import Trial, read_curves
from pipeline.settings.finetune import FinetuneSettings
from pipeline.settings.search import Search

logger = logging.getLogger(__name__)

StartScores = dict[tuple[HeadConfig, int], ScoredClips]
"""Scores of the initial weights on the selection clips, by the options of the head and the clips of a batch."""


@dataclass(frozen=True)
class TrainingTrial:
    """The training of one trial, to `num_epochs` or to the end. settings: those with the setting of the trial."""

    number: int
    setting: Mapping[str, Any]
    settings: FinetuneSettings
    digest: str
    num_epochs: int | None = None

    def until(self, num_epochs: int | None) -> TrainingTrial:
        return dataclasses.replace(self, num_epochs=num_epochs)


def search_settings(settings: FinetuneSettings, search: Search, common: CommonSetup) -> list[Trial]:
    """Run the trials of a search one after another; finished ones are not run again, except with `force`.

    Raises:
        PipelineError: there are several processes, or data or settings are wrong.
    """
    if common.world.size > 1:
        raise PipelineError(
            f"A search runs in one process, and there are {common.world.size}. Search without torchrun, and then "
            "train the chosen setting with it, as options instead of --search."
        )
    first = prepare_training(settings, common)
    if settings.force:
        clear_trials(first.checkpoints)
    known = {**({} if settings.force else read_curves(first.folder)), **read_kept_curves(first.checkpoints)}
    starts: StartScores = {}

    def make_trial(number: int, setting: dict[str, Any]) -> TrainingTrial:
        own = dataclasses.replace(settings, overrides={**settings.overrides, **setting})
        return TrainingTrial(number, setting, own, prepare_training(own, common).digest)

    steps = search_trials(search, first.recipe.training.epochs, make_trial, known)
    curves: Sequence[Curve] | None = None
    while True:
        try:
            batch = next(steps) if curves is None else steps.send(curves)
        except StopIteration as stop:
            trials: list[Trial] = stop.value
            return trials
        curves = [_run_trial(trial, search, common, starts, first.checkpoints) for trial in batch]


def clear_trials(checkpoints: Path) -> None:
    """Delete checkpoints and curves of all trials."""
    for path in checkpoints.glob("trial-*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _run_trial(
    trial: TrainingTrial, search: Search, common: CommonSetup, starts: StartScores, checkpoints: Path
) -> Curve:
    """Train a trial from its last checkpoint, and keep its curve; a divergence is a part of the curve.

    Raises:
        PipelineError: for another reason than the setting, such as too little memory; the next run continues.
    """
    name = trial_name(trial.digest)
    logger.info(f"trial {trial.number} of {search.num_trials}: {settings_text(trial.setting)}")
    prepared = prepare_training(trial.settings, common)
    with open_tuner(prepared, common, name) as tuner:
        try:
            if not tuner.resume():
                tuner.checkpoints.clear()
            tuner.run(trial.num_epochs)
            curve = _curve(tuner, starts)
        except DivergenceError as error:
            curve = _curve(tuner, starts, str(error))
    logger.info(f"trial {trial.number}: {curve.summary()}")
    keep_curve(checkpoints, trial.digest, curve)
    if curve.is_over or curve.failure:
        shutil.rmtree(checkpoints / name, ignore_errors=True)
    return curve


def _curve(tuner: Finetuner, starts: StartScores, failure: str = "") -> Curve:
    """Return the selection scores by epoch, and those of the chosen weights if the training has ended."""
    history = [record for record in tuner.state.history if record.epoch > 0]
    is_over = tuner.schedule.is_over and not failure
    mixed = None
    if is_over and tuner.training_plan.recipe.finetune.interpolate == "start":
        key = tuner.training_plan.recipe.head, tuner.step.part_size
        load_selected(tuner, starts.get(key))
        assert tuner.interpolation is not None
        starts.setdefault(key, tuner.interpolation.scored_start)
        top1, loss = tuner.interpolation.curve[tuner.interpolation.alpha]
        mixed = tuner.interpolation.alpha, round(top1, CURVE_DECIMALS), round(loss, CURVE_DECIMALS)
    return Curve(
        tuple(round(record.select_top1 or 0.0, CURVE_DECIMALS) for record in history),
        tuple(round(record.select_loss or 0.0, CURVE_DECIMALS) for record in history),
        is_over,
        round(tuner.state.seconds(), 3),
        failure,
        mixed,
    )
