"""Number types in which a network runs. Settings and the functions behind them offer the same ones."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import PipelineError

NUMBER_TYPES = ("auto", "float32", "bfloat16")
# `finetune` scales the loss, so that gradients in float16 do not underflow.
FINETUNE_TYPES = (*NUMBER_TYPES, "float16")


def check_number_type(setting: str, asked: str, types: Sequence[str] = NUMBER_TYPES) -> None:
    """Check the value of a setting.

    Raises:
        PipelineError: it is not among the types.
    """
    if asked not in types:
        raise PipelineError(f"`{setting}` (={asked!r}) must be one of {', '.join(types)}.")
