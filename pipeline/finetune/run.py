"""Run one training end to end: build the model, start or resume, train, and write the result folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.allocator import keep_memory_between_batches
from pipeline.devices import fixed_threads, has_compiler, num_cores
from pipeline.errors import PipelineError
from pipeline.evaluation.result_writer import MODEL_FILE, cell_name, write_results
from pipeline.evaluation.selection import TRAIN, plan_splits
from pipeline.files import sha256_of_file, write_json
from pipeline.finetune.cache_check import cache_against_clips, cached_predictions
from pipeline.finetune.clip_loader import ClipLoader, LabelledClip, SampleSettings
from pipeline.finetune.distributed import World, init_distributed
from pipeline.finetune.model import (
    STAGE,
    check_recomputes,
    choose_runtime,
    default_parts,
    fitted_classifier,
    freeze_up_to,
    fresh_classifier,
)
from pipeline.finetune.scoring import ScoredClips
from pipeline.finetune.state import ClipData, TrainingPlan
from pipeline.finetune.trainer import Finetuner
from pipeline.imports import code_digest
from pipeline.manifest import Manifest, read_manifest
from pipeline.model import Classifier, save_model
from pipeline.recipe import HeadConfig, Recipe, SamplingConfig
from pipeline.registry import BACKBONES, HEAD_NAMES, HEADS, module_of, unknown_name
from pipeline.settings.finetune import FinetuneSettings
from pipeline.training.checkpoints import CheckpointFolder
from pipeline.video.flips import swapped_labels
from pipeline.video.limits import ClipLimits

logger = logging.getLogger(__name__)

NONE = "none"
CHECKPOINT_FOLDER = "checkpoints"
FAILED_FILE = "failed.json"


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
    define the initial model. With `epochs` 0 the model is scored without training.

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
        own_part = -(-recipe.training.batch_size // world.size)
        accumulate = settings.accumulate
        if accumulate is None:
            accumulate = default_parts(classifier, recipe.training, runtime.device, own_part)
        plan = TrainingPlan(recipe, settings.seed, accumulate, settings.max_failed, settings.checkpoint_seconds)
        folder = settings.out / cell_name(spec.backbone, spec.head)
        num_workers = _num_workers(settings.workers, runtime.device, world)
        num_threads = settings.threads or max(1, num_cores() // world.local_size)
        what = f"{spec.backbone} and {spec.head} on {len(data.train):,} clips; {data.plan.sentence()}"
        logger.info(
            f"finetune: {what}; {runtime.device}, {runtime.precision}; processes: {world.size} with {num_threads} "
            f"threads and {num_workers} decoding processes each; recipe {recipe.name}"
        )
        digest = _digest(recipe, settings.seed, runtime.precision, settings.freeze_until, classifier, data)
        checkpoints = CheckpointFolder(folder / CHECKPOINT_FOLDER, digest, settings.keep_checkpoints)
        with (
            fixed_threads(num_threads),
            ClipLoader(num_workers, num_ahead=2 * own_part) as loader,
            _named_interrupt(folder),
        ):
            tuner = Finetuner(classifier, data, plan, runtime, loader, checkpoints, world)
            start = _begin(tuner, classifier, settings.init, world, settings.force)
            tuner.run()
            scored, best_epoch = (start, 0) if recipe.training.epochs == 0 else tuner.load_best()
            if not world.is_main:
                return None
            assert scored is not None
            metrics = _write(folder, tuner, scored, best_epoch, settings.init, runtime.precision)
        return FinetuneResult(folder, metrics, best_epoch, dict(tuner.faults.of_clip), tuner.state.seconds())


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


def _begin(tuner: Finetuner, classifier: Classifier, init: str, world: World, force: bool) -> ScoredClips | None:
    """Resume from a checkpoint, or score the initial model and compare it with the results of `fit-head`."""
    if not force and tuner.choices.epochs > 0 and tuner.resume():
        return None
    world.barrier()  # all processes have finished looking for a checkpoint
    if world.is_main and tuner.choices.epochs > 0:
        tuner.checkpoints.clear()
    frames = classifier.spec.recipe["frames"] if init != NONE else None
    samples = tuner.data.samples
    if frames is not None:
        # Use exactly the frames of the cache, even if the recipe samples short clips differently.
        samples = dataclasses.replace(samples, choices=SamplingConfig(**frames))
    data = tuner.data
    if tuner.choices.epochs == 0:
        start = tuner.score(data.report, samples)
        tuner.start_without_epochs(start)
    else:
        start = tuner.score(data.select, samples)
        tuner.start(start)
        if data.report is not data.select and init != NONE:
            # `fit-head` wrote the scores of the reported clips. They are compared here and select nothing.
            start = tuner.score(data.report, samples)
    top1 = start.metrics()["top1"]
    cached = cached_predictions(Path(init).parent) if init != NONE else None
    if cached is None:
        logger.info(
            f"start: top-1 {top1:.2f} on the clips"
            + (f"; no cached scores in the folder of {init}" if init != NONE else "")
        )
        return start
    report = cache_against_clips(cached, start)
    if report is None:
        logger.info(f"start: top-1 {top1:.2f} on the clips; {MODEL_FILE} was not validated on any of them")
        return start
    logger.info(f"start: cached top-1 {report['cached_top1']:.2f}, now top-1 {top1:.2f} on the clips")
    logger.info(
        f"cache against end-to-end: {report['num_clips']} clips, largest difference of a score "
        f"{report['largest_difference']:.4f} (scores reach {report['largest_score']:.2f}), mean "
        f"{report['mean_difference']:.4f}; {report['num_other_class']} clips get another class"
    )
    tuner.start_report = report
    return start


def _write(
    folder: Path, tuner: Finetuner, scored: ScoredClips, best_epoch: int, init: str, precision: str
) -> dict[str, Any]:
    """Write model, metrics and times."""
    classifier, recipe, plan = tuner.classifier, tuner.training_plan.recipe, tuner.data.plan
    init_selected_on = classifier.spec.selected_on
    # Without an epoch, model and selection are those of `init`.
    selected_on = plan.selected_on if tuner.choices.epochs > 0 else init_selected_on
    spec = dataclasses.replace(
        classifier.spec,
        recipe=recipe.as_dict(),
        seed=tuner.training_plan.seed,
        stage=STAGE,
        compute_dtype=precision,
        best_epoch=best_epoch,
        selected_on=selected_on,
        reported_on=plan.reported_on,
        init=init,
    )
    save_model(folder / MODEL_FILE, spec, classifier.head, classifier.backbone)
    about = {
        "stage": STAGE,
        "head": spec.head,
        "backbone": spec.backbone,
        "weights": dict(spec.weights),
        "init": init,
        "init_sha256": sha256_of_file(Path(init)) if init != NONE else None,
        "init_selected_on": init_selected_on,
        "selected_on": selected_on,
        "reported_on": plan.reported_on,
        "recipe": recipe.as_dict(),
        "num_segments": spec.num_segments,
        "num_classes": spec.num_classes,
        "seed": tuner.training_plan.seed,
        "precision": precision,
        "device": tuner.device.type,
        "num_processes": tuner.world.size,
        "num_train": len(tuner.data.train) - tuner.faults.num_of("train"),
        "num_failed": len(tuner.faults.of_clip),
        "start": tuner.start_report,
    }
    is_cuda = tuner.device.type == "cuda"
    timing = {
        **({"peak_memory_bytes": torch.cuda.max_memory_allocated(tuner.device)} if is_cuda else {}),
        "total_seconds": round(tuner.state.seconds(), 3),
        "num_epochs": len(tuner.state.history) - 1,
        "epochs": tuner.times,
    }
    failed = {clip_id: list(fault) for clip_id, fault in tuner.faults.of_clip.items()}
    if failed:
        write_json(folder / FAILED_FILE, failed)
    else:
        (folder / FAILED_FILE).unlink(missing_ok=True)
    return write_results(folder, about, spec.classes, [tuner.seed_result(scored, best_epoch)], timing)


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
    backbone = BACKBONES.get(spec.backbone, "pipeline.backbones.torchvision_models:TorchvisionBackbone")
    digest.update(code_digest((__name__, module_of(HEADS[spec.head]), module_of(backbone))).encode())
    return digest.hexdigest()


@contextmanager
def _named_interrupt(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise PipelineError(
            f"Stopped. The last checkpoint is in {folder / CHECKPOINT_FOLDER}; the same command resumes from it."
        ) from None
