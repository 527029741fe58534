"""Optimiser and its parameter groups, with their learning rates and weight decays.

Every trainable parameter is in exactly one group, or the recipe leaves it out; anything else is an error before the
first step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

from pipeline.backbones.blocks import NORMS
from pipeline.errors import PipelineError
from pipeline.recipe import TrainConfig

TRAINED_RECURRENT_PARAMETER = "weight_ih_l0"


@dataclass
class ParameterGroup:
    """Parameters with one learning rate and one weight decay. `lr` is the rate before the schedule's factor."""

    name: str
    lr: float
    weight_decay: float
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)

    def describe(self) -> str:
        num_values = sum(parameter.numel() for parameter in self.parameters.values())
        return (
            f"{self.name}: {len(self.parameters)} parameters, {num_values:,} values, lr {self.lr:g}, "
            f"weight decay {self.weight_decay:g}"
        )


@dataclass
class ParameterPlan:
    """The parameters that the optimiser trains, and those that the recipe leaves untrained.

    left_out_by: the option of the recipe that leaves a parameter out, by the parameter's name.
    """

    groups: list[ParameterGroup]
    left_out: dict[str, nn.Parameter]
    left_out_by: dict[str, str] = field(default_factory=dict)

    @property
    def trained(self) -> list[nn.Parameter]:
        return [parameter for group in self.groups for parameter in group.parameters.values()]

    def lines(self) -> list[str]:
        """Return the plan as text: a line for each group, and one for each option that leaves parameters out."""
        lines = [group.describe() for group in self.groups]
        for switch in dict.fromkeys(self.left_out_by.values()):
            names = [name for name in self.left_out if self.left_out_by[name] == switch]
            num_values = sum(self.left_out[name].numel() for name in names)
            lines.append(
                f"NOT trained, as in the published code ({switch}): {', '.join(names)} ({num_values:,} values keep "
                "their initial values)"
            )
        return lines


def plan_parameters(
    parts: Mapping[str, tuple[nn.Module, float]],
    choices: TrainConfig,
    num_norms_before: int = 0,
    rate_factors: Mapping[str, float] | None = None,
) -> ParameterPlan:
    """Put every trainable parameter of the named modules into a group. `parts` has a module and its rate by name.

    `num_norms_before` is the number of 2D batch norms of a backbone that is not in `parts`: with
    `partial_bn="backbone_and_head"` only the first 2D batch norm of the whole network trains its scale and shift.
    `rate_factors` has factors on the rates of single parameters, by full name; other parameters have the factor 1.

    Raises:
        PipelineError: no rule applies to a trainable parameter, or two modules share it at two rates.
    """
    groups: dict[str, ParameterGroup] = {}
    left_out: dict[str, nn.Parameter] = {}
    left_out_by: dict[str, str] = {}
    norms = [layer for module, _ in parts.values() for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    later_norms = norms if num_norms_before else norms[1:]
    for part, (module, lr) in parts.items():
        for name, owner, parameter in _own_parameters(part, module):
            if not parameter.requires_grad:
                continue
            switch = _left_out_by(owner, name, owner in later_norms, choices)
            if switch is not None:
                left_out[name], left_out_by[name] = parameter, switch
                continue
            kind, lr_factor, decays = _kind_of(owner, name, choices)
            label = f"{part}, {kind}"
            factor = 1.0 if rate_factors is None else rate_factors.get(name, 1.0)
            if factor != 1.0:
                label += f", rate × {factor:.4g}"
            decay = choices.weight_decay if decays else 0.0
            group = groups.setdefault(label, ParameterGroup(label, lr * lr_factor * factor, decay))
            group.parameters[name] = parameter
    plan = ParameterPlan(list(groups.values()), left_out, left_out_by)
    check_plan(plan, {part: module for part, (module, _) in parts.items()})
    return plan


def check_plan(plan: ParameterPlan, modules: Mapping[str, nn.Module]) -> None:
    """Check that each trainable parameter of the modules occurs in a plan exactly once.

    Raises:
        PipelineError: a parameter is in no group or in two; the message names it.
    """
    counts: dict[int, int] = {}
    for parameter in [*plan.trained, *plan.left_out.values()]:
        counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    for part, module in modules.items():
        for name, parameter in module.named_parameters():
            count = counts.get(id(parameter), 0)
            if parameter.requires_grad and count != 1:
                raise PipelineError(
                    f"The trainable parameter '{part}.{name}' is in {count} optimiser groups; it must be in exactly "
                    "one. Put it in one group, or set requires_grad to False."
                )


def build_optimiser(plan: ParameterPlan, choices: TrainConfig) -> Optimizer:
    """Build the recipe's optimiser for the groups of a plan. `base_lr` of a group is its rate for the schedule."""
    groups = [
        {
            "params": list(group.parameters.values()),
            "lr": group.lr,
            "base_lr": group.lr,
            "weight_decay": group.weight_decay,
        }
        for group in plan.groups
    ]
    # torch refuses an optimiser without groups; a head that is fitted in closed form has no parameters.
    groups = groups or [{"params": [], "lr": choices.lr, "base_lr": choices.lr}]
    # Fused: one kernel updates all values of a parameter, instead of one pass for each operation.
    optimiser: Optimizer
    if choices.optimiser == "sgd":
        optimiser = torch.optim.SGD(groups, lr=choices.lr, momentum=choices.momentum, fused=True)
        # torch starts the momentum with uninitialised memory, which remains if the loss scaler skips the first step.
        # Starting from zeros, the first velocity is the gradient, as without fusing.
        for parameter in (parameter for group in plan.groups for parameter in group.parameters.values()):
            optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    else:
        optimiser = torch.optim.AdamW(groups, lr=choices.lr, fused=True)
    _flush_subnormals(optimiser)
    return optimiser


def _flush_subnormals(optimiser: Optimizer) -> None:
    """Round subnormal numbers to zero in the steps of an optimiser, on the CPU and in the calling thread.

    The momentum of a parameter without gradients, such as a weight of a unit that is always zero, shrinks by a tenth in
    each step, and is subnormal after 830. Intel processors take about a hundred cycles for each such number. The
    parameters are the same, because such a momentum is far smaller than their rounding.
    """
    was_flushing = False

    def flush(*_: object) -> None:
        nonlocal was_flushing
        was_flushing = bool(torch.tensor(torch.finfo(torch.float32).tiny, dtype=torch.float32) / 2 == 0)
        torch.set_flush_denormal(True)

    def restore(*_: object) -> None:
        torch.set_flush_denormal(was_flushing)

    optimiser.register_step_pre_hook(flush)
    optimiser.register_step_post_hook(restore)


def set_rates(optimiser: Optimizer, factor: float) -> None:
    """Set the rate of every group to its base rate times the schedule's factor."""
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor


def clip_gradients(plan: ParameterPlan, choices: TrainConfig) -> Tensor | None:
    """Clip the gradients as the recipe says; return their norm before clipping, or None without clipping.

    With `clip_scope="all"` the norm includes the gradients of parameters that are left out. They are never cleared, so
    they accumulate from step to step and reduce the gradients of the trained ones, as in the published code.
    """
    if choices.clip_norm == 0:
        return None
    parameters = plan.trained
    if choices.clip_scope == "all":
        parameters = [*parameters, *plan.left_out.values()]
    return nn.utils.clip_grad_norm_(parameters, choices.clip_norm)


def clear_gradients(plan: ParameterPlan, choices: TrainConfig) -> None:
    """Clear the gradients before a step, except those that accumulate in the published code."""
    for parameter in plan.trained:
        parameter.grad = None
    if choices.clip_scope == "trained":
        for parameter in plan.left_out.values():
            parameter.grad = None


def freeze_later_norms(backbone: nn.Module) -> None:
    """Freeze the 2D batch norms of a backbone except the first: evaluation mode, scale and shift not trained.

    Call it before the optimiser is built and again after each `backbone.train()`.
    """
    norms = [layer for layer in backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms[1:]:
        layer.eval()
        layer.requires_grad_(False)


def _own_parameters(part: str, module: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Yield every parameter once, with its full name and the module that owns it."""
    seen: set[int] = set()
    for path, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield ".".join(filter(None, (part, path, name))), owner, parameter


def _left_out_by(owner: nn.Module, name: str, is_later_norm: bool, choices: TrainConfig) -> str | None:
    """Return the option of the recipe that leaves a parameter out of the optimiser, or None if it is trained."""
    if choices.partial_bn == "backbone_and_head" and is_later_norm:
        return f"partial_bn={choices.partial_bn}"
    is_first = name.rpartition(".")[2] == TRAINED_RECURRENT_PARAMETER
    if choices.recurrent_parameters != "all" and isinstance(owner, nn.RNNBase) and not is_first:
        return f"recurrent_parameters={choices.recurrent_parameters}"
    return None


def _kind_of(owner: nn.Module, name: str, choices: TrainConfig) -> tuple[str, float, bool]:
    """Return the kind of a parameter, the factor on its learning rate, and whether it decays."""
    if choices.weight_decay_groups == "all":
        return "all", 1.0, True
    last = name.rpartition(".")[2]
    if last in getattr(owner, "free_parameters", ()):
        return "free parameters", 1.0, False
    if isinstance(owner, NORMS):
        return "norms", 1.0, False
    if isinstance(owner, _ConvNd) and last == "bias":
        return "convolution biases", 2.0, False
    if isinstance(owner, (_ConvNd, nn.Linear, nn.RNNBase)):
        if choices.weight_decay_groups == "no_conv_bias_no_norm":
            return "weights and linear biases", 1.0, True
        return ("biases", 1.0, False) if last.startswith("bias") else ("weights", 1.0, True)
    raise PipelineError(
        f"weight_decay_groups={choices.weight_decay_groups} has no rule for '{name}', a parameter of "
        f"{type(owner).__name__} with the shape {tuple(owner.get_parameter(last).shape)}. Build it from convolution, "
        "linear, recurrent or norm layers, or choose weight_decay_groups=all."
    )
