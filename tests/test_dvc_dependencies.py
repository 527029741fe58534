"""DVC depends on the code that a stage uses: no more, so that little is made anew, and no less."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import registry
from pipeline.imports import DECIDES_NOTHING, code_digest, decides, file_of, import_closure
from tests.conftest import REPOSITORY
from tests.support.small_clips import T, write_clips

MARK = "${repository}/"
TABLES = ("compare", "compare_finetuned")
DVC_FILES = [REPOSITORY / "dvc.yaml", REPOSITORY / "ci" / "dvc.yaml", *REPOSITORY.glob("profiles/*/dvc.yaml")]


@cache
def stages_of(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())["stages"]


def declared(stage: str, head: str = "lstm", file: Path = DVC_FILES[0]) -> list[str]:
    """The code that a stage depends on, for one head."""
    deps = stages_of(file)[stage]["deps"]
    paths = [dep.removeprefix(MARK) for dep in deps if dep.startswith(MARK)]
    return [path.replace("${item.head}", head).replace("${finetune.head}", head) for path in paths]


def covers(paths: list[str], file: str) -> bool:
    return any(file == path or file.startswith(f"{path}/") for path in paths)


def stages_that_run_again(file: str, head: str = "lstm") -> set[str]:
    return {stage for stage in stages_of(DVC_FILES[0]) if covers(declared(stage, head), file)}


@pytest.mark.parametrize("file", DVC_FILES, ids=lambda path: path.parent.name)
def test_the_declared_code_is_that_of_the_imports(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "tools/dvc_dependencies.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for stage in stages_of(file):
        assert declared(stage, file=file) == declared(stage)
        assert all((REPOSITORY / path).exists() for path in declared(stage))


@pytest.mark.parametrize(
    ("file", "head", "stages"),
    [
        ("pipeline/finetune/trainer.py", "lstm", {"finetune"}),
        ("pipeline/heads/gru.py", "lstm", {*TABLES}),  # which counts its operations
        ("pipeline/heads/gru.py", "gru", {"fit_head", "finetune", *TABLES}),
        ("pipeline/heads/new.py", "lstm", {*TABLES}),
        ("pipeline/registry.py", "lstm", set()),
        ("pipeline/prepare/csv_table.py", "lstm", {"prepare"}),
        ("pipeline/prepare/check.py", "lstm", set()),
        ("pipeline/compare/table.py", "lstm", {*TABLES}),
        ("pipeline/predict/scorer.py", "lstm", set()),
        ("pipeline/store_command/hdf5.py", "lstm", set()),
        ("pipeline/settings/compare.py", "lstm", {*TABLES}),
        ("pipeline/recipe.py", "lstm", {"extract", "fit_head", "finetune", *TABLES}),
        ("pipeline/evaluation/metrics.py", "lstm", {"fit_head", "finetune", *TABLES}),
        ("pipeline/training/optimiser.py", "lstm", {"fit_head", "finetune"}),
    ],
)
def test_what_an_edited_file_makes_anew(file: str, head: str, stages: set[str]) -> None:
    assert stages_that_run_again(file, head) == stages


RUN = """
    import importlib, json, sys
    stage, arguments = sys.argv[1], json.loads(sys.argv[2])
    settings = importlib.import_module(f"pipeline.settings.{stage}")
    name = stage.title().replace("_", "") + "Settings"
    importlib.import_module(f"stages.{stage}").run(getattr(settings, name)(**arguments))
    print("MODULES", json.dumps(sorted(name for name in sys.modules if name.split(".")[0] in ("pipeline", "stages"))))
"""


def modules_of_a_run(stage: str, **arguments: object) -> set[str]:
    """The modules of the project that a stage imports at run time, compared with those found in the sources."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN), stage, json.dumps(arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("MODULES ")]
    return set(json.loads(line.removeprefix("MODULES ")))


def test_no_stage_loads_code_that_it_does_not_declare(tmp_path: Path) -> None:
    manifest, store = str(write_clips(tmp_path)), str(tmp_path / "s.zarr")
    fit, tuned = str(tmp_path / "fit"), str(tmp_path / "tuned")
    model = f"{fit}/squeezenet-mlp/model.safetensors"
    runs = {
        "prepare": {"dataset": "folders", "root": str(tmp_path / "tree"), "out": str(tmp_path / "m.csv")},
        "extract": {"manifest": manifest, "store": store, "weights": "random", "num_segments": T, "views": 1},
        "fit_head": {"store": store, "head": ["mlp"], "out": fit, "overrides": {"epochs": 1}},
        "finetune": {"manifest": manifest, "init": model, "out": tuned, "overrides": {"epochs": 1, "batch_size": 4}},
        "compare": {"dirs": [fit, tuned], "out": str(tmp_path / "compare"), "manifest": manifest},
    }
    for number, label in enumerate(("wave", "wave", "nod", "nod")):
        (tmp_path / "tree" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / label / f"{number}.mp4").touch()
    for stage, arguments in runs.items():
        undeclared = []
        for module in modules_of_a_run(stage, **arguments):
            path = file_of(module)
            if path is None:
                continue  # a folder without __init__.py
            file = path.relative_to(REPOSITORY).as_posix()
            if decides(module) and not covers(declared(stage, "mlp"), file):
                undeclared.append(module)
        assert undeclared == [], stage


def test_what_decides_nothing_is_little_and_has_no_computation() -> None:
    for module in DECIDES_NOTHING:
        assert not {name.partition(".")[0] for name in import_closure([module])} - {"pipeline", "stages"}
        path = file_of(module)
        assert path is not None
        assert not {"import torch", "import numpy"} & set(path.read_text().splitlines())


def test_a_heads_digest_follows_its_own_file_alone() -> None:
    """Reuse of finished cells and DVC ask for the same code."""
    modules = {name: registry.module_of(place) for name, place in registry.HEADS.items()}
    closure = import_closure(["pipeline.fit_head.run", modules["mlp"]])
    assert modules["mlp"] in closure
    assert not {modules[name] for name in modules if name != "mlp"} & set(closure)
    assert code_digest([modules["mlp"]]) != code_digest([modules["gru"]])


def test_dvc_can_read_every_dvc_yaml_of_the_repository() -> None:
    # DVC loads every file of this name, a template too.
    listed = subprocess.run(
        ["git", "ls-files", "*dvc.yaml"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert {REPOSITORY / path for path in listed.stdout.split()} == set(DVC_FILES)
