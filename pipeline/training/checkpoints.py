"""A folder of checkpoints: the last few, written while training goes on, and the best epoch.

Each is written aside and moved into place, so a kill leaves the ones before it. The best is kept beside the last ones,
not among them, so that no number of later epochs drives it out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import PipelineError
from pipeline.training.checkpoint import read_checkpoint, write_checkpoint

BEST = "best.pt"
NUMBERED = re.compile(r"step-(\d+)\.pt")


class CheckpointFolder:
    """Checkpoints of one training. `digest` is that of its settings: those of other settings are not its own."""

    def __init__(self, folder: Path, digest: str, num_kept: int = 2) -> None:
        if num_kept < 1:
            raise PipelineError(f"`keep_checkpoints` (={num_kept}) must be at least 1.")
        self.folder, self.digest, self.num_kept = folder, digest, num_kept

    def paths(self) -> list[Path]:
        """The numbered checkpoints, oldest first."""
        found = [(int(match[1]), path) for path in self.folder.glob("*.pt") if (match := NUMBERED.fullmatch(path.name))]
        return [path for _, path in sorted(found)]

    def write(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after that many steps, then drop what is older than the last `num_kept`."""
        write_checkpoint(self.folder / f"step-{step:08d}.pt", self.digest, state)
        for path in self.paths()[: -self.num_kept]:
            path.unlink()

    def write_best(self, state: dict[str, Any]) -> None:
        """Write the state of the best epoch so far."""
        write_checkpoint(self.folder / BEST, self.digest, state)

    def read_last(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """The state after the most steps; None where there is none of these settings."""
        paths = self.paths()
        return read_checkpoint(paths[-1], self.digest, device) if paths else None

    def read_best(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """The state of the best epoch; None before the first one."""
        return read_checkpoint(self.folder / BEST, self.digest, device)

    def clear(self) -> None:
        """Delete the checkpoints: they belong to other settings, or to a training that has ended."""
        for path in [*self.paths(), self.folder / BEST]:
            path.unlink(missing_ok=True)
