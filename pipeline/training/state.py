"""State that both training loops keep between epochs: weights, optimiser, schedule, history, best epoch, time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn
from torch.optim import Optimizer

from pipeline.evaluation.result_writer import EpochRecord
from pipeline.training.optimiser import ParameterPlan
from pipeline.training.schedule import Schedule


class TrainingState:
    """State of one training. `state_dict` returns it as tensors and plain values, for a checkpoint.

    `epoch` is the number of finished epochs. `best` is top-1 and loss of the best epoch on the selection clips.
    """

    def __init__(self, model: nn.Module, plan: ParameterPlan, optimiser: Optimizer, schedule: Schedule) -> None:
        self.model, self.plan, self.optimiser, self.schedule = model, plan, optimiser, schedule
        self.epoch = 0
        self.history: list[EpochRecord] = []
        self.best: tuple[float, float] | None = None
        self._started_at_seconds = time.monotonic()
        self._stopped_at_seconds: float | None = None
        self._seconds_before = 0.0

    def record_start(self, found: Mapping[str, float], on_training: Mapping[str, float] | None = None) -> None:
        """Record the scores before the first step as epoch 0: of the selection clips, and of training views if known.

        `found` may be empty.
        """
        before = on_training or {}
        self.history.append(
            EpochRecord(0, 0.0, before.get("loss"), before.get("top1"), found.get("loss"), found.get("top1"))
        )

    def end_epoch(self, rate: float, train_loss: float, train_top1: float, found: Mapping[str, float]) -> bool:
        """Record an epoch with the metrics of the selection clips, and return whether it is the best so far.

        The best epoch has the highest top-1; in a tie, the lowest loss; in a further tie, it is the first.
        """
        self.schedule.observe(self.epoch, found["loss"])
        self.epoch += 1
        self.history.append(EpochRecord(self.epoch, rate, train_loss, train_top1, found["loss"], found["top1"]))
        score = (found["top1"], -found["loss"])
        if self.best is not None and score <= (self.best[0], -self.best[1]):
            return False
        self.best = (found["top1"], found["loss"])
        return True

    def seconds(self) -> float:
        """Return the training time so far, including runs before a kill up to their last checkpoint."""
        now = time.monotonic() if self._stopped_at_seconds is None else self._stopped_at_seconds
        return self._seconds_before + now - self._started_at_seconds

    def stop_clock(self) -> None:
        """Stop counting the training time, because the training and its scores are complete."""
        self._stopped_at_seconds = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on, except for random states."""
        return {
            "model": self.model.state_dict(),
            # With clip_scope=all, the gradients of these parameters accumulate over the steps.
            "left_out_gradients": {
                name: parameter.grad for name, parameter in self.plan.left_out.items() if parameter.grad is not None
            },
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "epoch": self.epoch,
            "history": [asdict(record) for record in self.history],
            "best": None if self.best is None else list(self.best),
            "seconds": self.seconds(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        for name, gradient in state["left_out_gradients"].items():
            self.plan.left_out[name].grad = gradient
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch = int(state["epoch"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.best = None if state["best"] is None else (state["best"][0], state["best"][1])
        self._seconds_before = float(state["seconds"])
