"""Which parameters are trained, against lists written by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from pipeline.errors import PipelineError
from pipeline.heads import HEADS, build_head
from pipeline.recipe import RECIPES, TrainConfig, named_recipe
from pipeline.training.optimiser import (
    ParameterGroup,
    ParameterPlan,
    build_optimiser,
    check_plan,
    clear_gradients,
    clip_gradients,
    freeze_later_norms,
    plan_parameters,
    set_rates,
)

SIZES = {"in_channels": 8, "num_segments": 8, "num_classes": 3}
TINY = torch.finfo(torch.float32).tiny  # smaller numbers are subnormal
PUBLISHED = named_recipe("published-code").training


def names(plan: ParameterPlan) -> dict[str, set[str]]:
    return {group.name: set(group.parameters) for group in plan.groups}


def test_published_code_trains_only_the_input_weights_of_the_lstm() -> None:
    plan = plan_parameters({"head": (build_head("lstm", **SIZES), 1e-3)}, PUBLISHED)
    assert names(plan) == {
        "head, weights and linear biases": {
            "head.projection.weight",
            "head.projection.bias",
            "head.lstm.weight_ih_l0",
            "head.classifier.weight",
            "head.classifier.bias",
        },
    }
    assert set(plan.left_out) == {"head.lstm.weight_hh_l0", "head.lstm.bias_ih_l0", "head.lstm.bias_hh_l0"}
    assert any("NOT trained" in line and "head.lstm.weight_hh_l0" in line for line in plan.lines())


def test_published_code_leaves_out_the_whole_backward_direction() -> None:
    plan = plan_parameters({"head": (build_head("blstm", **SIZES), 1e-3)}, PUBLISHED)
    trained = {name.rpartition(".")[2] for group in plan.groups for name in group.parameters if "lstm" in name}
    assert trained == {"weight_ih_l0"}
    assert {name.rpartition(".")[2] for name in plan.left_out} == {
        "weight_hh_l0",
        "bias_ih_l0",
        "bias_hh_l0",
        "weight_ih_l0_reverse",
        "weight_hh_l0_reverse",
        "bias_ih_l0_reverse",
        "bias_hh_l0_reverse",
    }


def test_convolution_biases_learn_twice_as_fast_without_decay_in_the_published_code() -> None:
    plan = plan_parameters({"head": (build_head("fcn3d", **SIZES), 1e-3)}, PUBLISHED)
    rates = {group.name: (group.lr, group.weight_decay) for group in plan.groups}
    assert rates == {
        "head, weights and linear biases": (1e-3, 5e-4),
        "head, convolution biases": (2e-3, 0.0),
        "head, norms": (1e-3, 0.0),
    }


def test_no_bias_decays_where_the_switch_says_so() -> None:
    choices = dataclasses.replace(PUBLISHED, weight_decay_groups="no_bias_no_norm")
    plan = plan_parameters({"head": (build_head("lstm", **SIZES), 1e-3)}, choices)
    assert {name: group.weight_decay for group in plan.groups for name in group.parameters} == {
        "head.projection.weight": 5e-4,
        "head.projection.bias": 0.0,
        "head.lstm.weight_ih_l0": 5e-4,
        "head.classifier.weight": 5e-4,
        "head.classifier.bias": 0.0,
    }


@pytest.mark.parametrize(("num_norms_before", "num_trained"), [(0, 1), (69, 0)])
def test_published_code_leaves_out_scale_and_shift_behind_the_first_norm_of_the_network(
    num_norms_before: int, num_trained: int
) -> None:
    head = build_head("fcn2d", **SIZES, choices=named_recipe("published-code").head)
    plan = plan_parameters({"head": (head, 1e-3)}, PUBLISHED, num_norms_before)
    # After a ReLU, each convolution is followed by its norm and a ReLU.
    norms = [{f"head.layers.{layer}.{name}" for name in ("weight", "bias")} for layer in (2, 5, 8, 11, 14)]
    assert set(plan.left_out) == set().union(*norms[num_trained:])
    assert names(plan).get("head, norms", set()) == set().union(*norms[:num_trained])
    (line,) = (line for line in plan.lines() if "NOT trained" in line)
    assert "partial_bn=backbone_and_head" in line


def test_published_code_trains_the_norms_of_3d_fcn() -> None:
    plan = plan_parameters({"head": (build_head("fcn3d", **SIZES), 1e-3)}, PUBLISHED, num_norms_before=69)
    assert len(names(plan)["head, norms"]) == 6
    assert not plan.left_out


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_of_every_head_is_in_one_group_or_named_as_left_out(head: str, recipe: str) -> None:
    module = build_head(head, **SIZES)
    plan = plan_parameters({"head": (module, 1e-3)}, named_recipe(recipe).training)
    listed = [name for group in plan.groups for name in group.parameters] + list(plan.left_out)
    assert sorted(listed) == sorted(f"head.{name}" for name, _ in module.named_parameters())
    assert recipe == "published-code" or not plan.left_out


def test_a_parameter_without_a_rule_is_named() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))

    with pytest.raises(PipelineError, match=r"no rule for 'head\.gain', a parameter of Scaled"):
        plan_parameters({"head": (Scaled(), 1e-3)}, PUBLISHED)
    assert names(plan_parameters({"head": (Scaled(), 1e-3)}, TrainConfig())) == {"head, all": {"head.gain"}}


def test_a_parameter_in_no_group_or_in_two_is_named() -> None:
    module = nn.Linear(2, 2)
    group = ParameterGroup("one", 1e-3, 0.0, {"weight": module.weight})
    with pytest.raises(PipelineError, match=r"'head\.bias' is in 0 optimiser groups"):
        check_plan(ParameterPlan([group], {}), {"head": module})
    both = [group, ParameterGroup("two", 1e-3, 0.0, {"weight": module.weight, "bias": module.bias})]
    with pytest.raises(PipelineError, match=r"'head\.weight' is in 2 optimiser groups"):
        check_plan(ParameterPlan(both, {}), {"head": module})


def test_frozen_parameters_are_in_no_group() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    plan = plan_parameters({"head": (module, 1e-3)}, TrainConfig())
    assert names(plan) == {"head, all": {"head.1.weight", "head.1.bias"}}


def test_parts_keep_rates_of_their_own() -> None:
    parts = {"backbone": (nn.Linear(2, 2), 1e-4), "head": (nn.Linear(2, 2), 1e-2)}
    choices = TrainConfig(optimiser="sgd")
    optimiser = build_optimiser(plan_parameters(parts, choices), choices)
    set_rates(optimiser, 0.1)
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([1e-5, 1e-3])


def test_one_sgd_step_by_hand() -> None:
    module = nn.Linear(1, 1)
    with torch.no_grad():
        module.weight.fill_(2.0)
        module.bias.fill_(1.0)
    choices = TrainConfig(optimiser="sgd", lr=0.1, momentum=0.9, weight_decay=0.5)
    optimiser = build_optimiser(plan_parameters({"head": (module, 0.1)}, choices), choices)
    for _ in range(2):
        module.weight.grad, module.bias.grad = torch.ones(1, 1), torch.ones(1)
        optimiser.step()
    # velocity 1 + .5·2 = 2, weight 2 - .2 = 1.8; velocity .9·2 + 1 + .5·1.8 = 3.7, weight 1.8 - .37 = 1.43
    assert module.weight.item() == pytest.approx(1.43)


def test_a_first_step_that_the_loss_scaler_skips_leaves_no_trace() -> None:
    module = nn.Linear(64, 64)
    before = module.weight.detach().clone()
    choices = TrainConfig(optimiser="sgd", lr=0.1, momentum=0.9, weight_decay=0.0)
    waste = [torch.full((64, 64), torch.nan) for _ in range(50)]
    del waste  # freed memory that is no number: what a velocity must not begin with
    optimiser = build_optimiser(plan_parameters({"head": (module, 0.1)}, choices), choices)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for gradient in (torch.inf, 1.0):
        module.weight.grad = torch.full_like(module.weight, gradient)
        module.bias.grad = torch.zeros_like(module.bias)
        scaler.scale(torch.ones(()))
        scaler.step(optimiser)
        scaler.update()
    # The second gradient, 1, was scaled by half of 4: its velocity is a half, and the step a twentieth.
    torch.testing.assert_close(module.weight.detach(), before - 0.05)


def is_flushing() -> bool:
    return bool(torch.tensor(TINY) / 2 == 0)


def moments_without_gradients(optimiser: torch.optim.Optimizer, parameter: nn.Parameter) -> torch.Tensor:
    """Return the momentum after 1,000 steps, of which the last 990 have no gradient."""
    generator = torch.Generator().manual_seed(0)
    for number in range(1000):
        parameter.grad = torch.randn(parameter.shape, generator=generator) * (number < 10)
        optimiser.step()
    state = optimiser.state[parameter]
    return state["exp_avg"] if "exp_avg" in state else state["momentum_buffer"]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_subnormal_momentum_is_zero_and_the_parameters_are_those_of_torch(name: str) -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot round subnormal numbers to zero")
    torch.set_flush_denormal(False)
    choices = TrainConfig(optimiser=name, lr=0.1, momentum=0.9, weight_decay=0.0)
    ours, theirs = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
    theirs.load_state_dict(ours.state_dict())
    plan = plan_parameters({"head": (ours, 0.1)}, choices)
    optimiser = build_optimiser(plan, choices)
    groups = [{"params": [theirs.weight], "lr": 0.1, "weight_decay": 0.0}]
    plain = (
        torch.optim.SGD(groups, momentum=0.9, fused=True) if name == "sgd" else torch.optim.AdamW(groups, fused=True)
    )
    found, expected = (moments_without_gradients(*pair) for pair in ((optimiser, ours.weight), (plain, theirs.weight)))
    assert bool(((expected.abs() < TINY) & (expected != 0)).any())
    assert not ((found.abs() < TINY) & (found != 0)).any()
    assert torch.equal(ours.weight, theirs.weight)
    assert not is_flushing()


def test_a_step_keeps_the_callers_choice_about_subnormal_numbers() -> None:
    module, choices = nn.Linear(1, 1), TrainConfig()
    optimiser = build_optimiser(plan_parameters({"head": (module, 0.1)}, choices), choices)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot round subnormal numbers to zero")
    try:
        optimiser.step()
        assert is_flushing()
    finally:
        torch.set_flush_denormal(False)
    optimiser.step()
    assert not is_flushing()


def gradients_after_two_steps(scope: str) -> tuple[float, float | None]:
    head = build_head("lstm", **SIZES)
    choices = TrainConfig(recurrent_parameters="weight_ih_l0", clip_norm=1.0, clip_scope=scope)
    plan = plan_parameters({"head": (head, 1e-3)}, choices)
    for _ in range(2):
        clear_gradients(plan, choices)
        for parameter in head.parameters():
            one = torch.ones_like(parameter)
            parameter.grad = one if parameter.grad is None else parameter.grad + one
        norm = clip_gradients(plan, choices)
    assert norm is not None
    return norm.item(), head.lstm.weight_hh_l0.grad.flatten()[0].item()


def test_gradients_of_untrained_parameters_pile_up_only_in_the_published_code() -> None:
    head = build_head("lstm", **SIZES)
    left_out = sum(p.numel() for name, p in head.named_parameters() if "hh" in name or "lstm.bias" in name)
    trained = sum(p.numel() for p in head.parameters()) - left_out
    norm, _ = gradients_after_two_steps("trained")
    assert norm == pytest.approx(trained**0.5, rel=1e-4)
    # First step: all ones, clipped to norm 1. Second: that remainder and one more on the untrained ones.
    remainder = 1 / (trained + left_out) ** 0.5
    norm, _ = gradients_after_two_steps("all")
    assert norm == pytest.approx((trained + left_out * (1 + remainder) ** 2) ** 0.5, rel=1e-4)


def test_all_norms_but_the_first_keep_their_statistics() -> None:
    network = nn.Sequential(*(nn.BatchNorm2d(3) for _ in range(3))).train()
    freeze_later_norms(network)
    before = {name: value.clone() for name, value in network.state_dict().items() if "running" in name}
    network(torch.randn(4, 3, 2, 2))
    changed = {name for name, value in before.items() if not torch.equal(value, network.state_dict()[name])}
    assert changed == {"0.running_mean", "0.running_var"}
    assert [name for name, parameter in network.named_parameters() if parameter.requires_grad] == ["0.weight", "0.bias"]
