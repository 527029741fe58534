"""Backbones: uint8 frames -> feature maps, each with a declared contract and weights that are recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from pipeline.backbones.backbone import Backbone, pooled
from pipeline.backbones.batch_norm import calibrate_batch_norm
from pipeline.backbones.preprocessing import Preprocessing
from pipeline.backbones.weights import WeightsRecord, load_weights
from pipeline.registry import BACKBONES as BACKBONE_PLACES
from pipeline.registry import LazyTable, unknown_name

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneContract",
    "Preprocessing",
    "WeightsRecord",
    "backbone_contract",
    "build_backbone",
    "calibrate_batch_norm",
    "pooled",
]

# Classes of the backbones by name, each imported when it is looked up.
BACKBONES: Mapping[str, type[Backbone]] = LazyTable("backbones", BACKBONE_PLACES)

TORCHVISION_PREFIX = "torchvision:"


class BackboneContract(NamedTuple):
    """What a backbone's maps look like, how its frames are prepared, and how many 2D batch norms it has."""

    channels: int
    map_size: int
    preprocessing: Preprocessing
    num_norms: int


def build_backbone(
    name: str, weights: str = "bundled", seed: int = 0, allow_squeezenet_weights: bool = False
) -> tuple[Backbone, WeightsRecord]:
    """The backbone `name` with its weights, in eval mode, and the record of what was loaded.

    `name` is a key of `BACKBONES`, or `torchvision:NAME`. `allow_squeezenet_weights` lets `squeezenet_bypass`, for
    which no trained weights exist, take those of `squeezenet`.

    Raises:
        PipelineError: unknown backbone or weights, or weights that do not fit.
    """
    backbone = _make(name)
    record = load_weights(backbone, weights, seed, allow_other_architecture=allow_squeezenet_weights)
    return backbone.eval(), record


def backbone_contract(name: str) -> BackboneContract:
    """Return the contract of a backbone, without any weight file.

    Raises:
        PipelineError: unknown backbone.
    """
    backbone = _make(name)
    num_norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in backbone.modules())
    return BackboneContract(backbone.channels, backbone.map_size, backbone.preprocessing, num_norms)


def _make(name: str) -> Backbone:
    if name.startswith(TORCHVISION_PREFIX):
        # Imported here alone: torchvision takes a second, and the backbones of the paper do without it.
        from pipeline.backbones.torchvision_models import TorchvisionBackbone

        return TorchvisionBackbone(name.removeprefix(TORCHVISION_PREFIX))
    if name not in BACKBONES:
        raise unknown_name("backbone", name, (*BACKBONES, f"{TORCHVISION_PREFIX}NAME"))
    with torch.random.fork_rng(devices=[]):
        # The layers' constructors draw numbers, which are overwritten; the caller's generator must not notice.
        return BACKBONES[name]()
