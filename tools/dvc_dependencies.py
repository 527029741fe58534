"""Write every dvc.yaml of the repository from the template of `pipeline init` and the imports of the stages.

    python tools/dvc_dependencies.py            # rewrite dvc.yaml, ci/dvc.yaml, profiles/*/dvc.yaml and two copies
    python tools/dvc_dependencies.py --check    # exit 1 if one is not up to date

The template of the stages is pipeline/init/templates/stages.yaml. The template's folder also has copies of the demo's
params.yaml and of the template of curves, because `pipeline init` writes them outside a repository.

A stage depends on its direct and indirect imports (`pipeline.imports`), and on modules that it finds by name: a head's
file by the item of the matrix, and every backbone and data set. A folder is listed if the stage uses all of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from pipeline import registry
from pipeline.imports import ROOT, decides, deciding_modules, file_of
from pipeline.init.render import PREPARE_DRAWN, StageFile, render_stages

MADE = (
    "tools/dvc_dependencies.py writes this file from pipeline/init/templates/stages.yaml and the imports of the stages."
)
DEMO_HEADER = f"""\
# clips -> manifest -> feature store -> fitted heads -> finetuned model -> table. Values are in params.yaml; the
# commands are the lines that people type. `ci/dvc.yaml` is the same file, read with the settings of `ci/params.yaml`
# (DVC cannot follow a link in an older revision).
# {MADE}"""
PROFILE_HEADER = f"""\
# The stages for a data set, read with the settings of this folder (`cd profiles/jester && dvc repro`). They differ from
# the root's dvc.yaml in one thing: the clips are neither an output nor a dependency, for DVC would read and hash
# millions of files that it did not make. The manifest is what stages depend on; the store knows each clip's size and
# digest itself, so `dvc repro -f` after a change on disk does what is due.
# {MADE}"""
# Whether the demo's clips are drawn there, by the path of the dvc.yaml.
STAGE_FILES = {
    "dvc.yaml": True,
    "ci/dvc.yaml": True,
    "profiles/jester/dvc.yaml": False,
    "profiles/something-v2/dvc.yaml": False,
}
COPIES = {
    "pipeline/init/templates/demo.yaml": "params.yaml",
    "pipeline/init/templates/seeds.json": ".dvc/plots/seeds.json",
}
BACKBONES = [
    registry.module_of(place) for table in (registry.BACKBONES, registry.BACKBONE_FAMILIES) for place in table.values()
]
HEADS = [registry.module_of(place) for place in registry.HEADS.values()]
DATA_SETS = [registry.module_of(place) for place in registry.DATA_SETS.values()]
# Modules that a stage finds by name, and the head whose file it uses.
FOUND_BY_NAME = {
    "prepare": DATA_SETS,
    "extract": BACKBONES,
    "fit_head": BACKBONES,
    "finetune": BACKBONES,
    "compare": [*BACKBONES, *HEADS],
    "compare_finetuned": [*BACKBONES, *HEADS],
}
ENTRY_OF_STAGE = {"compare_finetuned": "compare"}
HEAD_OF_STAGE = {"fit_head": "${item.head}", "finetune": "${finetune.head}"}


@cache
def dependencies(stage: str) -> list[str]:
    """Return the paths of the code that a stage depends on; a folder if all of its modules count."""
    modules = set(deciding_modules([f"stages.{ENTRY_OF_STAGE.get(stage, stage)}", *FOUND_BY_NAME[stage]]))
    if stage in HEAD_OF_STAGE:
        # The code that heads share, without the files of single heads. A head that another one imports is shared, too.
        modules |= {module for head in HEADS for module in deciding_modules([head]) if module != head}
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
            # Data files next to the modules may be read by any of them.
            data = (path for path in folder.iterdir() if path.suffix != ".py" and path.name != "__pycache__")
            yield from (path.relative_to(ROOT).as_posix() for path in data if path not in inner)


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def wanted_texts() -> dict[str, str]:
    """Return the text that each file must have."""
    code = {stage: dependencies(stage) for stage in FOUND_BY_NAME}
    texts = {
        name: render_stages(
            StageFile(
                header=DEMO_HEADER if draws else PROFILE_HEADER,
                prepare=PREPARE_DRAWN,
                clips="drawn" if draws else "apart",
                finetunes=True,
                code=code,
            )
        )
        for name, draws in STAGE_FILES.items()
    }
    return texts | {name: (ROOT / source).read_text() for name, source in COPIES.items()}


def main() -> None:
    """Update the files, or check them."""
    stale = {
        name: text
        for name, text in wanted_texts().items()
        if not (ROOT / name).exists() or (ROOT / name).read_text() != text
    }
    if "--check" in sys.argv[1:]:
        if stale:
            raise SystemExit(f"Not up to date: {', '.join(stale)}. Run python tools/dvc_dependencies.py")
        return
    for name, text in stale.items():
        (ROOT / name).write_text(text)
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
