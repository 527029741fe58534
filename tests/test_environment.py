"""One set of pins and of Pythons, and the script that makes the environment."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
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


# Base dependencies that no module imports by name: torchvision is looked up, Zarr opens URLs through fsspec.
NOT_IMPORTED_BY_NAME = {"torchvision", "fsspec"}
DISTRIBUTIONS = {"google-crc32c": "google_crc32c", "pillow": "PIL", "pyyaml": "yaml"}


def third_party_imports() -> set[str]:
    """Return the top-level packages that the wheel's modules import, at any depth of the code."""
    found: set[str] = set()
    for package in ("pipeline", "stages"):
        for path in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found.update(alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"pipeline", "stages", "markupsafe"}  # markupsafe is a part of Jinja


def test_the_base_install_is_what_the_wheel_imports() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def imported(lines: list[str]) -> set[str]:
        return {DISTRIBUTIONS.get(name, name) for name in pins(lines)}

    base = imported(project["dependencies"])
    optional = project["optional-dependencies"]
    names = ("onnx", "openvino", "s3", "search", "timm", "transformers")
    extras = imported([line for name in names for line in optional[name]])
    assert third_party_imports() <= base | extras
    assert base - third_party_imports() == NOT_IMPORTED_BY_NAME


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


SUPPORTED = ("3.11", "3.12", "3.13")


def test_supported_pythons_are_the_same_everywhere() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text(encoding="utf-8"))
    assert "python>=3.11,<3.14" in environment["dependencies"]
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert tuple(workflow["jobs"]["test-and-compare"]["strategy"]["matrix"]["python"]) == SUPPORTED
    script = (REPOSITORY / "tools" / "environment.sh").read_text(encoding="utf-8")
    assert f'supported="{" ".join(reversed(SUPPORTED))}"' in script
    for page in ("README.md", "docs/quick-start.md"):
        assert "Python 3.11, 3.12 or 3.13" in (REPOSITORY / page).read_text(encoding="utf-8"), page


class Machine:
    """A project folder and a PATH on which fake interpreters can be put."""

    def __init__(self, folder: Path) -> None:
        self.project, self.bin = folder / "project", folder / "bin"
        (self.project / "tools").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy(REPOSITORY / "tools" / "environment.sh", self.project / "tools")
        shutil.copy(REPOSITORY / "Makefile", self.project)
        for name in ("pyproject.toml", "constraints.txt"):
            (self.project / name).write_text("")
        for tool in ("sh", "make", "dirname", "grep", "find", "touch", "rm", "mkdir", "cp", "chmod"):
            found = shutil.which(tool)
            assert found, tool
            (self.bin / tool).symlink_to(found)

    def add_python(self, name: str, version: str, *, in_folder: Path | None = None, pip_exit: int = 0) -> Path:
        """Write an interpreter that answers its version, makes a .venv with a copy of itself, and runs pip."""
        path = (in_folder or self.bin) / name
        path.write_text(
            "#!/bin/sh\n"
            'case "$*" in\n'
            f"  -c*) echo {version} ;;\n"
            f'  "-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo "$PWD/.venv" > .venv/bin/activate ;;\n'
            f"  *pip*) echo pip of {version}; exit {pip_exit} ;;\n"
            "esac\n"
        )
        path.chmod(0o755)
        return path

    def setup(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.bin / "make"), "setup", *arguments],
            cwd=self.project, env={"PATH": str(self.bin)}, capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_setup_takes_the_newest_python_that_runs(machine: Machine) -> None:
    shim = machine.bin / "python3.13"
    shim.write_text("#!/bin/sh\necho 'pyenv: python3.13: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    machine.add_python("python3", "3.12")
    machine.add_python("python3.11", "3.11")
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert f"Using {machine.bin}/python3 (Python 3.12)." in done.stdout
    assert "pip of 3.12" in done.stdout
    # A second call has nothing to do; changed pins are installed with the same Python, also if a newer one came.
    assert machine.setup().stdout == ""
    machine.add_python("python3.13", "3.13")
    stamp = machine.project / ".venv" / "installed"
    os.utime(stamp, (0, 0))
    assert "pip of 3.12" in machine.setup().stdout


def test_a_named_python_wins(machine: Machine) -> None:
    machine.add_python("python3.13", "3.13")
    named = machine.add_python("other", "3.11")
    assert "pip of 3.11" in machine.setup(f"PYTHON={named}").stdout


@pytest.mark.parametrize(
    ("pythons", "arguments", "words"),
    [
        ({}, (), "No supported Python runs here: the project needs Python 3.11, 3.12 or 3.13."),
        ({"python3": "3.9"}, (), "apt install python3 python3-venv"),
        ({"python3": "3.10"}, ("PYTHON=python3",), "PYTHON=python3 is Python 3.10; the project needs"),
        ({}, ("PYTHON=/nowhere/python",), "PYTHON=/nowhere/python does not run"),
    ],
)
def test_a_python_that_cannot_serve_is_a_sentence(
    machine: Machine, pythons: dict[str, str], arguments: tuple[str, ...], words: str
) -> None:
    for name, version in pythons.items():
        machine.add_python(name, version)
    done = machine.setup(*arguments)
    assert done.returncode != 0
    assert words in done.stderr
    assert not (machine.project / ".venv").exists()


def test_an_environment_of_another_python_is_named(machine: Machine) -> None:
    machine.add_python("python3.12", "3.12")
    assert machine.setup().returncode == 0
    newer = machine.add_python("python3.13", "3.13")
    done = machine.setup(f"PYTHON={newer}")
    assert done.returncode != 0
    assert f".venv was made by Python 3.12, but PYTHON={newer} is 3.13. Run `make clean` first." in done.stderr
    machine.add_python("python", "3.10", in_folder=machine.project / ".venv" / "bin")
    assert ".venv was made by Python 3.10; the project needs" in machine.setup().stderr
    (machine.project / ".venv" / "bin" / "python").unlink()
    assert "The Python of .venv no longer runs. Remove the environment with `make clean`" in machine.setup().stderr


def test_a_moved_environment_is_named(machine: Machine) -> None:
    machine.add_python("python3.12", "3.12")
    assert machine.setup().returncode == 0
    machine.project = machine.project.rename(machine.project.with_name("moved"))
    assert ".venv was made in another folder" in machine.setup().stderr


def test_a_pin_that_cannot_be_had_is_a_sentence(machine: Machine) -> None:
    machine.add_python("python3.12", "3.12", pip_exit=1)
    done = machine.setup()
    assert done.returncode != 0
    assert "The pinned packages could not be installed for Python 3.12" in done.stderr
    machine.add_python("python", "3.12", in_folder=machine.project / ".venv" / "bin")
    assert machine.setup().returncode == 0
