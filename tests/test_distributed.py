"""Several processes on one training: every clip once, the figures and the weights of one process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.evaluation.result_reader import read_run
from pipeline.finetune.distributed import World, init_distributed
from tests.conftest import REPOSITORY
from tests.support.run_stages import finetune
from tests.support.small_clips import write_clips, write_model
from tests.test_finetune import CELL, QUICK, largest_change, largest_difference

NUM_PROCESSES = 2


def free_port() -> str:
    with socket.socket() as order_test:
        order_test.bind(("127.0.0.1", 0))
        return str(order_test.getsockname()[1])


def environment(rank: int, port: str) -> dict[str, str]:
    """What `torchrun` puts into the environment of each process."""
    return {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(NUM_PROCESSES), "LOCAL_WORLD_SIZE": str(NUM_PROCESSES), "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def run_two(settings: dict[str, Any]) -> list[str]:
    """Run the stage in two processes; what each of them printed."""
    port = free_port()
    command = [sys.executable, "-m", "tests.support.finetune_child", json.dumps(settings)]
    children = [
        subprocess.Popen(
            command, cwd=REPOSITORY, env=environment(rank, port), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(NUM_PROCESSES)
    ]  # fmt: skip
    outputs = [child.communicate(timeout=240) for child in children]
    assert [child.returncode for child in children] == [0] * NUM_PROCESSES, outputs
    return [output for output, _ in outputs]


def test_two_processes_train_and_score_like_one(tmp_path: Path) -> None:
    # Seven clips in batches of three: the last batch holds one clip, so one process has none; five to validate.
    manifest, model = write_clips(tmp_path), write_model(tmp_path / "model.safetensors")
    augmentations = {"crop_schedule": "rising", "color_jitter": 0.4, "erasing": 0.5}
    overrides = {**QUICK["overrides"], **augmentations}
    common = {**QUICK, "manifest": str(manifest), "init": str(model), "epochs": 2, "overrides": overrides}
    finetune(**{**common, "out": tmp_path / "one"})
    said = run_two({**common, "out": str(tmp_path / "two"), "checkpoint_seconds": 0})
    one, two = tmp_path / "one" / CELL, tmp_path / "two" / CELL
    assert largest_difference(one, two) < 1e-4 * largest_change(model, one)
    found, expected = read_run(two), read_run(one)
    assert found.predictions.clip_ids == expected.predictions.clip_ids
    assert found.metrics["num_report"] == 5
    assert abs(found.predictions.scores - expected.predictions.scores).max() < 1e-3
    assert found.metrics["report"]["top1"] == expected.metrics["report"]["top1"]
    assert found.history is not None
    assert expected.history is not None
    for column in ("train_loss", "train_top1", "select_loss"):
        assert found.history[column][1:].to_numpy() == pytest.approx(expected.history[column][1:].to_numpy(), rel=1e-4)
    assert CELL in said[0]
    assert said[1] == ""


@pytest.mark.slow
def test_two_processes_go_on_within_an_epoch(tmp_path: Path) -> None:
    manifest, model = write_clips(tmp_path), write_model(tmp_path / "model.safetensors")
    settings = {**QUICK, "manifest": str(manifest), "init": str(model), "epochs": 2, "checkpoint_seconds": 0}
    run_two({**settings, "out": str(tmp_path / "whole")})
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    # As if they had been killed before the last of six steps.
    (tmp_path / "stopped" / CELL / "checkpoints" / "seed-0" / "step-00000006.pt").unlink()
    for name in ("metrics.json", "model.safetensors"):
        (tmp_path / "stopped" / CELL / name).unlink()
    run_two({**settings, "out": str(tmp_path / "stopped")})
    assert largest_difference(tmp_path / "whole" / CELL, tmp_path / "stopped" / CELL) == 0
    assert (tmp_path / "stopped" / CELL / "history.csv").read_text() == (
        tmp_path / "whole" / CELL / "history.csv"
    ).read_text()


def test_a_fault_in_one_process_is_known_to_all(tmp_path: Path) -> None:
    manifest, model = write_clips(tmp_path), write_model(tmp_path / "model.safetensors")
    for name in ("clip01", "clip04", "clip08"):
        (tmp_path / "clips" / name).rename(tmp_path / name)
    run_two({**QUICK, "manifest": str(manifest), "init": str(model), "out": str(tmp_path / "two")})
    metrics = json.loads((tmp_path / "two" / CELL / "metrics.json").read_text())
    assert (metrics["num_failed"], metrics["num_train"], metrics["num_report"]) == (3, 5, 4)


@pytest.mark.slow
def test_torchrun_starts_it(tmp_path: Path) -> None:
    manifest, model = write_clips(tmp_path), write_model(tmp_path / "model.safetensors")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pipeline",
        "finetune", "--manifest", str(manifest), "--init", str(model), "--out", str(tmp_path / "out"), "--epochs", "1",
        "--batch-size", "3", "--precision", "float32", "--device", "cpu",
    ]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=True, timeout=280)
    assert json.loads((tmp_path / "out" / CELL / "metrics.json").read_text())["num_processes"] == 2


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("num_items", [0, 1, 7, 8])
def test_every_item_belongs_to_exactly_one_process(size: int, num_items: int) -> None:
    items = list(range(num_items))
    parts = [World(rank, size).shard(items) for rank in range(size)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_process_is_a_world_without_any_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with init_distributed() as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        values = torch.arange(3.0)
        assert torch.equal(world.all_reduce(values), values)
        assert world.all_gather(["a", 1]) == [["a", 1]]
        model = torch.nn.Linear(2, 2)
        assert world.wrap_ddp(model, torch.device("cpu")) is model


@pytest.mark.parametrize(("has_gpu", "backend"), [(False, "gloo"), (True, "cpu:gloo,cuda:nccl")])
def test_nccl_is_asked_for_only_where_there_is_a_gpu(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, backend: str
) -> None:
    started: list[str] = []
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "init_process_group", started.append)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with init_distributed() as world:
        assert (world.rank, world.size) == (1, 2)
    assert started == [backend]


def test_a_half_set_environment_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(PipelineError, match=r"WORLD_SIZE is 2, but RANK is not set.*torchrun"), init_distributed():
        pass
