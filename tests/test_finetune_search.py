"""Searches of `finetune`: trials judged by the selection clips alone, the same files after a kill."""

from __future__ import annotations

import csv
import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.errors import PipelineError
from pipeline.evaluation.result_reader import read_run
from pipeline.finetune import search as search_module
from pipeline.finetune import trainer as trainer_module
from pipeline.finetune.distributed import World
from pipeline.finetune.trainer import Finetuner
from pipeline.manifest import read_manifest, write_manifest
from pipeline.settings.finetune import FinetuneSettings
from tests.support.killed_runs import kill_when
from tests.support.run_stages import compare, finetune
from tests.support.small_clips import PLAIN, write_clips
from tests.support.training_fixtures import quick_model  # noqa: F401

CELL = "squeezenet-mlp"
FILES = ("metrics.json", "trials.csv", "history.csv", "predictions.csv", "SHA256SUMS", "model.safetensors")
OVERRIDES = {"lr": 0.01, "backbone_lr": 0.001, "schedule": "steps", **PLAIN}
QUICK: dict[str, Any] = {
    "precision": "float32", "threads": 1, "workers": 0, "accumulate": 1, "epochs": 2, "batch_size": 4,
    "overrides": OVERRIDES,
}  # fmt: skip
RATES = {"search": {"lr": "0.0001,0.01", "crops": "centre,multiscale"}, "search_sampler": "grid"}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of which others are reported than select."""
    read = read_manifest(write_clips(tmp_path_factory.mktemp("finetune_search")))
    clips = [dataclasses.replace(clip, split="test") if clip.clip_id >= "clip10" else clip for clip in read.clips]
    assert read.root is not None
    write_manifest(read.root / "splits.csv", clips, read.classes)
    return read.root / "splits.csv"


@pytest.fixture(scope="module")
def searched(manifest: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search over four settings, whose chosen one is trained from two seeds."""
    out = tmp_path_factory.mktemp("searched")
    finetune(manifest=manifest, init=model, out=out, seeds=2, **QUICK, **RATES)
    return out / CELL


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_each_trial_has_the_selection_scores_of_a_training_alone(
    searched: Path, manifest: Path, model: Path, tmp_path: Path
) -> None:
    trials = rows(searched)
    assert [row["state"] for row in trials] == ["complete"] * 4
    assert {(row["lr"], row["crops"]) for row in trials} == {
        (lr, crops) for lr in ("0.0001", "0.01") for crops in ("centre", "multiscale")
    }
    for row in trials:
        setting = {"lr": float(row["lr"]), "crops": row["crops"]}
        out = tmp_path / row["trial"]
        finetune(manifest=manifest, init=model, out=out, **{**QUICK, "overrides": {**OVERRIDES, **setting}})
        with open(out / CELL / "history.csv", newline="") as file:
            history = [record for record in csv.DictReader(file) if record["epoch"] != "0"]
        assert json.loads(row["top1_by_epoch"]) == pytest.approx([float(each["select_top1"]) for each in history])
        losses = [float(each["select_loss"]) for each in history]
        assert json.loads(row["loss_by_epoch"]) == pytest.approx(losses, rel=1e-5)
    best = max(trials, key=lambda row: (float(row["select_top1"]), -float(row["select_loss"])))
    metrics = json.loads((searched / "metrics.json").read_text())
    search = metrics["search"]
    assert search["chosen"] == {"lr": float(best["lr"]), "crops": best["crops"]}
    assert (search["trials"], search["complete"], search["epochs"]) == (4, 4, 8)
    assert search["select"]["top1"] == float(best["select_top1"])
    found = {"crops": metrics["recipe"]["frames"]["crops"], "lr": metrics["recipe"]["training"]["lr"]}
    assert found == search["chosen"]
    assert metrics["num_seeds"] == 2
    alone = tmp_path / best["trial"] / CELL
    first = [line for line in (searched / "predictions.csv").read_text().splitlines() if line.split(",")[3] != "1"]
    assert first == (alone / "predictions.csv").read_text().splitlines()
    assert not list((searched / "checkpoints").glob("trial-*"))
    timing = json.loads((searched / "timing.json").read_text())["search"]
    assert len(timing["seconds_of_trials"]) == len(timing["digests_of_trials"]) == 4


def test_the_result_is_read_checked_and_compared_as_that_of_any_search(searched: Path, tmp_path: Path) -> None:
    read_run(searched)
    compare([searched.parent], out=tmp_path, latency=False, at_budget=("2",))
    group = json.loads((tmp_path / "comparison.json").read_text())["groups"][0]
    assert [row["trials"] for row in group["budget"]["rows"].values()] == [4]
    assert "at 2 trials" in (tmp_path / "table.md").read_text()


def test_trials_never_see_the_reported_clips(
    manifest: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[tuple[str, set[str]]] = []
    in_trials = True
    original, search = trainer_module.score_clips, search_module.search_settings

    def spied(network: Any, clips: Any, *arguments: Any, **more: Any) -> Any:
        scored.append(("trial" if in_trials else "seed", {clip.clip_id for clip in clips}))
        return original(network, clips, *arguments, **more)

    def searching(*arguments: Any) -> Any:
        nonlocal in_trials
        found = search(*arguments)
        in_trials = False
        return found

    monkeypatch.setattr(trainer_module, "score_clips", spied)
    monkeypatch.setattr("pipeline.finetune.run.search_settings", searching)
    settings = {**QUICK, "overrides": {**OVERRIDES, "interpolate": "start"}}
    finetune(manifest=manifest, init=model, out=tmp_path, **settings, **{**RATES, "search": {"lr": "0.0001,0.01"}})
    select, report = {"clip07", "clip08", "clip09"}, {"clip10", "clip11"}
    of_trials = [clips for part, clips in scored if part == "trial"]
    # Two epochs and the shares 0.25, 0.5 and 0.75 of each trial; the initial weights once for both.
    assert of_trials == [select] * (2 * (2 + 3) + 1)
    assert report in [clips for part, clips in scored if part == "seed"]


def test_with_interpolation_the_best_weights_of_the_line_judge_a_trial(
    manifest: Path, model: Path, tmp_path: Path
) -> None:
    """At a rate that destroys the model, a trial has the score of the initial one, and α is 0."""
    settings = {**QUICK, "overrides": {**OVERRIDES, "interpolate": "start", "backbone_lr": 3.0}}
    search = {"search": {"lr": "30,40"}, "search_sampler": "grid"}
    metrics = finetune(manifest=manifest, init=model, out=tmp_path, **settings, **search)
    start = finetune(manifest=manifest, init=model, out=tmp_path / "start", **{**settings, "epochs": 0})
    with open(tmp_path / CELL / "history.csv", newline="") as file:
        before = next(csv.DictReader(file))
    for row in rows(tmp_path / CELL):
        assert (row["alpha"], row["best_epoch"]) == ("0.0", "0")
        assert float(row["select_top1"]) == pytest.approx(float(before["select_top1"]))
        assert float(row["select_loss"]) == pytest.approx(float(before["select_loss"]), rel=1e-5)
    assert metrics["report"]["top1"] == start["report"]["top1"]
    assert metrics["search"]["chosen_trial"] == 0  # a tie


def test_a_killed_search_ends_with_the_same_files(searched: Path, manifest: Path, model: Path, tmp_path: Path) -> None:
    """Killed within the second trial and within the training of the chosen setting."""
    settings = {**QUICK, **RATES, "manifest": str(manifest), "init": str(model), "out": str(tmp_path), "seeds": 2}
    checkpoints = tmp_path / CELL / "checkpoints"

    def is_in_second_trial() -> bool:
        is_first_done = len(list(checkpoints.glob("trial-*.json"))) == 1
        return is_first_done and any(checkpoints.glob("trial-*/step-00000002.pt"))

    for moment in (is_in_second_trial, (checkpoints / "seed-0" / "step-00000001.pt").exists):
        kill_when(moment, {**settings, "checkpoint_seconds": 0})
    assert not (tmp_path / CELL / "metrics.json").exists()
    finetune(**settings)
    assert files(tmp_path / CELL) == files(searched)


def test_more_trials_extend_a_finished_search(
    searched: Path, manifest: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    original = Finetuner._run_epoch

    def counted(self: Finetuner) -> None:
        trained.append(self.checkpoints.folder.name)
        original(self)

    monkeypatch.setattr(Finetuner, "_run_epoch", counted)
    settings = {"manifest": manifest, "init": model, "out": tmp_path, "seeds": 2, **QUICK, **RATES}
    finetune(**{**settings, "trials": 2})
    assert len(set(trained)) == 4  # two trials, two seeds
    trained.clear()
    finetune(**settings)
    new = [name for name in set(trained) if name.startswith("trial-")]
    assert len(new) == 2
    assert files(tmp_path / CELL) == files(searched)
    trained.clear()
    finetune(**settings)
    assert trained == []
    assert files(tmp_path / CELL) == files(searched)


def test_halving_trains_one_of_two_to_the_end(searched: Path, manifest: Path, model: Path, tmp_path: Path) -> None:
    finetune(manifest=manifest, init=model, out=tmp_path, **QUICK, **RATES, halving=2)
    halved, whole = rows(tmp_path / CELL), rows(searched)
    assert sorted(row["epochs"] for row in halved) == ["1", "1", "2", "2"]
    for row, full in zip(halved, whole, strict=True):
        num_epochs = int(row["epochs"])
        assert row["state"] == {1: "pruned", 2: "complete"}[num_epochs]
        assert json.loads(row["loss_by_epoch"]) == json.loads(full["loss_by_epoch"])[:num_epochs]
    losses = [json.loads(row["loss_by_epoch"])[0] for row in whole]
    top1s = [json.loads(row["top1_by_epoch"])[0] for row in whole]
    ranked = sorted(range(4), key=lambda trial: (-top1s[trial], losses[trial]))
    assert {row["trial"] for row in halved if row["state"] == "complete"} == {str(trial) for trial in ranked[:2]}


def test_a_trial_that_diverges_is_counted_and_not_chosen(manifest: Path, model: Path, tmp_path: Path) -> None:
    settings = {**QUICK, "overrides": {**OVERRIDES, "clip_norm": 0, "backbone_lr": 0.0}}
    search = {"search": {"lr": [1e30, 1e-4]}, "search_sampler": "grid"}
    metrics = finetune(manifest=manifest, init=model, out=tmp_path, **settings, **search)
    (failed,) = [row for row in rows(tmp_path / CELL) if row["state"] == "failed"]
    assert (failed["lr"], metrics["search"]["chosen"]["lr"], metrics["search"]["failed"]) == ("1e+30", 1e-4, 1)
    assert "Lower lr" in failed["reason"]


def test_a_search_in_several_processes_is_refused(
    manifest: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.finetune.run.init_distributed", lambda: nullcontext(World(size=2, local_size=2)))
    with pytest.raises(PipelineError, match=r"A search runs in one process, and there are 2\. Search without torchrun"):
        finetune(manifest=manifest, init=model, out=tmp_path, **QUICK, **RATES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search": {"test_frames": "exact,float"}}, "test-frames cannot be searched.*which frames judge"),
        ({"search": {"select_on": "dev,val"}}, "select-on cannot be searched.*which clips judge"),
        ({"search": {"mixup": "0,1"}}, "Unknown setting of a search 'mixup'"),
        ({"search": {"min_steps": "100:200"}, "halving": 2}, "`min-steps` cannot be searched"),
        ({"search": {"lr": "0.1,0.2"}, "overrides": {"epochs": 0}}, "must be at least 1 for a search"),
        ({"search": {"lr": "0.1,0.2"}, "trials": None}, "needs a number of trials"),
        ({"search": {}}, "needs a search"),
    ],
)
def test_a_wrong_search_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        FinetuneSettings(**{"manifest": "m.csv", "init": "none", "out": "o", "trials": 4, **values})


def test_layer_decay_and_backbone_rate_can_be_searched() -> None:
    space = {"backbone_lr": "log:1e-5:1e-3", "layer-decay": "0.5,0.75,1", "crops": "centre,multiscale"}
    settings = FinetuneSettings(manifest=Path("m.csv"), init="none", out=Path("o"), trials=8, search=space)
    assert settings.planned_search is not None
    assert [name for name, _ in settings.planned_search.space] == ["backbone_lr", "crops", "layer_decay"]


def test_a_typed_setting_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(
        "finetune:\n  manifest: m.csv\n  init: none\n  out: o\n  trials: 4\n"
        "  search: {backbone-lr: 'log:1e-5:1e-3', crops: [centre, multiscale]}\n"
    )
    caught: list[FinetuneSettings] = []
    monkeypatch.setattr(cli.commands["finetune"], "callback", caught.append)
    for words in ([], ["--crops", "centre"], ["--crops", "centre", "--backbone-lr", "1e-4"]):
        result = CliRunner().invoke(cli, ["finetune", *words])
        assert result.exit_code == 0, result.output
    assert [set(settings["search"]) for settings in map(vars, caught)] == [
        {"backbone_lr", "crops"},
        {"backbone_lr"},
        set(),
    ]
    assert [settings["trials"] for settings in map(vars, caught)] == [4, 4, None]


def test_show_settings_has_the_options_of_finetune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["finetune", "--recipe", "finetune", "--ema-decay", "0.5", "--show-settings"])
    assert result.exit_code == 0, result.exception
    shown = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert shown["ema-decay"] == ["0.5", "typed"]
    assert shown["interpolate"] == ["start", "recipe", "finetune"]
