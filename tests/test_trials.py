"""Searches of `fit-head`: trials, their choice, kill and resume, more trials, processes, halving."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.backbones import build_backbone
from pipeline.errors import PipelineError
from pipeline.evaluation.checksums import check_checksums
from pipeline.fit_head import tasks
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.fit import fit_head
from pipeline.fit_head.run import HeadRun
from pipeline.fit_head.samplers import GridSampler, TrialSampler
from pipeline.fit_head.search import stage_lengths
from pipeline.heads import HEADS
from pipeline.recipe import named_recipe
from pipeline.runtime import Runtime
from pipeline.settings.search import Search, parse_space
from tests.support.head_runs import run_head
from tests.support.memory_source import make_source

CPU = Runtime(torch.device("cpu"), "float32", threads=1)
RECIPE = named_recipe("cached").with_overrides(epochs=4, batch_size=16)
SPACE = parse_space({"lr": "log:1e-4:3e-2", "weight-decay": "0,1e-2"})
FILES = ("trials.csv", "metrics.json", "history.csv", "predictions.csv", "SHA256SUMS", "model.safetensors")


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    return build_backbone("squeezenet", "random")[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CachedData:
    return CachedData(make_source(num_train=40, num_val=15), tmp_path_factory.mktemp("scratch"))


def searched(
    out: Path, data: CachedData, backbone: nn.Module, search: Search, head: str = "mlp", **overrides: Any
) -> Path:
    """Run a search with two seeds, and return the result folder."""
    run = HeadRun(head, RECIPE.with_overrides(**overrides), (0, 1), CPU, search)
    return run_head(run, data, backbone, out).folder


def trials_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "trials.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def same_files(*folders: Path) -> bool:
    return all(len({(folder / name).read_bytes() for folder in folders}) == 1 for name in FILES)


def first_settings(search: Search, num_trials: int) -> list[dict[str, Any]]:
    sampler = TrialSampler(search)
    return [sampler.ask() for _ in range(num_trials)]


@pytest.mark.parametrize("name", ["qmc", "random", "tpe"])
def test_equal_spaces_have_equal_points_whatever_their_order(name: str) -> None:
    other = parse_space({"weight_decay": [0, 0.01], "lr": "log:1e-4:3e-2"})
    points = first_settings(Search(SPACE, 8, name), 8)
    assert points == first_settings(Search(other, 8, name), 8)
    assert points != first_settings(Search(SPACE, 8, name, seed=1), 8)
    assert all(1e-4 <= point["lr"] <= 3e-2 and point["weight_decay"] in (0, 0.01) for point in points)


def test_quasi_random_points_are_even_in_every_dimension_from_the_first() -> None:
    points = first_settings(Search(parse_space({"lr": "log:1e-4:1e-2", "dropout": "0,0.1,0.2,0.3"}), 16), 16)
    # A scrambled Sobol sequence of 16 points has one in each sixteenth of the range.
    sixteenths = [int(16 * (torch.tensor(point["lr"]).log10().item() + 4) / 2) for point in points]
    assert sorted(sixteenths) == list(range(16))
    assert sorted(point["dropout"] for point in points) == sorted([0, 0.1, 0.2, 0.3] * 4)


def test_a_grid_has_every_combination_once() -> None:
    search = Search(parse_space({"lr": "0.1,0.2,0.3", "optimiser": "sgd,adamw"}), None, "grid")
    assert search.num_trials == 6
    sampler = GridSampler(search)
    points = [tuple(sampler.ask().values()) for _ in range(6)]
    assert set(points) == {(lr, name) for lr in (0.1, 0.2, 0.3) for name in ("sgd", "adamw")}
    assert Search(search.space, 4, "grid").num_trials == 4
    assert Search(search.space, 99, "grid").num_trials == 6


def test_a_search_chooses_on_the_selection_clips_and_fits_the_chosen_setting(
    tmp_path: Path, data: CachedData, backbone: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []
    monkeypatch.setattr(tasks, "fit_head", lambda *args, **more: scored.append(args[3]) or fit_head(*args, **more))
    folder = searched(tmp_path, data, backbone, Search(SPACE, 6))
    assert scored == [0, 1]  # only the seeds of the chosen setting see the reported clips
    rows, metrics = trials_of(folder), metrics_of(folder)
    assert [row["trial"] for row in rows] == [str(number) for number in range(6)]
    # Each trial again, by itself.
    for row in rows:
        recipe = RECIPE.with_overrides(lr=float(row["lr"]), weight_decay=float(row["weight_decay"]))
        result = fit_head(data.of(HEADS["mlp"].reads, recipe), "mlp", recipe, 0, CPU)
        assert json.loads(row["top1_by_epoch"]) == pytest.approx([e.select_top1 for e in result.history], abs=1e-6)
        assert json.loads(row["loss_by_epoch"]) == pytest.approx([e.select_loss for e in result.history], abs=1e-6)
        assert int(row["best_epoch"]) == result.best_epoch
    best = max(rows, key=lambda row: (float(row["select_top1"]), -float(row["select_loss"])))
    search = metrics["search"]
    assert search["chosen"] == {"lr": float(best["lr"]), "weight_decay": float(best["weight_decay"])}
    assert search["chosen_trial"] == int(best["trial"])
    assert (search["trials"], search["complete"], search["epochs"]) == (6, 6, 24)
    assert metrics["recipe"]["training"]["lr"] == float(best["lr"])
    assert metrics["num_seeds"] == 2
    check_checksums(folder)
    assert "trials.csv" in (folder / "SHA256SUMS").read_text()
    timing = json.loads((folder / "timing.json").read_text())["search"]
    assert timing["core_seconds"] == pytest.approx(sum(timing["seconds_of_trials"]), abs=0.01)
    (folder / "trials.csv").write_text((folder / "trials.csv").read_text().replace("complete", "pruned", 1))
    with pytest.raises(PipelineError, match=r"trials\.csv does not match"):
        check_checksums(folder)


def test_more_trials_extend_those_of_a_finished_search(
    tmp_path: Path, data: CachedData, backbone: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = searched(tmp_path / "whole", data, backbone, Search(SPACE, 8))
    first = searched(tmp_path / "extended", data, backbone, Search(SPACE, 4))
    assert len(trials_of(first)) == 4
    fitted: list[float] = []
    original = tasks.fit_trial
    monkeypatch.setattr(
        tasks, "fit_trial", lambda *args, **more: fitted.append(args[2].training.lr) or original(*args, **more)
    )
    extended = searched(tmp_path / "extended", data, backbone, Search(SPACE, 8))
    assert fitted == [float(row["lr"]) for row in trials_of(whole)[4:]]
    assert same_files(whole, extended)


class KilledError(Exception):
    """Stands for a kill in the middle of a search."""


@pytest.mark.parametrize(("sampler", "halving"), [("qmc", None), ("tpe", None), ("random", 2)])
def test_a_killed_search_goes_on_to_the_same_files(
    tmp_path: Path,
    data: CachedData,
    backbone: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    halving: int | None,
) -> None:
    search = Search(SPACE, 6, sampler, halving=halving)
    whole = searched(tmp_path / "whole", data, backbone, search)
    original, num_calls = tasks.fit_trial, 0

    def killed(*args: Any, **more: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls % 3 == 0:  # in the middle of its first epoch
            raise KilledError
        return original(*args, **more)

    monkeypatch.setattr(tasks, "fit_trial", killed)
    num_kills = 0
    while not (tmp_path / "killed" / "squeezenet-mlp" / "metrics.json").exists():
        try:
            killed_folder = searched(tmp_path / "killed", data, backbone, search)
        except KilledError:
            num_kills += 1
    assert num_kills >= 2
    assert num_calls < 6 * (1 if halving is None else 3) + num_kills + 1  # finished fits are not fitted again
    assert same_files(whole, killed_folder)
    assert not (killed_folder / ".unfinished").exists()


def test_a_diverging_trial_is_counted_and_costs_only_itself(
    tmp_path: Path, data: CachedData, backbone: nn.Module
) -> None:
    space = parse_space({"lr": "1e-3,1e9"})
    overrides = {"optimiser": "sgd", "clip_norm": 0, "epochs": 6}
    folder = searched(tmp_path, data, backbone, Search(space, None, "grid"), **overrides)
    states = {row["lr"]: (row["state"], row["reason"]) for row in trials_of(folder)}
    assert states["0.001"] == ("complete", "")
    assert states["1000000000.0"][0] == "failed"
    assert "Lower lr" in states["1000000000.0"][1]
    assert metrics_of(folder)["search"]["failed"] == 1
    assert metrics_of(folder)["search"]["chosen"] == {"lr": 0.001}
    with pytest.raises(PipelineError, match=r"All 2 trials failed\. The first: .*Lower lr"):
        searched(tmp_path / "all", data, backbone, Search(parse_space({"lr": "1e8,1e9"}), None, "grid"), **overrides)


def test_halving_stops_the_worse_half_and_counts_its_epochs(
    tmp_path: Path, data: CachedData, backbone: nn.Module
) -> None:
    assert stage_lengths(4, 4, 2) == [1, 2, None]
    whole = {row["trial"]: row for row in trials_of(searched(tmp_path / "whole", data, backbone, Search(SPACE, 4)))}
    folder = searched(tmp_path / "halved", data, backbone, Search(SPACE, 4, halving=2))
    rows = {row["trial"]: row for row in trials_of(folder)}
    assert sorted(int(row["epochs"]) for row in rows.values()) == [1, 1, 2, 4]
    assert metrics_of(folder)["search"]["epochs"] == 8
    assert (metrics_of(folder)["search"]["complete"], metrics_of(folder)["search"]["pruned"]) == (1, 3)
    for number, row in rows.items():  # a pruned curve is the beginning of the whole one
        for name in ("top1_by_epoch", "loss_by_epoch"):
            assert json.loads(row[name]) == json.loads(whole[number][name])[: int(row["epochs"])]

    def key(number: str, epochs: int) -> tuple[float, float]:
        pairs = zip(json.loads(whole[number]["top1_by_epoch"]), json.loads(whole[number]["loss_by_epoch"]), strict=True)
        return max((top1, -loss) for top1, loss in list(pairs)[:epochs])

    first = sorted(whole, key=lambda number: key(number, 1), reverse=True)[:2]
    second = max(first, key=lambda number: key(number, 2))
    assert rows[second]["state"] == "complete"
    # Halving off: the same curves, of which the missing epochs are fitted.
    again = searched(tmp_path / "halved", data, backbone, Search(SPACE, 4))
    assert same_files(again, tmp_path / "whole" / "squeezenet-mlp")


def test_a_run_without_a_search_has_no_trials(tmp_path: Path, data: CachedData, backbone: nn.Module) -> None:
    folder = searched(tmp_path, data, backbone, Search(SPACE, 2))
    plain = run_head(HeadRun("mlp", RECIPE, (0,), CPU), data, backbone, tmp_path)
    assert plain.folder == folder
    assert not (folder / "trials.csv").exists()
    assert "search" not in plain.metrics
    assert "trials.csv" not in (folder / "SHA256SUMS").read_text()
