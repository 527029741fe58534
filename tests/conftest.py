"""Fixtures and rules that hold for every test."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"

# Files that take minutes. Each runs in one process, so they start first: otherwise one core waits for them at the end.
LONG_FILES = ("test_pages", "test_dvc", "test_finetune", "test_learns_by_heart", "test_fit_head_stage", "test_torture")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and order the files.

    With REQUIRE_CUDA=1 a missing GPU is a failure, not a skip.
    """
    items.sort(key=lambda item: LONG_FILES.index(item.path.stem) if item.path.stem in LONG_FILES else len(LONG_FILES))
    for item in items:
        no_gpu = item.get_closest_marker("cuda") and not torch.cuda.is_available()
        if no_gpu and os.environ.get("REQUIRE_CUDA") != "1":
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
        if item.get_closest_marker("shared") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason="needs the real weights and clips beside the repository"))


@pytest.fixture(autouse=True)
def random_state_restored() -> Iterator[None]:
    """No test changes the random numbers of the next one; torch runs with one thread, so sums do not vary."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture
def shared() -> Path:
    """The folder with real weights and clips beside the repository; use with `@pytest.mark.shared`."""
    return SHARED
