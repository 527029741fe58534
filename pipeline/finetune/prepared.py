"""Prepare a training end to end from its settings: the model, its recipe and data, and the digest of all of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.devices import has_compiler
from pipeline.errors import PipelineError
from pipeline.evaluation.result_writer import cell_name
from pipeline.evaluation.selection import TRAIN, SplitPlan, plan_splits
from pipeline.finetune.augmentation import Augmentation
from pipeline.finetune.clip_loader import LabelledClip, SampleSettings
from pipeline.finetune.distributed import World
from pipeline.finetune.frozen import why_not_cached
from pipeline.finetune.model import (
    check_recomputes,
    default_parts,
    fitted_classifier,
    freeze_up_to,
    fresh_classifier,
)
from pipeline.finetune.start import NONE
from pipeline.finetune.state import ClipData, TrainingPlan
from pipeline.imports import code_digest
from pipeline.manifest import Manifest
from pipeline.model import Classifier
from pipeline.recipe import HeadConfig, Recipe
from pipeline.registry import HEAD_NAMES, HEADS, module_of, place_of_backbone, unknown_name
from pipeline.runtime import Runtime
from pipeline.settings.finetune import FinetuneSettings
from pipeline.video.flips import swapped_labels
from pipeline.video.limits import ClipLimits

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "checkpoints"
# Its imports are all code that a training runs, except for head and backbone.
TRAINING_MODULE = "pipeline.finetune.run"


@dataclass(frozen=True)
class CommonSetup:
    """What all trainings of one command share."""

    clips: Manifest
    world: World
    runtime: Runtime
    num_workers: int


@dataclass(frozen=True)
class PreparedTraining:
    """A training before its first step.

    digest: that of everything that determines the final weights. num_frozen: parameters that `freeze_until` froze.
    is_cached: whether the activations of frozen layers are computed once.
    """

    settings: FinetuneSettings
    classifier: Classifier
    data: ClipData
    plan: TrainingPlan
    digest: str
    num_frozen: int
    is_cached: bool

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe

    @property
    def folder(self) -> Path:
        """The result folder."""
        spec = self.classifier.spec
        return self.settings.out / cell_name(spec.backbone, spec.head)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints of all trainings with this result folder."""
        return self.folder / CHECKPOINT_FOLDER


def prepare_training(settings: FinetuneSettings, common: CommonSetup) -> PreparedTraining:
    """Prepare the training of the first seed of some settings.

    Raises:
        PipelineError: data or settings are wrong.
    """
    clips, runtime = common.clips, common.runtime
    classifier, recipe = _classifier(clips, settings)
    frozen = [] if settings.freeze_until is None else freeze_up_to(classifier.backbone, settings.freeze_until)
    if settings.checkpointing:
        check_recomputes(classifier.backbone, recipe.training)
        classifier.backbone.recompute = True
    if settings.compile:
        _compile(classifier, runtime.device)
    split_plan = plan_splits(clips.clips, recipe.training, str(clips.path))
    recipe = with_min_steps(recipe, len(split_plan.clips_of(TRAIN, clips.clips)))
    data = _data(clips, classifier, recipe, settings, split_plan)
    accumulate = settings.accumulate
    if accumulate is None:
        own_part = -(-recipe.training.batch_size // common.world.size)
        accumulate = default_parts(classifier, recipe.training, runtime.device, own_part)
    plan = TrainingPlan(recipe, settings.seed, accumulate, settings.max_failed, settings.checkpoint_seconds)
    is_cached = _is_cached(settings, recipe, classifier, common)
    kept = f"{settings.freeze_until}, cached" if is_cached else settings.freeze_until
    digest = _digest(recipe, settings.seed, runtime.precision, kept, classifier, data)
    return PreparedTraining(settings, classifier, data, plan, digest, len(frozen), is_cached)


def _is_cached(settings: FinetuneSettings, recipe: Recipe, classifier: Classifier, common: CommonSetup) -> bool:
    is_asked = settings.freeze_until is not None and settings.cache_frozen and recipe.finetune.fixed_views > 0
    if not is_asked or recipe.training.epochs == 0:
        return False
    reasons = why_not_cached(classifier.backbone, common.world.size, settings.compile)
    if reasons:
        logger.info(f"the activations of the frozen layers are not cached: {' and '.join(reasons)}")
    return not reasons


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


def _data(
    clips: Manifest, classifier: Classifier, recipe: Recipe, settings: FinetuneSettings, plan: SplitPlan
) -> ClipData:
    """Return the clips of each split and the settings of their samples; `recipe` has the final number of epochs."""
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
        augmentation=Augmentation.of(recipe, preprocessing),
    )
    return ClipData(parts[TRAIN], parts[plan.selected_on], parts[plan.reported_on], samples, plan)


def _compile(classifier: Classifier, device: torch.device) -> None:
    if device.type == "cpu" and not has_compiler():
        logger.info("torch.compile needs a C++ compiler, and there is none: the backbone is not compiled.")
        return
    classifier.backbone.compile()


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
    digest.update(code_digest((TRAINING_MODULE, module_of(HEADS[spec.head]), module_of(backbone))).encode())
    return digest.hexdigest()
