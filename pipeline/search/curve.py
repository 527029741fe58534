"""Selection scores of a fit by epoch."""

from __future__ import annotations

from dataclasses import dataclass

# Of top-1 in percent and loss in nats. The choice of a trial uses the rounded values, which `trials.csv` has.
CURVE_DECIMALS = 6


@dataclass(frozen=True)
class Curve:
    """Scores of the selection clips after each epoch of a fit.

    top1, loss: by epoch, in percent and nats. is_over: whether the schedule has ended. seconds: training time.
    failure: reason why the fit stopped, or "".
    mixed: if the weights between the initial ones and those of the best epoch are scored, the share of the latter in
        the best weights, and their top-1 and loss.
    """

    top1: tuple[float, ...]
    loss: tuple[float, ...]
    is_over: bool
    seconds: float
    failure: str = ""
    mixed: tuple[float, float, float] | None = None

    @property
    def num_epochs(self) -> int:
        return len(self.top1)

    @property
    def best_epoch(self) -> int:
        """The epoch with the highest top-1; in a tie, the lowest loss, then the first. 0 if there is none."""
        epochs = range(1, self.num_epochs + 1)
        return max(epochs, key=lambda epoch: (self.top1[epoch - 1], -self.loss[epoch - 1]), default=0)

    @property
    def chosen_epoch(self) -> int:
        """The best epoch, or 0 if the best weights are the initial ones."""
        return 0 if self.mixed is not None and self.mixed[0] == 0 else self.best_epoch

    @property
    def score(self) -> tuple[float, float]:
        """Top-1 and negative loss of the best epoch, or of the best weights on the way to it. There is an epoch."""
        if self.mixed is not None:
            return self.mixed[1], -self.mixed[2]
        best = self.best_epoch - 1
        return self.top1[best], -self.loss[best]

    def reaches(self, num_epochs: int | None) -> bool:
        """Return whether the fit has this number of epochs, or cannot have more; None asks for the whole fit."""
        return self.is_over or bool(self.failure) or (num_epochs is not None and self.num_epochs >= num_epochs)

    def until(self, num_epochs: int | None) -> Curve:
        """Return the first `num_epochs`, without a later end or failure; None returns the whole curve."""
        if num_epochs is None or self.num_epochs < num_epochs:
            return self
        is_over = self.is_over and self.num_epochs == num_epochs
        return Curve(self.top1[:num_epochs], self.loss[:num_epochs], is_over, self.seconds)

    def summary(self) -> str:
        """Return the result in one line of text."""
        if self.failure:
            return f"failed: {self.failure}"
        mixed = "" if self.mixed is None else f", {self.mixed[0]:g} of the way to it"
        return (
            f"top-1 {self.score[0]:.1f} % on the selection clips (epoch {self.best_epoch} of {self.num_epochs}{mixed})"
        )
