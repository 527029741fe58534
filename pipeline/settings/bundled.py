"""Settings of `pipeline train-bundled`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.settings.help_texts import DEVICE_HELP
from pipeline.settings.settings import Settings, option


@dataclass(frozen=True, kw_only=True)
class TrainBundledSettings(Settings):
    """Settings of `pipeline train-bundled`."""

    out: Path | None = option(None, "Weight file to write.  [default: the package's]")
    checkpoint: Path = option(Path("cache/train-bundled.pt"), "Checkpoint from which the training continues.")
    seed: int = option(0, "Seed of the images and of the first weights.")
    minutes: float = option(45.0, "Time after which drawing and training stop.", minimum=0)
    device: str = option("cpu", DEVICE_HELP)
    threads: int = option(2, "Number of torch's threads.", minimum=1)
