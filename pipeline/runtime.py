"""Device, number type and threads of a computation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Runtime:
    """Device and number type of a computation.

    precision: `float32`, or `bfloat16` or `float16` by autocast. threads: torch's threads; num_loaders: threads that
        read features ahead. measured: seconds of a step in each precision, if they were measured.
    """

    device: torch.device
    precision: str
    threads: int = 1
    num_loaders: int = 1
    measured: tuple[tuple[str, float], ...] = field(default=(), compare=False)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the features that a head reads."""
        found: torch.dtype = getattr(torch, self.precision)
        return found

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for layers that may run in the shorter type."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Return a scaler of the loss, enabled for float16, in which small gradients vanish."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")

    def moved(self, features: Tensor) -> Tensor:
        """Return features on the device and in the number type, with their strides."""
        return features.to(self.device, non_blocking=True).to(self.dtype)
