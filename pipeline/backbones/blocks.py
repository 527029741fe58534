"""Number the blocks of a network from its input to its output, for rates that depend on depth."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


def blocks_of_children(network: nn.Module) -> dict[str, int]:
    """Return the number of the block of each parameter, by name; each child module with parameters is a block.

    A norm belongs to the block before it, and parameters outside the children to block 0. If a network has a single
    child with parameters, the blocks are the children of that child.
    """
    prefix, owner = "", network
    children = _with_parameters(owner)
    while len(children) == 1 and not list(owner.parameters(recurse=False)):
        ((name, owner),) = children.items()
        prefix, children = f"{prefix}{name}.", _with_parameters(owner)
    number_of: dict[str, int] = {}
    number = -1
    for name, child in children.items():
        if number < 0 or not isinstance(child, NORMS):
            number += 1
        number_of[name] = number
    return {
        name: number_of.get(name.removeprefix(prefix).partition(".")[0], 0) for name, _ in network.named_parameters()
    }


def _with_parameters(module: nn.Module) -> dict[str, nn.Module]:
    return {name: child for name, child in module.named_children() if next(child.parameters(), None) is not None}
