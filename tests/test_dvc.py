"""The pipeline as DVC runs it, on a copy of the project with few clips: what runs again, and what does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.support.repository_copy import copy_repository

FAST_HEADS = ["mlp", "tsn"]
TABLES = ("compare", "compare_finetuned")


def sh(project: Path, *command: str) -> str:
    """Run a command of the project's environment in its copy; its output, stdout and stderr together."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(project),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return done.stdout


def change(project: Path, *keys: str, to: object) -> None:
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    block = params
    for key in keys[:-1]:
        block = block[key]
    block[keys[-1]] = to
    path.write_text(yaml.safe_dump(params), encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in a separate Git repository, after its first `dvc repro`."""
    project = copy_repository(
        tmp_path_factory.mktemp("dvc") / "project", leave_out=("results/", "dvc.lock", "ci/dvc.lock")
    )
    for command in (
        ("git", "init", "--quiet"),
        ("git", "config", "user.email", "test@example.org"),
        ("git", "config", "user.name", "test"),
        ("git", "add", "--all"),
        ("git", "commit", "--quiet", "--message", "copy"),
    ):
        sh(project, *command)
    change(project, "heads-compared", to=FAST_HEADS)
    change(project, "prepare", "train-clips", to=2)
    change(project, "prepare", "val-clips", to=1)
    change(project, "extract", "views", to=1)
    change(project, "extract", "maps", to=["pooled"])
    change(project, "fit_head", "seeds", to=1)
    change(project, "finetune", "head", to="tsn")
    for head in FAST_HEADS:
        change(project, "heads", head, to={"lr": 0.001, "epochs": 2})
    sh(project, "dvc", "repro")
    return project


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


@pytest.mark.slow
@pytest.mark.timeout(900)
class TestDVC:
    """In the order of the file: each test leaves the project finished."""

    def test_a_second_repro_does_nothing(self, project: Path) -> None:
        # Bytecode and the state of tools are no dependency.
        (project / "pipeline" / "heads" / "__pycache__").mkdir(exist_ok=True)
        (project / "pipeline" / "heads" / "__pycache__" / "mlp.cpython-311.pyc").write_bytes(b"new")
        assert stages_run(sh(project, "dvc", "repro")) == []

    def test_every_stage_left_its_results(self, project: Path) -> None:
        for cell in ("fit_head/squeezenet-mlp", "fit_head/squeezenet-tsn", "finetune/squeezenet-tsn"):
            for name in ("metrics.json", "history.csv", "predictions.csv", "confusion.csv", "SHA256SUMS"):
                assert (project / "results" / cell / name).is_file(), f"{cell}/{name}"
            assert (project / "results" / cell / "model.safetensors").is_file()
        tables = [pd.read_csv(project / "results" / name / "table.csv") for name in TABLES]
        assert [sorted(table["trained"]) for table in tables] == [["head"] * 2, ["end to end", "head", "head"]]
        assert all(table["pairs"].notna().all() for table in tables)  # the block's pairs, with finetuned results too

    def test_commands_work_in_the_very_words_of_the_readme(self, project: Path) -> None:
        assert "0 failed" in sh(project, "pipeline", "extract", "--backbone", "squeezenet")
        output = sh(project, "pipeline", "fit-head", "--head", ",".join(FAST_HEADS))
        assert output.count("was finished with these settings") == len(FAST_HEADS)
        sh(project, "pipeline", "finetune")
        assert set(stages_run(sh(project, "dvc", "repro"))) in (set(), {*TABLES})

    def test_one_heads_setting_refits_that_head_alone(self, project: Path) -> None:
        change(project, "heads", "mlp", "lr", to=0.002)
        assert set(stages_run(sh(project, "dvc", "repro"))) == {"fit_head@squeezenet-mlp", *TABLES}

    def test_more_views_extend_the_store(self, project: Path) -> None:
        store = project / "cache" / "gestures" / "squeezenet-8seg.zarr"
        before = {path: path.stat().st_ino for path in (store / "views" / "test").rglob("*") if path.is_file()}
        change(project, "extract", "views", to=2)
        assert stages_run(sh(project, "dvc", "repro"))[0] == "extract@squeezenet"
        assert (store / "views" / "train-1").is_dir()
        # The very same files: nothing that was there is computed or written again.
        assert before
        assert {path: path.stat().st_ino for path in before} == before

    def test_another_number_of_segments_makes_another_store(self, project: Path) -> None:
        change(project, "extract", "num-segments", to=4)
        sh(project, "dvc", "repro")
        stores = {path.name for path in (project / "cache" / "gestures").iterdir()}
        assert {"squeezenet-8seg.zarr", "squeezenet-4seg.zarr"} <= stores

    def test_an_experiment_sets_one_heads_rate(self, project: Path) -> None:
        sh(project, "git", "add", "--all")
        sh(project, "git", "commit", "--quiet", "--message", "results")
        output = sh(project, "dvc", "exp", "run", "-S", "heads.mlp.lr=0.02")
        assert set(stages_run(output)) == {"fit_head@squeezenet-mlp", *TABLES}
        assert "heads.mlp.lr" in sh(project, "dvc", "params", "diff")
