"""The processor or GPU that a command names."""

from __future__ import annotations

import torch

from pipeline.errors import PipelineError


def find_device(name: str) -> torch.device:
    """The device of that name; a GPU with its number, the current one for plain `cuda`.

    Raises:
        PipelineError: torch knows no such device, or the machine has none.
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
