"""Dropout with a fast mask on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import PipelineError

NUM_LEVELS = 1 << 16


class ElementDropout(nn.Dropout):
    """Set single elements to zero in training with probability `p`, and scale the others by 1 / (1 - p).

    On a CPU torch draws its mask element by element on one core, which took a quarter of a training step of 3D-FCN in
    bf16. Here one 64-bit random number gives the mask of four elements, so `p` is rounded to 1/65,536. Other devices
    use torch's dropout.

    Shape:
        values:  any.
        returns: the same, in the same memory layout.

    Raises:
        PipelineError: `p` is negative, or not below 1.
    """

    def __init__(self, p: float) -> None:
        if not 0 <= p < 1:
            raise PipelineError(f"A dropout (={p}) must be at least 0 and below 1.")
        super().__init__(p)

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return values
        if values.device.type != "cpu":
            return F.dropout(values, self.p)
        size = values.numel()
        numbers = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)
        dropped = min(round(self.p * NUM_LEVELS), NUM_LEVELS - 1)
        factors = torch.empty_like(values)  # dense, in the layout of the values if they are dense
        # 1 or 0, then scaled: `torch.where` branches for each element, which takes four times as long on a random mask.
        torch.ge(numbers.view(torch.int16)[:size], dropped - NUM_LEVELS // 2, out=factors.as_strided((size,), (1,)))
        factors.mul_(1 / (1 - self.p))
        # In place where the backward pass does not need the factors: a new tensor of maps costs page faults.
        return values * factors if values.requires_grad else factors.mul_(values)
