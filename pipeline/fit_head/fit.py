"""Fit one head on cached features: one seed, one recipe, best epoch by the selection clips, resumable after a kill."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.backbones import backbone_contract
from pipeline.devices import fixed_threads
from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import compute_metrics, fit_temperature
from pipeline.evaluation.result_writer import SeedResult, Selection, write_running
from pipeline.fit_head.features import FeatureDataset, batches
from pipeline.fit_head.scoring import order_test_scores, score_features
from pipeline.heads import build_head
from pipeline.heads.head import Head
from pipeline.recipe import Recipe, TrainConfig
from pipeline.registry import is_imported
from pipeline.runtime import Runtime
from pipeline.search.curve import CURVE_DECIMALS, Curve
from pipeline.training.checkpoint import read_checkpoint, write_checkpoint
from pipeline.training.loss import balanced_weights
from pipeline.training.optimiser import (
    build_optimiser,
    clear_gradients,
    clip_gradients,
    plan_parameters,
    set_rates,
)
from pipeline.training.schedule import Schedule
from pipeline.training.state import TrainingState

logger = logging.getLogger(__name__)

STEPS_BETWEEN_CHECKS = 50
# Training has diverged if the mean loss of an epoch is this many times that of the first epoch, or that of a uniform
# guess if it is larger. (TRN sums the scores of 247 tuples; it may start at 30 times a guess and still learn.)
DIVERGENCE_FACTOR = 10.0
# Before this number of steps, a loss may rise sharply and fall again.
GRACE_STEPS = 100
CHECKPOINT_SECONDS = 10.0


@dataclass(frozen=True)
class HeadDataset:
    """Features of the clips that train a head, and the sizes of a head that reads them.

    select: features of the clips that select the best epoch. report: features of the clips that are scored at that
    epoch; the same object as `select` if one split is both.
    """

    train: FeatureDataset
    select: FeatureDataset
    report: FeatureDataset
    num_classes: int
    num_segments: int
    in_channels: int
    backbone: str


@dataclass(frozen=True, kw_only=True)
class FitResult(SeedResult):
    """A fitted head at its best epoch, with its scores of the reported clips."""

    head: Head
    num_resumed_epochs: int = 0


OnBatch = Callable[[int, str | None], None]
"""Called with the number of clips of each batch, and with a note at the end of an epoch."""


def _ignore_batch(num_clips: int, note: str | None) -> None:
    """Ignore the progress of a fit."""


def fit_head(
    data: HeadDataset,
    head_name: str,
    recipe: Recipe,
    seed: int,
    compute: Runtime,
    *,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    digest: str = "",
    on_batch: OnBatch = _ignore_batch,
) -> FitResult:
    """Fit a head. The result depends only on the arguments, not on earlier fits or on `on_batch`.

    With `checkpoint`, the state is saved there after an epoch, at most every `checkpoint_seconds`. A checkpoint with
    the same `digest` is resumed, with the same result as without the interruption.

    Raises:
        PipelineError: the loss diverges or is not finite, or a parameter is in no optimiser group.
    """
    with _reproducible(seed, compute):
        fit = _Fit(data, head_name, recipe, seed, compute, on_batch)
        fit.train(checkpoint, checkpoint_seconds, digest)
        return fit.result()


def fit_trial(
    data: HeadDataset,
    head_name: str,
    recipe: Recipe,
    seed: int,
    compute: Runtime,
    *,
    num_epochs: int | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    digest: str = "",
    on_batch: OnBatch = _ignore_batch,
) -> Curve:
    """Fit a head as `fit_head` does, but score only the selection clips, for `num_epochs` or to the end.

    A fit that stops before its last epoch leaves a checkpoint. A diverging fit returns its curve with the reason.
    """
    with _reproducible(seed, compute):
        fit = _Fit(data, head_name, recipe, seed, compute, on_batch)
        try:
            fit.train(checkpoint, checkpoint_seconds, digest, num_epochs)
        except PipelineError as error:
            return fit.curve(str(error))
        return fit.curve()


@contextmanager
def _reproducible(seed: int, compute: Runtime) -> Iterator[None]:
    """Seed torch and set its threads for one fit, and restore both."""
    devices = [compute.device] if compute.device.type == "cuda" else []
    with fixed_threads(compute.threads), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


class _Fit:
    """State of one fit between epochs."""

    def __init__(
        self, data: HeadDataset, head_name: str, recipe: Recipe, seed: int, compute: Runtime, on_batch: OnBatch
    ) -> None:
        self.data, self.seed, self.compute, self.on_batch = data, seed, compute, on_batch
        self.choices: TrainConfig = recipe.training
        self.name = f"{head_name}, seed {seed}"
        # Initialise on the CPU, so that every device starts from the same weights.
        head = build_head(
            head_name,
            in_channels=data.in_channels,
            num_segments=data.num_segments,
            num_classes=data.num_classes,
            choices=recipe.head,
        )
        if recipe.head.input_scaling != "none":
            head.set_input_scaling(*data.train.channel_statistics(compute.num_loaders))
        self.head: Head = head.to(compute.device)
        parts: dict[str, tuple[nn.Module, float]] = {"head": (self.head, self.choices.lr)}
        self.plan = plan_parameters(parts, self.choices, _num_norms(data, self.choices))
        for line in self.plan.lines():
            logger.debug(f"{self.name}: {line}")
        self.optimiser = build_optimiser(self.plan, self.choices)
        self.schedule = Schedule(self.choices)
        self.state = TrainingState(self.head, self.plan, self.optimiser, self.schedule)
        self.criterion = _criterion(data, self.choices, compute)
        self.best: dict[str, Any] = {}
        self.num_resumed_epochs = 0

    def train(
        self, checkpoint: Path | None, checkpoint_seconds: float, digest: str, num_epochs: int | None = None
    ) -> None:
        """Train to the end of the schedule, or pause after `num_epochs`; start from the checkpoint if there is one."""
        if self.head.is_closed_form:
            self._fit_closed_form()
            return
        if checkpoint is not None:
            self.resume(checkpoint, digest)
        saved_at_seconds = time.monotonic()
        while not self.schedule.is_over and (num_epochs is None or self.state.epoch < num_epochs):
            self.run_epoch()
            is_pause = self.state.epoch == num_epochs and not self.schedule.is_over
            is_due = time.monotonic() - saved_at_seconds >= checkpoint_seconds
            if checkpoint is not None and (is_due or is_pause):
                write_checkpoint(checkpoint, digest, self.state_dict())
                write_running(checkpoint.parent, checkpoint.stem, self.seed, self.state.history)
                saved_at_seconds = time.monotonic()

    def _fit_closed_form(self) -> None:
        """Fit the head to each training clip once, in its first view, and score the selection clips."""
        order = self.data.train.sequential_order()
        loaded = batches(self.data.train, order, self.choices.batch_size, self.compute.num_loaders)
        self.head.train()
        self.head.fit_closed_form((self.compute.moved(batch.features), batch.labels) for batch in loaded)
        self._keep_start()

    def _keep_start(self) -> None:
        """Score the selection clips before any epoch, and keep the head as the best."""
        scores = self._scores(self.data.select)
        found = compute_metrics(scores, self.data.select.labels[0])
        self._keep(scores, found)
        self.state.record_start(found)

    def run_epoch(self) -> None:
        """Train on every clip once, score the selection clips, keep the head if it is the best so far."""
        rate = self.choices.lr * self.schedule.factor(self.state.epoch)
        train_loss, train_top1 = self._train()
        scores = self._scores(self.data.select)
        found = compute_metrics(scores, self.data.select.labels[0])
        if self.state.end_epoch(rate, train_loss, train_top1, found):
            self._keep(scores, found)
        self.on_batch(0, f"epoch {self.state.epoch}, top-1 {found['top1']:.1f} %")

    def _train(self) -> tuple[float, float]:
        num_clips = self.data.train.num_clips
        num_steps = math.ceil(num_clips / self.choices.batch_size)
        draw = self.data.train.shuffled_order(self.seed, self.state.epoch)
        losses = torch.zeros(num_steps, device=self.compute.device)
        num_right = torch.zeros((), dtype=torch.int64, device=self.compute.device)
        self.head.train()
        loaded = batches(self.data.train, draw, self.choices.batch_size, self.compute.num_loaders)
        for step, batch in enumerate(loaded):
            set_rates(self.optimiser, self.schedule.factor(self.state.epoch, step / num_steps))
            labels = batch.labels.to(self.compute.device)
            clear_gradients(self.plan, self.choices)
            with self.compute.autocast():
                scores = self.head(self.compute.moved(batch.features))
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            loss = self.criterion(scores, labels)
            loss.backward()
            clip_gradients(self.plan, self.choices)
            self.optimiser.step()
            losses[step] = loss.detach()
            num_right += (scores.detach().argmax(dim=1) == labels).sum()
            if (step + 1) % STEPS_BETWEEN_CHECKS == 0:
                self._check_finite(losses)
            self.on_batch(len(labels), None)
        self._check_finite(losses)
        mean_loss = float(losses.mean())
        first_loss = self.state.history[0].train_loss if self.state.history else None
        start = max(math.log(self.data.num_classes), first_loss or mean_loss)
        if (self.state.epoch + 1) * num_steps > GRACE_STEPS and mean_loss > DIVERGENCE_FACTOR * start:
            raise PipelineError(
                f"{self.name}: training diverges: the loss of epoch {self.state.epoch + 1} is {mean_loss:.3g}, more "
                f"than {DIVERGENCE_FACTOR:g} times the {start:.3g} of its start. Lower lr (={self.choices.lr:g})."
            )
        return mean_loss, 100.0 * int(num_right) / num_clips

    def _check_finite(self, losses: Tensor) -> None:
        if not torch.isfinite(losses).all():
            step = int((~torch.isfinite(losses)).nonzero()[0])
            raise PipelineError(
                f"{self.name}: the training loss of epoch {self.state.epoch + 1}, step {step + 1} is "
                f"{float(losses[step])}. Lower lr (={self.choices.lr:g}) or clip_norm (={self.choices.clip_norm:g})."
            )

    def _scores(self, features: FeatureDataset) -> NDArray[np.float64]:
        try:
            return score_features(self.head, features, self.compute)
        except PipelineError as error:
            raise PipelineError(f"{self.name}, after epoch {self.state.epoch}: {error}") from error

    def _keep(self, scores: NDArray[np.float64], found: dict[str, float]) -> None:
        """Store the current head and its scores of the selection clips as the best epoch."""
        self.best = {
            "epoch": self.state.epoch,
            "top1": found["top1"],
            "loss": found["loss"],
            "scores": torch.from_numpy(scores),
            "head": copy.deepcopy(self.head.state_dict()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the fit depends on, as tensors and plain values."""
        is_cuda = self.compute.device.type == "cuda"
        return {
            "training": self.state.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.compute.device) if is_cuda else None,
            "best": self.best,
        }

    def resume(self, checkpoint: Path, digest: str) -> None:
        """Load the state of a checkpoint, if there is one of the same settings."""
        state = read_checkpoint(checkpoint, digest, self.compute.device)
        if state is None:
            return
        self.state.load_state_dict(state["training"])
        torch.set_rng_state(state["random"].cpu())
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.compute.device)
        self.best = {**state["best"], "scores": state["best"]["scores"].cpu()}
        self.num_resumed_epochs = self.state.epoch
        logger.info(f"{self.name}: resumed after epoch {self.state.epoch}")
        self.on_batch(self.state.epoch * self.data.train.num_clips, None)

    def curve(self, failure: str = "") -> Curve:
        """Return the scores of the selection clips so far."""
        records = self.state.history
        return Curve(
            top1=tuple(round(record.select_top1 or 0.0, CURVE_DECIMALS) for record in records),
            loss=tuple(round(record.select_loss or 0.0, CURVE_DECIMALS) for record in records),
            is_over=self.schedule.is_over or self.head.is_closed_form,
            seconds=self.state.seconds(),
            failure=failure,
        )

    def result(self) -> FitResult:
        """Return the head of the best epoch, and score the reported clips and their order tests with it."""
        select, report = self.data.select, self.data.report
        if not self.best:
            self._keep_start()
        self.head.load_state_dict(self.best["head"])
        self.head.requires_grad_(True).eval()
        # If one split is both, use the scores of the epoch, so that a resumed fit computes nothing twice.
        scores = self.best["scores"].numpy() if report is select else self._scores(report)
        return FitResult(
            seed=self.seed,
            head=self.head,
            history=tuple(self.state.history),
            best_epoch=self.best["epoch"],
            clip_ids=report.clip_ids,
            labels=report.labels[0],
            scores=scores,
            order_tests=order_test_scores(self.head, report, self.compute),
            selection=None
            if report is select
            else Selection(
                len(select.clip_ids),
                self.best["top1"],
                self.best["loss"],
                fit_temperature(self.best["scores"].numpy(), select.labels[0]),
            ),
            seconds=self.state.seconds(),
            num_resumed_epochs=self.num_resumed_epochs,
        )


def _num_norms(data: HeadDataset, choices: TrainConfig) -> int:
    """Return the number of the backbone's batch norms, looked up only if it determines what is trained."""
    if choices.partial_bn != "backbone_and_head" or is_imported(data.backbone):
        return 0
    return backbone_contract(data.backbone).num_norms


def _criterion(data: HeadDataset, choices: TrainConfig, compute: Runtime) -> nn.CrossEntropyLoss:
    weight = None
    if choices.class_weights == "balanced":
        weight = balanced_weights(data.train.labels[0], data.num_classes).to(compute.device)
    return nn.CrossEntropyLoss(weight=weight, label_smoothing=choices.label_smoothing)
