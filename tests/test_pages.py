"""The commands of the pages run as typed: in a copy of the repository with its params.yaml, and in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.prepare.gestures.encode import write_video
from tests.conftest import REPOSITORY
from tests.support.repository_copy import copy_repository

README, QUICK_START, OWN_DATA = (
    REPOSITORY / name for name in ("README.md", "docs/quick-start.md", "docs/your-own-data.md")
)


def blocks(page: Path, heading: str) -> list[str]:
    """Return the fenced shell blocks of one section."""
    text = page.read_text(encoding="utf-8")
    section = re.split(r"^#+ ", text.split(f"# {heading}\n")[1], flags=re.MULTILINE)[0]
    return re.findall(r"^```(?:sh|bash)\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)


def write_class_folders(folder: Path) -> None:
    """Write three classes of six short clips; the place of a bright square tells the class."""
    generator = np.random.default_rng(3)
    for place, label in enumerate(("lift", "push", "wave")):
        for number in range(6):
            frames = generator.integers(0, 60, (9 + number % 3, 48, 64, 3), dtype=np.uint8)
            frames[:, 8:24, 4 + 20 * place : 20 + 20 * place] = 220
            (folder / label).mkdir(parents=True, exist_ok=True)
            write_video(folder / label / f"{number:02d}.mp4", frames, fps=12)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home folder with class folders in `clips`."""
    home = tmp_path_factory.mktemp("home")
    write_class_folders(home / "clips")
    return home


def type_in(script: str, folder: Path, home: Path) -> str:
    """Run shell lines in `folder` and return what they print; the first line that fails ends the test.

    The pages name ImageNet weights, which are a download; the bundled ones take their place.
    """
    script = script.replace("--weights imagenet", "--weights bundled")
    environment = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}"
    return done.stdout


def metrics_below(folder: Path) -> dict[str, object]:
    return {
        str(path.relative_to(folder)): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("metrics.json"))
    }


@pytest.mark.timeout(900)
def test_a_study_gives_the_same_numbers_in_the_repository_and_in_an_empty_folder(home: Path, tmp_path: Path) -> None:
    set_up, study = blocks(README, "Your own data")
    assert set_up.split("#")[0].strip() == "make setup"
    inside, empty = copy_repository(tmp_path / "repository"), tmp_path / "empty"
    empty.mkdir()
    committed = metrics_below(inside / "results")
    printed = type_in(study, inside, home)
    assert "nothing is taken from it" in printed
    type_in(study, empty, home)
    found = metrics_below(inside / "results" / "mine")
    assert len(found) == 4
    assert found == metrics_below(empty / "results" / "mine")
    # The demo's results are as they were.
    assert {
        name: value for name, value in metrics_below(inside / "results").items() if "mine/" not in name
    } == committed


@pytest.mark.timeout(900)
def test_own_clips_of_the_quick_start(home: Path, tmp_path: Path) -> None:
    (script,) = blocks(QUICK_START, "Your own clips")
    type_in(script, tmp_path, home)
    assert len(metrics_below(tmp_path / "results" / "mine")) == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_own_data_step_by_step(home: Path, tmp_path: Path) -> None:
    (script,) = blocks(OWN_DATA, "Step by step")
    type_in(script, copy_repository(tmp_path / "repository"), home)
    assert len(metrics_below(tmp_path / "repository" / "results" / "mine")) == 9


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_by_hand(home: Path, tmp_path: Path) -> None:
    (script,) = blocks(QUICK_START, "The same steps by hand")
    type_in(script, copy_repository(tmp_path / "repository"), home)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("backbone", "weights"), [("squeezenet", "bundled"), ("torchvision:resnet18", "random"), ("squeezenet", "file")]
)
def test_own_data_with_dvc(home: Path, tmp_path: Path, backbone: str, weights: str) -> None:
    repository = copy_repository(tmp_path / "repository")
    type_in(
        "git init --quiet && git add . && git -c user.name=a -c user.email=a@b commit --quiet -m a", repository, home
    )
    run, copy = blocks(OWN_DATA, "With DVC")
    profile = repository / "profiles" / "mine" / "params.yaml"
    if weights == "file":
        weights = str(REPOSITORY / "pipeline" / "backbones" / "bundled" / "squeezenet.safetensors")
    text = profile.read_text(encoding="utf-8")
    text = text.replace("[squeezenet]", f'["{backbone}"]').replace("backbone: squeezenet", f'backbone: "{backbone}"')
    text = text.replace("weights: imagenet", f"weights: {weights}").replace("trn, rnn_tanh, rnn_relu, ", "")
    profile.write_text(text, encoding="utf-8")
    type_in(run, repository, home)
    assert f"| {backbone} " in (
        repository / "results" / "mine" / "compare" / "table.md"
    ).read_text() or backbone in str(list((repository / "results" / "mine" / "fit_head").iterdir()))
    type_in(copy, repository, home)
    other = (repository / "profiles" / "gestures2" / "params.yaml").read_text(encoding="utf-8")
    assert "results: ../../results/gestures2" in other
    assert "mine" not in other
