"""Train one model in several processes that `torchrun` starts; a single process uses the same code."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import PipelineError

Item = TypeVar("Item")


@dataclass(frozen=True)
class World:
    """The processes of one training and the rank of this process.

    `all_reduce` and `all_gather` exchange figures on the CPU; `wrap_ddp` exchanges gradients.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and the messages."""
        return self.rank == 0

    def shard(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items of this process; every item belongs to exactly one process."""
        return items[self.rank :: self.size]

    def all_reduce(self, values: Tensor) -> Tensor:
        """Return the sum of a CPU tensor over all processes."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values of all processes in a list, the same in every process; they are sent as JSON."""
        if self.size == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(text)
        lengths = self.all_reduce(lengths)
        table = torch.zeros((self.size, int(lengths.max())), dtype=torch.uint8)
        table[self.rank, : len(text)] = text
        table = self.all_reduce(table)
        return [json.loads(bytes(row[:length].tolist())) for row, length in zip(table, lengths.tolist(), strict=True)]

    def average_norms(self, module: nn.Module) -> None:
        """Average the running statistics of batch norms over all processes, because each process had other clips."""
        if self.size == 1:
            return
        for layer in module.modules():
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None:
                for statistic in (layer.running_mean, layer.running_var):
                    dist.all_reduce(statistic)
                    statistic /= self.size

    def barrier(self) -> None:
        """Wait until every process has called this."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))

    def wrap_ddp(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Wrap a model so that each backward pass averages the gradients over all processes."""
        if self.size == 1:
            return model
        # `average_norms` averages statistics of batch norms once per epoch; they are not overwritten in each step.
        return DistributedDataParallel(
            model, device_ids=[device] if device.type == "cuda" else None, forward_sync_buffers=False
        )


@contextmanager
def init_distributed() -> Iterator[World]:
    """Join the processes that `torchrun` describes in the environment; without it, use a single process.

    Raises:
        PipelineError: the environment names several processes but not the rank of this one.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    try:
        rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    except KeyError as error:
        raise PipelineError(
            f"WORLD_SIZE is {size}, but {error.args[0]} is not set. Start several processes with "
            "`torchrun --nproc-per-node N -m pipeline finetune …`, or unset WORLD_SIZE."
        ) from None
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
    # Figures are exchanged with gloo on the CPU, so that they never wait for a GPU; gradients on GPUs with NCCL.
    # NCCL fails to start without a GPU, even if torch includes it.
    has_nccl = dist.is_nccl_available() and torch.cuda.is_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if has_nccl else "gloo")
    messages = logging.getLogger("pipeline")
    level = messages.level
    if rank > 0:
        messages.setLevel(logging.ERROR)  # only the main process prints messages
    try:
        yield World(rank, size, local_rank, local_size)
    finally:
        messages.setLevel(level)
        dist.destroy_process_group()
