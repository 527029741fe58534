"""Settings of each command, declared once.

A field makes the command's option with its help, default and checks, the key of its block in `params.yaml`, and the
attribute that the library reads. This module imports neither torch nor click, so that `--help` is quick.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from pipeline.errors import PipelineError
from pipeline.recipe import FrameChoices, HeadChoices, Recipe, TrainingChoices, named_recipe
from pipeline.registry import (
    BACKBONE_NAMES,
    DATASET_NAMES,
    HEAD_NAMES,
    RECIPE_NAMES,
    WEIGHTS_NAMES,
    did_you_mean,
    unknown_name,
)

BACKBONE_HELP = f"{', '.join(BACKBONE_NAMES)}, or torchvision:NAME."
WEIGHTS_HELP = f"{', '.join(WEIGHTS_NAMES)}, or the path of a weight file."
DEVICE_HELP = "cpu, cuda, or cuda:N."
ROOT_HELP = "Folder of the clips.  [default: the manifest's]"


@dataclass(frozen=True)
class Option:
    """Everything about a setting but its name, type and default.

    help: the option's text; a default that another setting or the machine decides is named in it.
    minimum, maximum: bounds of a number, included; is_maximum_open excludes the upper one.
    choices: values that a text may have.
    is_argument: a positional argument. is_hidden: an option that `--help` leaves out. has_option: False for a setting
        that only Python and `params.yaml` give.
    is_required: without a value, the command ends with a sentence that names option and params key.
    fills_braces: `{name}` in the value is replaced by other settings, or by values of the block `extract`.
    """

    help: str = ""
    minimum: float | None = None
    maximum: float | None = None
    is_maximum_open: bool = False
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    is_argument: bool = False
    is_hidden: bool = False
    has_option: bool = True
    is_required: bool = False
    fills_braces: bool = False


def option(default: Any, help: str, **more: Any) -> Any:
    """Declare a setting; `more` are fields of `Option`."""
    return field(default=default, metadata={"option": Option(help, **more)})


def required(help: str, **more: Any) -> Any:
    """Declare a setting that has to be given, typed or in `params.yaml`."""
    return field(default=None, metadata={"option": Option(help, is_required=True, **more)})


def overrides(*groups: type) -> Any:
    """Declare the values that replace those of the recipe: one option for each field of the groups of choices."""
    return field(default_factory=dict, metadata={"groups": groups})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the settings of a command.

    Values are converted to the declared types (a text to a path, a list or a text with commas to a tuple) and checked
    against the declared bounds.

    subject: names of the settings that name the data. A block of `params.yaml` applies only where they agree with it.
    """

    subject: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for name, hint in hints_of(type(self)).items():
            value = getattr(self, name)
            if value is not None:
                value = converted(value, hint)
                object.__setattr__(self, name, value)
                check(name, value, option_of(type(self), name))
        for name in required_names(type(self)):
            if getattr(self, name) in (None, ()):
                raise PipelineError(f"`{name}` is required: {option_of(type(self), name).help}")


def hints_of(settings: type[Settings]) -> dict[str, Any]:
    """Return the type of each field."""
    hints = get_type_hints(settings)
    return {item.name: hints[item.name] for item in dataclasses.fields(settings)}


def option_of(settings: type[Settings], name: str) -> Option:
    """Return the declaration of a field; a plain one for fields without."""
    item = next(item for item in dataclasses.fields(settings) if item.name == name)
    declared: Option = item.metadata.get("option", Option(has_option=False))
    return declared


def required_names(settings: type[Settings]) -> tuple[str, ...]:
    """Return the fields that need a value."""
    return tuple(item.name for item in dataclasses.fields(settings) if option_of(settings, item.name).is_required)


def override_groups(settings: type[Settings]) -> tuple[type, ...]:
    """Return the groups of recipe choices whose fields are options of the command."""
    for item in dataclasses.fields(settings):
        if "groups" in item.metadata:
            groups: tuple[type, ...] = item.metadata["groups"]
            return groups
    return ()


def without_none(hint: Any) -> Any:
    """Return the type of a field that may also be None."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint


def converted(value: Any, hint: Any) -> Any:
    """Return a value as the declared type, as far as that loses nothing."""
    hint = without_none(hint)
    if hint is Path:
        return Path(value)
    if hint is str and isinstance(value, Path):
        return str(value)
    if get_origin(hint) is tuple:
        parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, Path) else value
        part_type = get_args(hint)[0]
        return tuple(converted(part.strip() if isinstance(part, str) else part, part_type) for part in parts)
    return value


def check(name: str, value: Any, declared: Option) -> None:
    """Check a value against its declaration.

    Raises:
        PipelineError: it is outside the bounds, or none of the choices.
    """
    spelled = name.replace("_", "-")
    if declared.choices:
        for part in value if isinstance(value, tuple) else (value,):
            if part not in declared.choices:
                hint = did_you_mean(str(part), declared.choices)
                raise PipelineError(f"`{spelled}` (={part!r}) must be one of {', '.join(declared.choices)}.{hint}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if declared.minimum is not None and not value >= declared.minimum:
        raise PipelineError(f"`{spelled}` (={value:g}) must be at least {declared.minimum:g}.")
    if declared.maximum is not None:
        is_above = value >= declared.maximum if declared.is_maximum_open else value > declared.maximum
        if is_above:
            bound = "below" if declared.is_maximum_open else "at most"
            raise PipelineError(f"`{spelled}` (={value:g}) must be {bound} {declared.maximum:g}.")


@dataclass(frozen=True, kw_only=True)
class PrepareSettings(Settings):
    """Settings of `pipeline prepare`; block `prepare`."""

    subject: ClassVar[tuple[str, ...]] = ("dataset", "out")

    dataset: str = required("The data set, or the layout of its files.", choices=DATASET_NAMES, is_argument=True)
    root: Path | None = option(None, "Folder of the data set.", is_argument=True)
    lists: tuple[Path, ...] = option((), "Label files of the data set.", is_argument=True)
    out: Path = required("Manifest to write, data_manifests/NAME.csv.")
    classes: Path | None = option(None, "Class file beside the manifest, named in params.yaml for DVC.", is_hidden=True)
    class_order: str = option(
        "file", "Order of the class numbers: as in the data set's files, or alphabetical.", choices=("file", "sorted")
    )
    pack: Path | None = option(None, "Copy folders of frames into one HDF5 file.", metavar="FILE.h5")
    val_share: float = option(
        0.2, "Share of clips put into validation when the data define no split.", minimum=0, maximum=1,
        is_maximum_open=True,
    )  # fmt: skip
    fold: int = option(1, "Published split of ucf101 and hmdb51.", minimum=1, maximum=3)
    columns: str | None = option(None, "Columns of a csv: path, clip_id, label, split.", metavar="WHAT=NAME,...")
    frames: str = option("webm", "Form of drawn gestures: video files, or folders of JPGs.", choices=("webm", "jpg"))
    train_clips: int = option(30, "Training clips of each class of drawn gestures.", minimum=1)
    val_clips: int = option(15, "Validation clips of each class of drawn gestures.", minimum=1)
    test_clips: int | None = option(
        None, "Test clips of each class of drawn gestures.  [default: as many as --val-clips]", minimum=0
    )
    width: int = option(160, "Width of drawn gestures in pixels.", minimum=1, is_hidden=True)
    height: int = option(120, "Height of drawn gestures in pixels.", minimum=1, is_hidden=True)
    min_frames: int = option(20, "Shortest drawn gesture.", minimum=1, is_hidden=True)
    max_frames: int = option(70, "Longest drawn gesture.", minimum=1, is_hidden=True)
    fps: int = option(12, "Frame rate of drawn gestures.", minimum=1, is_hidden=True)
    seed: int = option(0, "Seed of drawn clips and drawn splits.")
    workers: int | None = option(None, "Number of processes that draw.  [default: the cores]", minimum=0)


@dataclass(frozen=True, kw_only=True)
class ExtractSettings(Settings):
    """Settings of `pipeline extract`; block `extract`."""

    subject: ClassVar[tuple[str, ...]] = ("manifest",)

    manifest: Path = required("Manifest, data_manifests/NAME.csv.")
    root: Path | None = option(None, ROOT_HELP)
    store: str = required("Feature store to fill: a folder, or a URL such as s3://bucket/name.zarr.", fills_braces=True)
    backbone: str = option("squeezenet", f"Backbone: {BACKBONE_HELP}")
    weights: str = option("imagenet", f"Weights of the backbone: {WEIGHTS_HELP}")
    num_segments: int = option(8, "Number of frames taken from each clip.", minimum=1)
    views: int = option(4, "Training views of each clip, besides the test view.", minimum=0)
    maps: tuple[str, ...] = option(
        ("pooled", "spatial"), "Features to keep: pooled, spatial or both.", choices=("pooled", "spatial")
    )
    recipe: str = option("cached", "Recipe that decides frames and crops.", choices=RECIPE_NAMES)
    overrides: Mapping[str, Any] = overrides(FrameChoices)
    seed: int = option(0, "Seed of the training views, and of random weights.")
    frames: str = option(
        "segments",
        "all: store pooled features of every frame, so that any number of segments can be fitted later.",
        choices=("segments", "all"),
    )
    dtype: str = option("auto", "Number type in which the backbone runs.", choices=("auto", "float32", "bfloat16"))
    compile: str = option("auto", "Compiler of the backbone.", choices=("auto", "inductor", "jit", "eager"))
    device: str = option("cpu", f"Device of the backbone: {DEVICE_HELP}")
    workers: int | None = option(
        None, "Number of local processes; 0 uses this one.  [default: by the cores]", minimum=0
    )
    scheduler: str | None = option(None, "Address of a Dask cluster that runs the work.", metavar="ADDRESS")
    decode_threads: int | None = option(
        None, "Number of threads that decode ahead in each process.  [default: the cores for a GPU, else 0]", minimum=0
    )
    max_failed: int | None = option(None, "Stop when more clips than this cannot be used.  [default: never]", minimum=0)
    allow_squeezenet_weights: bool = option(
        False, "Load weights of SqueezeNet 1.1 into squeezenet_bypass; the store records it."
    )
    rebuild: bool = option(False, "Delete the store and extract everything again.")
    block_clips: int | None = option(None, "Number of clips in a block of a new store.", has_option=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.maps:
            raise PipelineError("`maps` must be some of pooled, spatial.")
        if self.scheduler is not None and self.workers is not None:
            raise PipelineError("--workers starts processes here, --scheduler uses a cluster's: give one of both.")

    @property
    def frame_choices(self) -> FrameChoices:
        """The recipe's choices of frames with the overrides."""
        return named_recipe(self.recipe).changed(**self.overrides).frames


@dataclass(frozen=True, kw_only=True)
class FitHeadSettings(Settings):
    """Settings of `pipeline fit-head`; block `fit_head`, and the blocks `heads.NAME` for single heads."""

    subject: ClassVar[tuple[str, ...]] = ("store",)

    store: str = required("Feature store that `pipeline extract` filled.", fills_braces=True)
    backbone: str = option("squeezenet", "Replaces {backbone} in the path of the store.")
    head: tuple[str, ...] = option(("all",), f"all, or some of {','.join(HEAD_NAMES)}.")
    out: Path = required("Folder of results; each head gets a folder in it.")
    recipe: tuple[str, ...] = option(
        ("cached",), f"One of {', '.join(RECIPE_NAMES)}; several, with commas, get a folder each."
    )
    overrides: Mapping[str, Any] = overrides(FrameChoices, TrainingChoices, HeadChoices)
    heads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: int = option(1, "Number of fits of each head, from seeds SEED, SEED+1, ...", minimum=1)
    seed: int = option(0, "The first seed.")
    device: str = option("cpu", f"Device of the heads: {DEVICE_HELP}")
    precision: str = option("auto", "Number type in which the heads run.", choices=("auto", "float32", "bfloat16"))
    threads: int | None = option(
        None, "Number of torch's threads in each fit.  [default: cores, or 1 without convolutions]", minimum=1
    )
    jobs: int | None = option(None, "Number of fits side by side.  [default: the cores]", minimum=1)
    loaders: int = option(1, "Number of threads that read spatial maps ahead; they change no result.", minimum=1)
    views: int | None = option(None, "Number of training views to use.  [default: all in the store]", minimum=1)
    num_segments: int | None = option(
        None, "Number of segments, for a store of all frames.  [default: the store's]", minimum=1
    )
    weights: str | None = option(None, "Path of the backbone weights if the file has moved.")
    force: bool = option(False, "Fit finished heads again.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.head:
            if name != "all" and name not in HEAD_NAMES:
                raise unknown_name("head", name, HEAD_NAMES)
        for name in self.recipe:
            if name not in RECIPE_NAMES:
                raise unknown_name("recipe", name, RECIPE_NAMES)


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
    overrides: Mapping[str, Any] = overrides(FrameChoices, TrainingChoices, HeadChoices)
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
        return named_recipe(self.recipe).changed(**self.overrides)


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Settings):
    """Settings of `pipeline compare`; block `compare`."""

    subject: ClassVar[tuple[str, ...]] = ("dirs", "manifest")

    dirs: tuple[Path, ...] = option((), "Result folders, or folders above them.", is_argument=True)
    out: Path | None = option(None, "Folder for table, plots and report.")
    against: str | None = option(None, "Compare with the committed metrics of this Git revision.", metavar="REV")
    max_drop: float | None = option(
        None, "Points of top-1 that a row may lose against REV; a larger drop ends with exit code 1."
    )
    pairs: tuple[str, ...] = option((), "Pairs of labels that are each other's reverse in time: a:b,c:d.")
    paper: str = option("auto", "Data set of the paper's Table 3: auto, jester, something.")
    manifest: Path | None = option(None, "Manifest for links to clips and contact sheets.")
    root: Path | None = option(None, ROOT_HELP)
    latency: bool = option(True, "Measure the time of each head on this machine.")
    report: bool = option(True, "Write report.html.")
    width: int | None = option(None, "Columns of the printed table.", has_option=False, minimum=1)
