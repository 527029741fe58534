"""Convolutional LSTM: an LSTM over feature maps whose transitions are convolutions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.heads.head import NUM_FEATURES, Head

KERNEL = 3
# Up to this height and width of the maps, a convolution is computed as a matrix product. That makes a training step 1.8
# times as fast at 3×3 and 1.4 times at 4×4 (one core of an Intel Xeon). At 7×7 it is not faster, and needs more memory,
# because the product's input repeats each position nine times.
MAX_SIZE_OF_PRODUCT = 5


class ConvLSTMHead(Head):
    """Classify a clip from the last hidden map of a convolutional LSTM over its segments, averaged over the map.

    The convolutions of the input run for all segments at once; only those of the hidden state run step by step.

    Shape:
        features: (B, T, C, H, W), backbone feature maps of T segments.
        returns:  (B, K), class scores before softmax.

    Source: paper, Sec. 3.3 (ConvLSTM); without the peepholes of its equations, as its parameter count in Table 3
        shows and the published code has it.
    """

    reads = "spatial"
    section = "3.3"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        gates = 4 * NUM_FEATURES  # input, forget, candidate, output
        self.input_convolution = nn.Conv2d(NUM_FEATURES, gates, KERNEL, padding=KERNEL // 2)
        self.hidden_convolution = nn.Conv2d(NUM_FEATURES, gates, KERNEL, padding=KERNEL // 2, bias=False)
        with torch.no_grad():
            # Initialised like one convolution over input and hidden state, whose fan-in is twice that of each part.
            for parameter in (*self.input_convolution.parameters(), *self.hidden_convolution.parameters()):
                parameter.mul_(math.sqrt(0.5))
        self.classifier = nn.Linear(NUM_FEATURES, self.num_classes)

    def macs(self, map_size: int) -> int:
        step = map_size**2 * KERNEL**2 * 2 * NUM_FEATURES * 4 * NUM_FEATURES  # input and hidden state to four gates
        return self.num_segments * step + NUM_FEATURES * self.num_classes

    def forward(self, features: Tensor) -> Tensor:
        maps = self.project(features)  # (B, T, 256, H, W)
        every_gate = convolve(maps.flatten(0, 1), self.input_convolution.weight, self.input_convolution.bias)
        every_gate = every_gate.unflatten(0, (-1, self.num_segments))
        # Unbound: the backward pass of an index would allocate and add a tensor of all steps for each step.
        first, *others = every_gate.unbind(1)  # (B, 1024, H, W) each
        # Converted to layout and type of the convolutions once, not in each step and in its backward pass.
        weight = self.hidden_convolution.weight.to(every_gate.dtype, memory_format=torch.channels_last)
        # The state starts at zero, so the first step has no hidden convolution and nothing to forget.
        i, _, g, o = first.chunk(4, dim=1)  # (B, 256, H, W) each
        # Under autocast the gates are bf16; the cell state, which sums over time, stays in fp32.
        cell = (torch.sigmoid(i) * torch.tanh(g)).to(torch.promote_types(i.dtype, torch.float32))
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        for gates_of_input in others:
            gates = gates_of_input + convolve(hidden, weight)  # (B, 1024, H, W)
            i, f, g, o = gates.chunk(4, dim=1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(cell)
        scores: Tensor = self.classifier(hidden.mean(dim=(2, 3)))  # (B, K)
        return scores


def convolve(maps: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve maps with a 3×3 kernel and zero padding, as `torch.nn.functional.conv2d(..., padding=1)` does.

    Shape:
        maps: (B, C, H, W); weight: (D, C, 3, 3); bias: (D,).
        returns: (B, D, H, W), in channels-last memory for small maps.
    """
    height, width = maps.shape[2:]
    if max(height, width) > MAX_SIZE_OF_PRODUCT:
        return F.conv2d(maps, weight, bias, padding=KERNEL // 2)
    padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # (B, H + 2, W + 2, C)
    shifted = [padded[:, y : y + height, x : x + width] for y in range(KERNEL) for x in range(KERNEL)]
    by_tap = weight.permute(0, 2, 3, 1).flatten(1)  # (D, 9 C)
    return F.linear(torch.cat(shifted, dim=3), by_tap, bias).permute(0, 3, 1, 2)
