"""A run: one head under one recipe, fitted from one or several seeds, written as a result folder with its model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.backbones import WeightsRecord, build_backbone
from pipeline.errors import PipelineError
from pipeline.evaluation.result_writer import MODEL_FILE, cell_name, read_finished, write_results
from pipeline.evaluation.selection import SplitPlan
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.compute import Compute
from pipeline.fit_head.fit import CHECKPOINT_SECONDS, FitResult, Watcher, fit_head
from pipeline.heads import HEADS
from pipeline.imports import code_digest
from pipeline.model import ModelSpec, save_model
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from pipeline.registry import HEADS as HEAD_PLACES
from pipeline.registry import WEIGHTS_NAMES, module_of
from pipeline.store.settings import StoreSettings

STAGE = "fit_head"
CHECKPOINT_FOLDER = ".unfinished"


@dataclass(frozen=True)
class HeadRun:
    """What is fitted."""

    head: str
    recipe: Recipe
    seeds: tuple[int, ...]
    compute: Compute


@dataclass(frozen=True)
class RunOutcome:
    """The metrics of a run, and whether it was there already."""

    metrics: dict[str, Any]
    folder: Path
    was_finished: bool


def run_head(
    run: HeadRun,
    data: CachedData,
    backbone: nn.Module,
    out: Path,
    say: Callable[[str], None],
    *,
    force: bool = False,
    shows_progress: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> RunOutcome:
    """Fit a run into its folder below `out`, unless the same was finished there before.

    The model file holds the head of the first seed. A fit that was killed goes on where it was.

    Raises:
        PipelineError: the store cannot serve this head or recipe, or training diverges.
    """
    settings = data.source.settings
    recipe = data.check_recipe(run.recipe)
    run = dataclasses.replace(run, recipe=recipe)
    folder = out / cell_name(settings.backbone, run.head)
    digest = _digest(run, data)
    finished = None if force else read_finished(folder, digest)
    if finished is not None:
        return RunOutcome(finished, folder, was_finished=True)
    head_data = data.of(HEADS[run.head].reads, recipe)
    plan = data.plan(recipe.training)
    unfinished = folder / CHECKPOINT_FOLDER
    results: list[FitResult] = []
    for seed in run.seeds:
        total = recipe.training.epochs * head_data.train.num_clips
        with Progress(f"{run.head}, seed {seed}", total) if shows_progress else nullcontext() as progress:
            result = fit_head(
                head_data,
                run.head,
                recipe,
                seed,
                run.compute,
                checkpoint=unfinished / f"seed-{seed}.pt",
                checkpoint_seconds=checkpoint_seconds,
                digest=digest,
                # The parameter groups are the same for every seed: they are said once.
                watcher=Watcher(
                    line=say,
                    plan=say if seed == run.seeds[0] else None,
                    clips=progress.advance if progress is not None else _ignore,
                ),
            )
        results.append(result)
    save_model(folder / MODEL_FILE, _spec(run, data, plan, results[0]), results[0].head, backbone)
    about = {
        "stage": STAGE,
        "head": run.head,
        "backbone": settings.backbone,
        "weights": dict(settings.weights),
        "recipe": recipe.as_dict(),
        "num_segments": data.num_segments,
        "num_classes": head_data.num_classes,
        "num_views": head_data.train.num_views,
        "frames": settings.frames,
        "selected_on": plan.selected_on,
        "reported_on": plan.reported_on,
        "seed": run.seeds[0],
        "precision": run.compute.precision,
        "threads": run.compute.threads,
        "device": run.compute.device.type,
        "num_train": head_data.train.num_clips,
        "num_failed": data.source.num_failed,
    }
    timing = {
        "total_seconds": round(sum(result.seconds for result in results), 3),
        "num_epochs": sum(len(result.history) for result in results),
        "settings_digest": digest,
    }
    metrics = write_results(folder, about, data.source.classes, results, timing)
    for left_over in unfinished.glob("*"):
        left_over.unlink()
    if unfinished.is_dir():
        unfinished.rmdir()
    return RunOutcome(metrics, folder, was_finished=False)


def backbone_of_store(settings: StoreSettings, weights: str | None = None) -> nn.Module:
    """The backbone that made a store, for the model file. `weights` says where they lie, if not by the stored name.

    Raises:
        PipelineError: the weights are not to be had here, or are not those of the store.
    """
    name = settings.weights["name"] if weights is None else weights
    if name not in WEIGHTS_NAMES and not Path(name).is_file():
        raise PipelineError(
            f"The store was made with the weight file '{name}', which is not here, and the model file needs it. "
            "Say where it lies with --weights PATH."
        )
    backbone, record = build_backbone(settings.backbone, name, settings.seed, allow_squeezenet_weights=True)
    if record.sha256 != settings.weights["sha256"]:
        raise PipelineError(_other_weights(settings, record))
    return backbone


def _other_weights(settings: StoreSettings, record: WeightsRecord) -> str:
    return (
        f"The store was made with the weights {settings.weights['name']} (sha256 {settings.weights['sha256'][:8]}…), "
        f"but {record.name} here has the sha256 {record.sha256[:8]}…. Give those of the store with --weights PATH."
    )


def _ignore(count: int, note: str | None) -> None:
    """Ignore progress."""


def _spec(run: HeadRun, data: CachedData, plan: SplitPlan, result: FitResult) -> ModelSpec:
    settings = data.source.settings
    return ModelSpec(
        head=run.head,
        backbone=settings.backbone,
        classes=data.source.classes,
        num_segments=data.num_segments,
        in_channels=settings.channels,
        map_size=settings.map_size,
        preprocessing=settings.preprocessing,
        recipe=run.recipe.as_dict(),
        weights=dict(settings.weights),
        seed=result.seed,
        stage=STAGE,
        compute_dtype=settings.compute_dtype,
        selected_on=plan.selected_on,
        reported_on=plan.reported_on,
        precision=run.compute.precision,
        transform_version=settings.transform_version,
        best_epoch=result.best_epoch,
    )


def _digest(run: HeadRun, data: CachedData) -> str:
    """Digest everything that decides the metrics of a run, the code of the head and of `fit-head` among it."""
    compute = run.compute
    values = {
        "head": run.head,
        "recipe": run.recipe.as_dict(),
        "seeds": run.seeds,
        "compute": [str(compute.device), compute.precision, compute.threads],
        "data": data.digest,
        "code": code_digest((__name__, module_of(HEAD_PLACES[run.head]))),
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
