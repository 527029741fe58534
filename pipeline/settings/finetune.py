"""Settings of `pipeline finetune`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.recipe import HeadConfig, Recipe, SamplingConfig, TrainConfig, named_recipe
from pipeline.registry import HEAD_NAMES, RECIPE_NAMES
from pipeline.settings.help_texts import BACKBONE_HELP, DEVICE_HELP, ROOT_HELP, WEIGHTS_HELP
from pipeline.settings.settings import Settings, option, overrides, required


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(Settings):
    """Settings of `pipeline finetune`; block `finetune`."""

    subject: ClassVar[tuple[str, ...]] = ("manifest",)

    manifest: Path = required("Manifest, data_manifests/NAME.csv.")
    root: Path | None = option(None, ROOT_HELP)
    init: str = required("Model file of a fitted head, or none to train from scratch.", fills_braces=True)
    backbone: str = option("squeezenet", f"Replaces {{backbone}} in --init; with --init none: {BACKBONE_HELP}")
    head: str | None = option(None, f"Replaces {{head}} in --init; with --init none: one of {','.join(HEAD_NAMES)}.")
    weights: str = option("imagenet", f"Weights of the backbone with --init none: {WEIGHTS_HELP}")
    num_segments: int = option(8, "Number of frames taken from each clip with --init none.", minimum=1)
    out: Path = required("Folder of results; the model gets a folder in it.")
    recipe: str = option("paper", "Recipe that decides frames and training.", choices=RECIPE_NAMES)
    overrides: Mapping[str, Any] = overrides(SamplingConfig, TrainConfig, HeadConfig)
    seed: int = option(0, "Seed of views, order and dropout.")
    device: str = option("cpu", f"Device to train on: {DEVICE_HELP}")
    precision: str = option(
        "auto",
        "Number type in which the backbone runs; auto: what the device has in hardware.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    workers: int | None = option(
        None, "Number of decoding processes; 0 decodes in a thread.  [default: by the device]", minimum=0
    )
    threads: int | None = option(None, "Number of torch's threads.  [default: the cores]", minimum=1)
    accumulate: int | None = option(
        None,
        "Split each batch into N parts (gradient accumulation) to save memory.  [default: by the device]",
        minimum=1,
    )
    checkpointing: bool = option(False, "Compute activations again in the backward pass, which saves memory.")
    compile: bool = option(False, "Compile the backbone with torch.compile.")
    augment_on_device: bool = option(False, "Crop, resize and flip on the device, not in the workers.")
    freeze_until: str | None = option(None, "Freeze the backbone up to and including this layer.", metavar="LAYER")
    max_failed: int | None = option(None, "Stop when more clips than this cannot be used.  [default: never]", minimum=0)
    keep_checkpoints: int = option(2, "Number of last checkpoints to keep, besides the best.", minimum=1)
    checkpoint_seconds: float = option(60.0, "Seconds between checkpoints; 0 writes one after every step.", minimum=0)
    allow_squeezenet_weights: bool = option(
        False, "Load weights of SqueezeNet 1.1 into squeezenet_bypass; the results record it."
    )
    force: bool = option(False, "Train again from the start, whatever checkpoints there are.")

    @property
    def recipe_with_overrides(self) -> Recipe:
        """The recipe with the overrides."""
        return named_recipe(self.recipe).with_overrides(**self.overrides)
