"""Write the code dependencies of every dvc.yaml from the imports of the stages.

    python tools/dvc_dependencies.py            # rewrite dvc.yaml, ci/dvc.yaml and profiles/*/dvc.yaml
    python tools/dvc_dependencies.py --check    # exit 1 where one is not up to date

A stage depends on the modules that it imports, directly or not (`pipeline.imports`), and on those that it finds by
name: a head's file by the item of the matrix, and every backbone and data set. A folder is named where the stage uses
all of it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from pipeline import registry
from pipeline.imports import ROOT, decides, deciding_modules, file_of

FILES = (
    "dvc.yaml",
    "ci/dvc.yaml",
    "profiles/jester/dvc.yaml",
    "profiles/something-v2/dvc.yaml",
    "profiles/mine/dvc.yaml",
)
MARK = "${repository}/"
BACKBONES = [registry.module_of(place) for place in registry.BACKBONES.values()]
BACKBONES += ["pipeline.backbones.torchvision_models"]
HEADS = [registry.module_of(place) for place in registry.HEADS.values()]
DATA_SETS = [registry.module_of(place) for place in registry.DATA_SETS.values()]
# Modules that a stage finds by name, and the head whose file alone it uses.
FOUND_BY_NAME = {
    "prepare": DATA_SETS,
    "extract": BACKBONES,
    "fit_head": BACKBONES,
    "finetune": BACKBONES,
    "compare": [*BACKBONES, *HEADS],
}
HEAD_OF_STAGE = {"fit_head": "${item.head}", "finetune": "${finetune.head}"}


@cache
def dependencies(stage: str) -> list[str]:
    """Return the paths of the code that a stage depends on, folders where all of their modules count."""
    modules = set(deciding_modules([f"stages.{stage}", *FOUND_BY_NAME[stage]]))
    if stage in HEAD_OF_STAGE:
        # What all heads share, but not their files.
        modules |= set(deciding_modules(HEADS)) - set(HEADS)
    paths = set(_paths(modules))
    if stage in HEAD_OF_STAGE:
        paths.add(f"pipeline/heads/{HEAD_OF_STAGE[stage]}.py")
    return sorted(paths)


def _paths(modules: set[str]) -> Iterable[str]:
    by_folder: dict[Path, set[Path]] = {}
    for module in modules:
        path = file_of(module)
        assert path is not None
        by_folder.setdefault(path.parent, set()).add(path)
    for folder, used in by_folder.items():
        every = {path for path in folder.glob("*.py") if decides(_module(path))}
        is_package = folder.name not in ("pipeline", "stages")
        inner = [path for path in folder.iterdir() if path.is_dir() and any(path.glob("**/*.py"))]
        if is_package and every <= used and all(by_folder.get(path) for path in inner):
            yield folder.relative_to(ROOT).as_posix()
            continue
        yield from (path.relative_to(ROOT).as_posix() for path in used)
        if is_package:
            # Data beside the modules: they may be read by any of them.
            data = (path for path in folder.iterdir() if path.suffix != ".py" and path.name != "__pycache__")
            yield from (path.relative_to(ROOT).as_posix() for path in data if path not in inner)


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def updated(text: str) -> str:
    """Return the text of a dvc.yaml with the present dependencies of each stage."""
    lines, stage, written = [], "", False
    for line in text.splitlines(keepends=True):
        name = re.match(r"  (\w+):\n", line)
        if name:
            stage, written = name[1], False
        if line.strip().startswith(f"- {MARK}") and stage in FOUND_BY_NAME:
            if not written:
                lines += [f"      - {MARK}{path}\n" for path in dependencies(stage)]
                written = True
            continue
        lines.append(line)
    return "".join(lines)


def main() -> None:
    """Update the files, or check them."""
    stale = [name for name in FILES if updated((ROOT / name).read_text()) != (ROOT / name).read_text()]
    if "--check" in sys.argv[1:]:
        if stale:
            raise SystemExit(f"Not up to date: {', '.join(stale)}. Run python tools/dvc_dependencies.py")
        return
    for name in stale:
        (ROOT / name).write_text(updated((ROOT / name).read_text()))
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
