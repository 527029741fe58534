"""Scores over time of a long video: a window slides over it, and each window is scored as a clip."""

from __future__ import annotations

import csv
import io
import itertools
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from pipeline.clip_errors import clip_errors
from pipeline.errors import PipelineError
from pipeline.files import atomic_path, write_text
from pipeline.predict.scorer import Scorer
from pipeline.predict.view_plan import view_plan_of
from pipeline.video.crops import centre_crop
from pipeline.video.decode import open_clip
from pipeline.video.limits import DEFAULT_LIMITS, ClipLimits
from pipeline.video.render import render
from pipeline.video.sampling import test_frame_indices

NUM_DRAWN_CLASSES = 6
SCORE_DECIMALS = 4


@dataclass(frozen=True)
class Timeline:
    """The scores of each window of one video.

    Shape:
        starts: (W,), the first frame of each window; scores: (W, K), before softmax.
    """

    clip: str
    classes: tuple[str, ...]
    num_frames: int
    window_frames: int
    starts: NDArray[np.int64]
    scores: NDArray[np.float64]

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle frame of each window. Shape: (W,)."""
        return self.starts.astype(np.float64) + self.window_frames / 2

    def rows(self) -> list[tuple[int, int, str, float]]:
        """Return first frame, last frame, best class and its probability for each window."""
        probabilities = softmax(self.scores, axis=1)
        best = self.scores.argmax(axis=1)
        return [
            (int(start), int(start) + self.window_frames - 1, self.classes[label], float(probabilities[at, label]))
            for at, (start, label) in enumerate(zip(self.starts, best, strict=True))
        ]


def slide(
    scorer: Scorer,
    clip: str,
    window_frames: int,
    stride_frames: int | None = None,
    limits: ClipLimits = DEFAULT_LIMITS,
) -> Timeline:
    """Score windows of `window_frames` frames, one every `stride_frames` (by default a segment: windows overlap).

    A window uses the frames of a clip of the same length, so it gets the scores of that clip. Each frame is decoded
    once and goes through the backbone once; only the features of one window are in memory.

    Raises:
        ClipError: the video cannot be used.
        PipelineError: window or stride is below 1.
    """
    plan = view_plan_of(scorer.spec)
    stride = max(1, window_frames // plan.num_segments) if stride_frames is None else stride_frames
    if window_frames < 1 or stride < 1:
        raise PipelineError(f"`window` (={window_frames}) and `stride` (={stride}) must be at least 1 frame.")
    with clip_errors(clip), open_clip(clip, limits) as reader:
        window = min(window_frames, reader.num_frames)
        offsets = test_frame_indices(window, plan.num_segments, plan.choices.short_clip, plan.choices.test_frames)
        starts = np.arange(0, reader.num_frames - window + 1, stride, dtype=np.int64)
        wanted = np.unique(starts[:, None] + offsets[None, :])
        crop = centre_crop(reader.height, reader.width, plan.crop_fraction)
        known: dict[int, Tensor] = {}
        waiting = deque(starts.tolist())
        scores: list[NDArray[np.float64]] = []
        stream = zip(wanted.tolist(), reader.stream(wanted), strict=True)
        # As many frames at once as in a view: the batch size for which the backbone was prepared.
        while batch := list(itertools.islice(stream, plan.num_segments)):
            frames = np.stack([frame for _, frame in batch])
            pixels = render(frames, crop, flip=False, size=plan.input_size)
            known.update(zip((index for index, _ in batch), scorer.features(pixels), strict=True))
            while waiting and waiting[0] + offsets[-1] <= batch[-1][0]:
                start = waiting.popleft()
                features = torch.stack([known[start + offset] for offset in offsets.tolist()])
                scores.append(scorer.scores(features[None])[0])
            oldest = waiting[0] if waiting else reader.num_frames
            known = {index: kept for index, kept in known.items() if index >= oldest}
    return Timeline(clip, scorer.classes, reader.num_frames, window, starts, np.stack(scores))


def write_timeline_csv(path: Path, timeline: Timeline) -> None:
    """Write a line for each window: first and last frame, best class, and the score of every class before softmax."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["first_frame", "last_frame", "predicted", *(f"score:{label}" for label in timeline.classes)])
    for (first, last, label, _), scores in zip(timeline.rows(), timeline.scores, strict=True):
        writer.writerow([first, last, label, *(f"{score:.{SCORE_DECIMALS}f}" for score in scores)])
    write_text(path, text.getvalue())


def draw_timeline(path: Path, timeline: Timeline, fps: float | None = None) -> None:
    """Draw the probabilities of the classes with the highest peaks, over frames, or over seconds with `fps`."""
    probabilities = softmax(timeline.scores, axis=1)
    peaks = probabilities.max(axis=0)
    shown = np.argsort(-peaks, kind="stable")[:NUM_DRAWN_CLASSES]
    times = timeline.centres / (fps or 1.0)
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.add_subplot()
    for label in shown:
        # Markers, because the line of a single window has no length.
        axes.plot(times, 100 * probabilities[:, label], label=timeline.classes[label], marker=".", linewidth=1.8)
    axes.set_ylim(0, 100)
    axes.set_xlim(0, timeline.num_frames / (fps or 1.0))
    axes.set_xlabel("seconds" if fps else "frame")
    axes.set_ylabel("probability in %")
    axes.set_title(
        f"{Path(timeline.clip).name}: windows of {timeline.window_frames} frames, at their middle", loc="left"
    )
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    with atomic_path(path) as aside:
        figure.savefig(aside, format="png", dpi=120)
