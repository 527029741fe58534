"""Measure the costs of the heads of runs on this machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from pipeline.backbones import backbone_contract
from pipeline.compare.complexity import map_size_of
from pipeline.compare.head_costs import HeadCost, MeasuredRun
from pipeline.compare.latency import measure_head
from pipeline.heads import HEADS
from pipeline.model_file import load_spec
from pipeline.progress import Progress
from pipeline.recipe import HeadConfig, recipe_from_dict


def measure_runs(runs: Sequence[MeasuredRun], progress_of: type[Progress] = Progress) -> dict[str, HeadCost]:
    """Return the cost of each run's head, by the run's name; runs of equal heads share one measurement."""
    costs: dict[str, HeadCost] = {}
    by_sizes: dict[tuple[str, _Sizes], HeadCost] = {}
    with progress_of("measuring", len(runs), "heads") as progress:
        for run in runs:
            sizes = _sizes_of(run)
            if sizes is not None:
                if (run.head, sizes) not in by_sizes:
                    by_sizes[run.head, sizes] = measure_head(run.head, **sizes._asdict())
                costs[run.name] = by_sizes[run.head, sizes]
            progress.advance()
    return costs


class _Sizes(NamedTuple):
    """Arguments of `measure_head`."""

    in_channels: int
    num_segments: int
    num_classes: int
    map_size: int
    choices: HeadConfig | None


def _sizes_of(run: MeasuredRun) -> _Sizes | None:
    """Return the sizes of a run's head; None if this version does not have the head, or its maps are unknown."""
    map_size = map_size_of(run)
    if run.head not in HEADS or map_size is None:
        return None
    has_model = run.model_path.is_file()
    channels = load_spec(run.model_path).in_channels if has_model else backbone_contract(run.backbone).channels
    recipe = run.metrics["recipe"]
    choices = recipe_from_dict(dict(recipe)).head if isinstance(recipe, Mapping) and "head" in recipe else None
    return _Sizes(channels, run.num_segments, run.num_classes, map_size, choices)


def machine_text() -> str:
    """Describe the machine on which `measure_runs` measures."""
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, one thread"
