"""Heads: networks that compute class scores from the backbone features of a clip's segments; one file per head."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.heads.head import DEFAULT_CHOICES, Head
from pipeline.recipe import HeadConfig
from pipeline.registry import HEADS as HEAD_PLACES
from pipeline.registry import LazyTable, look_up

# Classes of the heads by name; each is imported when it is looked up.
HEADS: Mapping[str, type[Head]] = LazyTable("heads", HEAD_PLACES)

__all__ = ["HEADS", "Head", "build_head"]


def build_head(
    name: str, *, in_channels: int, num_segments: int, num_classes: int, choices: HeadConfig = DEFAULT_CHOICES
) -> Head:
    """Build a head with initial weights from torch's random generator.

    Raises:
        PipelineError: the name is unknown, or the head does not support these sizes.
    """
    head = look_up("head", name, HEADS)
    return head(in_channels=in_channels, num_segments=num_segments, num_classes=num_classes, choices=choices)
