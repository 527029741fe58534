"""The views of a clip on which a saved model is scored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from pipeline.errors import PipelineError
from pipeline.model import ModelSpec
from pipeline.recipe import SamplingConfig, recipe_from_dict
from pipeline.video.crops import CropBox
from pipeline.video.views import View, ViewConfig

NUM_CROPS = (1, 3, 5)
MAX_DECODING_THREADS = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ViewPlan:
    """The views of a clip to score, the test view first, with the transform of the model file.

    num_crops: 1 is the centre; 3 adds the two ends of the long side, 5 the four corners, all in the size of the centre.
    num_draws: number of further views with one random frame of each segment and the centre crop; each is determined by
        seed, clip and number.
    """

    num_segments: int
    choices: SamplingConfig
    input_size: int
    crop_fraction: float
    num_crops: int = 1
    num_draws: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_crops not in NUM_CROPS:
            raise PipelineError(f"`crops` (={self.num_crops}) must be one of {', '.join(map(str, NUM_CROPS))}.")
        if self.num_draws < 0:
            raise PipelineError(f"`draws` (={self.num_draws}) must not be negative.")

    def views(self, clip_id: str, num_frames: int, height: int, width: int) -> list[View]:
        """Return the views of a clip; height and width are in pixels."""
        shape = (num_frames, height, width)
        config = ViewConfig(self.num_segments, self.choices, self.crop_fraction, self.input_size, self.seed)
        first = config.test(*shape)
        views = [first]
        for number, crop in enumerate(_further_crops(height, width, first.crop, self.num_crops)):
            views.append(replace(first, name=f"crop-{number + 1}", crop=crop))
        centred = replace(config, choices=replace(self.choices, crops="centre", flip="off"))
        for number in range(self.num_draws):
            views.append(replace(centred.draw(number, clip_id, *shape), name=f"draw-{number}"))
        return views


def view_plan_of(spec: ModelSpec, num_crops: int = 1, num_draws: int = 0, seed: int = 0) -> ViewPlan:
    """Return the views on which to score a model: those of the transform with which it was trained."""
    preprocessing = spec.preprocessing
    return ViewPlan(
        num_segments=spec.num_segments,
        choices=recipe_from_dict(dict(spec.recipe)).frames,
        input_size=int(preprocessing["input_size"]),
        crop_fraction=float(preprocessing["crop_fraction"]),
        num_crops=num_crops,
        num_draws=num_draws,
        seed=seed,
    )


def _further_crops(height: int, width: int, centre: CropBox, num_crops: int) -> list[CropBox]:
    bottom, right = height - centre.height, width - centre.width
    if num_crops == 5:
        places = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    elif num_crops == 3:
        places = (
            [(centre.top, 0), (centre.top, right)] if width >= height else [(0, centre.left), (bottom, centre.left)]
        )
    else:
        places = []
    return [CropBox(top, left, centre.height, centre.width) for top, left in places]
