"""Rates that fall from block to block of the backbone, against arithmetic by hand and timm's own numbering."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.backbones import build_backbone
from pipeline.errors import PipelineError
from pipeline.finetune.model import freeze_up_to, fresh_classifier, set_training_mode
from pipeline.finetune.rates import plan_rates
from pipeline.recipe import Recipe, named_recipe, recipe_from_dict
from tests.support.run_stages import finetune
from tests.support.small_clips import CLASSES, PLAIN, T, write_clips, write_model

RATES = {"lr": 0.5, "backbone_lr": 0.1}


def rates(backbone: str, recipe: Recipe, head: str = "mlp", freeze_until: str | None = None) -> dict[str, float]:
    """The planned rate of every trained parameter."""
    classifier = fresh_classifier(head, backbone, "random", CLASSES, T, recipe, seed=0)
    if freeze_until is not None:
        freeze_up_to(classifier.backbone, freeze_until)
    set_training_mode(classifier, recipe.training)
    plan = plan_rates(classifier, recipe)
    assert len(plan.trained) == sum(parameter.requires_grad for parameter in classifier.parameters())
    return {name: group.lr for group in plan.groups for name in group.parameters}


def test_the_rates_of_squeezenet_fall_with_each_halving_of_its_maps() -> None:
    found = rates("squeezenet", named_recipe("paper").with_overrides(**RATES, layer_decay=0.5))
    # features.0 | pool, fire2, fire3 | pool, fire4, fire5 | pool, fire6 to fire9
    by_hand = {0: 0.0125, 3: 0.025, 4: 0.025, 6: 0.05, 7: 0.05, 9: 0.1, 10: 0.1, 11: 0.1, 12: 0.1}
    for name, rate in found.items():
        part, _, rest = name.partition(".features.")
        expected = by_hand[int(rest.split(".")[0])] if part == "backbone" else 0.5
        assert rate == pytest.approx(expected, rel=1e-12), name


def test_the_rates_of_bninception_fall_with_each_inception_module() -> None:
    found = rates("bninception", named_recipe("paper").with_overrides(**RATES, layer_decay=0.8))
    by_hand = {
        "conv1_7x7_s2.weight": 0.1 * 0.8**10,
        "conv1_7x7_s2_bn.weight": 0.1 * 0.8**10,
        "conv2_3x3.bias": 0.1 * 0.8**10,
        "inception_3a_1x1.weight": 0.1 * 0.8**9,
        "inception_3c_double_3x3_2.weight": 0.1 * 0.8**7,
        "inception_4a_pool_proj.weight": 0.1 * 0.8**6,
        "inception_4e_3x3.bias": 0.1 * 0.8**2,
        "inception_5a_3x3_reduce.weight": 0.1 * 0.8,
        "inception_5b_1x1.weight": 0.1,
        "inception_5b_pool_proj.bias": 0.1,
    }
    for name, expected in by_hand.items():
        assert found[f"backbone.{name}"] == pytest.approx(expected, rel=1e-12), name
    assert len({rate for name, rate in found.items() if name.startswith("backbone")}) == 11
    assert {rate for name, rate in found.items() if name.startswith("head")} == {0.5}


def test_it_composes_with_frozen_layers_and_groups_of_weight_decay() -> None:
    """The rates count from the head, so frozen blocks change nothing; biases of convolutions keep their factor two."""
    recipe = named_recipe("published-code").with_overrides(**RATES, layer_decay=0.5)
    found = rates("squeezenet", recipe, freeze_until="features.6")
    assert "backbone.features.6.squeeze.weight" not in found
    assert found["backbone.features.7.squeeze.weight"] == pytest.approx(0.05)
    assert found["backbone.features.7.squeeze.bias"] == pytest.approx(2 * 0.05)
    assert found["backbone.features.12.expand3x3.weight"] == pytest.approx(0.1)
    classifier = fresh_classifier("mlp", "squeezenet", "random", CLASSES, T, recipe, seed=0)
    decays = {name: group.weight_decay for group in plan_rates(classifier, recipe).groups for name in group.parameters}
    assert decays["backbone.features.3.squeeze.weight"] == recipe.training.weight_decay
    assert decays["backbone.features.3.squeeze.bias"] == 0


def test_other_networks_are_divided_into_their_parts() -> None:
    """A transformer into its embedding and its blocks, the last with the norm behind it; ResNet as in its paper."""
    blocks = build_backbone("timm:test_vit@64", "random")[0].block_of_parameters()
    num_blocks = 1 + max(int(name.split(".")[2]) for name in blocks if name.startswith("layers.blocks."))
    assert num_blocks > 2
    for name, number in blocks.items():
        part, _, rest = name.removeprefix("layers.").partition(".")
        expected = int(rest.split(".")[0]) + 1 if part == "blocks" else num_blocks if part == "norm" else 0
        assert number == expected, name
    blocks = build_backbone("torchvision:resnet18", "random")[0].block_of_parameters()
    stages = {"conv1": 0, "bn1": 0, "layer1": 1, "layer2": 2, "layer3": 3, "layer4": 4}
    assert {name: stages[name.split(".")[1]] for name in blocks} == blocks


@pytest.mark.parametrize("name", ["squeezenet", "bninception", "torchvision:densenet121", "timm:test_convnext@64"])
def test_every_parameter_has_a_block_and_blocks_are_numbered_from_0(name: str) -> None:
    backbone = build_backbone(name, "random")[0]
    blocks = backbone.block_of_parameters()
    assert blocks.keys() == {name for name, _ in backbone.named_parameters()}
    assert set(blocks.values()) == set(range(max(blocks.values()) + 1))
    assert max(blocks.values()) >= 3


def test_a_step_moves_each_block_by_its_rate(tmp_path: Path) -> None:
    """One step of plain SGD: against a step at one rate, the change of each block is scaled by its factor."""
    manifest, model = write_clips(tmp_path), write_model(tmp_path / "model.safetensors")
    recipe = {**PLAIN, **RATES, "momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.0, "schedule": "steps"}
    settings: dict[str, Any] = {"manifest": manifest, "init": model, "precision": "float32", "threads": 1, "epochs": 1}
    settings |= {"batch_size": 7, "accumulate": 1, "keep_checkpoints": 1}
    weights = {}
    for decay in (1.0, 0.25):
        out = tmp_path / str(decay)
        finetune(out=out, **settings, overrides={**recipe, "layer_decay": decay})
        weights[decay] = load_file(out / "squeezenet-mlp" / "model.safetensors")
    before = load_file(model)
    factors = {0: 1 / 64, 3: 1 / 16, 4: 1 / 16, 6: 1 / 4, 7: 1 / 4}
    for name, value in before.items():
        factor = factors.get(int(name.split(".")[2]), 1.0) if name.startswith("backbone") else 1.0
        change, plain = weights[0.25][name] - value, weights[1.0][name] - value
        assert plain.abs().max() > 1e-6
        torch.testing.assert_close(change, factor * plain, rtol=0, atol=1e-6)


def test_without_it_a_recipe_is_written_as_before() -> None:
    recipe = named_recipe("finetune")
    assert recipe.with_overrides(layer_decay=1).as_dict() == recipe.as_dict()
    assert recipe.as_dict()["finetune"] == {"min_steps": 0, "ema_decay": 0.0, "interpolate": "start"}
    assert "finetune" not in named_recipe("paper").with_overrides(layer_decay=1.0).as_dict()
    changed = named_recipe("paper").with_overrides(layer_decay=0.75)
    assert changed.as_dict()["finetune"]["layer_decay"] == 0.75
    assert recipe_from_dict(json.loads(json.dumps(changed.as_dict()))) == changed
    classifier = fresh_classifier("mlp", "squeezenet", "random", CLASSES, T, recipe, seed=0)
    assert [group.name for group in plan_rates(classifier, recipe).groups] == ["backbone, all", "head, all"]


@pytest.mark.parametrize("value", [0, 1.5])
def test_a_decay_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(PipelineError, match=r"`layer_decay` \(=.*\) must be above 0 and at most 1"):
        named_recipe("finetune").with_overrides(layer_decay=value)
