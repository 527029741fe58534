"""Settings of `pipeline extract`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.errors import PipelineError
from pipeline.number_types import NUMBER_TYPES
from pipeline.recipe import SamplingConfig, named_recipe
from pipeline.registry import RECIPE_NAMES
from pipeline.settings.clip_limits import max_clip_bytes, max_clip_pixels, max_clip_seconds
from pipeline.settings.help_texts import BACKBONE_HELP, CALIBRATION_HELP, DEVICE_HELP, ROOT_HELP, WEIGHTS_HELP
from pipeline.settings.settings import Settings, option, overrides, required

COMPILE_MODES = ("auto", "inductor", "openvino", "onnxruntime", "jit", "eager")


@dataclass(frozen=True, kw_only=True)
class ExtractSettings(Settings):
    """Settings of `pipeline extract`; block `extract`."""

    subject: ClassVar[tuple[str, ...]] = ("manifest",)

    manifest: Path = required("Manifest of the clips, data_manifests/NAME.csv.")
    root: Path | None = option(None, ROOT_HELP)
    store: str = required(
        "Feature store to write: a folder, or a URL such as s3://bucket/name.zarr.", fills_braces=True
    )
    backbone: str = option("squeezenet", f"Backbone: {BACKBONE_HELP}")
    weights: str = option("imagenet", f"Weights of the backbone: {WEIGHTS_HELP}")
    taps: tuple[str, ...] = option(
        (),
        "Layers of a timm backbone whose maps are stored side by side, such as 5,11, and cls for its class token.  "
        "[default: the last layer]",
    )
    num_segments: int = option(8, "Number of frames taken from each clip.", minimum=1)
    views: int = option(4, "Number of training views of each clip, in addition to the test view.", minimum=0)
    maps: tuple[str, ...] = option(
        ("pooled", "spatial"), "Features to store: pooled, spatial, or pooled,spatial.", choices=("pooled", "spatial")
    )
    map_size: int | None = option(
        None,
        "Average spatial maps to this height and width, so that spatial heads fit faster; pooled features do not "
        "change.  [default: the size of the backbone's maps]",
        minimum=1,
    )
    store_dtype: str = option(
        "float16",
        "Number type of stored features. int8: about half the size, with a scale for each clip and channel and an "
        "error of at most 1/127 of its largest value.",
        choices=("float16", "int8"),
    )
    input_size: int | None = option(
        None,
        "Side of the square input of the backbone in pixels; half the side takes about a quarter of the time.  "
        "[default: that of the backbone, 224 for most]",
        minimum=1,
    )
    recipe: str = option("cached", "Recipe that sets frames and crops.", choices=RECIPE_NAMES)
    overrides: Mapping[str, Any] = overrides(SamplingConfig)
    seed: int = option(0, "Seed of the training views, and of random weights.")
    frames: str = option(
        "segments",
        "Frames to store. segments: those of the views; all: pooled features of every frame, so that heads with any "
        "number of segments can be fitted later.",
        choices=("segments", "all"),
    )
    dtype: str = option(
        "auto",
        "Number type in which the backbone runs; auto: bfloat16 if it is fast and exact enough here.",
        choices=NUMBER_TYPES,
    )
    compile: str = option(
        "auto",
        "How the backbone is run. inductor: compiled by torch; openvino, onnxruntime (float32): on the CPU, with the "
        "extra [openvino] or [onnx]; jit: frozen; eager: as it is; auto: the fastest here for the number of frames.",
        choices=COMPILE_MODES,
    )
    calibration: Path | None = option(None, CALIBRATION_HELP)
    device: str = option("cpu", f"Device of the backbone: {DEVICE_HELP}")
    workers: int | None = option(
        None, "Number of local processes; 0: only the main process.  [default: one per core, if worthwhile]", minimum=0
    )
    scheduler: str | None = option(None, "Address of a Dask cluster that runs the extraction.", metavar="ADDRESS")
    decode_threads: int | None = option(
        None,
        "Number of threads that decode ahead in each process.  [default: one per core for a GPU, else 0]",
        minimum=0,
    )
    max_failed: int | None = option(None, "Stop if more clips than this cannot be used.  [default: never]", minimum=0)
    allow_squeezenet_weights: bool = option(
        False, "Load weights of SqueezeNet 1.1 into squeezenet_bypass; the store records it."
    )
    max_clip_pixels: int = max_clip_pixels()
    max_clip_bytes: int = max_clip_bytes()
    max_clip_seconds: float = max_clip_seconds()
    rebuild: bool = option(False, "Delete the store and extract everything again.")
    block_clips: int | None = option(None, "Number of clips in a block of a new store.", has_option=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.maps:
            raise PipelineError("`maps` must be some of pooled, spatial.")
        if self.frames == "all" and self.store_dtype != "float16":
            raise PipelineError("`store_dtype` int8 is for frames=segments; features of every frame are float16.")
        if self.scheduler is not None and self.workers is not None:
            raise PipelineError(
                "--workers starts processes here, --scheduler uses those of a cluster: give only one of them."
            )

    @property
    def frame_choices(self) -> SamplingConfig:
        """The recipe's sampling options with the overrides."""
        return named_recipe(self.recipe).with_overrides(**self.overrides).frames
