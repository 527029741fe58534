"""Find the modules of this project that a module uses, and hash their sources.

DVC and the reuse of finished heads depend on the code that affects a result. It is found in the sources: imports in
functions count, imports only for type checking do not. Names in the lazy tables of `registry` are not imports; a head's
module is given by name.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipeline", "stages")
# These modules do not affect results, so a change in them reruns nothing: names, messages, progress, this module.
DECIDES_NOTHING = frozenset(
    {
        "pipeline",
        "pipeline.collection",
        "pipeline.errors",
        "pipeline.imports",
        "pipeline.progress",
        "pipeline.registry",
        "pipeline.settings.help_texts",
        "stages",
    }
)


def import_closure(modules: Iterable[str]) -> dict[str, Path]:
    """Return the given modules and all their direct and indirect imports, with their files."""
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = file_of(module)
        if path is None or module in found:
            continue
        found[module] = path
        waiting += imported_modules(module)
        # Importing a module runs the packages above it.
        waiting += [module.rpartition(".")[0]] if "." in module else []
    return dict(sorted(found.items()))


def deciding_modules(modules: Iterable[str]) -> dict[str, Path]:
    """Return the import closure of some modules, without modules that do not affect results and empty packages."""
    return {module: path for module, path in import_closure(modules).items() if decides(module)}


def decides(module: str) -> bool:
    """Return whether a module can affect a result: it is neither a known exception nor an empty package."""
    return module not in DECIDES_NOTHING and not _read(module).is_empty


def code_digest(modules: Iterable[str]) -> str:
    """Return a SHA-256 over the sources of the given modules and of all their imports."""
    digest = hashlib.sha256()
    for module, path in deciding_modules(modules).items():
        digest.update(module.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache
def file_of(module: str) -> Path | None:
    """Return the file of a module of this project; None for other names."""
    if module.split(".")[0] not in PACKAGES:
        return None
    path = ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def imported_modules(module: str) -> tuple[str, ...]:
    """Return the modules of this project that a module imports itself."""
    return _read(module).imported


class _Source(NamedTuple):
    """What a module imports of this project, and whether it has nothing but a docstring."""

    imported: tuple[str, ...]
    is_empty: bool


@cache
def _read(module: str) -> _Source:
    path = file_of(module)
    assert path is not None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in _running_statements(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from package import name` imports a module of that name if it exists.
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(part if file_of(part) is not None else node.module for part in parts)
    is_empty = all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree.body)
    return _Source(tuple(sorted(name for name in found if file_of(name) is not None)), is_empty)


def _running_statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements of a tree except those under `if TYPE_CHECKING`; expressions contain no imports."""
    for node in ast.iter_child_nodes(tree):
        is_for_types = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if isinstance(node, ast.stmt | ast.excepthandler | ast.match_case) and not is_for_types:
            yield node
            yield from _running_statements(node)
