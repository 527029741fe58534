"""Describe which values of `--flip` are correct for the labels of a data set."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import PipelineError
from pipeline.video.flips import swapped_labels


def flip_policy(classes: Sequence[str]) -> str:
    """Describe the effect of mirroring on these labels, and which `--flip` is correct."""
    try:
        swapped = swapped_labels(classes)
    except PipelineError as error:
        return f"Flip: only --flip off is correct. {error}"
    pairs = [(index, other) for index, other in enumerate(swapped) if index < other]
    if not pairs:
        return "Flip: no label names a side, so --flip swap mirrors clips and changes no label."
    lines = [f"Flip: --flip swap swaps {len(pairs)} pairs of labels and keeps the others:"]
    lines += [f"  {index} {classes[index]} <-> {other} {classes[other]}" for index, other in pairs]
    return "\n".join(lines)
