"""Weights of the classes in the loss."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def balanced_weights(labels: NDArray[np.int64], num_classes: int) -> Tensor:
    """Return class weights inversely proportional to the number of clips; 1 for equal numbers, 0 without clips."""
    num_clips = np.bincount(labels, minlength=num_classes)
    weights = np.where(num_clips > 0, len(labels) / (num_classes * np.maximum(num_clips, 1)), 0.0)
    return torch.from_numpy(weights.astype(np.float32))
