"""Heads: one file each, backbone features of a clip's segments in, class scores out."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.heads.head import DEFAULT_CHOICES, Head
from pipeline.recipe import HeadConfig
from pipeline.registry import HEADS as HEAD_PLACES
from pipeline.registry import LazyTable, look_up

# Classes of the heads by name, each imported when it is looked up.
HEADS: Mapping[str, type[Head]] = LazyTable("heads", HEAD_PLACES)

__all__ = ["HEADS", "Head", "build_head"]


def build_head(
    name: str, *, in_channels: int, num_segments: int, num_classes: int, choices: HeadConfig = DEFAULT_CHOICES
) -> Head:
    """The head of that name, with initial weights from torch's random numbers.

    Raises:
        PipelineError: no head has that name, or it cannot have these sizes.
    """
    head = look_up("head", name, HEADS)
    return head(in_channels=in_channels, num_segments=num_segments, num_classes=num_classes, choices=choices)
