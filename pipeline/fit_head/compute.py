"""Where and in which precision a head is computed, chosen by what the machine can do, and recorded."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from pipeline.devices import find_device, has_bfloat16, num_cores
from pipeline.errors import PipelineError
from pipeline.heads import build_head

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Compute:
    """Device, precision (`float32` or `bfloat16` by autocast), torch's threads, and threads that read ahead."""

    device: torch.device
    precision: str
    threads: int
    num_loaders: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """The type in which features reach the head."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which a head runs."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def moved(self, features: Tensor) -> Tensor:
        """Features on the device and in the precision of this computation; strides stay."""
        return features.to(self.device, non_blocking=True).to(self.dtype)


def choose_compute(
    head_name: str, device: str = "cpu", precision: str = "auto", threads: int | None = None, num_loaders: int = 1
) -> Compute:
    """What a head is computed with.

    `auto` is bfloat16 for heads with convolutions where the device has it in hardware, since they are bound by
    arithmetic, and float32 for the others, which are bound by overhead. `threads` is by default the number of cores
    for the former and 1 for the latter, whose matrices are too small to share out.

    Raises:
        PipelineError: an unknown head or precision, or a device that is not there.
    """
    if precision not in PRECISIONS:
        raise PipelineError(f"`precision` (={precision!r}) must be one of {', '.join(PRECISIONS)}.")
    chosen = find_device(device)
    is_heavy = has_convolutions(head_name)
    if precision == "auto":
        precision = "bfloat16" if is_heavy and has_bfloat16(chosen) else "float32"
    if threads is None:
        threads = num_cores() if is_heavy else 1
    if threads < 1:
        raise PipelineError(f"`threads` (={threads}) must be at least 1.")
    return Compute(chosen, precision, threads, num_loaders)


def has_convolutions(head_name: str) -> bool:
    """Whether a head's ST block convolves (the learned projection of spatial heads aside)."""
    with torch.device("meta"):
        head = build_head(head_name, in_channels=1, num_segments=8, num_classes=2)
    return any(isinstance(m, _ConvNd) for name, m in head.named_modules() if name != "projection")
