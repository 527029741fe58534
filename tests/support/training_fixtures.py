"""Fixtures of the tests of training end to end: a tiny data set and initial models for it.

A test module imports them by the names of the functions, and its tests use them as `manifest` and `model`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.small_clips import write_clips, write_model


@pytest.fixture(scope="module", name="manifest")
def small_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module", name="model")
def initial_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module", name="model")
def quick_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an initial model that reads 64 pixels, so that its training is several times as fast."""
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors", input_size=64)
