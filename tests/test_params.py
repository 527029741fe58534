"""Defaults from params.yaml: blocks, names, and paths that carry settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.params import command_params, expand_template, head_params, read_params


def test_a_missing_file_has_no_settings(tmp_path: Path) -> None:
    assert read_params(tmp_path / "params.yaml") == {}


def test_keys_are_spelt_as_options(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("extract: {num-segments: 16}\nheads: {lstm: {weight-decay: 0.1}}\n")
    params = read_params(path)
    assert command_params(params, "extract") == {"num_segments": 16}
    assert command_params(params, "fit-head") == {}
    assert head_params(params) == {"lstm": {"weight_decay": 0.1}}


def test_a_block_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(PipelineError, match=r"`extract` in params\.yaml must be a block"):
        command_params({"extract": 3}, "extract")


def test_the_first_source_with_a_value_fills_a_name() -> None:
    typed, block = {"backbone": "bninception", "weights": None}, {"backbone": "squeezenet", "weights": "imagenet"}
    assert expand_template("c/{backbone}-{weights}.zarr", typed, block) == "c/bninception-imagenet.zarr"


def test_a_name_without_a_value_says_which_option_to_give() -> None:
    with pytest.raises(PipelineError, match="give --num-segments"):
        expand_template("c/{num-segments}.zarr", {})


def test_a_path_gives_its_stem_to_a_name() -> None:
    weights = {"weights": "/data/weights/mine.v2.pth", "backbone": "torchvision:resnet18"}
    assert expand_template("c/{backbone}-{weights}.zarr", weights) == "c/torchvision:resnet18-mine.v2.zarr"
