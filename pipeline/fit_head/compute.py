"""Choose device, number type and threads of a head by measurement."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.calibration import (
    Calibration,
    choose_dtype,
    choose_threads,
    clock_of,
    device_name,
    finish,
    multiplies_bfloat16_fast,
)
from pipeline.devices import find_device, fixed_threads
from pipeline.errors import PipelineError
from pipeline.heads import build_head
from pipeline.number_types import check_number_type
from pipeline.processes import num_cores
from pipeline.runtime import Runtime

# Number of clips in a measured step: enough to use two cores, and few enough for a second.
CALIBRATION_CLIPS = 4
# Up to this number of cores, a head with convolutions uses all of them; more may be slower.
MAX_UNMEASURED_CORES = 4


@dataclass(frozen=True)
class HeadSizes:
    """Sizes that determine the time of a step. map_size: 1 for pooled features."""

    in_channels: int
    num_segments: int
    num_classes: int
    map_size: int


def choose_compute(
    head_name: str,
    device: str = "cpu",
    precision: str = "auto",
    threads: int | None = None,
    num_loaders: int = 1,
    sizes: HeadSizes | None = None,
    calibration: Calibration | None = None,
) -> Runtime:
    """Choose device, number type and threads of a head.

    Heads with convolutions are limited by arithmetic: `auto` selects bfloat16 if a training step is much faster in it
    on this machine, else float32. Without `sizes`, a single convolution is measured. `threads` is by default the number
    of cores, or on a machine with many cores the smallest number with about the maximum speed. Other heads are limited
    by overhead: they use float32, and one thread, because their matrices are too small to divide.

    Raises:
        PipelineError: the head, the precision or the device does not exist.
    """
    check_number_type("precision", precision)
    chosen = find_device(device)
    is_heavy = has_convolutions(head_name)
    calibration = Calibration() if calibration is None else calibration
    if threads is None:
        threads = _choose_threads(head_name, chosen, sizes, calibration) if is_heavy else 1
    if threads < 1:
        raise PipelineError(f"`threads` (={threads}) must be at least 1.")
    if precision != "auto":
        return Runtime(chosen, precision, threads, num_loaders)
    if not is_heavy or not multiplies_bfloat16_fast(str(chosen), calibration.path):
        return Runtime(chosen, "float32", threads, num_loaders)
    if sizes is None:
        return Runtime(chosen, "bfloat16", threads, num_loaders)
    steps = {
        name: functools.partial(training_step, head_name, sizes, Runtime(chosen, name, threads))
        for name in ("float32", "bfloat16")
    }
    clock = clock_of(chosen.type, threads)
    seconds = calibration.measure(f"head {head_name}", calibration_key(sizes, chosen, threads), steps, clock)
    return Runtime(chosen, choose_dtype(seconds), threads, num_loaders, tuple(seconds.items()))


def training_step(
    head_name: str,
    sizes: HeadSizes,
    compute: Runtime,
    num_clips: int = CALIBRATION_CLIPS,
    *,
    with_optimiser: bool = False,
) -> Callable[[], None]:
    """Return a training step of a new head on a few equal clips: forward and backward, with or without the update."""
    with torch.random.fork_rng(devices=[]):
        head = build_head(
            head_name,
            in_channels=sizes.in_channels,
            num_segments=sizes.num_segments,
            num_classes=sizes.num_classes,
        ).to(compute.device)
    optimiser = torch.optim.AdamW(head.parameters()) if with_optimiser else None
    shape = (num_clips, sizes.num_segments, sizes.map_size, sizes.map_size, sizes.in_channels)
    features = torch.ones(shape, device=compute.device).permute(0, 1, 4, 2, 3).to(compute.dtype)

    def step() -> None:
        with fixed_threads(compute.threads), torch.random.fork_rng(devices=[]):
            with compute.autocast():
                scores = head(features)
            scores.float().logsumexp(dim=1).sum().backward()
            if optimiser is not None:
                optimiser.step()
                optimiser.zero_grad()
            finish(str(compute.device))

    return step


def _choose_threads(head_name: str, device: torch.device, sizes: HeadSizes | None, calibration: Calibration) -> int:
    cores = num_cores()
    if cores <= MAX_UNMEASURED_CORES or sizes is None or device.type != "cpu":
        return cores
    counts = sorted({min(2**power, cores) for power in range(2, cores.bit_length() + 1)})
    steps = {
        str(count): functools.partial(training_step, head_name, sizes, Runtime(device, "float32", count))
        for count in counts
    }
    found = calibration.measure(f"threads of head {head_name}", calibration_key(sizes, device, cores), steps)
    return choose_threads({int(name): seconds for name, seconds in found.items()})


def calibration_key(sizes: HeadSizes, device: torch.device, threads: int) -> dict[str, Any]:
    """Return the values that a measurement of a head depends on, apart from the machine."""
    return {**vars(sizes), "device": device_name(str(device)), "threads": threads}


def has_convolutions(head_name: str) -> bool:
    """Return whether a head's ST block has 2D or 3D convolutions, apart from the projection of spatial heads.

    Convolutions over the segments alone are small products, like the layers of the other heads.
    """
    with torch.device("meta"):
        head = build_head(head_name, in_channels=1, num_segments=8, num_classes=2)
    return any(isinstance(m, nn.Conv2d | nn.Conv3d) for name, m in head.named_modules() if name != "projection")
