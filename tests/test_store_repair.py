"""`pipeline store verify --repair` needs nothing but the store: what it was made with stands in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.backbones import build_backbone
from pipeline.errors import PipelineError
from pipeline.store import FeatureStore, layout
from pipeline.store_command.command import info_text, store_verify
from pipeline.store_command.info import describe
from tests.support.run_stages import extract
from tests.test_extraction import arrays_of, write_data


def damage(location: Path) -> None:
    damaged = location / layout.chunk_key("test", "pooled", 0)
    damaged.write_bytes(damaged.read_bytes()[:-1])


def test_squeezenet_weights_in_the_bypass_are_repaired_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path, train=1, val=1)
    backbone, _ = build_backbone("squeezenet", "random", seed=3)
    torch.save(dict(backbone.state_dict()), tmp_path / "weights.pth")
    monkeypatch.chdir(tmp_path)
    extract(
        manifest="m.csv",
        store="s.zarr",
        backbone="squeezenet_bypass",
        weights="weights.pth",
        allow_squeezenet_weights=True,
        num_segments=1,
        views=1,
        dtype="float32",
        compile="eager",
        workers=0,
    )
    location, before = tmp_path / "s.zarr", arrays_of(tmp_path / "s.zarr")
    assert "weights of squeezenet, loaded into squeezenet_bypass on request" in info_text(
        describe(FeatureStore.open(location))
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store_verify(store=location) == []
    damage(location)
    assert len(store_verify(store=location, repair=True, workers=0)) == 1
    assert arrays_of(location) == before
    # Other weights than the store's are refused, whatever is allowed.
    other, _ = build_backbone("squeezenet", "random", seed=4)
    torch.save(dict(other.state_dict()), tmp_path / "weights.pth")
    with pytest.raises(PipelineError, match="weights"):
        store_verify(store=location)
