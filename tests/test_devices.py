"""The device that a command names."""

from __future__ import annotations

import re

import pytest
import torch

from pipeline.devices import find_device, has_bfloat16
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


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True}, False),
        ({"avx2": True, "avx512_f": True, "avx512_vnni": True}, False),
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"avx512_f": True, "amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
    ],
)
def test_bfloat16_counts_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: bool
) -> None:
    """oneDNN's flag is set with AVX-512 alone, where bfloat16 is emulated: it must not decide."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, raising=False)
    assert has_bfloat16("cpu") is has_bfloat16(torch.device("cpu")) is expected


def test_bfloat16_is_asked_in_one_place() -> None:
    """Extraction, heads and end-to-end training decide alike."""
    defined = [
        path.name
        for path in (REPOSITORY / "pipeline").rglob("*.py")
        if re.search(r"def has_bfloat16|is_bf16_supported\(", path.read_text(encoding="utf-8"))
    ]
    assert defined == ["devices.py"]
