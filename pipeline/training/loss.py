"""Weights of the classes in the loss."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def balanced_weights(labels: NDArray[np.int64], num_classes: int) -> Tensor:
    """Weights of the classes, the inverse of their clips, 1 where all have as many; 0 for a class without clips."""
    num_clips = np.bincount(labels, minlength=num_classes)
    weights = np.where(num_clips > 0, len(labels) / (num_classes * np.maximum(num_clips, 1)), 0.0)
    return torch.from_numpy(weights.astype(np.float32))
