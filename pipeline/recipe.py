"""Recipes: the options on which the paper, its published code and good practice differ, as plain data.

A recipe is a named set of options. `SamplingConfig` is for `extract` and `finetune`, which read frames; `HeadConfig`
is for the constructor of a head; `TrainConfig` is for the training loop. `docs/paper-and-code.md` compares each option
with the paper and its published code.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipeline.errors import PipelineError
from pipeline.registry import look_up, unknown_name

GROUPS = ("frames", "head", "training", "finetune")
# Options of `finetune` that change the training views.
AUGMENTATIONS = ("crop_schedule", "color_jitter", "erasing")
OMITTED_DEFAULTS = ("layer_decay", "fixed_views", *AUGMENTATIONS)
Crops = Literal["multiscale", "published", "mild", "centre"]


@dataclass(frozen=True)
class SamplingConfig:
    """Options that decide which pixels of a clip a model gets.

    sampler: Length of the segments from which training draws one frame each, for L frames and N segments. `covering`:
        L / N, so that every frame is drawn equally often; `floor`: L // N, so that the last L mod N frames are never
        used (published code).
    short_clip: Test frames of a clip with at most N frames. `formula`: frame int(L/2N + k L/N) of segment k, as for
        longer clips; `first`: the first frame for every segment (published code).
    test_frames: Arithmetic of the formula for test frames. `exact`: integers; `float`: floating point
        (published code), which gives a frame one too early in some clips if N is not a power of two.
    crops: Crops of the training views. `multiscale`: one of 50 random crops with exact sizes (Sec. 3.5); `published`:
        one of the 50 random crops of the published code, rounded to whole pixels; `mild`: one of the 20 largest of
        `multiscale`; `centre`: the test crop.
    flip: Mirroring of half of the training views. `off`: none; `swap`: exchanges the labels of left and right;
        `plain`: keeps every label (later versions of the published code).
    """

    sampler: Literal["covering", "floor"] = "covering"
    short_clip: Literal["formula", "first"] = "formula"
    test_frames: Literal["exact", "float"] = "exact"
    crops: Crops = "multiscale"
    flip: Literal["off", "swap", "plain"] = "off"


@dataclass(frozen=True)
class HeadConfig:
    """Options of the architecture and the initial weights of a head.

    dropout: Dropout rate on the features, before the learned projection (Sec. 3.5).
    projection_init: Initial weights of the learned projection to 256. `default`: those of torch; `normal_0.001`:
        N(0, 0.001) with zero bias (published code).
    input_scaling: Scaling of the features before dropout and projection, from statistics of the training clips.
        `centre`: subtract the mean of each channel and scale all channels together to a deviation of 0.25;
        `standardise`: scale each channel to a deviation of 1; `none`. Scaling makes training on frozen features faster
        and allows one learning rate for backbones of different scale.
    trn_train_tuples: Tuples of segments that TRN uses in training. `all`: all ordered tuples of each scale; `sampled`:
        3 random ones of each scale (1 of the largest) in each step.
    trn_eval_tuples: Tuples of segments that TRN uses in evaluation. `all`, or `sampled`: one fixed subset.
    trn_consensus: How TRN combines the tuples of a scale. `sum` (paper and published code), or `mean`, which gives all
        scales the same weight.
    mlp_dropout: Dropout rate between the two layers of Simple-MLP (published code).
    fcn_score_relu: Apply a ReLU to the class scores of 2D-FCN and 3D-FCN, so that none is below zero (published code).
    fcn_input_relu: Apply a ReLU to the projected features that enter 2D-FCN and 3D-FCN (published code).
    """

    dropout: float = 0.3
    projection_init: Literal["default", "normal_0.001"] = "default"
    input_scaling: Literal["none", "centre", "standardise"] = "none"
    trn_train_tuples: Literal["all", "sampled"] = "all"
    trn_eval_tuples: Literal["all", "sampled"] = "all"
    trn_consensus: Literal["sum", "mean"] = "sum"
    mlp_dropout: float = 0.2
    fcn_score_relu: bool = False
    fcn_input_relu: bool = False


@dataclass(frozen=True)
class TrainConfig:
    """Options of the training loop.

    optimiser: Optimiser. `sgd` with momentum (Sec. 3.5), or `adamw`.
    lr: Initial learning rate; in finetune, that of the head.
    backbone_lr: Initial learning rate of the backbone (finetune).
    momentum: Momentum of `sgd`.
    weight_decay: Weight decay of the parameters that weight_decay_groups selects.
    weight_decay_groups: Parameters with weight decay. `all` (paper); `no_conv_bias_no_norm`: all except norms and the
        biases of convolutions, and the latter have twice the learning rate (published code); `no_bias_no_norm`: also
        without the biases of linear and recurrent layers.
    recurrent_parameters: Parameters of recurrent layers that are trained. `all`, or `weight_ih_l0`: only the first one
        of each layer (published code).
    clip_norm: Total norm to which gradients are clipped; 0: no clipping.
    clip_scope: Parameters of that norm. `trained`, or `all`: also the untrained ones, whose gradients accumulate
        (published code).
    partial_bn: Batch norms that are frozen. `backbone`: all of the backbone except the first; `backbone_and_head`: the
        same, and scale and shift of the head's 2D batch norms are not trained, except those of the first if the
        backbone has no batch norm (published code); `off`: none. The head's norms always use batch statistics in
        training.
    schedule: Schedule of the learning rate. `plateau`: divide it by ten, twice, when the validation loss has not
        improved for patience_epochs, then stop (Sec. 3.5); `steps`: divide it by ten at step_epochs; `cosine`: decrease
        it to zero over all epochs.
    patience_epochs: Number of epochs that `plateau` waits for an improvement.
    step_epochs: Epochs at which `steps` divides the learning rate.
    warmup_epochs: Number of epochs over which the learning rate rises linearly from zero to that of the schedule; 0: no
        warm-up (paper).
    epochs: Maximum number of epochs.
    batch_size: Number of clips in a training step; the published code uses 128, its README says 16.
    label_smoothing: Share of the target that is distributed over all classes.
    class_weights: Weights of the classes in the loss. `none`, or `balanced`: inversely proportional to the number of
        clips of the class.
    select_on: Clips that select the best epoch if the data have no labelled split `test`. `dev`: clips held out from
        the training clips, so that `val` only reports; `val`: the reported clips (paper). With a labelled `test`, `val`
        selects and `test` is reported.
    dev_share: Share of the training clips of each class that `dev` holds out; whole groups if the manifest has a column
        `group`.
    dev_seed: Seed of the draw of `dev`; the same for every head and every training seed.
    """

    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: float = 1e-3
    backbone_lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    weight_decay_groups: Literal["all", "no_conv_bias_no_norm", "no_bias_no_norm"] = "all"
    recurrent_parameters: Literal["all", "weight_ih_l0"] = "all"
    clip_norm: float = 20.0
    clip_scope: Literal["trained", "all"] = "trained"
    partial_bn: Literal["backbone", "backbone_and_head", "off"] = "backbone"
    schedule: Literal["plateau", "steps", "cosine"] = "plateau"
    patience_epochs: int = 5
    step_epochs: tuple[int, ...] = (20, 30)
    warmup_epochs: float = 0.0
    epochs: int = 60
    batch_size: int = 32
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    select_on: Literal["dev", "val"] = "val"
    dev_share: float = 0.1
    dev_seed: int = 0


@dataclass(frozen=True)
class FinetuneConfig:
    """Options of `finetune` alone.

    min_steps: Minimum number of training steps: with few clips, the number of epochs is raised until the training has
        as many; 0: the number of epochs stays.
    ema_decay: Decay of the moving average of the weights, which is scored and saved in place of the weights; 0: no
        average.
    interpolate: Weights that are scored on the selection clips after the training. `off`: those of the best epoch;
        `start`: also those on the line from the initial weights to them, so that the saved model is never worse on the
        selection clips than the initial one (Wortsman et al., Robust fine-tuning of zero-shot models, 2022).
    layer_decay: Factor on the learning rate from each block of the backbone to the block before it; the last block has
        backbone_lr; 1: all blocks have it.
    fixed_views: Number of training views of each clip: epoch e uses view e mod N, so that activations of frozen layers
        can be computed once; 0: new views in each epoch.
    crop_schedule: Crops of the training views by epoch. `constant`: those of crops in all epochs; `rising`: the test
        crop in the first third of the epochs, those of `mild` in the second, those of crops in the last.
    color_jitter: Strength S of changed colours: brightness, contrast and saturation of a training view are each
        multiplied by a factor from 1 - S to 1 + S, the same for all its frames; 0: none.
    erasing: Probability that a rectangle of 2 to 33 % of a training view, the same in all its frames, gets the mean
        colour of the backbone's preprocessing; 0: none.
    """

    min_steps: int = 0
    ema_decay: float = 0.0
    interpolate: Literal["off", "start"] = "off"
    layer_decay: float = 1.0
    fixed_views: int = 0
    crop_schedule: Literal["constant", "rising"] = "constant"
    color_jitter: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise PipelineError(f"`layer_decay` (={self.layer_decay:g}) must be above 0 and at most 1.")
        for name in ("color_jitter", "erasing"):
            if getattr(self, name) > 1:
                raise PipelineError(f"`{name}` (={getattr(self, name):g}) must be from 0 to 1.")
        if self.crop_schedule == "rising" and self.fixed_views:
            raise PipelineError(
                f"`crop_schedule` rising needs new views in each epoch, but `fixed_views` (={self.fixed_views}) "
                "repeats views with their crops. Leave out one of the two."
            )


@dataclass(frozen=True)
class Recipe:
    """A named set of options. `with_overrides` returns a copy with some of them replaced."""

    name: str
    frames: SamplingConfig = SamplingConfig()
    head: HeadConfig = HeadConfig()
    training: TrainConfig = TrainConfig()
    finetune: FinetuneConfig = FinetuneConfig()

    def with_overrides(self, **overrides: Any) -> Recipe:
        """Return a copy with some options replaced; each option belongs to one of the groups.

        Raises:
            PipelineError: an option is unknown, or a value is not allowed.
        """
        groups: dict[str, Any] = {group: getattr(self, group) for group in GROUPS}
        for name, value in overrides.items():
            group = _group_of(name)
            checked = checked_value(type(groups[group]), name, value)
            groups[group] = dataclasses.replace(groups[group], **{name: checked})
        return Recipe(self.name, **groups)

    def as_dict(self) -> dict[str, Any]:
        """Return all options as plain data, for printing, for the store and for the metrics.

        The group `finetune` is included if one of its options differs from the default. Of `OMITTED_DEFAULTS`, each is
        included only then, so that results without them keep their bytes.
        """
        values = dataclasses.asdict(self)
        if self.finetune == FinetuneConfig():
            del values["finetune"]
            return values
        for name in OMITTED_DEFAULTS:
            if values["finetune"][name] == getattr(FinetuneConfig, name):
                del values["finetune"][name]
        return values


def recipe_from_dict(values: dict[str, Any]) -> Recipe:
    """Return the recipe that `Recipe.as_dict` wrote, possibly through JSON."""
    overrides = {name: value for group in GROUPS for name, value in values.get(group, {}).items()}
    return Recipe(values["name"]).with_overrides(**overrides)


def option_names() -> tuple[str, ...]:
    """Return the names of all options of a recipe."""
    return tuple(_groups_of_options())


def _group_of(name: str) -> str:
    groups = _groups_of_options()
    if name not in groups:
        raise unknown_name("option of a recipe", name, groups)
    return groups[name]


@functools.cache
def _groups_of_options() -> dict[str, str]:
    hints = _type_hints(Recipe)
    return {f.name: group for group in GROUPS for f in dataclasses.fields(hints[group])}


# Cached: reading the recipe of a result checks some fifty options, and evaluating the hints takes most of that time.
@functools.cache
def _type_hints(of_class: type) -> dict[str, Any]:
    return get_type_hints(of_class)


def checked_value(choices: type, name: str, value: Any) -> Any:
    """Return `value` as the type of the field `name` of a dataclass of options.

    Raises:
        PipelineError: the value is not allowed.
    """
    hint = _type_hints(choices)[name]
    if get_origin(hint) is Literal:
        # YAML reads a bare `off` as False.
        value = "off" if value is False and "off" in get_args(hint) else value
        if value in get_args(hint):
            return value
        raise PipelineError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, get_args(hint)))}.")
    if hint is bool and isinstance(value, bool):
        return value
    if hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        if value < 0 or hint(value) != value:
            raise PipelineError(f"`{name}` (={value!r}) must be {hint.__name__} and not negative.")
        return hint(value)
    if get_origin(hint) is tuple and isinstance(value, list | tuple) and all(isinstance(v, int) for v in value):
        return tuple(value)
    raise PipelineError(f"`{name}` (={value!r}) must be {getattr(hint, '__name__', hint)}.")


PAPER = Recipe(name="paper")

PUBLISHED_CODE = Recipe(
    name="published-code",
    frames=SamplingConfig(sampler="floor", short_clip="first", test_frames="float", crops="published", flip="off"),
    head=HeadConfig(
        projection_init="normal_0.001",
        trn_train_tuples="sampled",
        trn_eval_tuples="sampled",
        fcn_score_relu=True,
        fcn_input_relu=True,
    ),
    training=TrainConfig(
        weight_decay_groups="no_conv_bias_no_norm",
        recurrent_parameters="weight_ih_l0",
        clip_scope="all",
        partial_bn="backbone_and_head",
        schedule="steps",
        step_epochs=(20, 30),
        epochs=40,
        batch_size=128,
    ),
)

# Tuned by measurement for frozen features: `benchmarks/recipe_tuning.py`.
CACHED = Recipe(
    name="cached",
    head=HeadConfig(input_scaling="centre", trn_consensus="mean"),
    training=TrainConfig(
        optimiser="adamw",
        lr=1e-3,
        weight_decay=1e-2,
        schedule="cosine",
        epochs=30,
        batch_size=16,
        select_on="dev",
    ),
)

# Tuned by measurement for training end to end from a fitted head: `benchmarks/finetune_gain.py`.
FINETUNE = Recipe(
    name="finetune",
    frames=SamplingConfig(crops="centre"),
    head=CACHED.head,
    training=TrainConfig(
        optimiser="adamw",
        lr=3e-4,
        backbone_lr=1e-4,
        weight_decay=1e-2,
        schedule="cosine",
        warmup_epochs=1.0,
        epochs=8,
        batch_size=16,
        select_on="dev",
    ),
    finetune=FinetuneConfig(interpolate="start"),
)

RECIPES = {recipe.name: recipe for recipe in (PAPER, PUBLISHED_CODE, CACHED, FINETUNE)}


def named_recipe(name: str) -> Recipe:
    """Return the recipe of a name.

    Raises:
        PipelineError: the name is unknown.
    """
    return look_up("recipe", name, RECIPES)
