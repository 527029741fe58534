"""Settings of the commands that use a saved model: `predict`, `evaluate`, `export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.number_types import NUMBER_TYPES
from pipeline.settings.clip_limits import max_clip_bytes, max_clip_pixels, max_clip_seconds
from pipeline.settings.help_texts import DEVICE_HELP, ROOT_HELP
from pipeline.settings.settings import Settings, option, required

MODEL_HELP = "Model file, model.safetensors."
DTYPE_HELP = "Number type in which the backbone runs; auto: as in training."
COMPILE_MODES = ("eager", "jit", "onnxruntime", "openvino", "inductor")


@dataclass(frozen=True, kw_only=True)
class PredictSettings(Settings):
    """Settings of `pipeline predict`."""

    model: Path = required(MODEL_HELP, is_argument=True)
    videos: tuple[str, ...] = required(
        "Video files, folders of images, FILE.h5::CLIP, folders of clips, or - to read paths from stdin.",
        is_argument=True,
    )
    format: str = option("text", "Format of the printed predictions.", choices=("text", "json", "csv"))
    top: int = option(5, "Number of classes to print for each clip.", minimum=1)
    timeline: Path | None = option(
        None, "Score windows of one long video and draw the scores over time.", metavar="FILE.png"
    )
    window: int = option(64, "--timeline: number of frames in a window.", minimum=1, only_with="timeline")
    stride: int | None = option(
        None,
        "--timeline: number of frames between windows.  [default: one segment of a window]",
        minimum=1,
        only_with="timeline",
    )
    fps: float | None = option(
        None,
        "--timeline: frame rate; the time axis then shows seconds instead of frames.",
        minimum=0.01,
        only_with="timeline",
    )
    contact_sheet: Path | None = option(
        None, "Picture to write of the frames that were scored (png, jpg).", metavar="FILE"
    )
    speed: bool = option(False, "Print the number of clips per second.")
    device: str = option("cpu", DEVICE_HELP)
    dtype: str = option("auto", DTYPE_HELP, choices=NUMBER_TYPES)
    compile: str = option(
        "eager", "How the backbone is compiled; jit is worth it for hundreds of clips.", choices=COMPILE_MODES
    )
    max_clip_pixels: int = max_clip_pixels()
    max_clip_bytes: int = max_clip_bytes()
    max_clip_seconds: float = max_clip_seconds()


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Settings):
    """Settings of `pipeline evaluate`."""

    model: Path = required(MODEL_HELP, is_argument=True)
    store: str | None = option(None, "Feature store to score.")
    manifest: Path | None = option(None, "Manifest of clips to decode and score.")
    root: Path | None = option(None, ROOT_HELP)
    split: str | None = option(None, "Split to score.  [default: the split that the model reported]")
    crops: str = option("1", "--manifest: number of crops whose scores are averaged.", choices=("1", "3", "5"))
    draws: int = option(
        0, "Number of random draws of frames whose scores are averaged with those of the test view.", minimum=0
    )
    seed: int = option(0, "Seed of the draws.")
    out: Path | None = option(None, "Folder for metrics.json, predictions.csv and confusion.csv.")
    json: bool = option(False, "Print the metrics as JSON.")
    device: str = option("cpu", DEVICE_HELP)
    dtype: str = option("auto", DTYPE_HELP, choices=NUMBER_TYPES)
    compile: str = option("eager", "How the backbone is compiled.", choices=COMPILE_MODES)
    max_clip_pixels: int = max_clip_pixels()
    max_clip_bytes: int = max_clip_bytes()
    max_clip_seconds: float = max_clip_seconds()


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """Settings of `pipeline export`."""

    model: Path = required(MODEL_HELP, is_argument=True)
    out: Path = required("File to write: NAME.onnx, or NAME.pt2 for torch.export.")
    tolerance: float = option(1e-3, "Largest difference from torch's scores, relative to the largest score.", minimum=0)
