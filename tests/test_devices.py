"""The device that a command names."""

from __future__ import annotations

import re

import pytest
import torch

from pipeline.devices import find_device
from pipeline.errors import PipelineError
from tests.conftest import REPOSITORY


def pretend(monkeypatch: pytest.MonkeyPatch, num_gpus: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)


def test_a_gpu_has_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda.set_device takes no GPU without one."""
    pretend(monkeypatch, 3)
    assert find_device("cuda") == torch.device("cuda", 1)
    assert find_device("cuda:2") == torch.device("cuda", 2)
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["banana", "mps", "meta", "cuda:x", ""])
def test_what_is_no_such_device_is_named(name: str) -> None:
    with pytest.raises(PipelineError, match=rf"`device` \(='{name}'\) must be cpu, cuda or cuda:N"):
        find_device(name)


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0)
    with pytest.raises(PipelineError, match=r"`device` is cuda, but there is no GPU .* Pass --device cpu"):
        find_device("cuda")
    pretend(monkeypatch, 2)
    with pytest.raises(PipelineError, match="only 2 GPUs, from cuda:0 on"):
        find_device("cuda:2")


def test_no_flag_of_the_processor_decides_a_number_type() -> None:
    """Of two processors with the same flag, bfloat16 is the faster type on one and the slower on the other."""
    asked = [
        path.name
        for path in (REPOSITORY / "pipeline").rglob("*.py")
        if re.search(r"has_bfloat16|is_bf16_supported\(|[\"']avx512_bf16", path.read_text(encoding="utf-8"))
    ]
    assert not asked
