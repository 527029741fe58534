"""Backbones: 2D networks that compute feature maps from uint8 frames, with a declared contract and recorded weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from pipeline.backbones.backbone import Backbone, pooled
from pipeline.backbones.batch_norm import calibrate_batch_norm
from pipeline.backbones.preprocessing import Preprocessing
from pipeline.backbones.weights import WeightsRecord, load_weights
from pipeline.errors import PipelineError
from pipeline.registry import BACKBONES as BACKBONE_PLACES
from pipeline.registry import LazyTable, is_imported, unknown_name

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

# Classes of the backbones by name; each is imported when it is looked up.
BACKBONES: Mapping[str, type[Backbone]] = LazyTable("backbones", BACKBONE_PLACES)

TORCHVISION_PREFIX = "torchvision:"


class BackboneContract(NamedTuple):
    """Size of a backbone's maps, preprocessing of its frames, and number of its 2D batch norms."""

    channels: int
    map_size: int
    preprocessing: Preprocessing
    num_norms: int


def build_backbone(
    name: str,
    weights: str = "bundled",
    seed: int = 0,
    allow_squeezenet_weights: bool = False,
    input_size: int | None = None,
) -> tuple[Backbone, WeightsRecord]:
    """Build a backbone with its weights, in evaluation mode; return it with the record of the weights.

    `name` is a key of `BACKBONES`, or `torchvision:NAME`. `allow_squeezenet_weights` loads the weights of `squeezenet`
    into `squeezenet_bypass`, for which no trained weights exist. `input_size` is the side of the square input in
    pixels; by default that of the backbone.

    Raises:
        PipelineError: the backbone or the weights are unknown, the weights do not fit, or the backbone cannot read
            inputs of this size.
    """
    backbone = _make(name)
    if input_size is not None:
        backbone.set_input_size(input_size)
    record = load_weights(backbone, weights, seed, allow_other_architecture=allow_squeezenet_weights)
    return backbone.eval(), record


def backbone_contract(name: str) -> BackboneContract:
    """Return the contract of a backbone, without any weight file.

    Raises:
        PipelineError: the backbone is unknown.
    """
    backbone = _make(name)
    num_norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in backbone.modules())
    return BackboneContract(backbone.channels, backbone.map_size, backbone.preprocessing, num_norms)


def _make(name: str) -> Backbone:
    if name.startswith(TORCHVISION_PREFIX):
        # Imported late: torchvision takes a second, and the backbones of the paper do not need it.
        from pipeline.backbones.torchvision_models import TorchvisionBackbone

        return TorchvisionBackbone(name.removeprefix(TORCHVISION_PREFIX))
    if is_imported(name):
        raise PipelineError(
            f"The features '{name}' were imported from arrays (`pipeline store import-features`), and the network that "
            "computed them is not part of this package: it cannot be run on clips, exported or finetuned."
        )
    if name not in BACKBONES:
        raise unknown_name("backbone", name, (*BACKBONES, f"{TORCHVISION_PREFIX}NAME"))
    with torch.random.fork_rng(devices=[]):
        # Constructors draw weights that are overwritten; this must not change the caller's random state.
        return BACKBONES[name]()
