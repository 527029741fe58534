"""The profiles of data sets: the same stages as the demo, known options, and a whole run in miniature."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import cli
from pipeline.manifest import Manifest, read_manifest
from pipeline.prepare.gestures.data_set import GestureSettings, write_gestures
from tests.conftest import REPOSITORY

PROFILES = {"jester": "off", "something-v2": "swap"}


def loaded(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_the_stages_are_the_demos_but_for_the_clips_themselves() -> None:
    demo = loaded(REPOSITORY / "dvc.yaml")["stages"]
    own = loaded(REPOSITORY / "profiles" / "jester" / "dvc.yaml")["stages"]
    # What DVC would hash: millions of frames that it did not make.
    demo["prepare"]["outs"].remove({"${prepare.root}": {"cache": False}})
    demo["extract"]["deps"].remove("${extract.root}")
    demo["finetune"]["deps"].remove("${finetune.root}")
    del demo["prepare"]["desc"], own["prepare"]["desc"]
    assert own == demo


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_has_the_same_stages_and_known_options(name: str) -> None:
    folder = REPOSITORY / "profiles" / name
    jester = REPOSITORY / "profiles" / "jester"
    assert (folder / "dvc.yaml").read_bytes() == (jester / "dvc.yaml").read_bytes()
    params = loaded(folder / "params.yaml")
    for command in cli.commands.values():
        options = {parameter.name for parameter in command.params}
        block = params.get((command.name or "").replace("-", "_"), {})
        assert {key.replace("-", "_") for key in block} <= options, command.name


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_has_the_papers_settings(name: str) -> None:
    params = loaded(REPOSITORY / "profiles" / name / "params.yaml")
    extract = params["extract"]
    assert (extract["weights"], extract["num-segments"], extract["recipe"]) == ("imagenet", 8, "paper")
    assert {params[stage]["flip"] for stage in ("extract", "fit_head", "finetune")} == {PROFILES[name]}
    assert params["backbones"] == ["squeezenet", "bninception"]
    assert params["heads-compared"] == list(params["heads"])
    labels = (REPOSITORY / "pipeline" / "prepare" / "labels" / f"{name.replace('-', '_')}.txt").read_text().splitlines()
    assert {label for pair in params["compare"]["pairs"] for label in pair.split(":")} <= set(labels)


def drawn(folder: Path, form: str) -> Manifest:
    settings = GestureSettings(
        train_clips=2, val_clips=1, test_clips=0, width=64, height=48, min_frames=8, max_frames=9, frames=form
    )
    return read_manifest(write_gestures(folder / "drawn.csv", folder / "drawn", settings, 1), folder / "drawn")


def write_small_jester(root: Path, scratch: Path) -> int:
    manifest = drawn(scratch, "jpg")
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for number, clip in enumerate(manifest.clips):
        shutil.copytree(manifest.locate(clip), root / "20bn-jester-v1" / f"{number:05d}")
        lists[clip.split].append(f"{number:05d};{clip.label}")
    (root / "jester-v1-labels.csv").write_text("\r\n".join(manifest.classes))
    (root / "jester-v1-train.csv").write_text("\n".join([*lists["train"], "99999;" + manifest.classes[0]]))
    (root / "jester-v1-validation.csv").write_text("\n".join(lists["val"]))
    (root / "jester-v1-test.csv").write_text("00000000")
    return len(manifest.clips)


def write_small_something(root: Path, scratch: Path) -> int:
    manifest = drawn(scratch, "webm")
    lists: dict[str, list[dict[str, str]]] = {"train": [], "val": []}
    (root / "20bn-something-something-v2").mkdir(parents=True)
    for number, clip in enumerate(manifest.clips):
        shutil.copy(manifest.locate(clip), root / "20bn-something-something-v2" / f"{number}.webm")
        lists[clip.split].append({"id": str(number), "label": "", "template": f"[{clip.label}]"})
    lists["train"].append({"id": "99999", "label": "", "template": manifest.classes[0]})
    (root / "labels").mkdir()
    files: dict[str, Any] = {
        "labels": {label: str(index) for index, label in enumerate(manifest.classes)},
        "train": lists["train"],
        "validation": lists["val"],
        "test": [{"id": "100000"}],
    }
    for name, content in files.items():
        (root / "labels" / f"{name}.json").write_text(json.dumps(content))
    return len(manifest.clips)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", PROFILES)
def test_the_whole_way_in_miniature(name: str, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("pipeline", "stages", "profiles"):
        shutil.copytree(REPOSITORY / folder, repository / folder, symlinks=True, ignore=ignored)
    for file in (".dvcignore", ".gitignore"):
        shutil.copy(REPOSITORY / file, repository / file)
    data = repository / "data" / name
    data.mkdir(parents=True)
    write = write_small_jester if name == "jester" else write_small_something
    num_clips = write(data, tmp_path)
    profile = repository / "profiles" / name
    params = loaded(profile / "params.yaml")
    params["backbones"], params["heads-compared"] = ["squeezenet"], ["tsn", "fcn3d"]
    params["extract"] |= {"weights": "random", "num-segments": 2, "views": 1, "compile": "eager", "workers": 0}
    params["heads"] = {"tsn": {"epochs": 1}, "fcn3d": {"epochs": 1}}
    params["fit_head"] |= {"threads": 1, "select-on": "val"}
    params["finetune"] |= {"backbone": "squeezenet", "head": "tsn", "device": "cpu", "epochs": 0, "workers": 0}
    params["compare"] |= {"pairs": [], "latency": False, "report": False}
    (profile / "params.yaml").write_text(yaml.safe_dump(params))
    environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", OMP_NUM_THREADS="1")

    def run(*command: str, cwd: Path = profile) -> str:
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run("git", "init", "--quiet", cwd=repository)
    run("dvc", "init", "--quiet", cwd=repository)
    run("dvc", "config", "core.analytics", "false", cwd=repository)
    said = run("dvc", "repro")
    assert "118,562 were published" in said or "168,913 were published" in said
    manifest = read_manifest(repository / "data_manifests" / f"{name}.csv", data)
    assert len(manifest.clips) == num_clips + 2  # with the missing one and the unlabelled one
    results = repository / "results" / name
    for head in ("tsn", "fcn3d"):
        metrics = json.loads((results / "fit_head" / f"squeezenet-{head}" / "metrics.json").read_text())
        assert (metrics["num_train"], metrics["num_report"], metrics["num_failed"]) == (
            num_clips * 2 // 3,
            num_clips // 3,
            2,
        )
        assert metrics["weights"]["name"] == "random"
    with open(results / "finetune" / "squeezenet-tsn" / "predictions.csv", encoding="utf-8") as file:
        assert {row["clip_id"] for row in csv.DictReader(file)} == {
            clip.clip_id for clip in manifest.clips if clip.split == "val"
        }
    assert (results / "compare").is_dir()
    assert "up to date" in run("dvc", "repro")
    run("git", "add", "--all", cwd=repository)
    run("git", "-c", "user.name=A Tester", "-c", "user.email=a@b.invalid", "commit", "--quiet", "-m", "miniature")
    # Another number of segments, as the paper has 16 beside its 8: another store, the heads anew.
    run("dvc", "exp", "run", "-S", "extract.num-segments=3", "fit_head@squeezenet-tsn")
    metrics = json.loads((results / "fit_head" / "squeezenet-tsn" / "metrics.json").read_text())
    assert metrics["num_segments"] == 3
    stores = {path.name for path in (repository / "cache" / name).iterdir() if path.suffix == ".zarr"}
    assert stores == {"squeezenet-2seg.zarr", "squeezenet-3seg.zarr"}
