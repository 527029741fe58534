"""Classify clips with a saved model; a clip that cannot be used does not stop the others."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from pipeline.errors import ClipError, ClipFailure, PipelineError
from pipeline.model import Classifier
from pipeline.predict.decode_ahead import decoded_ahead
from pipeline.predict.scorer import ClassScore, Scorer, open_scorer, ranked
from pipeline.predict.view_plan import ViewPlan, view_plan_of
from pipeline.video.clip_views import ClipViews, load_clip_views
from pipeline.video.limits import DEFAULT_LIMITS, ClipLimits
from pipeline.video.suffixes import VIDEO_SUFFIXES, is_ignored_folder, is_image_name, is_video_name

THUMBNAIL_PIXELS = 112
CAPTION_PIXELS = 18


@dataclass(frozen=True)
class Prediction:
    """The classes of one clip, the best first, or the failure of the clip.

    Shape:
        pixels: (T, 3, S, S) uint8, the frames that were used, if they were requested.
    """

    clip: str
    ranked: tuple[ClassScore, ...] = ()
    frame_indices: tuple[int, ...] = ()
    num_frames: int = 0
    fault: ClipFailure | None = None
    pixels: Tensor | None = None

    @property
    def label(self) -> str:
        """The best class; empty for a clip that failed."""
        return self.ranked[0].label if self.ranked else ""


def predictions(
    scorer: Scorer,
    clips: Iterable[str],
    top: int = 5,
    keep_pixels: bool = False,
    limits: ClipLimits = DEFAULT_LIMITS,
) -> Iterator[Prediction]:
    """Yield the predictions of clips in their order; clips are decoded ahead."""
    plan = view_plan_of(scorer.spec)

    for found in decoded_ahead(partial(_load, plan=plan, limits=limits), clips):
        if isinstance(found, Prediction):
            yield found
            continue
        try:
            scores = scorer.clip_scores(found.pixels)
        except ClipError as error:
            yield Prediction(found.location, fault=error.failure(found.location))
            continue
        yield Prediction(
            found.location,
            ranked(scores, scorer.classes, top),
            found.views[0].frame_indices,
            found.num_frames,
            pixels=found.pixels[0] if keep_pixels else None,
        )


def predict(
    model: Scorer | Classifier | Path | str,
    clips: str | Path | Iterable[str | Path],
    *,
    top: int = 5,
    device: str = "cpu",
    dtype: str = "auto",
) -> list[Prediction]:
    """Classify clips with a model (a file, or the result of `load_model`); folders are replaced by their clips.

    Raises:
        PipelineError: there is no model file, or there are no clips.
    """
    given = [clips] if isinstance(clips, str | Path) else list(clips)
    return list(predictions(open_scorer(model, device, dtype), expanded(str(clip) for clip in given), top))


def expanded(locations: Iterable[str]) -> list[str]:
    """Replace each folder that is not a clip by the clips inside it, sorted by name; keep all other locations.

    Clips inside a folder are video files, by their suffix, and folders of images without videos.

    Raises:
        PipelineError: a folder contains no clip.
    """
    found: list[str] = []
    for location in locations:
        if not os.path.isdir(location) or _is_frame_folder(location):
            found.append(location)
            continue
        inside = list(_clips_below(location))
        if not inside:
            raise PipelineError(
                f"There is no clip in the folder {location}: neither videos "
                f"({', '.join(sorted(VIDEO_SUFFIXES))}) nor folders of numbered images."
            )
        found += inside
    return found


def contact_sheet(found: Iterable[Prediction]) -> Image.Image:
    """Draw the frames that were used, one row for each clip, with their numbers and the best class.

    Raises:
        PipelineError: no prediction has pixels.
    """
    rows = [prediction for prediction in found if prediction.pixels is not None]
    if not rows:
        raise PipelineError("There are no frames to show: no clip could be used.")
    num_columns = max(len(row.frame_indices) for row in rows)
    row_pixels = THUMBNAIL_PIXELS + CAPTION_PIXELS
    sheet = Image.new("RGB", (num_columns * THUMBNAIL_PIXELS, len(rows) * row_pixels), "white")
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top = number * row_pixels
        best = row.ranked[0]
        draw.text((4, top + 3), f"{row.clip}: {best.label} {100 * best.probability:.0f} %", fill="black")
        assert row.pixels is not None
        for column, (index, frame) in enumerate(zip(row.frame_indices, row.pixels, strict=True)):
            left, below = column * THUMBNAIL_PIXELS, top + CAPTION_PIXELS
            image = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
            sheet.paste(image.resize((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.BOX), (left, below))
            draw.rectangle((left, below, left + 8 * len(str(index)), below + 13), fill="black")
            draw.text((left + 2, below), str(index), fill="white")
    return sheet


def _load(clip: str, plan: ViewPlan, limits: ClipLimits) -> ClipViews | Prediction:
    try:
        return load_clip_views(clip, partial(plan.views, clip), plan.input_size, limits)
    except ClipError as error:
        return Prediction(clip, fault=error.failure(clip))


def _is_frame_folder(folder: str) -> bool:
    """Return whether a folder is a clip; images beside videos, such as thumbnails, are not its frames."""
    names = os.listdir(folder)
    return any(map(is_image_name, names)) and not any(map(is_video_name, names))


def _clips_below(folder: str) -> Iterator[str]:
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            if is_ignored_folder(name):
                continue
            if _is_frame_folder(path):
                yield path
            else:
                yield from _clips_below(path)
        elif is_video_name(name):
            yield path
