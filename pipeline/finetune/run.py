"""Run trainings end to end: search settings if asked, train each seed or resume it, and write the result folder."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.allocator import keep_memory_between_batches
from pipeline.devices import fixed_threads
from pipeline.finetune.augmentation import crops_sentence
from pipeline.finetune.best import load_best
from pipeline.finetune.distributed import World, init_distributed
from pipeline.finetune.model import choose_runtime
from pipeline.finetune.opening import open_tuner
from pipeline.finetune.prepared import CommonSetup, prepare_training
from pipeline.finetune.results import FinishedSearch, TrainedSeed, write_trained
from pipeline.finetune.search import clear_trials, search_settings
from pipeline.finetune.start import begin
from pipeline.manifest import read_manifest
from pipeline.params import settings_text
from pipeline.processes import num_cores
from pipeline.search.trials import choose_trial
from pipeline.settings.finetune import FinetuneSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneResult:
    """Result of a training. `faults` has the clips that could not be used: split, kind and reason by id."""

    folder: Path
    metrics: dict[str, Any]
    best_epoch: int
    faults: dict[str, tuple[str, str, str]]
    seconds: float


def finetune(settings: FinetuneSettings) -> FinetuneResult | None:
    """Train end to end and write the result folder; return None in all processes except the main one.

    `init` is a model file with head and backbone, or `none`; then `head`, `backbone`, `weights` and `num_segments`
    define the initial model. With `epochs` 0 the model is scored without training. Several seeds are trained one after
    another; the model of the first is written. With a search, its best setting is trained.

    Raises:
        PipelineError: data or settings are wrong.
    """
    with init_distributed() as world:
        runtime = choose_runtime(settings.device, settings.precision, world.local_rank if world.size > 1 else None)
        if runtime.device.type == "cuda":
            torch.cuda.set_device(runtime.device)
        else:
            keep_memory_between_batches()
        clips = read_manifest(settings.manifest, settings.root)
        num_threads = settings.threads or max(1, num_cores() // world.local_size)
        num_workers = _num_workers(settings.workers, runtime.device, world)
        logger.info(
            f"finetune: {runtime.device}, {runtime.precision}; processes: {world.size} with {num_threads} threads and "
            f"{num_workers} decoding processes each; recipe {settings.recipe}"
        )
        common = CommonSetup(clips, world, runtime, num_workers)
        search = settings.planned_search
        finished = None
        with fixed_threads(num_threads):
            if search is not None:
                trials = search_settings(settings, search, common)
                chosen = choose_trial(trials)
                logger.info(
                    f"trial {chosen.number} of {len(trials)} is the best on the selection clips (top-1 "
                    f"{chosen.score[0]:.1f} %): {settings_text(chosen.setting)}"
                )
                settings = dataclasses.replace(settings, overrides={**settings.overrides, **chosen.setting})
                finished = FinishedSearch(search, trials, num_threads)
            seeds = range(settings.seed, settings.seed + settings.seeds)
            trained = [_train(dataclasses.replace(settings, seed=seed), common) for seed in seeds]
        if not world.is_main:
            return None
        first = trained[0]
        folder = first.prepared.folder
        metrics = write_trained(folder, clips, trained, settings.init, runtime.precision, finished)
        clear_trials(first.prepared.checkpoints)
        faults = {clip_id: fault for each in trained for clip_id, fault in each.tuner.faults.of_clip.items()}
        seconds = sum(each.tuner.state.seconds() for each in trained)
        return FinetuneResult(folder, metrics, first.best_epoch, faults, seconds)


def _train(settings: FinetuneSettings, common: CommonSetup) -> TrainedSeed:
    """Train one seed from the initial model or from its last checkpoint to its end."""
    prepared = prepare_training(settings, common)
    spec, data, training = prepared.classifier.spec, prepared.data, prepared.recipe.training
    if prepared.num_frozen:
        logger.info(f"{prepared.num_frozen} parameters of {spec.backbone} up to {settings.freeze_until} are frozen")
    logger.info(
        f"seed {settings.seed}: {spec.backbone} and {spec.head} on {len(data.train):,} clips, "
        f"{training.epochs} epochs; {data.plan.sentence()}"
    )
    if training.epochs and prepared.recipe.finetune.crop_schedule == "rising":
        logger.info(crops_sentence(data.samples.augmentation.crops_of_epochs))
    with open_tuner(prepared, common, f"seed-{settings.seed}") as tuner:
        start = begin(tuner, settings.init, settings.force)
        tuner.run()
        scored, best_epoch = (start, 0) if training.epochs == 0 else load_best(tuner)
        assert scored is not None
        tuner.state.stop_clock()  # before the next seed
        return TrainedSeed(prepared, tuner, scored, best_epoch)


def _num_workers(workers: int | None, device: torch.device, world: World) -> int:
    """Return the requested number; by default 0 (a thread) on the CPU, which is busy, and the other cores for a GPU."""
    if workers is not None:
        return workers
    return 0 if device.type == "cpu" else max(1, num_cores() // world.local_size - 1)
