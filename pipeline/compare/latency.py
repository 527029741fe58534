"""Measure latency and memory of a head on this machine, for one clip with features in memory."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.compare.head_costs import HeadCost
from pipeline.heads import build_head
from pipeline.recipe import HeadConfig

NUM_RUNS = 9
NUM_WARM_UP_RUNS = 1
MAX_SECONDS = 0.3


def measure_head(
    head: str,
    *,
    in_channels: int,
    num_segments: int,
    num_classes: int,
    map_size: int,
    choices: HeadConfig | None = None,
    num_runs: int = NUM_RUNS,
) -> HeadCost:
    """Run a head with random parameters on random features; its cost does not depend on their values.

    The caller's random state and number of threads are not changed.

    Raises:
        PipelineError: the head is unknown, or does not support the sizes.
    """
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(0)
        module = build_head(
            head,
            in_channels=in_channels,
            num_segments=num_segments,
            num_classes=num_classes,
            choices=choices or HeadConfig(),
        ).eval()
        size = map_size if module.reads == "spatial" else 1
        # Channels last, as from the store.
        features = torch.rand(1, num_segments, size, size, in_channels).permute(0, 1, 4, 2, 3)
        with torch.inference_mode():
            for _ in range(NUM_WARM_UP_RUNS):
                module(features)
            seconds: list[float] = []
            started = time.perf_counter()
            while len(seconds) < num_runs and (not seconds or time.perf_counter() - started < MAX_SECONDS):
                before = time.perf_counter()
                module(features)
                seconds.append(time.perf_counter() - before)
            working_bytes = _peak_bytes(module, features)
        parameter_bytes = sum(value.numel() * value.element_size() for value in module.parameters())
        return HeadCost(statistics.median(seconds) * 1000, parameter_bytes + working_bytes)


class _LiveBytes(TorchDispatchMode):
    """Mode that counts the bytes of the storages that operators return, as long as each is alive."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Skip `torch._dynamo`: nothing is compiled here, and its import takes longer than all measurements."""
        return False

    def __init__(self) -> None:
        super().__init__()
        self.peak: int = 0
        self._held = 0
        self._seen: WeakSet[torch.UntypedStorage] = WeakSet()

    def keep_out(self, tensor: torch.Tensor) -> None:
        """Exclude an existing storage and its views."""
        self._seen.add(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        for value in tree_leaves(returned):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return returned

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        self._held += storage.nbytes()
        self.peak = max(self.peak, self._held)
        weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, num_bytes: int) -> None:
        self._held -= num_bytes


def _peak_bytes(module: torch.nn.Module, features: torch.Tensor) -> int:
    """Return the peak size of all tensors of one forward pass; scratch memory inside operators is not counted."""
    with _LiveBytes() as live:
        for tensor in (features, *module.parameters(), *module.buffers()):
            live.keep_out(tensor)
        module(features)
    return int(live.peak)


@contextmanager
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
