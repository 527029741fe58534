"""Write the files of a study into a folder, and set up Git and DVC where there is neither."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import read_json, write_json, write_text
from pipeline.init.render import template_text

logger = logging.getLogger(__name__)

# Files of which each line stands alone: lines that are missing are added to an existing one.
IGNORE_FILES = {".gitignore": "gitignore", ".dvcignore": "dvcignore"}
# An existing one stays as it is: it describes more than the study.
README = "README.md"
DVC = ".dvc"
# Names the files that a run of `init` writes. A run that succeeds deletes it, so after one that failed it tells the
# next run which files may be written again.
UNFINISHED = ".init-unfinished.json"


@contextmanager
def unfinished(folder: Path, names: Sequence[str | Path]) -> Iterator[frozenset[str]]:
    """Note which files of the study are new, and yield their names, with those of an earlier run that failed.

    names: files that the block writes, besides the README and DVC's folder.
    """
    new = {str(name) for name in (*names, README, DVC) if not (folder / name).exists()} | _names_of_failed_run(folder)
    write_json(folder / UNFINISHED, sorted(new))
    yield frozenset(new)
    (folder / UNFINISHED).unlink()


def check_free(folder: Path, names: Sequence[str | Path]) -> None:
    """Check that a folder has none of the files that a study needs, except those of an earlier run that failed.

    Raises:
        PipelineError: it has some; they are named.
    """
    if folder.exists() and not folder.is_dir():
        raise PipelineError(f"{folder} is a file. Give the folder of the study with --out.")
    own = _names_of_failed_run(folder)
    present = [str(folder / name) for name in names if (folder / name).exists() and str(name) not in own]
    if present:
        raise PipelineError(
            f"`pipeline init` overwrites nothing, but {', '.join(present)} exist{'s' if len(present) == 1 else ''}. "
            "Give another folder with --out, or move the file away."
        )


def write_files(folder: Path, texts: Mapping[str, str], new: Collection[str]) -> list[str]:
    """Write the files of a study and return a line about each one that was there before.

    new: names that `unfinished` yielded.
    """
    messages = []
    for name, text in texts.items():
        if name == README and (folder / name).exists() and name not in new:
            messages.append(f"{folder / name} exists and stays as it is.")
            continue
        write_text(folder / name, text)
    for name, template in IGNORE_FILES.items():
        messages += _add_lines(folder / name, template_text(template))
    return messages


def set_up_tools(folder: Path, new: Collection[str]) -> list[str]:
    """Run `git init` and `dvc init` where neither manages the folder; return a line about what was done.

    new: names that `unfinished` yielded.

    Raises:
        PipelineError: one of them fails.
    """
    messages = []
    top = _git_top(folder)
    if top is None and shutil.which("git") is not None:
        _run(folder, "git", "init", "--quiet")
        messages.append(f"git init {folder}")
        top = folder
    root = _dvc_root(folder, top)
    if root is None:
        root = folder
        how = ["--no-scm"] if top is None else [] if top.resolve() == folder.resolve() else ["--subdir"]
        # Replace what an earlier run that failed left.
        again = ["--force"] if DVC in new and (folder / DVC).exists() else []
        _run(folder, sys.executable, "-m", "dvc", "init", "--quiet", *how, *again)
        messages.append(f"dvc init {' '.join([*how, str(folder)])}")
    if DVC in new and root.resolve() == folder.resolve():
        _add_settings(folder / DVC / "config")
    # The template of the curves, which dvc.yaml names.
    template = root / DVC / "plots" / "seeds.json"
    if not template.exists():
        write_text(template, template_text("seeds.json"))
    return messages


def _names_of_failed_run(folder: Path) -> set[str]:
    try:
        names = read_json(folder / UNFINISHED)
    except (OSError, ValueError):
        return set()
    return set(map(str, names)) if isinstance(names, list) else set()


def _add_lines(path: Path, text: str) -> list[str]:
    if not path.exists():
        write_text(path, text)
        return []
    before = path.read_text(encoding="utf-8")
    missing = [line for line in text.splitlines() if line not in before.splitlines()]
    if all(line.startswith("#") for line in missing):
        return []
    end = "" if not before or before.endswith("\n") else "\n"
    write_text(path, before + end + "\n".join(missing) + "\n")
    return [f"{path} exists; the lines that a study needs were added to it."]


def _git_top(folder: Path) -> Path | None:
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=folder, capture_output=True, text=True)
    return Path(done.stdout.strip()) if done.returncode == 0 and done.stdout.strip() else None


def _dvc_root(folder: Path, top: Path | None) -> Path | None:
    """Return the nearest folder with `.dvc`, from the study's own up to the top of the Git repository."""
    folder = folder.resolve()
    for place in (folder, *folder.parents):
        if (place / DVC / "config").is_file():
            return place
        if top is None or place == top.resolve():
            break
    return None


def _add_settings(path: Path) -> None:
    """Turn off DVC's analytics and its check for updates, which need a network."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if any(line.strip().startswith("analytics") for line in lines):
        return
    at = lines.index("[core]") if "[core]" in lines else 0
    lines[at : at + 1] = ["[core]", "    analytics = false", "    check_update = false"]
    write_text(path, "\n".join(lines) + "\n")


def _run(folder: Path, *command: str) -> None:
    # The settings that turn off DVC's analytics are written after `dvc init`.
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        name = json.dumps(" ".join(command[2:] if command[1:2] == ("-m",) else command))
        raise PipelineError(
            f"{name} failed in {folder}: {lines[-1]} The study's files are written; run it by hand, or the same "
            "command again."
        )
