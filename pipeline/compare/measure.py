"""Measure the costs of the heads of runs on this machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pipeline.backbones import backbone_contract
from pipeline.compare.complexity import map_size_of
from pipeline.compare.latency import HeadCost, measure_head
from pipeline.evaluation.result_reader import RunResult
from pipeline.heads import HEADS
from pipeline.model import load_spec
from pipeline.progress import tracked
from pipeline.recipe import recipe_from_dict


def measure_runs(runs: Sequence[RunResult]) -> dict[str, HeadCost]:
    """Return the cost of each run's head, by the run's name; runs of equal heads share one measurement."""
    costs: dict[str, HeadCost] = {}
    by_sizes: dict[tuple[Any, ...], HeadCost] = {}
    for run in tracked(runs, "measuring", len(runs), "heads"):
        map_size = map_size_of(run)
        if run.head not in HEADS or map_size is None:
            continue
        channels = _channels(run)
        recipe = run.metrics["recipe"]
        choices = recipe_from_dict(dict(recipe)).head if isinstance(recipe, Mapping) and "head" in recipe else None
        sizes = (run.head, channels, run.num_segments, len(run.predictions.classes), map_size, choices)
        if sizes not in by_sizes:
            by_sizes[sizes] = measure_head(
                run.head,
                in_channels=channels,
                num_segments=run.num_segments,
                num_classes=len(run.predictions.classes),
                map_size=map_size,
                choices=choices,
            )
        costs[run.name] = by_sizes[sizes]
    return costs


def _channels(run: RunResult) -> int:
    if run.model_path.is_file():
        return load_spec(run.model_path).in_channels
    return backbone_contract(run.backbone).channels


def machine_text() -> str:
    """Describe the machine on which `measure_runs` measures."""
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, one thread"
