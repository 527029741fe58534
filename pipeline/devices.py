"""Find the device that a command names, and its capabilities."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import PipelineError


def find_device(name: str) -> torch.device:
    """Return the device of a name; a GPU always has its number, and plain `cuda` is the current one.

    Raises:
        PipelineError: the name is not that of a device, or the machine does not have it.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise PipelineError(f"`device` (={name!r}) must be cpu, cuda or cuda:N.")
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch sees none"
        raise PipelineError(
            f"`device` is {name}, but there is no GPU ({why}). Pass --device cpu: heads on cached features train well "
            "on it, and a small data set is extracted or finetuned in minutes."
        )
    number = torch.cuda.current_device() if device.index is None else device.index
    if number >= torch.cuda.device_count():
        raise PipelineError(f"`device` is {name}, but there are only {torch.cuda.device_count()} GPUs, from cuda:0 on.")
    return torch.device("cuda", number)


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Run torch with `threads` threads inside the block: sums of floats depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def has_compiler() -> bool:
    """Return whether torch.compile finds the C++ compiler that it needs for the CPU."""
    return any(shutil.which(name) for name in ("g++", "c++", "clang++"))
