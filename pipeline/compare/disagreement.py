"""Find the most confused pairs of classes, and the clips on which heads disagree."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
from PIL import Image

from pipeline.clip_errors import clip_errors
from pipeline.compare.comparison import Group
from pipeline.errors import ClipError
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.result_reader import RunResult
from pipeline.intervals import split_location
from pipeline.manifest import HDF5_SEPARATOR, Clip, Manifest
from pipeline.recipe import SamplingConfig

if TYPE_CHECKING:
    from pipeline.video.views import ViewConfig

NUM_CONFUSED_PAIRS = 4
NUM_LINKED_CLIPS = 3
NUM_SHEETS = 6
THUMBNAIL_HEIGHT_PIXELS = 128
JPEG_QUALITY = 72


@dataclass(frozen=True)
class ClipLink:
    """A clip with the relative path of its file from the report, if known."""

    clip_id: str
    href: str | None


@dataclass(frozen=True)
class ConfusedPair:
    """Clips of `label` that were classified as `predicted`: `num_clips` of `num_of_label`, averaged over seeds."""

    label: str
    predicted: str
    num_clips: float
    num_of_label: int
    clips: tuple[ClipLink, ...]


@dataclass(frozen=True)
class ContactSheet:
    """A clip's test frames as JPEGs with the prediction of each head, or the reason why it could not be read."""

    clip: ClipLink
    label: str
    images: tuple[str, ...]
    fault: str | None
    right: tuple[str, ...]
    wrong: tuple[tuple[str, str], ...]


def most_confused(
    predictions: Predictions, manifest: Manifest | None, folder: Path, limit: int = NUM_CONFUSED_PAIRS
) -> list[ConfusedPair]:
    """Return the pairs of classes that are confused most often, the most frequent first, with some of their clips."""
    matrix = predictions.confusion()
    np.fill_diagonal(matrix, 0)
    # Stable, so that pairs of equal count are in the order of their classes.
    order = np.argsort(-matrix.ravel(), kind="stable")[:limit]
    found: list[ConfusedPair] = []
    links = _Links(manifest, folder)
    for label, predicted in zip(*np.unravel_index(order, matrix.shape), strict=True):
        if matrix[label, predicted] <= 0:
            break
        is_such = (predictions.labels == label) & (predictions.predicted == predicted).any(axis=0)
        clip_ids = [predictions.clip_ids[clip] for clip in np.flatnonzero(is_such)[:NUM_LINKED_CLIPS]]
        found.append(
            ConfusedPair(
                predictions.classes[label],
                predictions.classes[predicted],
                float(matrix[label, predicted]),
                int((predictions.labels == label).sum()),
                tuple(links.to(clip_id) for clip_id in clip_ids),
            )
        )
    return found


def contact_sheets(group: Group, manifest: Manifest, folder: Path, limit: int = NUM_SHEETS) -> list[ContactSheet]:
    """Return the clips on which about half of a group's heads are correct, at most one per class."""
    rows = [row for row in group.rows if not row.run.is_finetuned]
    if len(rows) < 2:
        return []
    predictions = rows[0].run.predictions
    best = np.stack([row.run.predictions.mean_scores.argmax(axis=1) for row in rows])  # (heads, N)
    right = best == predictions.labels[None, :]
    share = right.mean(axis=0)
    links = _Links(manifest, folder)
    sheets: list[ContactSheet] = []
    seen_labels: set[int] = set()
    for clip in np.argsort(np.abs(share - 0.5), kind="stable"):
        label, clip_id = int(predictions.labels[clip]), predictions.clip_ids[clip]
        if len(sheets) == limit or share[clip] in (0, 1):
            break
        if label in seen_labels or clip_id not in links.clips:
            continue
        seen_labels.add(label)
        images, fault = frames_of(manifest.locate(links.clips[clip_id]), view_config_of(rows[0].run))
        sheets.append(
            ContactSheet(
                links.to(clip_id),
                predictions.classes[label],
                images,
                fault,
                tuple(row.label for row, is_right in zip(rows, right[:, clip], strict=True) if is_right),
                tuple(
                    (row.label, predictions.classes[guess])
                    for row, guess in zip(rows, best[:, clip], strict=True)
                    if guess != label
                ),
            )
        )
    return sheets


class _Links:
    """Relative paths from the report's folder to the clips of a manifest."""

    def __init__(self, manifest: Manifest | None, folder: Path) -> None:
        self._manifest, self._folder = manifest, folder
        self.clips: dict[str, Clip] = {} if manifest is None else {clip.clip_id: clip for clip in manifest.clips}

    def to(self, clip_id: str) -> ClipLink:
        if self._manifest is None or clip_id not in self.clips:
            return ClipLink(clip_id, None)
        location, interval = split_location(self._manifest.locate(self.clips[clip_id]))
        file = location.partition(HDF5_SEPARATOR)[0]
        # A browser plays `#t=START,END` of a video.
        fragment = "" if interval is None else interval.fragment
        return ClipLink(clip_id, quote(Path(os.path.relpath(file, self._folder)).as_posix()) + fragment)


def view_config_of(run: RunResult) -> ViewConfig:
    """Return the views that a run used; with the default options if its metrics have only the name of the recipe."""
    from pipeline.video.views import ViewConfig

    recipe = run.metrics["recipe"]
    frames = recipe.get("frames", {}) if isinstance(recipe, Mapping) else {}
    return ViewConfig(run.num_segments, SamplingConfig(**frames))


def frames_of(location: str, config: ViewConfig) -> tuple[tuple[str, ...], str | None]:
    """Return the test frames of a clip as data URLs, or the reason why there are none."""
    from pipeline.video.decode import open_clip  # its decoders take a third of a second to import

    try:
        with clip_errors(location), open_clip(location) as reader:
            view = config.test(reader.num_frames, reader.height, reader.width)
            frames = reader.read(view.frame_indices)
    except ClipError as error:
        return (), str(error)
    return tuple(_thumbnail(Image.fromarray(frame)) for frame in frames), None


def _thumbnail(picture: Image.Image) -> str:
    size = (round(picture.width * THUMBNAIL_HEIGHT_PIXELS / picture.height), THUMBNAIL_HEIGHT_PIXELS)
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
