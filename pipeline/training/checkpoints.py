"""A folder of checkpoints: the latest few and the best epoch.

Each is written to a temporary file and moved into place, so a kill leaves the earlier ones. The best epoch has a
separate file, so that later epochs never delete it.
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
    """Checkpoints of one training. `digest` is that of its settings; checkpoints of other settings are ignored."""

    def __init__(self, folder: Path, digest: str, num_kept: int = 2) -> None:
        if num_kept < 1:
            raise PipelineError(f"`keep_checkpoints` (={num_kept}) must be at least 1.")
        self.folder, self.digest, self.num_kept = folder, digest, num_kept

    def paths(self) -> list[Path]:
        """Return the numbered checkpoints, oldest first."""
        found = [(int(match[1]), path) for path in self.folder.glob("*.pt") if (match := NUMBERED.fullmatch(path.name))]
        return [path for _, path in sorted(found)]

    def write(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` steps, and delete all but the latest `num_kept`."""
        write_checkpoint(self.folder / f"step-{step:08d}.pt", self.digest, state)
        for path in self.paths()[: -self.num_kept]:
            path.unlink()

    def write_best(self, state: dict[str, Any]) -> None:
        """Write the state of the best epoch so far."""
        write_checkpoint(self.folder / BEST, self.digest, state)

    def read_last(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """Return the latest state; None if there is none of these settings."""
        paths = self.paths()
        return read_checkpoint(paths[-1], self.digest, device) if paths else None

    def read_best(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """Return the state of the best epoch; None before the first one."""
        return read_checkpoint(self.folder / BEST, self.digest, device)

    def clear(self) -> None:
        """Delete all checkpoints."""
        for path in [*self.paths(), self.folder / BEST]:
            path.unlink(missing_ok=True)
