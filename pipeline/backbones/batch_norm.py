"""Calibrate batch-norm statistics on frames, for networks with random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.backbones.backbone import Backbone
from pipeline.errors import PipelineError
from pipeline.shapes import check_shape


def calibrate_batch_norm(backbone: Backbone, frames: Tensor, batch_size: int = 16) -> int:
    """Set the running statistics of every batch norm to those of `frames`; return the number of batch norms.

    With random weights the neutral statistics (mean 0, variance 1) do not fit the activations, so measurements such as
    the error of bfloat16 do not represent trained weights. The inputs of each layer are normalised by the layers before
    it; the statistics of several batches are averaged. Modes and momenta are restored.

    Shape:
        frames: (N, 3, H, W) uint8, N at least 2.

    Raises:
        PipelineError: there are fewer than 2 frames.
    """
    num_frames = check_shape("frames", frames, "N 3 H W")["N"]
    if num_frames < 2 or batch_size < 2:
        raise PipelineError(f"Calibration needs at least 2 frames in a batch, got {num_frames} by {batch_size}.")
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    modes = {module: module.training for module in backbone.modules()}
    momenta = [norm.momentum for norm in norms]
    try:
        backbone.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # average over batches
            norm.train()
        with torch.no_grad():
            for batch in frames.split(batch_size):
                if len(batch) > 1:
                    backbone(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training
    return len(norms)
