"""Settings of `pipeline train-bundled`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.settings.help_texts import DEVICE_HELP
from pipeline.settings.settings import Settings, option


@dataclass(frozen=True, kw_only=True)
class TrainBundledSettings(Settings):
    """Settings of `pipeline train-bundled`."""

    out: Path | None = option(None, "Weight file to write.  [default: the file in the package]")
    checkpoint: Path = option(Path("cache/train-bundled.pt"), "Checkpoint to write, and to resume from if it exists.")
    seed: int = option(0, "Seed of the images and of the initial weights.")
    minutes: float = option(45.0, "Minutes after which drawing and training stop; run again to resume.", minimum=0)
    device: str = option("cpu", DEVICE_HELP)
    threads: int = option(2, "Number of threads of torch.", minimum=1)
