"""Backbone and head as one classifier, and the description from which it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipeline.backbones.backbone import Backbone, pooled
from pipeline.heads import build_head
from pipeline.heads.head import Head
from pipeline.recipe import recipe_from_dict
from pipeline.registry import VIDEO_ENCODER_PREFIXES, is_imported
from pipeline.shapes import check_shape
from pipeline.video.views import TRANSFORM_VERSION


@dataclass(frozen=True)
class ModelSpec:
    """Description of a model, as plain data.

    preprocessing, weights: those of the backbone.
    recipe: `Recipe.as_dict()`.
    stage: the stage that wrote the model.
    compute_dtype: dtype in which the backbone computed the features. precision: that of the head in training.
    transform_version: version of the resampling that rendered the frames.
    best_epoch, selected_on: the epoch of the weights, and the split that selected it.
    reported_on: the split of the metrics in the folder of the file.
    init: the model file from which training started, or "none".
    """

    head: str
    backbone: str
    classes: tuple[str, ...]
    num_segments: int
    in_channels: int
    map_size: int
    preprocessing: Mapping[str, Any]
    recipe: Mapping[str, Any]
    weights: Mapping[str, Any]
    seed: int
    stage: str
    compute_dtype: str = "float32"
    precision: str = "auto"
    transform_version: int = TRANSFORM_VERSION
    best_epoch: int = 0
    selected_on: str = "none"
    reported_on: str = "val"
    init: str = "none"

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def has_backbone(self) -> bool:
        """Whether the file holds the network of its features: not of imported ones, and not of a video encoder."""
        return not (is_imported(self.backbone) or self.backbone.startswith(VIDEO_ENCODER_PREFIXES))


class Classifier(nn.Module):
    """A backbone followed by a head.

    Shape:
        frames: (B, T, 3, H, W), uint8 RGB.
        returns: (B, K), class scores before softmax.
    """

    def __init__(self, backbone: Backbone, head: Head, spec: ModelSpec) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.spec = spec

    def features(self, frames: Tensor) -> Tensor:
        """Compute the features that the head reads, as in the store but in the order (B, T, C, h, w).

        Shape:
            frames: (B, T, 3, H, W), uint8 RGB.
            returns: (B, T, C, h, w); h = w = 1 for a head that reads pooled features.
        """
        sizes = check_shape("frames", frames, "B T 3 H W")
        return self.features_of_maps(self.backbone(frames.flatten(0, 1)), sizes["T"])

    def features_of_maps(self, maps: Tensor, num_segments: int) -> Tensor:
        """Reduce the maps of the backbone to the features that the head reads.

        Shape:
            maps: (N, C, H, W), N = B · T.
            returns: (B, T, C, h, w).
        """
        is_pooled = self.head.reads == "pooled"
        maps = pooled(maps)[:, :, None, None] if is_pooled else self.backbone.reduce_maps(maps, self.spec.map_size)
        features: Tensor = maps.unflatten(0, (-1, num_segments))
        return features

    def forward(self, frames: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(frames))
        return scores


def head_of_spec(spec: ModelSpec) -> Head:
    """Build the head of a spec with new random parameters."""
    return build_head(
        spec.head,
        in_channels=spec.in_channels,
        num_segments=spec.num_segments,
        num_classes=spec.num_classes,
        choices=recipe_from_dict(dict(spec.recipe)).head,
    )
