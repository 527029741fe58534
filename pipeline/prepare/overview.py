"""List the data sets that `pipeline prepare` reads, each with the first line of its module."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from pipeline.registry import DATA_SETS, module_of


def overview() -> str:
    """Return a line for each data set, and how to go on."""
    width = max(map(len, DATA_SETS))
    lines = [f"  {name:<{width}}  {_first_line(module_of(place))}" for name, place in DATA_SETS.items()]
    return "\n".join(["Data sets of `pipeline prepare NAME ROOT --out MANIFEST.csv`:", *lines])


def _first_line(module: str) -> str:
    # Parsed, not imported: some modules import heavy packages.
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0]
