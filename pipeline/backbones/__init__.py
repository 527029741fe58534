"""Backbones: 2D networks that compute feature maps from uint8 frames, with a declared contract and recorded weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import nn

from pipeline.backbones.backbone import Backbone, pooled
from pipeline.backbones.batch_norm import calibrate_batch_norm
from pipeline.backbones.preprocessing import Preprocessing
from pipeline.backbones.weights import WeightsRecord, load_weights
from pipeline.errors import PipelineError
from pipeline.registry import BACKBONE_FAMILIES, LazyTable, is_imported, unknown_name
from pipeline.registry import BACKBONES as BACKBONE_PLACES

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneContract",
    "Preprocessing",
    "WeightsRecord",
    "backbone_contract",
    "build_backbone",
    "calibrate_batch_norm",
    "make_backbone",
    "pooled",
]

# Classes of the backbones by name; each is imported when it is looked up.
BACKBONES: Mapping[str, type[Backbone]] = LazyTable("backbones", BACKBONE_PLACES)

# Classes that are built from the rest of a name, by its prefix. Imported late: their libraries take seconds.
FAMILIES: Mapping[str, Callable[[str], Backbone]] = LazyTable("backbone families", BACKBONE_FAMILIES)


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

    `name` is a key of `BACKBONES`, or starts with a key of `FAMILIES`, such as `torchvision:NAME`.
    `allow_squeezenet_weights` loads the weights of `squeezenet` into `squeezenet_bypass`, for which no trained weights
    exist. `input_size` is the side of the square input in pixels; by default that of the backbone.

    Raises:
        PipelineError: the backbone or the weights are unknown, the weights do not fit, or the backbone cannot read
            inputs of this size.
    """
    backbone = _make(name)
    record = load_weights(backbone, weights, seed, allow_other_architecture=allow_squeezenet_weights)
    # After the weights, because position embeddings are interpolated to another size.
    named = backbone.named_input_size
    if input_size is not None and named not in (None, input_size):
        raise PipelineError(
            f"`input_size` (={input_size}) differs from the size in the name {name}. Give only one of them."
        )
    size = input_size or named
    if size is not None:
        backbone.set_input_size(size)
    return backbone.eval(), record


def backbone_contract(name: str) -> BackboneContract:
    """Return the contract of a backbone, without any weight file.

    Raises:
        PipelineError: the backbone is unknown.
    """
    backbone = make_backbone(name)
    num_norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in backbone.modules())
    return BackboneContract(backbone.channels, backbone.map_size, backbone.preprocessing, num_norms)


def make_backbone(name: str) -> Backbone:
    """Build a backbone with the input size of its name or its default, and arbitrary weights.

    Raises:
        PipelineError: the backbone is unknown, or needs a package that is missing.
    """
    backbone = _make(name)
    if backbone.named_input_size is not None:
        backbone.set_input_size(backbone.named_input_size)
    return backbone


def _make(name: str) -> Backbone:
    if is_imported(name):
        raise PipelineError(
            f"The features '{name}' were imported from arrays (`pipeline store import-features`), and the network that "
            "computed them is not part of this package: it cannot be run on clips, exported or finetuned."
        )
    with torch.random.fork_rng(devices=[]):
        # Constructors draw weights that are overwritten; this must not change the caller's random state.
        if name in BACKBONES:
            return BACKBONES[name]()
        for prefix in FAMILIES:
            if name.startswith(prefix):
                # Looked up only here: the libraries of the other families may be missing.
                return FAMILIES[prefix](name.removeprefix(prefix))
    raise unknown_name("backbone", name, (*BACKBONES, *(f"{prefix}NAME" for prefix in FAMILIES)))
