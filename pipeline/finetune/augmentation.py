"""Augment the training views of `finetune`: crops by epoch, colours, and an erased rectangle.

What is drawn depends only on the seed, the clip's id and the number of the view, and is the same for all frames of a
clip. Frames, crop and mirroring are drawn in `pipeline.video.views`, from other random streams.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pipeline.backbones.preprocessing import Preprocessing
from pipeline.recipe import Crops, Recipe
from pipeline.video.views import random_stream

# Those of torchvision's `RandomErasing`.
ERASED_SHARES = (0.02, 0.33)
ERASED_ASPECTS = (0.3, 3.3)
NUM_TRIES = 10


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A rectangle of whole pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class PixelChange:
    """Change of the pixels of one view.

    factors: of brightness, contrast and saturation; None: colours stay. erased: the rectangle that gets `colour`, RGB.
    """

    factors: tuple[float, float, float] | None
    erased: Rectangle | None
    colour: tuple[int, int, int]

    def apply(self, pixels: Tensor) -> Tensor:
        """Return changed pixels on the same device. Shape: (T, S, S, 3) uint8, also the result."""
        if self.factors is not None:
            pixels = _adjust_colours(pixels, self.factors)
        if self.erased is not None:
            box = self.erased
            pixels = pixels.clone()
            pixels[:, box.top : box.top + box.height, box.left : box.left + box.width] = pixels.new_tensor(self.colour)
        return pixels


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Rules by which training views are augmented.

    crops_of_epochs: the crops of each epoch; empty: those of the recipe in all epochs.
    color_jitter, erasing: as in the recipe. colour: that of an erased rectangle, RGB.
    """

    crops_of_epochs: tuple[Crops, ...] = ()
    color_jitter: float = 0.0
    erasing: float = 0.0
    colour: tuple[int, int, int] = (0, 0, 0)

    @classmethod
    def of(cls, recipe: Recipe, preprocessing: Preprocessing) -> Augmentation:
        """Return the augmentation of a recipe that has its final number of epochs."""
        options, epochs = recipe.finetune, recipe.training.epochs
        crops = rising_crops(recipe.frames.crops, epochs) if options.crop_schedule == "rising" else ()
        colour = mean_colour(preprocessing) if options.erasing else (0, 0, 0)
        return cls(crops, options.color_jitter, options.erasing, colour)

    def crops_of(self, view: int, crops: Crops) -> Crops:
        """Return the crops of a training view; `crops` are those of the recipe."""
        return self.crops_of_epochs[view] if self.crops_of_epochs else crops

    def draw(self, seed: int, clip_id: str, number: int, input_size: int) -> PixelChange | None:
        """Draw the change of training view `number` of a clip; None if its pixels stay."""
        factors = erased = None
        if self.color_jitter:
            drawn = random_stream(seed, clip_id, number, "color").uniform(
                1 - self.color_jitter, 1 + self.color_jitter, 3
            )
            factors = (float(drawn[0]), float(drawn[1]), float(drawn[2]))
        if self.erasing:
            stream = random_stream(seed, clip_id, number, "erasing")
            erased = draw_rectangle(stream, input_size) if stream.random() < self.erasing else None
        return None if factors is None and erased is None else PixelChange(factors, erased, self.colour)


UNCHANGED = Augmentation()


def rising_crops(crops: Crops, num_epochs: int) -> tuple[Crops, ...]:
    """Return the crops of each epoch: a third with the test crop, a third with `mild`, and the rest with `crops`.

    The thirds are counted from the end and rounded, so that the last epoch always has `crops`.

    >>> rising_crops("multiscale", 8)
    ('centre', 'centre', 'mild', 'mild', 'mild', 'multiscale', 'multiscale', 'multiscale')
    >>> rising_crops("multiscale", 2), rising_crops("multiscale", 1)
    (('mild', 'multiscale'), ('multiscale',))
    """
    levels: tuple[Crops, ...] = ("centre", "mild", crops)
    if crops == "centre":
        return (crops,) * num_epochs
    return tuple(levels[2 - 3 * (num_epochs - 1 - epoch) // num_epochs] for epoch in range(num_epochs))


def crops_sentence(crops_of_epochs: Sequence[Crops]) -> str:
    """Return a sentence about the crops of all epochs.

    >>> crops_sentence(["centre", "mild", "mild"])
    'crops of the training views: centre in 1 epoch(s), mild in 2 epoch(s)'
    >>> crops_sentence(["centre", "centre"])
    'crop_schedule rising changes nothing, because crops is centre: pass --crops mild or multiscale'
    """
    counts = Counter(crops_of_epochs)
    if set(counts) == {"centre"}:
        return "crop_schedule rising changes nothing, because crops is centre: pass --crops mild or multiscale"
    parts = [f"{crops} in {count} epoch(s)" for crops, count in counts.items()]
    return f"crops of the training views: {', '.join(parts)}"


def mean_colour(preprocessing: Preprocessing) -> tuple[int, int, int]:
    """Return the RGB pixel that the preprocessing of a backbone makes zero, rounded."""
    mean = dict(zip(preprocessing.channel_order, preprocessing.mean, strict=True))
    red, green, blue = (round(mean[channel] / preprocessing.scale) for channel in "RGB")
    return red, green, blue


def draw_rectangle(stream: np.random.Generator, side: int) -> Rectangle | None:
    """Draw a rectangle in a square: area, logarithm of the aspect ratio, and place are uniform.

    A rectangle that does not fit is drawn again. None: none of the tries fits, which happens in tiny squares.

    Source: Zhong et al., Random erasing data augmentation, 2017; the steps of torchvision's `RandomErasing`.
    """
    for _ in range(NUM_TRIES):
        area = side * side * stream.uniform(*ERASED_SHARES)
        aspect = math.exp(stream.uniform(math.log(ERASED_ASPECTS[0]), math.log(ERASED_ASPECTS[1])))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < height < side and 0 < width < side:
            top, left = stream.integers(0, (side - height + 1, side - width + 1)).tolist()
            return Rectangle(top, left, height, width)
    return None


def _adjust_colours(pixels: Tensor, factors: tuple[float, float, float]) -> Tensor:
    # Imported here, because most trainings do not need it.
    from pipeline.backbones.torchvision_import import torchvision

    functional = torchvision.transforms.functional
    changed: Tensor = pixels.permute(0, 3, 1, 2)  # (T, 3, S, S)
    for adjust, factor in zip(
        (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation), factors, strict=True
    ):
        changed = adjust(changed, factor)
    return changed.permute(0, 2, 3, 1).contiguous()
