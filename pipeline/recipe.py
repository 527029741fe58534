"""Recipes: every choice of an experiment on which paper, published code and sound practice differ, as plain data.

A recipe only names choices. `SamplingConfig` act on frames and belong to `extract` (and to `finetune`, which reads
frames too); `HeadConfig` go to the head's constructor; `TrainConfig` to the training loop.
`docs/paper-and-code.md` explains each against the paper and its published code.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipeline.errors import PipelineError
from pipeline.registry import look_up, unknown_name


@dataclass(frozen=True)
class SamplingConfig:
    """Which pixels of a clip are seen.

    sampler: how training draws one frame of each segment. `covering` segments are L / N frames long, so every frame
        is drawn equally often; `floor` segments have L // N frames each, so the last L mod N frames are never seen
        (published code).
    short_clip: test frames of a clip with at most N frames. `formula` uses int(L/2N + k L/N) for every length;
        `first` takes the first frame for every segment (published code).
    test_frames: arithmetic of that formula. `exact` uses whole numbers; `float` uses floating point (published code),
        which gives the frame before in some clips where N is not a power of two.
    crops: `multiscale` draws one of 50 crops with exact sides and places (Sec. 3.5); `published` draws one of the 50
        crops of the published code, rounded to whole pixels; `centre` always takes the test crop.
    flip: `off`; `swap` mirrors half of the training views and swaps the labels of left and right; `plain` mirrors
        them and keeps every label (later versions of the published code).
    """

    sampler: Literal["covering", "floor"] = "covering"
    short_clip: Literal["formula", "first"] = "formula"
    test_frames: Literal["exact", "float"] = "exact"
    crops: Literal["multiscale", "published", "centre"] = "multiscale"
    flip: Literal["off", "swap", "plain"] = "off"


@dataclass(frozen=True)
class HeadConfig:
    """How a head is built and initialised.

    dropout: on the features, before the learned projection (Sec. 3.5).
    projection_init: of the learned projection to 256. `default` is torch's; `normal_0.001` draws N(0, 0.001) with
        zero bias (published code).
    input_scaling: of the features on their way into dropout and projection, by what the training clips show. `centre`
        takes its mean from each channel and brings all channels together to a deviation of 0.25; `standardise` brings
        each channel to a deviation of 1; `none`. The projection could absorb each, so the head stays the same
        function; on frozen features, which vary little about large means, it learns in fewer steps, and one learning
        rate serves backbones of different scale.
    trn_train_tuples, trn_eval_tuples: `all` ordered tuples of each scale, or `sampled`: 3 of each scale (1 of the
        largest), drawn anew in each training step, and one fixed seeded subset in evaluation.
    trn_consensus: a scale of TRN is the `sum` over its tuples (paper and published code) or their `mean`, so that
        the scales weigh alike however many tuples each has.
    mlp_dropout: between the two layers of Simple-MLP (published code).
    fcn_score_relu: a ReLU on the class scores of 2D-FCN and 3D-FCN (published code), so that none is below zero.
    fcn_input_relu: a ReLU on the projected features that enter 2D-FCN and 3D-FCN (published code).
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
    """How parameters are updated.

    optimiser: `sgd` with momentum (Sec. 3.5), or `adamw`.
    lr: learning rate at the start; of the head where the backbone is trained too.
    backbone_lr: learning rate of the backbone at the start (finetune).
    momentum: of `sgd`.
    weight_decay: of all parameters, unless weight_decay_groups says otherwise.
    weight_decay_groups: `all` parameters decay (paper); `no_conv_bias_no_norm`: norms and the biases of convolutions
        do not decay, and the latter learn at twice the rate (published code); `no_bias_no_norm`: the same, and the
        biases of linear and recurrent layers do not decay either.
    recurrent_parameters: `all`, or `weight_ih_l0`: the published code gives the optimiser the first parameter of
        each recurrent layer only, so the others stay at their random start.
    clip_norm: total norm to which gradients are clipped; 0 clips nothing.
    clip_scope: the norm is over the `trained` parameters, or over `all`, the gradients of untrained ones piling up
        (published code).
    partial_bn: `backbone` freezes the backbone's batch norms but the first; `backbone_and_head` also leaves scale and
        shift of the head's 2D batch norms untrained, except in the first one of a network whose backbone has none
        (published code, whose count of batch norms runs on into the head); `off` freezes none. The head's norms use
        batch statistics in training with each of them.
    schedule: `plateau` divides the rate by ten, twice, each time the validation loss has not improved for
        patience_epochs, then stops (Sec. 3.5); `steps` divides at step_epochs; `cosine` falls to zero over epochs.
    patience_epochs: of `plateau`.
    step_epochs: of `steps`.
    warmup_epochs: over so many epochs the rate rises in a straight line from zero to what the schedule says; 0 starts
        with the full rate (paper). A fitted head and a backbone that starts to move can lose each other without.
    epochs: at most this many.
    batch_size: clips in a training step; 128 in the published code, whose README says 16.
    label_smoothing: share of the target that is spread over all classes.
    class_weights: `none`, or `balanced`: the loss of a class weighs as the inverse of its clips.
    select_on: clips that select the best epoch where the data have no labelled split `test`. `dev` holds out a share of
        the training clips for it, so that `val` is reported untouched; `val` selects on the clips that are reported
        (paper). With a labelled `test`, `val` selects and `test` is reported.
    dev_share: share of the training clips of each class that `dev` holds out; whole groups where the manifest has a
        column `group`.
    dev_seed: seed of that draw, which is the same for every head and every training seed.
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
class Recipe:
    """A named set of choices. `with_overrides` returns a copy with some of them replaced."""

    name: str
    frames: SamplingConfig = SamplingConfig()
    head: HeadConfig = HeadConfig()
    training: TrainConfig = TrainConfig()

    def with_overrides(self, **overrides: Any) -> Recipe:
        """Return a copy with some choices replaced; each belongs to one of the three groups.

        Raises:
            PipelineError: an unknown choice, or a value that it does not take.
        """
        groups: dict[str, Any] = {"frames": self.frames, "head": self.head, "training": self.training}
        for name, value in overrides.items():
            group = _group_of(name)
            checked = checked_value(type(groups[group]), name, value)
            groups[group] = dataclasses.replace(groups[group], **{name: checked})
        return Recipe(self.name, **groups)

    def as_dict(self) -> dict[str, Any]:
        """Every choice as plain data, for printing, for the store and for the metrics."""
        return dataclasses.asdict(self)


def recipe_from_dict(values: dict[str, Any]) -> Recipe:
    """The recipe that `Recipe.as_dict` wrote (also after a way through JSON)."""
    overrides = {**values["frames"], **values["head"], **values["training"]}
    return Recipe(values["name"]).with_overrides(**overrides)


def _group_of(name: str) -> str:
    hints = get_type_hints(Recipe)
    fields = {f.name: group for group in ("frames", "head", "training") for f in dataclasses.fields(hints[group])}
    if name not in fields:
        raise unknown_name("choice of a recipe", name, fields)
    return fields[name]


def checked_value(choices: type, name: str, value: Any) -> Any:
    """Return `value` as the type of the field `name` of a dataclass of choices.

    Raises:
        PipelineError: the choice does not take the value.
    """
    hint = get_type_hints(choices)[name]
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

RECIPES = {recipe.name: recipe for recipe in (PAPER, PUBLISHED_CODE, CACHED)}


def named_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        PipelineError: no recipe has that name.
    """
    return look_up("recipe", name, RECIPES)
