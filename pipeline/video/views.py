"""Views: ways of looking at a clip. Which frames, which box of each, and whether they are mirrored.

A view is plain numbers, worked out before anything is decoded, so it can be stored beside the features. A drawn view
depends on the seed, the clip's id and the draw's number alone: it is the same in every process, on every machine, and
whatever other views there are.

Source: paper, Sec. 3.1 and 3.5.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from pipeline.errors import PipelineError
from pipeline.recipe import SamplingConfig
from pipeline.video.crops import CropBox, centre_crop, multiscale_crops, published_crops
from pipeline.video.sampling import drawn_frame_indices, test_frame_indices

# Part of a store's fingerprint. Raise it when a rule changes here or in `sampling`, `crops`, `render`, `resampling`.
# 1: boxes in whole pixels; `covering` segments of whole frames. 2: exact boxes; `covering` draws frames uniformly.
TRANSFORM_VERSION = 2

TEST_VIEW = "test"


@dataclass(frozen=True, slots=True)
class View:
    """One way of looking at one clip: the same box and mirroring for all of its frames."""

    name: str
    frame_indices: tuple[int, ...]
    crop: CropBox
    flip: bool


def train_view_name(draw: int) -> str:
    """The name of a training draw: ``train-0``, ``train-1``, …"""
    return f"train-{draw}"


def test_view(
    num_frames: int,
    height: int,
    width: int,
    num_segments: int,
    choices: SamplingConfig,
    crop_fraction: float = 0.875,  # noqa: PT028
) -> View:
    """The view that is scored: equidistant frames, centre crop, never mirrored."""
    indices = test_frame_indices(num_frames, num_segments, choices.short_clip, choices.test_frames)
    return View(TEST_VIEW, tuple(indices.tolist()), centre_crop(height, width, crop_fraction), flip=False)


def drawn_view(
    draw: int,
    *,
    clip_id: str,
    seed: int,
    num_frames: int,
    height: int,
    width: int,
    num_segments: int,
    choices: SamplingConfig,
    crop_fraction: float = 0.875,
    input_size: int = 224,
) -> View:
    """Training draw number `draw` of a clip: a random frame of each segment, one of the crops, mirrored or not.

    Frames, crop and mirroring each have their own stream of numbers, so a change of one choice leaves the others.
    """
    frames = _generator(seed, clip_id, draw, "frames")
    indices = drawn_frame_indices(num_frames, num_segments, frames, choices.sampler)
    if choices.crops == "centre":
        crop = centre_crop(height, width, crop_fraction)
    else:
        boxes = _boxes(choices.crops, height, width, input_size)
        crop = boxes[int(_generator(seed, clip_id, draw, "crop").random() * len(boxes))]
    flip = choices.flip != "off" and _generator(seed, clip_id, draw, "flip").random() < 0.5
    return View(train_view_name(draw), tuple(indices.tolist()), crop, bool(flip))


@dataclass(frozen=True)
class ViewConfig:
    """The rule by which a model sees clips: frames and crops of the test view, and of the training draws.

    Extraction, finetuning, prediction and the report all take their views from here.
    """

    num_segments: int
    choices: SamplingConfig
    crop_fraction: float = 0.875
    input_size: int = 224
    seed: int = 0

    def test(self, num_frames: int, height: int, width: int) -> View:
        """Return the test view of a clip of these sizes."""
        return test_view(num_frames, height, width, self.num_segments, self.choices, self.crop_fraction)

    def draw(self, number: int, clip_id: str, num_frames: int, height: int, width: int) -> View:
        """Return training draw `number` of a clip of these sizes."""
        return drawn_view(
            number,
            clip_id=clip_id,
            seed=self.seed,
            num_frames=num_frames,
            height=height,
            width=width,
            num_segments=self.num_segments,
            choices=self.choices,
            crop_fraction=self.crop_fraction,
            input_size=self.input_size,
        )


def _boxes(crops: str, height: int, width: int, input_size: int) -> tuple[CropBox, ...]:
    if crops == "multiscale":
        return multiscale_crops(height, width)
    if crops == "published":
        return published_crops(height, width, input_size)
    raise PipelineError(f"`crops` (={crops!r}) must be 'multiscale', 'published' or 'centre'.")


def _generator(seed: int, clip_id: str, draw: int, purpose: str) -> np.random.Generator:
    # A hash of the words themselves: Python's own `hash` of a string differs from process to process.
    digest = hashlib.sha256("\0".join((str(seed), clip_id, str(draw), purpose)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


# pytest would collect the function by its name wherever a test module imports it.
test_view.__test__ = False  # type: ignore[attr-defined]
