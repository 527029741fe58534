"""One set of pins: pyproject.toml, environment.yml and constraints.txt agree."""

from __future__ import annotations

import re
import subprocess
import tomllib

import yaml

from tests.conftest import REPOSITORY


def pins(lines: list[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)(\[[a-z,]+\])?==(\S+)", line)
        assert match, f"'{line}' is not an exact pin"
        found[match[1].lower().replace("_", "-")] = match[3]
    return found


def pins_of_pyproject() -> dict[str, str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return pins([*project["dependencies"], *(line for lines in extras.values() for line in lines)])


def test_environment_yml_has_the_same_pins() -> None:
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text(encoding="utf-8"))
    pip_lines = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pins([line for line in pip_lines if not line.startswith("--")]) == pins_of_pyproject()


def test_constraints_agree_with_the_direct_pins() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints = pins([line for line in lines if line and not line.startswith("#")])
    assert {name: constraints.get(name) for name in pins_of_pyproject()} == pins_of_pyproject()


def test_ci_profile_runs_the_same_stages() -> None:
    assert (REPOSITORY / "ci" / "dvc.yaml").read_bytes() == (REPOSITORY / "dvc.yaml").read_bytes()


def test_no_dvc_file_is_a_link() -> None:
    # DVC reads a link of another Git revision as the text of its target, and every comparison with it fails.
    listed = subprocess.run(
        ["git", "ls-files", "--stage", "*dvc.yaml"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    modes = [line.split()[0] for line in listed.stdout.splitlines()]
    assert modes
    assert set(modes) == {"100644"}
