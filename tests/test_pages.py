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
from pipeline.registry import HEAD_NAMES
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
def test_by_hand_gives_the_same_numbers_in_the_repository_and_in_an_empty_folder(home: Path, tmp_path: Path) -> None:
    (study,) = blocks(OWN_DATA, "By hand")
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
def test_own_data_of_the_readme(home: Path, tmp_path: Path) -> None:
    set_up, study = blocks(README, "Your own data")
    assert set_up.split("#")[0].strip() == "make setup"
    quick = "pipeline init ~/clips --weights bundled --head mlp,trn --seeds 1 --epochs 2 --views 1"
    printed = type_in(study.replace("pipeline init ~/clips", quick), tmp_path, home)
    assert "18 clips (15 for training) of 3 classes" in printed
    assert "lift/00" in printed
    assert len(metrics_below(tmp_path / "results")) == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("backbone", "weights"), [("squeezenet", "bundled"), ("torchvision:resnet18", "random"), ("squeezenet", "file")]
)
def test_from_clips_to_a_decision(home: Path, tmp_path: Path, backbone: str, weights: str) -> None:
    (script,) = blocks(OWN_DATA, "From clips to a decision")
    if weights == "file":
        weights = str(REPOSITORY / "pipeline" / "backbones" / "bundled" / "squeezenet.safetensors")
    script = script.replace("--weights imagenet", f"--weights {weights} --backbone {backbone} --epochs 2 --seeds 1")
    type_in(script, tmp_path, home)
    table = (tmp_path / "study" / "results" / "compare" / "table.md").read_text(encoding="utf-8")
    assert sum(f"| {head} " in table for head in HEAD_NAMES) >= 4
    assert (tmp_path / "study" / "results" / "fit_head" / f"{backbone}-trn" / "metrics.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_own_clips_of_the_quick_start(home: Path, tmp_path: Path) -> None:
    (script,) = blocks(QUICK_START, "Your own clips")
    type_in(script, tmp_path, home)
    assert len(metrics_below(tmp_path / "study" / "results")) >= 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_by_hand(home: Path, tmp_path: Path) -> None:
    (script,) = blocks(QUICK_START, "The same steps by hand")
    type_in(script, copy_repository(tmp_path / "repository"), home)
