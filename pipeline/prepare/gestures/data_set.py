"""Write the demo data set: drawn hand gestures as video files that differ only in the order of frames.

A clip depends only on the seed and its name, so neither the number of processes nor the number of clips affects its
pixels. Appearance (hand, background, light, noise, camera, length) and motion use separate random numbers, and neither
depends on the label.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.files import write_json
from pipeline.manifest import Clip, write_manifest
from pipeline.prepare.gestures.backgrounds import HELD_OUT_KINDS, TRAIN_KINDS, draw_background
from pipeline.prepare.gestures.encode import write_frame_folder, write_video
from pipeline.prepare.gestures.hands import HandPose, paint_hand, random_look
from pipeline.prepare.gestures.motion import GESTURES, Gesture, draw_poses
from pipeline.prepare.gestures.seeding import generator_for
from pipeline.processes import end_with_parent, without_interrupts
from pipeline.progress import Progress

FRAME_FORMS = ("webm", "jpg")
EXTRA_COLUMNS = ("pair", "num_frames")
# Increment it if the same settings give other pixels.
DRAWING_VERSION = 1
RECORD_NAME = "drawn.json"
COUNTS = ("train_clips", "val_clips", "test_clips")


@dataclass(frozen=True)
class GestureSettings:
    """Settings of the data set: seed, clips per class, frame size, clip length.

    Without `test_clips`, there are as many test clips as validation clips. A clip has at least `min_frames` and at most
    `max_frames` frames; `fps` is the frame rate for players.
    """

    seed: int = 0
    train_clips: int = 30
    val_clips: int = 15
    test_clips: int | None = None
    width: int = 160
    height: int = 120
    min_frames: int = 20
    max_frames: int = 70
    fps: int = 12
    frames: str = "webm"

    def __post_init__(self) -> None:
        if self.frames not in FRAME_FORMS:
            raise PipelineError(f"`frames` must be one of {', '.join(FRAME_FORMS)}, not '{self.frames}'.")
        for name in ("train_clips", "val_clips", "width", "height", "min_frames", "fps"):
            if getattr(self, name) < 1:
                raise PipelineError(f"`{name}` (={getattr(self, name)}) must be at least 1.")
        if self.test_clips is not None and self.test_clips < 0:
            raise PipelineError(f"`test_clips` (={self.test_clips}) must be at least 0.")
        if self.frames == "webm" and (self.width % 2 or self.height % 2):
            raise PipelineError(f"Video needs an even width and height, not {self.width}x{self.height}.")
        if self.min_frames > self.max_frames:
            raise PipelineError(
                f"`min_frames` (={self.min_frames}) must not be above `max_frames` (={self.max_frames})."
            )

    @property
    def num_test_clips(self) -> int:
        return self.val_clips if self.test_clips is None else self.test_clips


@dataclass(frozen=True)
class DrawnClip:
    """A clip to draw. All its random numbers depend on the seed and `clip_id`."""

    clip_id: str
    gesture: Gesture
    split: str
    number: int

    def path(self, frames: str) -> str:
        """Path relative to the root: a file, or a folder of frames."""
        return f"{self.split}/{self.clip_id}" + (".webm" if frames == "webm" else "")


def list_clips(settings: GestureSettings) -> list[DrawnClip]:
    """List all clips of the data set, training clips first."""
    counts = {"train": settings.train_clips, "val": settings.val_clips, "test": settings.num_test_clips}
    return [
        DrawnClip(f"{gesture.label.lower().replace(' ', '-')}-{split}-{number:04d}", gesture, split, number)
        for split, count in counts.items()
        for gesture in GESTURES
        for number in range(count)
    ]


def draw_clip(settings: GestureSettings, clip: DrawnClip) -> np.ndarray:
    """Draw the frames of one clip.

    Shape:
        returns: (T, H, W, 3), uint8.
    """
    return draw_gesture(settings, clip.gesture, clip.split, key=clip.clip_id)


def draw_gesture(settings: GestureSettings, gesture: Gesture, split: str, key: str) -> np.ndarray:
    """Draw a gesture with the appearance and motion of `key`.

    With the same key, the two gestures of a pair are the same frames in opposite orders.

    Shape:
        returns: (T, H, W, 3), uint8.
    """
    look_numbers = generator_for("gesture-look", settings.seed, key)
    num_frames = int(look_numbers.integers(settings.min_frames, settings.max_frames + 1))
    poses = draw_poses(generator_for("gesture-motion", settings.seed, key), gesture, num_frames)
    frames = _draw_frames(look_numbers, settings, split, poses)
    # Reverse the complete clip with noise and camera shake, so that only the order of frames differs.
    return frames[::-1] if gesture.is_reversed else frames


def write_gestures(
    out: Path,
    root: Path,
    settings: GestureSettings | None = None,
    num_processes: int | None = None,
) -> Path:
    """Draw the data set into `root` and write its manifest to `out`; paths in it are relative to `root`.

    Clips that were drawn with the same settings, according to a record in `root`, are not drawn again. `num_processes`
    is the number of cores by default and does not affect the pixels.
    """
    settings = settings or GestureSettings()
    clips = list_clips(settings)
    record: dict[str, Any] = {"drawing_version": DRAWING_VERSION, **asdict(settings)}
    # The counts determine which clips exist, but not their pixels.
    style = {name: value for name, value in record.items() if name not in COUNTS}
    known = _read_record(root / RECORD_NAME, style)
    missing = [clip for clip in clips if clip.clip_id not in known or not (root / clip.path(settings.frames)).exists()]
    lengths = {clip.clip_id: known[clip.clip_id] for clip in clips if clip.clip_id in known}
    if missing:
        lengths |= _write_clips(root, settings, missing, num_processes)
        write_json(root / RECORD_NAME, {"style": style, "num_frames": {**known, **lengths}})
    rows = [
        Clip(
            clip.clip_id,
            clip.path(settings.frames),
            clip.gesture.label,
            clip.split,
            (clip.gesture.pair, str(lengths[clip.clip_id])),
        )
        for clip in clips
    ]
    write_manifest(out, rows, [gesture.label for gesture in GESTURES], EXTRA_COLUMNS)
    return out


def _write_clips(
    root: Path, settings: GestureSettings, clips: Sequence[DrawnClip], num_processes: int | None
) -> dict[str, int]:
    lengths: dict[str, int] = {}
    workers = min(num_processes or os.cpu_count() or 1, len(clips))
    with Progress("prepare gestures", len(clips)) as progress:
        if workers == 1:
            for clip in clips:
                lengths[clip.clip_id] = _write_clip(root, settings, clip)
                progress.advance()
            return lengths
        # Spawn, because forking is unsafe with running threads.
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=end_with_parent) as executor:
            with without_interrupts():
                futures = {clip.clip_id: executor.submit(_write_clip, root, settings, clip) for clip in clips}
            for clip_id, future in futures.items():
                lengths[clip_id] = future.result()
                progress.advance()
    return lengths


def _write_clip(root: Path, settings: GestureSettings, clip: DrawnClip) -> int:
    frames = draw_clip(settings, clip)
    path = root / clip.path(settings.frames)
    if settings.frames == "webm":
        write_video(path, frames, settings.fps)
    else:
        write_frame_folder(path, frames)
    return len(frames)


def _read_record(path: Path, style: dict[str, Any]) -> dict[str, int]:
    """Return the lengths of clips drawn in this style; none if the record is of another style."""
    if not path.is_file():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    return dict(record["num_frames"]) if record.get("style") == style else {}


def _draw_frames(
    numbers: np.random.Generator, settings: GestureSettings, split: str, poses: Sequence[HandPose]
) -> np.ndarray:
    height, width = settings.height, settings.width
    kinds = TRAIN_KINDS if split == "train" else HELD_OUT_KINDS
    margin = max(2, round(0.06 * min(height, width)))
    background = draw_background(numbers, height + 2 * margin, width + 2 * margin, kinds)
    look = random_look(numbers)
    gains = numbers.uniform(0.85, 1.2) * numbers.uniform(0.94, 1.06, 3)
    grain = numbers.uniform(0.0, 5.0)
    shifts = _camera(numbers, len(poses)) * margin
    frames = np.empty((len(poses), height, width, 3), np.uint8)
    for index, (pose, (down, across)) in enumerate(zip(poses, shifts, strict=True)):
        top, left = margin + round(down), margin + round(across)
        frame = background[top : top + height, left : left + width].copy()
        paint_hand(frame, look, pose)
        noise = numbers.standard_normal(frame.shape[:2], dtype=np.float32) * np.float32(grain)
        frames[index] = np.clip(frame * gains.astype(np.float32) + noise[:, :, None], 0, 255)
    return frames


def _camera(numbers: np.random.Generator, num_frames: int) -> np.ndarray:
    """Return the shift of a hand-held camera in each frame, from -1 to 1, vertical and horizontal: (T, 2)."""
    times = np.linspace(0, 1, num_frames)[:, None]
    strength = numbers.uniform(0.0, 0.8)
    slow = np.sin(2 * np.pi * numbers.uniform(0.3, 2.0, 2) * times + numbers.uniform(0, 2 * np.pi, 2))
    return np.asarray(np.clip(strength * slow + 0.15 * strength * numbers.standard_normal((num_frames, 2)), -1, 1))
