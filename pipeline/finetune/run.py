"""Run one training end to end: build the model, start or resume, train, and write the result folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.allocator import keep_memory_between_batches
from pipeline.devices import fixed_threads, has_compiler, num_cores
from pipeline.errors import PipelineError
from pipeline.evaluation.result_writer import cell_name
from pipeline.evaluation.selection import TRAIN, plan_splits
from pipeline.finetune.clip_loader import ClipLoader, LabelledClip, SampleSettings
from pipeline.finetune.distributed import World, init_distributed
from pipeline.finetune.model import (
    check_recomputes,
    choose_runtime,
    default_parts,
    fitted_classifier,
    freeze_up_to,
    fresh_classifier,
)
from pipeline.finetune.results import TrainedSeed, write_trained
from pipeline.finetune.start import NONE, begin
from pipeline.finetune.state import ClipData, TrainingPlan
from pipeline.finetune.trainer import Finetuner
from pipeline.imports import code_digest
from pipeline.manifest import Manifest, read_manifest
from pipeline.model import Classifier
from pipeline.recipe import HeadConfig, Recipe
from pipeline.registry import HEAD_NAMES, HEADS, module_of, place_of_backbone, unknown_name
from pipeline.runtime import Runtime
from pipeline.settings.finetune import FinetuneSettings
from pipeline.training.checkpoints import CheckpointFolder
from pipeline.video.flips import swapped_labels
from pipeline.video.limits import ClipLimits

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "checkpoints"


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
    another; the model of the first is written.

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
        with fixed_threads(num_threads):
            trained = [
                _train(dataclasses.replace(settings, seed=seed), clips, world, runtime, num_workers)
                for seed in range(settings.seed, settings.seed + settings.seeds)
            ]
        if not world.is_main:
            return None
        first = trained[0]
        folder = _folder(settings, first.classifier)
        metrics = write_trained(folder, clips, trained, settings.init, runtime.precision)
        faults = {clip_id: fault for each in trained for clip_id, fault in each.tuner.faults.of_clip.items()}
        seconds = sum(each.tuner.state.seconds() for each in trained)
        return FinetuneResult(folder, metrics, first.best_epoch, faults, seconds)


def _folder(settings: FinetuneSettings, classifier: Classifier) -> Path:
    return settings.out / cell_name(classifier.spec.backbone, classifier.spec.head)


def _train(
    settings: FinetuneSettings, clips: Manifest, world: World, runtime: Runtime, num_workers: int
) -> TrainedSeed:
    """Train one seed from the initial model or from its last checkpoint to its end."""
    classifier, recipe = _classifier(clips, settings)
    spec = classifier.spec
    if settings.freeze_until is not None:
        frozen = freeze_up_to(classifier.backbone, settings.freeze_until)
        logger.info(f"{len(frozen)} parameters of {spec.backbone} up to {settings.freeze_until} are frozen")
    if settings.checkpointing:
        check_recomputes(classifier.backbone, recipe.training)
        classifier.backbone.recompute = True
    if settings.compile:
        _compile(classifier, runtime.device)
    data = _data(clips, classifier, recipe, settings)
    recipe = with_min_steps(recipe, len(data.train))
    own_part = -(-recipe.training.batch_size // world.size)
    accumulate = settings.accumulate
    if accumulate is None:
        accumulate = default_parts(classifier, recipe.training, runtime.device, own_part)
    plan = TrainingPlan(recipe, settings.seed, accumulate, settings.max_failed, settings.checkpoint_seconds)
    folder = _folder(settings, classifier)
    logger.info(
        f"seed {settings.seed}: {spec.backbone} and {spec.head} on {len(data.train):,} clips, "
        f"{recipe.training.epochs} epochs; {data.plan.sentence()}"
    )
    digest = _digest(recipe, settings.seed, runtime.precision, settings.freeze_until, classifier, data)
    place = folder / CHECKPOINT_FOLDER / f"seed-{settings.seed}"
    checkpoints = CheckpointFolder(place, digest, settings.keep_checkpoints)
    with ClipLoader(num_workers, num_ahead=2 * own_part) as loader, _named_interrupt(place):
        tuner = Finetuner(classifier, data, plan, runtime, loader, checkpoints, world)
        start = begin(tuner, settings.init, settings.force)
        tuner.run()
        scored, best_epoch = (start, 0) if recipe.training.epochs == 0 else tuner.load_best()
        assert scored is not None
        return TrainedSeed(classifier, tuner, scored, best_epoch)


def with_min_steps(recipe: Recipe, num_clips: int) -> Recipe:
    """Return a recipe with at least as many epochs as its minimum number of steps needs; with 0 epochs it stays."""
    steps_per_epoch = math.ceil(num_clips / recipe.training.batch_size)
    if recipe.training.epochs == 0 or steps_per_epoch == 0:
        return recipe
    epochs = max(recipe.training.epochs, math.ceil(recipe.finetune.min_steps / steps_per_epoch))
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, epochs=epochs))


def _classifier(clips: Manifest, settings: FinetuneSettings) -> tuple[Classifier, Recipe]:
    """Return the initial model, and the recipe with the options of its head."""
    recipe = settings.recipe_with_overrides
    if settings.init == NONE:
        if settings.head is None:
            raise PipelineError(f"`init` none starts with a new head: name it with --head ({', '.join(HEAD_NAMES)}).")
        if settings.head not in HEAD_NAMES:
            raise unknown_name("head", settings.head, HEAD_NAMES)
        classifier = fresh_classifier(
            settings.head,
            settings.backbone,
            settings.weights,
            clips.classes,
            settings.num_segments,
            recipe,
            settings.seed,
            settings.allow_squeezenet_weights,
            settings.input_size,
        )
        return classifier, recipe
    # A fitted head keeps its options, whatever the recipe has; only options that were given replace them.
    names = {field.name for field in dataclasses.fields(HeadConfig)}
    own = {name: getattr(recipe.head, name) for name in settings.overrides if name in names}
    classifier = fitted_classifier(settings.init, clips.classes, own)
    return classifier, dataclasses.replace(recipe, head=HeadConfig(**classifier.spec.recipe["head"]))


def _data(clips: Manifest, classifier: Classifier, recipe: Recipe, settings: FinetuneSettings) -> ClipData:
    plan = plan_splits(clips.clips, recipe.training, str(clips.path))
    parts = {
        part: tuple(
            LabelledClip(clip.clip_id, clips.locate(clip), clips.class_index(clip.label))
            for clip in plan.clips_of(part, clips.clips)
        )
        for part in dict.fromkeys((TRAIN, plan.selected_on, plan.reported_on))
    }
    preprocessing = classifier.backbone.preprocessing
    samples = SampleSettings(
        num_segments=classifier.spec.num_segments,
        choices=recipe.frames,
        seed=settings.seed,
        input_size=preprocessing.input_size,
        crop_fraction=preprocessing.crop_fraction,
        swapped_labels=tuple(swapped_labels(clips.classes)) if recipe.frames.flip == "swap" else (),
        on_device=settings.augment_on_device,
        limits=ClipLimits.of(settings),
    )
    return ClipData(parts[TRAIN], parts[plan.selected_on], parts[plan.reported_on], samples, plan)


def _compile(classifier: Classifier, device: torch.device) -> None:
    if device.type == "cpu" and not has_compiler():
        logger.info("torch.compile needs a C++ compiler, and there is none: the backbone is not compiled.")
        return
    classifier.backbone.compile()


def _num_workers(workers: int | None, device: torch.device, world: World) -> int:
    """Return the requested number; by default 0 (a thread) on the CPU, which is busy, and the other cores for a GPU."""
    if workers is not None:
        return workers
    return 0 if device.type == "cpu" else max(1, num_cores() // world.local_size - 1)


def _digest(
    recipe: Recipe, seed: int, precision: str, frozen: str | None, classifier: Classifier, data: ClipData
) -> str:
    """Return a digest of everything that determines the final weights, including the code."""
    digest = hashlib.sha256()
    clips = [[clip.clip_id, clip.label] for clip in (*data.train, *data.select, *data.report)]
    values = [recipe.as_dict(), seed, precision, frozen, dataclasses.asdict(data.samples), clips]
    digest.update(json.dumps(values, sort_keys=True).encode())
    for name, tensor in sorted(classifier.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    spec = classifier.spec
    backbone = place_of_backbone(spec.backbone)
    assert backbone is not None  # the classifier was built
    digest.update(code_digest((__name__, module_of(HEADS[spec.head]), module_of(backbone))).encode())
    return digest.hexdigest()


@contextmanager
def _named_interrupt(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise PipelineError(f"Stopped. The last checkpoint is in {folder}; the same command resumes from it.") from None
