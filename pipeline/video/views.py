"""Views of a clip: selected frames, crop box and mirroring.

A view consists of numbers that are computed before decoding, so it can be stored with the features. A drawn view
depends only on the seed, the clip's id and the number of the draw; it is equal in every process, on every machine, and
for any set of other views.

Source: paper, Sec. 3.1 and 3.5.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from pipeline.errors import PipelineError
from pipeline.recipe import SamplingConfig
from pipeline.video.crops import CropBox, centre_crop, mild_crops, multiscale_crops, published_crops
from pipeline.video.sampling import drawn_frame_indices, test_frame_indices

# Part of a store's fingerprint. Increment it if a rule changes here or in `sampling`, `crops`, `render`, `resampling`.
# 1: boxes in whole pixels; `covering` segments of whole frames. 2: exact boxes; `covering` draws frames uniformly.
TRANSFORM_VERSION = 2

TEST_VIEW = "test"


@dataclass(frozen=True, slots=True)
class View:
    """A view of one clip, with the same box and mirroring for all frames."""

    name: str
    frame_indices: tuple[int, ...]
    crop: CropBox
    flip: bool


def train_view_name(draw: int) -> str:
    """Return the name of a training draw: ``train-0``, ``train-1``, …"""
    return f"train-{draw}"


def test_view(
    num_frames: int,
    height: int,
    width: int,
    num_segments: int,
    choices: SamplingConfig,
    crop_fraction: float = 0.875,  # noqa: PT028
) -> View:
    """Return the view for testing: equidistant frames, centre crop, not mirrored."""
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
    """Return training draw number `draw` of a clip: a random frame of each segment, a random crop and mirroring.

    Frames, crop and mirroring use separate random streams, so changing one option does not affect the others.
    """
    frames = random_stream(seed, clip_id, draw, "frames")
    indices = drawn_frame_indices(num_frames, num_segments, frames, choices.sampler)
    if choices.crops == "centre":
        crop = centre_crop(height, width, crop_fraction)
    else:
        boxes = _boxes(choices.crops, height, width, input_size)
        crop = boxes[int(random_stream(seed, clip_id, draw, "crop").random() * len(boxes))]
    flip = choices.flip != "off" and random_stream(seed, clip_id, draw, "flip").random() < 0.5
    return View(train_view_name(draw), tuple(indices.tolist()), crop, bool(flip))


@dataclass(frozen=True)
class ViewConfig:
    """Rules for frames and crops of a model's test view and training draws.

    Extraction, finetuning, prediction and the report all use this class.
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
    if crops == "mild":
        return mild_crops(height, width)
    if crops == "published":
        return published_crops(height, width, input_size)
    raise PipelineError(f"`crops` (={crops!r}) must be 'multiscale', 'published', 'mild' or 'centre'.")


def random_stream(seed: int, clip_id: str, draw: int, purpose: str) -> np.random.Generator:
    """Return the random numbers of one purpose for training draw number `draw` of a clip."""
    # A stable hash, because Python's `hash` of a string differs between processes.
    digest = hashlib.sha256("\0".join((str(seed), clip_id, str(draw), purpose)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


# pytest would collect the function by its name wherever a test module imports it.
test_view.__test__ = False  # type: ignore[attr-defined]
