"""Schedules of the learning rate, which also decide when to stop.

A schedule returns a factor on the base rate of every group. Its state is plain data for a checkpoint.
"""

from __future__ import annotations

import math
from typing import Any

from pipeline.recipe import TrainConfig

NUM_DROPS = 2
DROP_FACTOR = 0.1
# A loss has improved if it falls by this share of the best loss; torch's plateau scheduler has the same default.
RELATIVE_IMPROVEMENT = 1e-4


class Schedule:
    """The factor on the learning rate, from the recipe's schedule and, for `plateau`, from the validation losses.

    `plateau` divides the rate by ten each time the validation loss has not improved for `patience_epochs`, twice, and
    stops the third time. `steps` divides it by ten after each of `step_epochs` epochs. `cosine` falls from 1 to 0
    along half a wave over all epochs. Each is multiplied by a warm-up, which rises from 0 to 1 over `warmup_epochs`.

    Source: paper, Sec. 3.6: the rate is divided by ten twice, each time the validation loss has converged.
    """

    def __init__(self, choices: TrainConfig) -> None:
        self._kind = choices.schedule
        self._num_epochs = choices.epochs
        self._patience_epochs = choices.patience_epochs
        self._step_epochs = choices.step_epochs
        self._warmup_epochs = choices.warmup_epochs
        self._best_loss = math.inf
        self._num_bad_epochs = 0
        self._num_drops = 0
        self.is_over = choices.epochs == 0

    def factor(self, epoch: int, fraction: float = 0.0) -> float:
        """Return the factor in epoch `epoch`, counted from 0, after the share `fraction` of it."""
        done_epochs = epoch + fraction
        warmup = min(1.0, done_epochs / self._warmup_epochs) if self._warmup_epochs else 1.0
        return warmup * self._scheduled(epoch, fraction)

    def _scheduled(self, epoch: int, fraction: float) -> float:
        if self._kind == "plateau":
            return float(DROP_FACTOR**self._num_drops)
        if self._kind == "steps":
            return float(DROP_FACTOR ** sum(epoch >= step for step in self._step_epochs))
        return 0.5 * (1.0 + math.cos(math.pi * (epoch + fraction) / self._num_epochs))

    def observe(self, epoch: int, val_loss: float) -> None:
        """Record the validation loss at the end of epoch `epoch`; set `is_over` if it was the last."""
        if self._kind == "plateau":
            self._observe_plateau(val_loss)
        if epoch + 1 >= self._num_epochs:
            self.is_over = True

    def _observe_plateau(self, val_loss: float) -> None:
        improved = val_loss < self._best_loss - RELATIVE_IMPROVEMENT * abs(self._best_loss)
        if math.isinf(self._best_loss) or improved:
            self._best_loss, self._num_bad_epochs = val_loss, 0
            return
        self._num_bad_epochs += 1
        if self._num_bad_epochs < self._patience_epochs:
            return
        self._num_bad_epochs = 0
        if self._num_drops == NUM_DROPS:
            self.is_over = True
        else:
            self._num_drops += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {
            "best_loss": self._best_loss,
            "num_bad_epochs": self._num_bad_epochs,
            "num_drops": self._num_drops,
            "is_over": self.is_over,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best_loss = float(state["best_loss"])
        self._num_bad_epochs = int(state["num_bad_epochs"])
        self._num_drops = int(state["num_drops"])
        self.is_over = bool(state["is_over"])
