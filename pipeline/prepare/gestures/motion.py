"""Draw the motion of each gesture: a random path of poses, independent of appearance.

A gesture of a time-reversed pair is its partner played backwards, including pauses, changes of speed and tremor.
Therefore single frames of both have the same distribution, and only their order distinguishes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pipeline.prepare.gestures.hands import HandPose

Generator = np.random.Generator


@dataclass(frozen=True)
class Gesture:
    """A class of the demo: label, path, and whether the path is played backwards.

    pair: name shared by both members of a time-reversed pair; None for gestures without direction.
    """

    label: str
    path: Callable[[Generator, np.ndarray, HandPose], list[HandPose]]
    pair: str = ""
    is_reversed: bool = False


def draw_poses(generator: Generator, gesture: Gesture, num_frames: int) -> list[HandPose]:
    """Draw the poses along a gesture's path, in reverse order if it is played backwards."""
    start = _random_start(generator)
    poses = gesture.path(generator, _random_progress(generator, num_frames), start)
    return _trembling(generator, poses)


def _random_start(generator: Generator) -> HandPose:
    """Draw a start pose near the centre, roughly upright, with any openness of the fingers."""
    return HandPose(
        x=generator.uniform(-0.2, 0.2),
        y=generator.uniform(-0.14, 0.2),
        size=float(np.exp(generator.uniform(np.log(0.085), np.log(0.14)))),
        angle=generator.uniform(-0.5, 0.5),
        openness=float(np.clip(generator.uniform(-0.3, 1.4), 0.0, 1.0)),
        spread=generator.uniform(0.06, 0.26),
    )


def _random_progress(generator: Generator, num_frames: int) -> np.ndarray:
    """Draw the progress from 0 to 1: a pause, a smooth movement and a pause, each of random length."""
    first = generator.uniform(0.0, 0.3)
    last = generator.uniform(0.7, 1.0)
    time = np.clip((np.linspace(0, 1, num_frames) - first) / (last - first), 0, 1)
    # Uneven speed: faster early or late in the movement.
    time = time ** np.exp(generator.uniform(-0.5, 0.5))
    softness = generator.uniform(0.3, 1.0)
    return np.asarray((1 - softness) * time + softness * (3 * time**2 - 2 * time**3))


def _trembling(generator: Generator, poses: list[HandPose]) -> list[HandPose]:
    """Draw small smooth changes of all values, so that no part of the pose is completely still."""
    times = np.linspace(0, 1, len(poses))
    scales = {"x": 0.02, "y": 0.02, "size": 0.05, "angle": 0.07, "openness": 0.05, "spread": 0.02}
    changed = {name: np.zeros(len(poses)) for name in scales}
    for name, scale in scales.items():
        for _ in range(2):
            waves, phase = generator.uniform(0.4, 3.0), generator.uniform(0, 2 * np.pi)
            changed[name] += scale * generator.uniform(0.2, 1.0) * np.sin(2 * np.pi * waves * times + phase)
    return [
        HandPose(
            x=pose.x + changed["x"][index],
            y=pose.y + changed["y"][index],
            size=pose.size * float(np.exp(changed["size"][index])),
            angle=pose.angle + changed["angle"][index],
            openness=float(np.clip(pose.openness + changed["openness"][index], 0.0, 1.0)),
            spread=max(pose.spread + changed["spread"][index], 0.0),
        )
        for index, pose in enumerate(poses)
    ]


def _across(generator: Generator, progress: np.ndarray, start: HandPose) -> list[HandPose]:
    """Move to the right, through a random centre."""
    reach, middle = generator.uniform(0.34, 0.6), generator.uniform(-0.1, 0.1)
    return [replace(start, x=middle + reach * (p - 0.5)) for p in progress]


def _upwards(generator: Generator, progress: np.ndarray, start: HandPose) -> list[HandPose]:
    reach, middle = generator.uniform(0.34, 0.6), generator.uniform(-0.06, 0.12)
    return [replace(start, y=middle - reach * (p - 0.5)) for p in progress]


def _nearer(generator: Generator, progress: np.ndarray, start: HandPose) -> list[HandPose]:
    """Move towards the camera, so that the hand grows, as in Jester's 'Pushing Hand Away'."""
    growth, middle = generator.uniform(0.6, 1.0), np.log(0.11) + generator.uniform(-0.15, 0.15)
    return [replace(start, size=float(np.exp(middle + growth * (p - 0.5)))) for p in progress]


def _opening(generator: Generator, progress: np.ndarray, start: HandPose) -> list[HandPose]:
    low, high = generator.uniform(0.0, 0.25), generator.uniform(0.8, 1.0)
    return [replace(start, openness=low + (high - low) * p) for p in progress]


def _turning(generator: Generator, progress: np.ndarray, start: HandPose) -> list[HandPose]:
    """Rotate clockwise from the viewer's perspective."""
    turn, middle = generator.uniform(1.0, 2.0), generator.uniform(-0.3, 0.3)
    return [replace(start, angle=middle + turn * (p - 0.5)) for p in progress]


def _spreading(generator: Generator, progress: np.ndarray, start: HandPose) -> list[HandPose]:
    """Spread the straight fingers of an open hand."""
    low, high = generator.uniform(0.0, 0.05), generator.uniform(0.26, 0.36)
    openness = generator.uniform(0.85, 1.0)
    return [replace(start, openness=openness, spread=low + (high - low) * p) for p in progress]


def _still(generator: Generator, progress: np.ndarray, start: HandPose) -> list[HandPose]:
    # A pose that a moving gesture may pass through, so that the position does not reveal the class.
    return [replace(start, x=start.x + generator.uniform(-0.12, 0.12))] * len(progress)


def _shaking(generator: Generator, progress: np.ndarray, start: HandPose) -> list[HandPose]:
    """Rotate back and forth about the wrist, several times."""
    swings, phase = generator.uniform(2.5, 5.0), generator.uniform(0, 2 * np.pi)
    width = generator.uniform(0.3, 0.55)
    swing = width * np.sin(2 * np.pi * swings * np.linspace(0, 1, len(progress)) + phase)
    return [replace(start, angle=start.angle + s, x=start.x + 0.12 * s) for s in swing]


# In the order of the class file. Labels follow Jester, where a pushed hand moves towards the camera.
GESTURES = (
    Gesture("Swiping Left", _across, pair="across", is_reversed=True),
    Gesture("Swiping Right", _across, pair="across"),
    Gesture("Swiping Down", _upwards, pair="upwards", is_reversed=True),
    Gesture("Swiping Up", _upwards, pair="upwards"),
    Gesture("Pushing Hand Away", _nearer, pair="nearer"),
    Gesture("Pulling Hand In", _nearer, pair="nearer", is_reversed=True),
    Gesture("Opening Hand", _opening, pair="opening"),
    Gesture("Closing Hand", _opening, pair="opening", is_reversed=True),
    Gesture("Turning Hand Clockwise", _turning, pair="turning"),
    Gesture("Turning Hand Counterclockwise", _turning, pair="turning", is_reversed=True),
    Gesture("Spreading Fingers", _spreading, pair="spreading"),
    Gesture("Joining Fingers", _spreading, pair="spreading", is_reversed=True),
    Gesture("Holding Hand Still", _still),
    Gesture("Shaking Hand", _shaking),
)
