"""Initialise random weights that are the same on every machine."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn


def initialise_he(module: nn.Module, seed: int, input_spread: float = 1.0) -> None:
    """Set He's uniform weights and a zero bias in every convolution, and neutral values in batch norms.

    The variance of the activations then stays about the same from layer to layer, so that features of an untrained
    network are usable. `input_spread` is the standard deviation of the pixels that the first convolution reads; its
    weights are divided by it.

    The numbers come from NumPy's PCG64 by integer arithmetic and one multiplication, so they are bit-identical
    everywhere (torch's normal numbers depend on the processor's vector width). No global generator is used.

    Source: He et al., "Delving Deep into Rectifiers" (2015), Sec. 2.2.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    spread = input_spread
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                fan_in = math.prod(layer.weight.shape[1:])
                bound = math.sqrt(6 / fan_in) / spread
                spread = 1.0
                values = (2 * generator.random(tuple(layer.weight.shape)) - 1) * bound
                layer.weight.copy_(torch.from_numpy(values.astype(np.float32)))
                if layer.bias is not None:
                    layer.bias.zero_()
            elif isinstance(layer, nn.BatchNorm2d):
                layer.reset_parameters()
