"""The folder of checkpoints: the last few and the best, of these settings alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.training.checkpoints import CheckpointFolder


def test_the_last_few_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(tmp_path, "settings", num_kept=2)
    checkpoints.write_best({"epoch": 1})
    for step in (1, 9, 10, 100_000_000):
        checkpoints.write(step, {"step": step, "weights": torch.full((2,), float(step))})
    assert [path.name for path in checkpoints.paths()] == ["step-00000010.pt", "step-100000000.pt"]
    last = checkpoints.read_last()
    assert last is not None
    assert last["step"] == 100_000_000
    assert torch.equal(last["weights"], torch.full((2,), 1e8))
    assert checkpoints.read_best() == {"epoch": 1}
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000010.pt", "step-100000000.pt", "best.pt"}


def test_checkpoints_of_other_settings_are_not_taken_up(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path, "one").write(3, {"step": 3})
    other = CheckpointFolder(tmp_path, "other")
    assert other.read_last() is None
    assert other.read_best() is None
    other.clear()
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_tensors_and_plain_values_is_loaded(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(tmp_path, "settings")
    torch.save({"digest": "settings", "state": {"path": Path("anything")}}, tmp_path / "step-00000001.pt")
    with pytest.raises(PipelineError, match="cannot be read"):
        checkpoints.read_last()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(tmp_path, "settings")
    checkpoints.write(1, {"step": 1})
    path = checkpoints.paths()[0]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PipelineError, match=r"step-00000001.pt cannot be read.*Delete it"):
        checkpoints.read_last()


def test_at_least_one_is_kept(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"`keep_checkpoints` \(=0\) must be at least 1"):
        CheckpointFolder(tmp_path, "settings", num_kept=0)
