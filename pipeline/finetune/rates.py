"""Plan the learning rates of backbone and head."""

from __future__ import annotations

from pipeline.backbones.backbone import Backbone
from pipeline.model import Classifier
from pipeline.recipe import Recipe
from pipeline.training.optimiser import ParameterPlan, plan_parameters

BACKBONE, HEAD = "backbone", "head"


def plan_rates(classifier: Classifier, recipe: Recipe) -> ParameterPlan:
    """Put every trainable parameter of a classifier into a group with its rate."""
    choices = recipe.training
    parts = {BACKBONE: (classifier.backbone, choices.backbone_lr), HEAD: (classifier.head, choices.lr)}
    return plan_parameters(parts, choices, rate_factors=block_factors(classifier.backbone, recipe.finetune.layer_decay))


def block_factors(backbone: Backbone, decay: float) -> dict[str, float]:
    """Return the factors on the rates of a backbone's parameters, by full name; empty without a decay.

    The last block has the factor 1, and each block before it that of its successor times `decay`.

    Source: Clark et al., ELECTRA, 2020, App. B (layer-wise rate decay).
    """
    if decay == 1.0:
        return {}
    block_of = backbone.block_of_parameters()
    last = max(block_of.values())
    return {f"{BACKBONE}.{name}": decay ** (last - block) for name, block in block_of.items()}
