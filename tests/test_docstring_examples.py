"""The examples in docstrings give what they show."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PROMPT = ">>> "


def modules_with_examples() -> list[str]:
    """Return the modules whose source has an example."""
    sources = [path for folder in ("pipeline", "benchmarks", "stages") for path in (REPOSITORY / folder).rglob("*.py")]
    return sorted(name_of(path) for path in sources if PROMPT in path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_give_what_they_show(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0, capsys.readouterr().out
