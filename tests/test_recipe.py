"""Recipes: the paper's values literally, and switches that take only what they know."""

from __future__ import annotations

import json

import pytest

from pipeline.errors import PipelineError
from pipeline.recipe import PAPER, PUBLISHED_CODE, RECIPES, named_recipe, recipe_from_dict


def test_paper_recipe_is_section_3_5() -> None:
    training = PAPER.training
    assert (training.optimiser, training.momentum, training.weight_decay, training.lr) == ("sgd", 0.9, 5e-4, 1e-3)
    assert (training.schedule, training.weight_decay_groups) == ("plateau", "all")
    assert (training.recurrent_parameters, training.clip_scope) == ("all", "trained")
    assert PAPER.head.dropout == 0.3
    assert (PAPER.frames.sampler, PAPER.frames.crops) == ("covering", "multiscale")
    assert PAPER.frames.test_frames == "exact"


def test_published_code_differs_where_the_code_does() -> None:
    frames, head, training = PUBLISHED_CODE.frames, PUBLISHED_CODE.head, PUBLISHED_CODE.training
    assert (frames.sampler, frames.short_clip) == ("floor", "first")
    assert (frames.test_frames, frames.crops) == ("float", "published")
    assert (head.projection_init, head.trn_train_tuples, head.trn_eval_tuples) == ("normal_0.001", "sampled", "sampled")
    assert head.fcn_score_relu
    assert (training.recurrent_parameters, training.clip_scope, training.clip_norm) == ("weight_ih_l0", "all", 20)
    assert (training.weight_decay_groups, training.partial_bn) == ("no_conv_bias_no_norm", "backbone_and_head")
    assert (training.schedule, training.step_epochs, training.epochs) == ("steps", (20, 30), 40)
    assert (training.lr, training.momentum, training.weight_decay, training.batch_size) == (1e-3, 0.9, 5e-4, 128)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_survives_json(name: str) -> None:
    recipe = named_recipe(name).with_overrides(lr=0.5, flip="swap", step_epochs=(1, 2))
    assert recipe_from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_a_switch_changes_one_choice_alone() -> None:
    changed = PAPER.with_overrides(dropout=0)
    assert changed.head.dropout == 0.0
    assert (changed.training, changed.frames, PAPER.head.dropout) == (PAPER.training, PAPER.frames, 0.3)


def test_yaml_reads_a_bare_off_as_false() -> None:
    assert PUBLISHED_CODE.with_overrides(partial_bn=False).training.partial_bn == "off"


@pytest.mark.parametrize(
    ("switch", "value", "words"),
    [
        ("flip", "left", "`flip` (='left') must be one of 'off', 'swap', 'plain'."),
        ("epochs", 2.5, "`epochs` (=2.5) must be int and not negative."),
        ("lr", -1, "`lr` (=-1) must be float and not negative."),
        ("lr", "fast", "`lr` (='fast') must be float"),
        ("fcn_score_relu", 1, "`fcn_score_relu` (=1) must be bool"),
        ("droput", 0.1, "Unknown option of a recipe 'droput'. Did you mean 'dropout'?"),
    ],
)
def test_faults_are_named(switch: str, value: object, words: str) -> None:
    with pytest.raises(PipelineError) as error:
        PAPER.with_overrides(**{switch: value})
    assert words in str(error.value)
