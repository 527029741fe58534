"""Settings of `pipeline finetune`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.errors import PipelineError
from pipeline.number_types import FINETUNE_TYPES
from pipeline.recipe import FinetuneConfig, HeadConfig, Recipe, SamplingConfig, TrainConfig, named_recipe
from pipeline.registry import HEAD_NAMES, RECIPE_NAMES
from pipeline.settings import search_options
from pipeline.settings.clip_limits import max_clip_bytes, max_clip_pixels, max_clip_seconds
from pipeline.settings.help_texts import BACKBONE_HELP, DEVICE_HELP, ROOT_HELP, WEIGHTS_HELP
from pipeline.settings.search import OF_TRAINING, Search
from pipeline.settings.search_options import planned_searches
from pipeline.settings.settings import Settings, option, overrides, required


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(Settings):
    """Settings of `pipeline finetune`; block `finetune`."""

    subject: ClassVar[tuple[str, ...]] = ("manifest",)

    manifest: Path = required("Manifest of the clips, data_manifests/NAME.csv.")
    root: Path | None = option(None, ROOT_HELP)
    init: str = required(
        "Model file of a fitted head, or none to train from scratch; {backbone} and {head} are filled in.",
        fills_braces=True,
    )
    backbone: str = option(
        "squeezenet", f"Value of {{backbone}} in --init; with --init none, the backbone: {BACKBONE_HELP}"
    )
    head: str | None = option(
        None, f"Value of {{head}} in --init; with --init none, the head: {', '.join(HEAD_NAMES)}."
    )
    weights: str = option("imagenet", f"Weights of the backbone with --init none: {WEIGHTS_HELP}")
    num_segments: int = option(8, "Number of frames taken from each clip with --init none.", minimum=1)
    input_size: int | None = option(
        None, "Side of the square input in pixels with --init none.  [default: that of the backbone]", minimum=1
    )
    out: Path = required("Folder of results; the model is written to a folder in it.")
    recipe: str = option("paper", "Recipe that sets frames, head and training.", choices=RECIPE_NAMES)
    overrides: Mapping[str, Any] = overrides(SamplingConfig, TrainConfig, HeadConfig, FinetuneConfig)
    seed: int = option(0, "Seed of the training views, the order of clips and dropout; the first of several.")
    seeds: int = option(1, "Number of seeds, each trained from the same initial model.", minimum=1)
    search: Mapping[str, Any] = search_options.search()
    trials: int | None = search_options.trials()
    search_sampler: str = search_options.search_sampler()
    search_seed: int = search_options.search_seed()
    halving: int | None = search_options.halving()
    device: str = option("cpu", f"Device to train on: {DEVICE_HELP}")
    precision: str = option(
        "auto",
        "Number type in which the backbone runs; auto: the fastest that the device supports in hardware.",
        choices=FINETUNE_TYPES,
    )
    workers: int | None = option(
        None, "Number of decoding processes; 0: decode in a thread.  [default: by the device]", minimum=0
    )
    threads: int | None = option(None, "Number of threads of torch.  [default: one per core]", minimum=1)
    accumulate: int | None = option(
        None,
        "Split each batch into N parts (gradient accumulation) to save memory.  [default: by the device]",
        minimum=1,
    )
    checkpointing: bool = option(False, "Recompute activations in the backward pass to save memory.")
    compile: bool = option(False, "Compile the backbone with torch.compile.")
    augment_on_device: bool = option(False, "Crop, resize and flip on the device, not in the workers.")
    freeze_until: str | None = option(None, "Freeze the backbone up to and including this layer.", metavar="LAYER")
    cache_frozen: bool = option(
        True,
        "With --freeze-until and --fixed-views, compute the activations of frozen layers once, into a temporary file.",
    )
    max_failed: int | None = option(None, "Stop if more clips than this cannot be used.  [default: never]", minimum=0)
    keep_checkpoints: int = option(2, "Number of latest checkpoints to keep, in addition to the best.", minimum=1)
    checkpoint_seconds: float = option(60.0, "Seconds between checkpoints; 0: after every step.", minimum=0)
    max_clip_pixels: int = max_clip_pixels()
    max_clip_bytes: int = max_clip_bytes()
    max_clip_seconds: float = max_clip_seconds()
    allow_squeezenet_weights: bool = option(
        False, "Load weights of SqueezeNet 1.1 into squeezenet_bypass; the results record it."
    )
    tensorboard: bool = option(False, "Write TensorBoard event files too (needs the package tensorboard).")
    force: bool = option(False, "Ignore checkpoints and finished results, and train from the beginning.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.planned_search is not None and self.recipe_with_overrides.training.epochs == 0:
            raise PipelineError("`epochs` (=0) must be at least 1 for a search, which compares trained models.")

    @property
    def planned_search(self) -> Search | None:
        """The search for the settings of the training, if there is one."""
        return planned_searches(self, OF_TRAINING)[0]

    @property
    def recipe_with_overrides(self) -> Recipe:
        """The recipe with the overrides applied."""
        return named_recipe(self.recipe).with_overrides(**self.overrides)
