"""`docs/adding-a-head.md` is carried out on a copy of the project, with the code that stands on the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.registry import HEADS
from tests.conftest import REPOSITORY

DESCRIBE = "import json; from pipeline.compare.complexity import describe_heads; print(json.dumps(describe_heads()))"


def code_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "adding-a-head.md").read_text(), re.DOTALL)


def replaced_once(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


FIT_AND_COMPARE = """
import sys
from pathlib import Path
from tests.support.run_stages import compare
from tests.support.run_stages import predict
from tests.support.fitted_models import fitted_in
fitted = fitted_in(Path(sys.argv[1]), heads=("tconv", "tsn"))
compare([fitted.folder / "fit"], report=False, width=120)
predict(model=fitted.model("tconv"), videos=fitted.clips[:1], top=1)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project to which the page's head has been added as the page says."""
    for folder in ("pipeline", "stages", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    file, entry = code_blocks()
    (tmp_path / "pipeline" / "heads" / "tconv.py").write_text(file)
    last = '    "mamba": "pipeline.heads.mamba:MambaHead",\n'
    replaced_once(tmp_path / "pipeline" / "registry.py", last, last + entry)
    return tmp_path


def python(project: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_new_head_is_held_to_the_contract(project: Path) -> None:
    selected = "tconv or registry"
    output = python(project, "-m", "pytest", "tests/test_heads.py", "-q", "-p", "no:cacheprovider", "-k", selected)
    passed = re.search(r"(\d+) passed", output)
    assert passed is not None
    assert int(passed[1]) >= 25
    assert "failed" not in output


def test_the_new_head_is_described(project: Path) -> None:
    rows = {row["name"]: row for row in json.loads(python(project, "-c", DESCRIBE))}
    weights, scores = 3 * 256 * 256, 2 * 256 * 27
    assert rows["tconv"]["parameters"] == weights + 256 + scores + 27
    assert rows["tconv"]["macs"] == 8 * weights + scores
    assert rows["tconv"]["order"] == "ordered"
    assert len(rows) == len(HEADS) + 1


def test_the_new_head_is_fitted_compared_and_predicts(project: Path) -> None:
    output = python(project, "-c", FIT_AND_COMPARE, str(project / "work"))
    assert re.search(r"^tconv, random +\d+ k ", output, re.MULTILINE)
    assert "Rank correlation with the paper" not in output, "the paper has only one of the two"
    assert len(re.findall(r"^ +\d+\.\d %", output, re.MULTILINE)) == 1


def test_the_papers_table_needs_no_row_for_a_new_head(project: Path) -> None:
    python(
        project, "-m", "pytest", "tests/test_table.py", "-q", "-p", "no:cacheprovider", "-k", "agrees_with_the_paper"
    )
