"""Prepare a classifier for training end to end: number type, frozen layers, memory."""

from __future__ import annotations

import dataclasses
import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.backbones import build_backbone
from pipeline.backbones.backbone import Backbone
from pipeline.calibration import multiplies_bfloat16_fast
from pipeline.devices import find_device
from pipeline.errors import PipelineError
from pipeline.heads import build_head
from pipeline.model import Classifier, ModelSpec
from pipeline.model_file import load_model
from pipeline.number_types import FINETUNE_TYPES, check_number_type
from pipeline.recipe import HeadConfig, Recipe, TrainConfig
from pipeline.registry import unknown_name
from pipeline.runtime import Runtime
from pipeline.training.optimiser import freeze_later_norms

STAGE = "finetune"
# Activations of more frames do not fit into the processor's caches: SqueezeNet's step takes 1.7 times as long.
CPU_FRAMES_AT_A_TIME = 32


def choose_runtime(device: str, precision: str = "auto", local_rank: int | None = None) -> Runtime:
    """Return a device and its number type; `auto` selects bfloat16 if it is fast, else float32.

    A GPU without fast bfloat16 uses float16. `local_rank` selects the GPU of this process.

    Raises:
        PipelineError: the device or the type does not exist.
    """
    check_number_type("precision", precision, FINETUNE_TYPES)
    if local_rank is not None and device.startswith("cuda"):
        if device != "cuda":
            raise PipelineError(
                f"`device` is {device}, but each of several processes uses a different GPU. Pass --device cuda."
            )
        device = f"cuda:{local_rank}"
    chosen = find_device(device)
    if precision == "auto":
        short = "bfloat16" if multiplies_bfloat16_fast(str(chosen)) else "float16"
        precision = "float32" if chosen.type == "cpu" and short == "float16" else short
    if precision == "float16" and chosen.type == "cpu":
        raise PipelineError("`precision` float16 needs a GPU. On the CPU choose bfloat16, float32 or auto.")
    return Runtime(chosen, precision)


class EndToEnd(nn.Module):
    """The forward pass of training: the backbone in the short number type, a head of pooled features in float32.

    Activations of the frozen parts of the backbone may be given in place of frames.

    Shape:
        frames: (B, T, 3, S, S) uint8, or (B, T, C, h, w) float. returns: (B, K), float32.
    """

    def __init__(self, classifier: Classifier, runtime: Runtime) -> None:
        super().__init__()
        if classifier.head.is_closed_form:
            raise PipelineError(
                f"The head '{classifier.spec.head}' has no gradient, so it cannot be trained end to end. Fit it on "
                "cached features with `pipeline fit-head`, or choose another head."
            )
        self.classifier = classifier
        self.runtime = runtime

    def features(self, frames: Tensor) -> Tensor:
        """Compute the features that the head reads. Shape: (B, T, C, h, w)."""
        with self.runtime.autocast():
            if frames.dtype == torch.uint8:
                return self.classifier.features(frames)
            backbone = self.classifier.backbone
            maps = backbone.run_parts(frames.flatten(0, 1), start=num_frozen_parts(backbone))
            return self.classifier.features_of_maps(maps, frames.shape[1])

    def scores(self, features: Tensor) -> Tensor:
        """Compute the head's scores of features. Shape: (B, K), float32, or float64 for a head of that type."""
        # As in fit-head: pooled features are small, so their heads keep full precision.
        pooled = self.classifier.head.reads == "pooled"
        with nullcontext() if pooled else self.runtime.autocast():
            scores: Tensor = self.classifier.head(features)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def forward(self, frames: Tensor) -> Tensor:
        return self.scores(self.features(frames))


def fitted_classifier(path: Path | str, classes: tuple[str, ...], head_switches: dict[str, Any]) -> Classifier:
    """Load the classifier of a model file; `head_switches` replace options of its head.

    Raises:
        PipelineError: the file is not a model file, or has other classes.
    """
    classifier = load_model(path)
    spec = classifier.spec
    check_classes(path, spec.classes, classes)
    if head_switches:
        choices = dataclasses.replace(HeadConfig(**spec.recipe["head"]), **head_switches)
        head = _head(spec, choices)
        head.load_state_dict(classifier.head.state_dict())
        recipe = {**spec.recipe, "head": dataclasses.asdict(choices)}
        classifier = Classifier(classifier.backbone, head, dataclasses.replace(spec, recipe=recipe))
    return classifier


def fresh_classifier(
    head: str,
    backbone: str,
    weights: str,
    classes: tuple[str, ...],
    num_segments: int,
    recipe: Recipe,
    seed: int,
    allow_squeezenet_weights: bool = False,
    input_size: int | None = None,
) -> Classifier:
    """Build a classifier with a new head, for training from scratch: the paper's end-to-end protocol."""
    network, record = build_backbone(backbone, weights, seed, allow_squeezenet_weights, input_size)
    if network.clip_frames > 1:
        raise PipelineError(
            f"{network.name} is a video encoder, which finetune cannot train. Fit a head on its features."
        )
    spec = ModelSpec(
        head=head,
        backbone=network.name,
        classes=classes,
        num_segments=num_segments,
        in_channels=network.channels,
        map_size=network.map_size,
        preprocessing=json.loads(json.dumps(network.preprocessing.as_dict())),
        recipe=recipe.as_dict(),
        weights=record.as_dict(),
        seed=seed,
        stage=STAGE,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(network, _head(spec, recipe.head), spec)


def check_classes(path: Path | str, own: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """Check that a model has the classes of a manifest, in the same order.

    Raises:
        PipelineError: they differ; the message names the first difference.
    """
    if own == wanted:
        return
    if sorted(own) == sorted(wanted):
        where = next(index for index, pair in enumerate(zip(own, wanted, strict=True)) if pair[0] != pair[1])
        how = f"in another order (class {where} is '{own[where]}' there and '{wanted[where]}' here)"
    else:
        lacking = [label for label in wanted if label not in own]
        extra = [label for label in own if label not in wanted]
        how = "; ".join(
            f"{text} {', '.join(map(repr, labels[:3]))}{' …' if len(labels) > 3 else ''}"
            for text, labels in (("the model lacks", lacking), ("the manifest lacks", extra))
            if labels
        )
    raise PipelineError(
        f"The model {path} was made for {len(own)} classes, the manifest has {len(wanted)}: {how}. "
        "Give a model that was fitted on this manifest, or --init none."
    )


def freeze_up_to(backbone: Backbone, layer: str) -> list[str]:
    """Freeze every backbone parameter up to and including those of `layer`, and return their names.

    Raises:
        PipelineError: the layer does not exist or has no parameters.
    """
    names = [name for name, _ in backbone.named_parameters()]
    of_layer = [index for index, name in enumerate(names) if name.startswith(f"{layer}.")]
    if not of_layer:
        layers = dict.fromkeys(name.rpartition(".")[0] for name in names)
        raise unknown_name(f"layer of {backbone.name} with parameters", layer, layers)
    frozen = names[: of_layer[-1] + 1]
    for name in frozen:
        backbone.get_parameter(name).requires_grad_(False)
    return frozen


def num_frozen_parts(backbone: Backbone) -> int:
    """Return how many parts of a backbone, from its input on, have no parameter that is trained."""
    parts = backbone.parts()
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    for number, part in enumerate(parts):
        if any(name.startswith(part.prefix) for name in trained):
            return number
    return len(parts)


def check_recomputes(backbone: Backbone, choices: TrainConfig) -> None:
    """Check that a backbone can recompute its activations.

    Raises:
        PipelineError: the backbone is not divided into blocks, or a batch norm would count each batch twice.
    """
    if not backbone.has_blocks:
        raise PipelineError(
            f"`checkpointing` needs a backbone that is divided into blocks; {backbone.name} is not. Use --accumulate."
        )
    if choices.partial_bn == "off" and any(isinstance(layer, nn.BatchNorm2d) for layer in backbone.modules()):
        raise PipelineError(
            "`checkpointing` runs each block twice, so batch norms would count each batch twice: partial_bn cannot be "
            "off. Set it to 'backbone', or use --accumulate."
        )


def default_parts(classifier: Classifier, choices: TrainConfig, device: torch.device, num_clips: int) -> int:
    """Return the default number of parts into which a process splits its `num_clips` of a batch.

    On a GPU it is 1. On the CPU a part has at most `CPU_FRAMES_AT_A_TIME` frames, unless a batch norm trains, because
    its statistics would be those of the parts.
    """
    set_training_mode(classifier, choices)
    has_trained_norm = any(isinstance(layer, _BatchNorm) and layer.training for layer in classifier.modules())
    if device.type != "cpu" or has_trained_norm:
        return 1
    return min(num_clips, math.ceil(num_clips * classifier.spec.num_segments / CPU_FRAMES_AT_A_TIME))


def set_training_mode(classifier: Classifier, choices: TrainConfig) -> None:
    """Set training mode with partial batch norm: frozen in the backbone except the first, never frozen in the head.

    A batch norm whose parameters are frozen for another reason keeps its statistics too.
    """
    classifier.train()
    if choices.partial_bn != "off":
        freeze_later_norms(classifier.backbone)
    for layer in classifier.backbone.modules():
        if isinstance(layer, nn.BatchNorm2d) and not layer.weight.requires_grad:
            layer.eval()


def _head(spec: ModelSpec, choices: HeadConfig) -> Any:
    return build_head(
        spec.head,
        in_channels=spec.in_channels,
        num_segments=spec.num_segments,
        num_classes=spec.num_classes,
        choices=choices,
    )
