"""`pipeline predict`: classify clips, draw the scores over a long video, and show the frames that were used."""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.errors import PipelineError
from pipeline.files import atomic_path
from pipeline.predict.predict import Prediction, contact_sheet, expanded, predictions
from pipeline.predict.scorer import Scorer, open_scorer
from pipeline.settings.predict import PredictSettings
from pipeline.supervised import keep, kept
from pipeline.video.limits import ClipLimits

logger = logging.getLogger(__name__)

STDIN = "-"
NUM_PRINTED, LINES_OF_STDIN = "num_printed", "lines_of_stdin"
CSV_COLUMNS = ("clip", "rank", "label", "score", "probability")
NUM_SHEET_CLIPS = 40
TIMELINE_FORMATS = {".png": "PNG"}
SHEET_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def predict(settings: PredictSettings) -> list[Prediction]:
    """Print the `top` classes of each clip as soon as they are known; `-` among the videos reads paths from stdin.

    Raises:
        PipelineError: some clips could not be used (the others are printed first), a timeline of several clips was
            requested, or the format of a picture is not supported.
    """
    # Checked first, so that the error does not come after a long run.
    for picture, formats in ((settings.timeline, TIMELINE_FORMATS), (settings.contact_sheet, SHEET_FORMATS)):
        if picture is not None and picture.suffix.lower() not in formats:
            raise PipelineError(f"The name of the picture {picture} must end in {' or '.join(formats)}.")
    clips = expanded(_given(settings.videos))
    if not clips:
        raise PipelineError("There are no clips: the list is empty.")
    if settings.timeline is not None and len(clips) > 1:
        raise PipelineError(f"--timeline needs exactly one video, but {len(clips)} clips are given.")
    scorer = open_scorer(settings.model, settings.device, settings.dtype, settings.compile)
    if settings.timeline is not None:
        _timeline(scorer, clips[0], settings.timeline, settings)
        if settings.contact_sheet is None:
            return []
    started_at_seconds = time.monotonic()
    found = _printed(scorer, clips, settings)
    seconds = time.monotonic() - started_at_seconds
    if settings.contact_sheet is not None:
        _write_sheet(settings.contact_sheet, found)
    failed = [prediction for prediction in found if prediction.fault is not None]
    if settings.speed:
        count = len(found) - len(failed)
        logger.info(
            f"{count} clips in {seconds:.2f} s: {count / max(seconds, 1e-9):.1f} clips/s ({scorer.spec.num_segments} "
            f"frames each, {scorer.spec.backbone} in {scorer.dtype}, {scorer.spec.head}, {settings.device})."
        )
    if failed:
        raise PipelineError(f"{len(failed)} of {len(found)} clips could not be used; the reasons are printed above.")
    return found


def _printed(scorer: Scorer, clips: Sequence[str], settings: PredictSettings) -> list[Prediction]:
    found: list[Prediction] = []
    keeps_pixels = settings.contact_sheet is not None
    num_printed = kept(NUM_PRINTED, 0)  # before a clip crashed this command, which then started again
    for prediction in predictions(scorer, clips, settings.top, keeps_pixels, ClipLimits.of(settings)):
        if len(found) >= num_printed:
            _print(prediction, settings.format, is_first=not found)
            keep(NUM_PRINTED, len(found) + 1)
        if len(found) >= NUM_SHEET_CLIPS:
            prediction = _without_pixels(prediction)
        found.append(prediction)
    if settings.format == "json":
        click.echo("\n]")
    return found


def _print(prediction: Prediction, format: str, is_first: bool) -> None:
    if prediction.fault is not None:
        reason = prediction.fault.reason
        # Most reasons contain the clip already.
        logger.warning(reason if prediction.clip in reason else f"{prediction.clip}: {reason}")
    if format == "csv" and is_first:
        click.echo(",".join(CSV_COLUMNS))
    text = {"text": _as_text, "json": _as_json, "csv": _as_csv}[format](prediction)
    if format == "json":
        text = ("[\n" if is_first else ",\n") + text
    if text:
        click.echo(text, nl=format != "json")


def _as_text(prediction: Prediction) -> str:
    if prediction.fault is not None:
        return ""
    width = max(len(score.label) for score in prediction.ranked)
    lines = [f"  {100 * score.probability:5.1f} %  {score.label.ljust(width)}" for score in prediction.ranked]
    return "\n".join([prediction.clip, *(line.rstrip() for line in lines)])


def _as_json(prediction: Prediction) -> str:
    value: dict[str, Any] = {"clip": prediction.clip}
    if prediction.fault is not None:
        value["error"] = {"kind": prediction.fault.kind, "reason": prediction.fault.reason}
    else:
        value["num_frames"] = prediction.num_frames
        value["frames"] = list(prediction.frame_indices)
        value["classes"] = [
            {"label": score.label, "score": round(score.score, 4), "probability": round(score.probability, 6)}
            for score in prediction.ranked
        ]
    return json.dumps(value, ensure_ascii=False)


def _as_csv(prediction: Prediction) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(
        (prediction.clip, rank, score.label, f"{score.score:.4f}", f"{score.probability:.6f}")
        for rank, score in enumerate(prediction.ranked, 1)
    )
    return text.getvalue().rstrip("\n")


def _timeline(scorer: Scorer, clip: str, path: Path, settings: PredictSettings) -> None:
    # Imported late: only the timeline needs matplotlib.
    from pipeline.predict.timeline import draw_timeline, slide, write_timeline_csv

    found = slide(scorer, clip, settings.window, settings.stride, ClipLimits.of(settings))
    table = path.with_suffix(".csv")
    write_timeline_csv(table, found)
    draw_timeline(path, found, settings.fps)
    for first, last, label, probability in found.rows():
        click.echo(f"{first:7d} to {last:7d}  {100 * probability:5.1f} %  {label}")
    logger.info(f"Wrote {path} and {table}: {len(found.starts)} windows of {found.window_frames} frames.")


def _write_sheet(path: Path, found: Sequence[Prediction]) -> None:
    sheet = contact_sheet(found)
    with atomic_path(path) as aside:
        sheet.save(aside, format=SHEET_FORMATS[path.suffix.lower()])
    left_out = max(0, len(found) - NUM_SHEET_CLIPS)
    logger.info(f"Wrote {path}." + (f" It omits {left_out} clips beyond {NUM_SHEET_CLIPS}." if left_out else ""))


def _without_pixels(prediction: Prediction) -> Prediction:
    return Prediction(
        prediction.clip, prediction.ranked, prediction.frame_indices, prediction.num_frames, prediction.fault
    )


def _given(videos: Iterable[str]) -> list[str]:
    places: list[str] = []
    for video in videos:
        if video == STDIN:
            # A command that starts again cannot read them again.
            lines = kept(LINES_OF_STDIN, None) or [line.strip() for line in sys.stdin if line.strip()]
            keep(LINES_OF_STDIN, lines)
            places += lines
        else:
            places.append(video)
    return places
