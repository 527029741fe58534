"""Write and read the state of a training atomically; only tensors and plain values are loaded."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import PipelineError
from pipeline.files import atomic_path


def write_checkpoint(path: Path, digest: str, state: dict[str, Any]) -> None:
    """Write a state with the digest of its settings."""
    save_state(path, {"digest": digest, "state": state})


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values with `torch.save`, atomically."""
    # Given a path, torch hides the error of a full or failing disk.
    with atomic_path(path) as aside, open(aside, "wb") as file:
        torch.save(state, file)


def read_checkpoint(path: Path, digest: str, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Return the state that was written with the same digest; None if there is none, or one of other settings.

    Raises:
        PipelineError: the file exists but is not a checkpoint.
    """
    try:
        found = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise PipelineError(f"The checkpoint {path} cannot be read ({error}). Delete it to start again.") from error
    if not isinstance(found, dict) or found.get("digest") != digest:
        return None
    state: dict[str, Any] = found["state"]
    return state
