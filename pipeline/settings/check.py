"""Settings of `pipeline check`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.settings.clip_limits import max_clip_bytes, max_clip_pixels, max_clip_seconds
from pipeline.settings.help_texts import ROOT_HELP
from pipeline.settings.settings import Settings, option, required


@dataclass(frozen=True, kw_only=True)
class CheckSettings(Settings):
    """Settings of `pipeline check`."""

    manifest: Path = required("Manifest to check, data_manifests/NAME.csv.", is_argument=True)
    root: Path | None = option(None, ROOT_HELP)
    decode: bool = option(False, "Decode every frame, not only check that the files exist.")
    out: Path | None = option(None, "CSV file to write, with one row for each finding.")
    workers: int | None = option(
        None, "Number of processes that decode; 0: only the main process.  [default: one per core]", minimum=0
    )
    max_clip_pixels: int = max_clip_pixels()
    max_clip_bytes: int = max_clip_bytes()
    max_clip_seconds: float = max_clip_seconds()
