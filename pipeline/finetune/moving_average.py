"""Keep an exponential moving average of a model's weights during training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Moving average of all floating-point values of a model, batch norm statistics included.

    `update` is called after each step: `average = decay * average + (1 - decay) * weights`. With a decay of 0 the
    average is the weights, and nothing is stored.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self._average = {name: value.clone() for name, value in self._values()} if decay else {}

    def _values(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in self._model.state_dict().items():
            if value.is_floating_point():
                yield name, value

    def update(self) -> None:
        """Include the current weights."""
        if not self._decay:
            return
        with torch.no_grad():
            for name, value in self._values():
                self._average[name].lerp_(value, 1 - self._decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the average within the context, and its weights afterwards."""
        if not self._decay:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        with torch.no_grad():
            for name, value in self._values():
                kept = value.clone()
                value.copy_(self._average[name])
                self._average[name].copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._average)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self._average.items():
            value.copy_(state[name])
