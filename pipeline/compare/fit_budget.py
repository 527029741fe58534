"""The budget of a result: the epochs of a fit, and what a search of its settings may try."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FitBudget:
    """What may be spent on a result. epochs: maximum number for a fit; None if the metrics do not state it.

    trials, trial_epochs: number of settings that a search tried, and the epochs of all its fits; 0 without a search.
    """

    epochs: int | None
    trials: int
    trial_epochs: int

    @classmethod
    def of(cls, metrics: Mapping[str, Any]) -> FitBudget:
        """Return the budget of a `metrics.json`."""
        recipe, search = metrics.get("recipe"), metrics.get("search") or {}
        training = recipe.get("training") or {} if isinstance(recipe, Mapping) else {}
        epochs = training.get("epochs")
        return cls(None if epochs is None else int(epochs), int(search.get("trials", 0)), int(search.get("epochs", 0)))

    def text(self) -> str:
        """Return the budget in words.

        >>> FitBudget(20, 16, 320).text()
        '20 epochs, chosen among 16 trials (320 epochs)'
        """
        epochs = "an unknown number of epochs" if self.epochs is None else f"{self.epochs} epochs"
        search = f"chosen among {self.trials} trials ({self.trial_epochs} epochs)" if self.trials else "no search"
        return f"{epochs}, {search}"
