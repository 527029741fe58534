"""Draw still images of a hand, each with the numbers of its pose: the training data of the bundled weights.

They have no motion and no gesture labels. The images share only the renderer of the hand with the demo's clips: seeds
are different, poses are independent, and backgrounds are of all kinds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.prepare.gestures.backgrounds import KINDS, draw_background
from pipeline.prepare.gestures.hands import HandPose, paint_hand, random_look
from pipeline.prepare.gestures.seeding import generator_for

# The numbers of each image, in this order. Without a hand, all except the first are zero.
TARGET_NAMES = ("present", "x", "y", "log_size", "angle", "openness", "spread", "side")
MASK_STRIDE = 4
SIZE_RANGE = (0.055, 0.20)
ANGLE_RANGE = (-2.3, 2.3)
SPREAD_RANGE = (0.02, 0.36)
SHARE_WITHOUT_HAND = 0.06
NUM_BACKGROUNDS_PER_BATCH = 48


@dataclass(frozen=True)
class Stills:
    """Images with their targets.

    Shape:
        images:  (N, S, S, 3), uint8.
        targets: (N, 8), float32, as `TARGET_NAMES`.
        masks:   (N, S / 4, S / 4), uint8, share of each cell that the hand covers.
    """

    images: np.ndarray
    targets: np.ndarray
    masks: np.ndarray


def draw_stills(seed: int, batch: int, count: int, size: int) -> Stills:
    """Draw `count` images of `size` by `size` pixels; the same seed and batch number give the same pixels."""
    generator = generator_for("stills", seed, batch, size)
    # Backgrounds cost more than hands, so a batch shares some, with another crop, mirroring and light each time.
    canvas = size + size // 2
    backgrounds = [
        draw_background(generator, canvas, canvas, tuple(KINDS)) for _ in range(min(count, NUM_BACKGROUNDS_PER_BATCH))
    ]
    images = np.empty((count, size, size, 3), np.uint8)
    targets = np.zeros((count, len(TARGET_NAMES)), np.float32)
    masks = np.empty((count, size // MASK_STRIDE, size // MASK_STRIDE), np.uint8)
    for index in range(count):
        background = backgrounds[int(generator.integers(len(backgrounds)))]
        image, target, mask = _draw_still(generator, background, size)
        images[index], targets[index] = image, target
        masks[index] = np.asarray(Image.fromarray(mask).reduce(MASK_STRIDE))
    return Stills(images, targets, masks)


def _draw_still(generator: np.random.Generator, background: np.ndarray, size: int) -> tuple[np.ndarray, ...]:
    image = _varied(generator, background, size)
    target = np.zeros(len(TARGET_NAMES), np.float32)
    mask = np.zeros((size, size), np.uint8)
    # Drawn even without a hand, so that the same number of random values is used.
    look, pose = random_look(generator), random_pose(generator)
    if generator.random() >= SHARE_WITHOUT_HAND:
        mask = paint_hand(image, look, pose)
        target[:] = (
            1.0,
            pose.x,
            pose.y,
            np.log(pose.size),
            pose.angle,
            pose.openness,
            pose.spread,
            look.side,
        )
    return _exposed(generator, image), target, mask


def random_pose(generator: np.random.Generator) -> HandPose:
    """Draw a pose with a random position, size and angle; fully open and fully closed hands are more frequent."""
    openness = float(np.clip(generator.uniform(-0.2, 1.2), 0.0, 1.0))
    return HandPose(
        x=generator.uniform(-0.48, 0.48),
        y=generator.uniform(-0.48, 0.48),
        size=float(np.exp(generator.uniform(np.log(SIZE_RANGE[0]), np.log(SIZE_RANGE[1])))),
        # Half of the hands are nearly upright, as in most gestures.
        angle=generator.uniform(*ANGLE_RANGE) * (1.0 if generator.random() < 0.5 else 0.4),
        openness=openness,
        spread=generator.uniform(*SPREAD_RANGE),
    )


def _varied(generator: np.random.Generator, background: np.ndarray, size: int) -> np.ndarray:
    room = background.shape[0] - size
    top, left = (int(value) for value in generator.integers(0, room + 1, 2))
    part = background[top : top + size, left : left + size]
    if generator.random() < 0.5:
        part = part[:, ::-1]
    if generator.random() < 0.5:
        part = part.transpose(1, 0, 2)
    part = part[:, :, generator.permutation(3)]
    return np.clip(part * np.float32(generator.uniform(0.6, 1.3)), 0, 255).astype(np.uint8)


def _exposed(generator: np.random.Generator, image: np.ndarray) -> np.ndarray:
    gains = generator.uniform(0.75, 1.2) * generator.uniform(0.92, 1.08, 3)
    noise = generator.standard_normal(image.shape, dtype=np.float32) * np.float32(generator.uniform(0, 7))
    exposed: np.ndarray = np.clip(image * gains.astype(np.float32) + noise, 0, 255).astype(np.uint8)
    return exposed
