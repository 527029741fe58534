"""Train backbone and head together on the clips, as in the paper, from a fitted head or from scratch.

Every random number follows from the seed, the epoch, the step and the clip, so a training that is stopped at any step
and resumed gives the weights of an uninterrupted one. The steps are the same for one process and for several: a batch
is distributed over the processes, and a gradient is the sum over its clips divided by the weight of the whole batch.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from pipeline.errors import ClipFailure, DivergenceError, PipelineError
from pipeline.evaluation.result_writer import SeedResult, Selection, write_running
from pipeline.evaluation.selection import TRAIN
from pipeline.finetune.clip_loader import ClipLoader, LabelledClip, Sample, SampleRequest, SampleSettings
from pipeline.finetune.data_wait import WaitClock
from pipeline.finetune.distributed import World
from pipeline.finetune.frozen import FrozenActivations
from pipeline.finetune.interpolation import Interpolation
from pipeline.finetune.model import CPU_FRAMES_AT_A_TIME, EndToEnd, set_training_mode
from pipeline.finetune.moving_average import MovingAverage
from pipeline.finetune.rates import plan_rates
from pipeline.finetune.scoring import ScoredClips, score_clips
from pipeline.finetune.state import ClipData, EpochSums, Faults, TrainingPlan
from pipeline.finetune.step import TrainingStep
from pipeline.model import Classifier
from pipeline.progress import Progress
from pipeline.runtime import Runtime
from pipeline.training.checkpoints import CheckpointFolder
from pipeline.training.optimiser import build_optimiser, set_rates
from pipeline.training.schedule import Schedule
from pipeline.training.state import TrainingState

logger = logging.getLogger(__name__)

STEPS_BETWEEN_CHECKS = 50


class Finetuner:
    """One training; `run` continues it to its end."""

    def __init__(
        self,
        classifier: Classifier,
        data: ClipData,
        training_plan: TrainingPlan,
        runtime: Runtime,
        loader: ClipLoader | FrozenActivations,
        checkpoints: CheckpointFolder,
        world: World,
    ) -> None:
        self.data, self.training_plan, self.world = data, training_plan, world
        self.loader, self.checkpoints, self.device = loader, checkpoints, runtime.device
        self.choices = training_plan.recipe.training
        self.classifier = classifier.to(self.device)
        self.classifier.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = EndToEnd(self.classifier, runtime)
        set_training_mode(self.classifier, self.choices)
        self.plan = plan_rates(self.classifier, training_plan.recipe)
        self.optimiser = build_optimiser(self.plan, self.choices)
        self.schedule = Schedule(self.choices)
        self.state = TrainingState(self.classifier, self.plan, self.optimiser, self.schedule)
        self.step = TrainingStep(self.network, self.plan, self.optimiser, data, training_plan, world)
        self.average = MovingAverage(self.classifier, training_plan.recipe.finetune.ema_decay)
        # The weights before the first step, also for a training that is resumed.
        self.initial = {name: value.clone() for name, value in self.classifier.state_dict().items()}
        self.interpolation: Interpolation | None = None
        self.sums = EpochSums()
        self.selection: Selection | None = None
        self.faults = Faults()
        self.start_report: dict[str, float | int] | None = None
        # Whether the initial model is correct on the reported clips (1 or 0), by clip id.
        self.start_correct: dict[str, int] | None = None
        self.times: list[dict[str, float]] = []

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.data.train) / self.choices.batch_size)

    def start(self, scored: ScoredClips) -> None:
        """Record epoch 0 of the history: the initial model on the selection clips and on views of the first epoch."""
        self.note_faults(self.data.plan.selected_on, scored)
        views = self.score(self.data.train, epoch=0)
        self.note_faults(TRAIN, views)
        found = views.metrics()
        logger.info(f"start: loss {found['loss']:.3f}, top-1 {found['top1']:.1f} % on fresh training views")
        self.state.record_start(scored.metrics(), found)

    def start_without_epochs(self, scored: ScoredClips) -> None:
        """Record the scores of a model that is not trained: no epoch is selected."""
        self.note_faults(self.data.plan.reported_on, scored)
        self.state.record_start(scored.metrics() if self.data.report is self.data.select else {})

    def run(self, num_epochs: int | None = None) -> None:
        """Train to the end of the schedule, or of `num_epochs`; the best epoch is then one of the checkpoints.

        Raises:
            PipelineError: the loss is not finite, too many clips failed, or memory ran out.
        """
        if not self.schedule.is_over:
            for line in self.plan.lines():
                logger.info(f"  {line}")
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            while not self.schedule.is_over and (num_epochs is None or self.state.epoch < num_epochs):
                with self._memory_explained():
                    self._run_epoch()

    def score(
        self, clips: Sequence[LabelledClip], samples: SampleSettings | None = None, epoch: int | None = None
    ) -> ScoredClips:
        """Score clips with the current model, in their test views or in their training views of an epoch."""
        size = self.step.part_size
        if self.device.type == "cpu":
            size = max(1, min(size, CPU_FRAMES_AT_A_TIME // self.data.samples.num_segments))
        with Progress("scoring", len(self.world.shard(clips))) as progress, self._memory_explained():
            return score_clips(
                self.network,
                clips,
                self.loader,
                self.data.samples if samples is None else samples,
                size,
                self.world,
                progress,
                epoch=epoch,
            )

    def seed_result(self, scored: ScoredClips, best_epoch: int) -> SeedResult:
        """Return the result in the form of a result folder."""
        return SeedResult(
            seed=self.training_plan.seed,
            history=tuple(self.state.history),
            best_epoch=best_epoch,
            clip_ids=scored.clip_ids,
            labels=scored.labels,
            scores=scored.scores,
            order_tests=scored.order_tests,
            seconds=self.state.seconds(),
            selection=self.selection,
        )

    def note_faults(self, split: str, scored: ScoredClips) -> None:
        """Record the clips of a split that could not be scored."""
        self.faults.add(split, scored.faults, self.training_plan.max_failed)

    def _run_epoch(self) -> None:
        rate = self.choices.lr * self.schedule.factor(self.state.epoch)
        times = self._train_epoch()
        self.world.average_norms(self.classifier)
        sums = self._summed_sums()
        if sums.num_seen == 0:
            raise PipelineError("No training clip could be decoded. Run `pipeline check` to find the problems.")
        train_top1 = 100.0 * sums.num_right / sums.num_seen
        train_loss = sums.loss / sums.weight
        self.sums = EpochSums()
        with self.average.applied():
            scored = self.score(self.data.select)
            self.note_faults(self.data.plan.selected_on, scored)
            found = scored.metrics()
            is_best = self.state.end_epoch(rate, train_loss, train_top1, found)
            if is_best and self.world.is_main:
                self.checkpoints.write_best(self._best_state(scored))
        self.times.append({**times, "seconds_at_end": round(self.state.seconds(), 3)})
        logger.info(
            f"epoch {self.state.epoch}: train loss {train_loss:.3f}, top-1 {train_top1:.1f} %; "
            f"{self.data.plan.selected_on} loss {found['loss']:.3f}, top-1 {found['top1']:.1f} %; "
            f"{times['train_clips_per_second']:.1f} clips/s, the device waited for data "
            f"{100 * times['waiting_share']:.0f} % of the time"
        )
        self._write_checkpoint()

    def _train_epoch(self) -> dict[str, float]:
        """Train on the remaining clips of the epoch; return the speed and the share of waiting for data."""
        size = self.choices.batch_size
        order = (
            np.random.default_rng([self.training_plan.seed, self.state.epoch])
            .permutation(len(self.data.train))
            .tolist()
        )
        steps = range(self.sums.step, self.steps_per_epoch)
        own = {step: self.world.shard(order[step * size : (step + 1) * size]) for step in steps}
        view = self.training_plan.view_of(self.state.epoch)
        requests = (SampleRequest(self.data.train[index], view) for step in steps for index in own[step])
        stream = self.loader.samples(requests, self.data.samples)
        set_training_mode(self.classifier, self.choices)
        saved_at_seconds = time.monotonic()
        clock = WaitClock(self.device)
        label = f"epoch {self.state.epoch + 1} of {self.choices.epochs}"
        with Progress(label, len(self.data.train), done=self.sums.step * size) as progress:
            for step in steps:
                with clock.loading():
                    samples = list(itertools.islice(stream, len(own[step])))
                set_rates(self.optimiser, self.schedule.factor(self.state.epoch, step / self.steps_per_epoch))
                is_due = time.monotonic() - saved_at_seconds >= self.training_plan.checkpoint_seconds
                is_agreed = self._make_step(step, samples, is_due)
                self.sums.step = step + 1
                progress.advance(min(size, len(order) - step * size))
                if (step + 1) % STEPS_BETWEEN_CHECKS == 0 or self.device.type == "cpu":
                    self._sync_metrics()
                if is_agreed and step + 1 < self.steps_per_epoch:
                    self._write_checkpoint()
                    saved_at_seconds = time.monotonic()
            self._sync_metrics()
        num_clips = sum(min(size, len(order) - step * size) for step in steps)
        return {
            "train_clips_per_second": round(num_clips / clock.seconds(), 3),
            "waiting_share": round(clock.share(), 4),
        }

    def _make_step(self, step: int, samples: Sequence[Sample], is_due: bool) -> bool:
        """Make one step of the optimiser on this process's part of a batch.

        Returns whether to write a checkpoint; the main process decides for all.
        """
        sound = [sample for sample in samples if sample.fault is None]
        faults = [sample.fault for sample in samples if sample.fault is not None]
        weight = sum(self.step.weight_of_label[sample.label] for sample in sound)
        asks = is_due and self.world.is_main
        figures = self.world.all_reduce(torch.tensor([weight, len(sound), len(faults), asks], dtype=torch.float64))
        total_weight, num_sound, num_faults, is_agreed = figures.tolist()
        if num_faults:
            found = [ClipFailure(*fault) for faults_of_one in self.world.all_gather(faults) for fault in faults_of_one]
            self.faults.add("train", found, self.training_plan.max_failed)
        if num_sound == 0 or total_weight == 0:
            return bool(is_agreed)
        self.step.make(sound, self.state.epoch, step, total_weight)
        self.average.update()
        self.sums.weight += weight
        self.sums.num_seen += len(sound)
        return bool(is_agreed)

    def _sync_metrics(self) -> None:
        """Copy the sums of loss and correct clips from the device, and check the loss.

        Raises:
            DivergenceError: the loss is not finite.
        """
        loss, num_right = self.step.take_sums()
        self.sums.loss += loss
        self.sums.num_right += num_right
        if not math.isfinite(self.sums.loss):
            raise DivergenceError(
                f"The training diverges: the loss is {self.sums.loss} after step {self.sums.step} of epoch "
                f"{self.state.epoch + 1}. Lower lr (={self.choices.lr:g}), backbone_lr (={self.choices.backbone_lr:g}) "
                f"or clip_norm (={self.choices.clip_norm:g})."
            )

    def _summed_sums(self) -> EpochSums:
        own = [self.sums.loss, self.sums.weight, self.sums.num_right, self.sums.num_seen]
        loss, weight, num_right, num_seen = self.world.all_reduce(torch.tensor(own, dtype=torch.float64)).tolist()
        return EpochSums(self.sums.step, loss, weight, int(num_right), int(num_seen))

    def _write_checkpoint(self) -> None:
        self._sync_metrics()
        sums = self._summed_sums()
        if self.world.is_main:
            state = {**self.state_dict(), "sums": asdict(sums)}
            self.checkpoints.write(self.state.epoch * self.steps_per_epoch + self.sums.step, state)
            write_running(
                self.checkpoints.folder, self.checkpoints.folder.name, self.training_plan.seed, self.state.history
            )

    def _best_state(self, scored: ScoredClips) -> dict[str, Any]:
        return {
            "epoch": self.state.epoch,
            "model": self.classifier.state_dict(),
            "clip_ids": list(scored.clip_ids),
            "labels": torch.from_numpy(scored.labels),
            "scores": {
                "plain": torch.from_numpy(scored.scores),
                **{order_test: torch.from_numpy(values) for order_test, values in scored.order_tests.items()},
            },
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the training except the sums of the epoch, as tensors and plain values."""
        return {
            "training": self.state.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "average": self.average.state_dict(),
            "faults": {clip_id: list(fault) for clip_id, fault in self.faults.of_clip.items()},
            "start_report": self.start_report,
            "start_correct": self.start_correct,
            "times": self.times,
        }

    def resume(self) -> bool:
        """Load the last checkpoint of these settings; return whether there was one."""
        state = self.checkpoints.read_last(self.device)
        if state is None:
            return False
        self.state.load_state_dict(state["training"])
        self.step.scaler.load_state_dict(state["scaler"])
        self.average.load_state_dict(state["average"])
        self.sums = EpochSums(**state["sums"])
        if not self.world.is_main:
            # The sums of a checkpoint are those of all processes, so only one process may continue them.
            self.sums = EpochSums(step=self.sums.step)
        self.faults = Faults({clip_id: (fault[0], fault[1], fault[2]) for clip_id, fault in state["faults"].items()})
        self.start_report, self.start_correct = state["start_report"], state["start_correct"]
        self.times = list(state["times"])
        if self.schedule.is_over:
            logger.info("was finished with these settings; --force trains again")
        else:
            logger.info(f"resuming after step {self.sums.step} of epoch {self.state.epoch + 1}")
        return True

    @contextmanager
    def _memory_explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            is_full = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
            if not is_full:
                raise
            where = "The GPU" if self.device.type == "cuda" else "This machine"
            raise PipelineError(
                f"{where} has too little memory for {self.step.part_size} clips of {self.data.samples.num_segments} "
                f"segments at a time. Raise --accumulate (={self.training_plan.accumulate}), which keeps the batch of "
                f"{self.choices.batch_size}, pass --checkpointing, or lower --batch-size. If the batch size stays, the "
                "training resumes from its last checkpoint."
            ) from error
