"""Run: one head under one recipe from one or several seeds; plan it, and write its result folder with its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.backbones import WeightsRecord, build_backbone
from pipeline.backbones.preprocessing import stated_input_size
from pipeline.errors import PipelineError
from pipeline.evaluation.result_writer import (
    MODEL_FILE,
    TRIALS_FILE,
    SeedResult,
    cell_name,
    read_finished,
    write_results,
)
from pipeline.evaluation.selection import data_sha256, groups_of
from pipeline.files import read_json, write_json
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.finished import run_digest
from pipeline.fit_head.fit import CHECKPOINT_SECONDS
from pipeline.fit_head.outcome import RunOutcome
from pipeline.heads import Head
from pipeline.model import ModelSpec
from pipeline.model_file import save_model
from pipeline.recipe import Recipe
from pipeline.registry import WEIGHTS_NAMES, is_imported
from pipeline.runtime import Runtime
from pipeline.search.trials import Trial, search_metrics, search_timing, trials_text
from pipeline.settings.search import Search
from pipeline.store.settings import StoreSettings

STAGE = "fit_head"
CHECKPOINT_FOLDER = ".unfinished"
BEGUN_FILE = "compute.json"


@dataclass(frozen=True)
class HeadRun:
    """Head, recipe and settings of a run. With `search`, the settings of the best trial replace those of the recipe."""

    head: str
    recipe: Recipe
    seeds: tuple[int, ...]
    compute: Runtime
    search: Search | None = None


@dataclass(frozen=True)
class PlannedRun:
    """A run on a store: its result folder, and finished results there with the same settings."""

    run: HeadRun
    folder: Path
    digest: str
    finished: Mapping[str, Any] | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS

    def checkpoint(self, seed: int) -> Path:
        return self.unfinished / f"seed-{seed}.pt"

    @property
    def unfinished(self) -> Path:
        return self.folder / CHECKPOINT_FOLDER

    def with_recipe(self, recipe: Recipe) -> PlannedRun:
        return dataclasses.replace(self, run=dataclasses.replace(self.run, recipe=recipe))

    def write_unfinished(self) -> None:
        """Write the chosen number type and threads, so that a killed fit is resumed with them."""
        compute = self.run.compute
        values = {"precision": compute.precision, "threads": compute.threads}
        write_json(self.unfinished / BEGUN_FILE, values)


def plan_run(run: HeadRun, data: CachedData, out: Path, force: bool) -> PlannedRun:
    """Choose the recipe of a run on a store, and look for its finished results below `out`.

    Raises:
        PipelineError: the recipe's frames differ from the store's.
    """
    run = dataclasses.replace(run, recipe=data.check_recipe(run.recipe))
    folder = out / cell_name(data.source.settings.backbone, run.head)
    compute = run.compute
    digest = run_digest(
        run.head, run.recipe, run.seeds, data, str(compute.device), compute.precision, compute.threads, run.search
    )
    return PlannedRun(run, folder, digest, None if force else read_finished(folder, digest))


def unfinished_compute(folder: Path) -> dict[str, Any]:
    """Return precision and threads of an unfinished fit in a result folder; empty if there is none."""
    try:
        values = read_json(folder / CHECKPOINT_FOLDER / BEGUN_FILE)
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def write_run(
    planned: PlannedRun,
    data: CachedData,
    backbone: nn.Module | None,
    results: Sequence[SeedResult],
    head: Head,
    trials: Sequence[Trial] = (),
) -> RunOutcome:
    """Write the results of a run and the model of `head` (of the first seed), and remove the checkpoints.

    trials: those of the run's search.
    """
    run, settings = planned.run, data.source.settings
    plan = data.plan(run.recipe.training)
    num_train, num_views = data.num_training_clips_and_views(plan)
    save_model(planned.folder / MODEL_FILE, run_spec(run, data, results[0].best_epoch), head, backbone)
    about = {
        "stage": STAGE,
        "head": run.head,
        "backbone": settings.backbone,
        "weights": dict(settings.weights),
        "recipe": run.recipe.as_dict(),
        **({} if run.search is None else {"search": search_metrics(run.search, trials)}),
        "data": {"sha256": data_sha256(data.source.table())},
        "num_segments": data.num_segments,
        "num_classes": len(data.source.classes),
        "input_size": stated_input_size(settings.preprocessing),
        "map_size": settings.map_size,
        "st_block": head.st_block(settings.map_size),
        "num_views": num_views,
        "frames": settings.frames,
        "selected_on": plan.selected_on,
        "reported_on": plan.reported_on,
        "seed": run.seeds[0],
        "precision": run.compute.precision,
        "threads": run.compute.threads,
        "device": run.compute.device.type,
        "num_train": num_train,
        "num_failed": data.source.num_failed,
        **({"video_encoder": True} if settings.video_encoder else {}),
    }
    timing = {
        "total_seconds": round(sum(result.seconds for result in results), 3),
        "num_epochs": sum(len(result.history) for result in results),
        "settings_digest": planned.digest,
        **({"calibration_seconds": dict(run.compute.measured)} if run.compute.measured else {}),
        **({} if run.search is None else {"search": search_timing(trials, run.compute.threads)}),
    }
    groups = groups_of(plan.clips_of(plan.reported_on, data.source.table()))
    more = {} if run.search is None else {TRIALS_FILE: trials_text(trials)}
    metrics = write_results(planned.folder, about, data.source.classes, results, timing, more, groups)
    for left_over in planned.unfinished.glob("*"):
        left_over.unlink()
    if planned.unfinished.is_dir():
        planned.unfinished.rmdir()
    return RunOutcome(metrics, planned.folder, was_finished=False)


def backbone_of_store(settings: StoreSettings, weights: str | None = None) -> nn.Module | None:
    """Build the backbone of a store, for the model file; None for imported features and video encoders.

    weights: path of the weights if they have moved.

    Raises:
        PipelineError: the weights are missing, or are not those of the store.
    """
    if is_imported(settings.backbone) or settings.video_encoder:
        return None
    name = settings.weights["name"] if weights is None else weights
    if name not in WEIGHTS_NAMES and not Path(name).is_file():
        raise PipelineError(
            f"The store was made with the weight file '{name}', which is missing, and the model file needs it. "
            "Give its path with --weights PATH."
        )
    backbone, record = build_backbone(
        settings.backbone,
        name,
        settings.seed,
        allow_squeezenet_weights=True,
        input_size=stated_input_size(settings.preprocessing),
    )
    if record.sha256 != settings.weights["sha256"]:
        raise PipelineError(_other_weights(settings, record))
    return backbone


def _other_weights(settings: StoreSettings, record: WeightsRecord) -> str:
    return (
        f"The store was made with the weights {settings.weights['name']} (sha256 {settings.weights['sha256'][:8]}…), "
        f"but {record.name} has the sha256 {record.sha256[:8]}…. Give the weights of the store with --weights PATH."
    )


def run_spec(run: HeadRun, data: CachedData, best_epoch: int) -> ModelSpec:
    """Describe the model of the first seed of a run."""
    settings = data.source.settings
    plan = data.plan(run.recipe.training)
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
        seed=run.seeds[0],
        stage=STAGE,
        compute_dtype=settings.compute_dtype,
        selected_on=plan.selected_on,
        reported_on=plan.reported_on,
        precision=run.compute.precision,
        transform_version=settings.transform_version,
        best_epoch=best_epoch,
    )
