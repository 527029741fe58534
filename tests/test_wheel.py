"""The wheel, without the repository: installed into a separate environment, a study from class folders to its table.

The environment takes the dependencies from the one that runs the tests, so nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.support.repository_copy import copy_repository
from tests.test_pages import write_class_folders

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
HEADS = ("mlp", "tsn")


@dataclass(frozen=True)
class Shell:
    """A shell in which `pipeline` is the installed one; no module comes from the repository."""

    bin: Path

    def run(self, folder: Path, *command: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        path = os.pathsep.join([str(self.bin), str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            command,
            cwd=folder, env={**environment, "PATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
        return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sdist and the wheel that was made from it."""
    folder = tmp_path_factory.mktemp("built")
    source = copy_repository(folder / "source")
    # Without isolation, which would download setuptools.
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def shell(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    environment = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    (wheel,) = built.glob("*.whl")
    shell = Shell(environment / "bin")
    site = Path(shell.run(built, "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    shell.run(built, "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    where = Path(shell.run(built, "python", "-c", "import pipeline; print(pipeline.__file__)").strip())
    assert where.is_relative_to(site)
    return shell


@pytest.fixture(scope="module")
def study(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a study after its first `dvc repro`."""
    home = tmp_path_factory.mktemp("home")
    write_class_folders(home / "my clips")
    arguments = ("--weights", "bundled", "--head", ",".join(HEADS), "--epochs", "2", "--seeds", "2", "--views", "1")
    shell.run(home, "pipeline", "init", "my clips", *arguments, "--out", "study")
    shell.run(home / "study", "dvc", "repro")
    return home / "study"


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def test_wheel_and_sdist_hold_the_package_alone(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    tracked = subprocess.run(
        ["git", "ls-files", "pipeline", "stages"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    expected = set(tracked.stdout.splitlines())
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected
    with tarfile.open(sdist) as archive:
        assert expected <= {name.partition("/")[2] for name in archive.getnames()}


def test_help_and_names(shell: Shell, tmp_path: Path) -> None:
    assert "pipeline init" in shell.run(tmp_path, "pipeline", "--help")
    assert "convlstm" in shell.run(tmp_path, "pipeline", "describe", "heads")


def test_a_study_gets_to_its_table(study: Path) -> None:
    table = (study / "results" / "compare" / "table.md").read_text(encoding="utf-8")
    assert all(f"| {head} " in table for head in HEADS)
    assert (study / "results" / "compare" / "report.html").stat().st_size > 10_000
    for head in HEADS:
        metrics = json.loads((study / "results" / "fit_head" / f"squeezenet-{head}" / "metrics.json").read_text())
        assert (metrics["num_seeds"], metrics["num_failed"]) == (2, 0)


def test_its_readme_holds(study: Path, shell: Shell) -> None:
    text = (study / "README.md").read_text(encoding="utf-8")
    check, repro, predict = text.split("```sh\n")[1].split("```")[0].splitlines()
    assert stages_run(shell.run(study, "bash", "-c", repro)) == []
    assert "18 clips" in shell.run(study, "bash", "-c", check)
    assert "lift" in shell.run(study, "bash", "-c", predict)


def test_git_gets_no_store_and_no_clip(study: Path, shell: Shell) -> None:
    shell.run(study, "git", "add", "--all")
    added = shell.run(study, "git", "diff", "--cached", "--name-only").splitlines()
    assert "results/compare/table.md" in added
    assert "dvc.lock" in added
    assert not [name for name in added if name.startswith("cache/") or name.endswith((".safetensors", "timing.json"))]


def test_a_changed_setting_of_one_head_fits_it_alone(study: Path, shell: Shell) -> None:
    params = study / "params.yaml"
    params.write_text(params.read_text().replace("mlp: {lr: 0.001}", "mlp: {lr: 0.002}"))
    assert stages_run(shell.run(study, "dvc", "repro")) == ["fit_head@squeezenet-mlp", "compare"]


def test_a_new_clip_is_noticed(study: Path, shell: Shell) -> None:
    folder = study.parent / "my clips" / "wave"
    (folder / "06.mp4").write_bytes((folder / "05.mp4").read_bytes())
    assert stages_run(shell.run(study, "dvc", "repro"))[:2] == ["prepare", "extract@squeezenet"]
    assert "wave/06" in (study / "data_manifests" / "my-clips.csv").read_text()


def test_another_version_runs_the_stages_again(study: Path, shell: Shell) -> None:
    params = study / "params.yaml"
    installed = yaml.safe_load(params.read_text())["st-pipeline"]
    params.write_text(params.read_text().replace(f"st-pipeline: {installed}", 'st-pipeline: "0.0.9"'))
    said = shell.run(study, "dvc", "repro")
    assert stages_run(said)[:2] == ["prepare", "extract@squeezenet"]
    assert "This study is for st-pipeline 0.0.9" in said
