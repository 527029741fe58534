"""Expected best score against budget, compared with all orders of the trials."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.compare.budget import budget_json
from pipeline.compare.comparison import compare_runs
from pipeline.compare.table import as_json
from pipeline.errors import PipelineError
from pipeline.evaluation.checksums import write_checksums
from pipeline.evaluation.expected_best import crossings, expected_best
from pipeline.evaluation.result_reader import read_run
from tests.support.result_folders import write_cell

SCORES = (71.5, 20.0, 88.25, 71.5, 0.0, 64.0)


def test_expected_best_is_the_mean_over_all_orders() -> None:
    best = np.array([np.maximum.accumulate(order) for order in itertools.permutations(SCORES)])
    curve = expected_best(SCORES)
    assert curve.expected == pytest.approx(best.mean(axis=0))
    for size in range(6):
        values = np.sort(best[:, size])
        # The smallest value that at least 2.5 % (97.5 %) of the orders do not exceed.
        assert curve.low[size] == values[int(np.ceil(0.025 * len(values))) - 1]
        assert curve.high[size] == values[int(np.ceil(0.975 * len(values))) - 1]
    assert curve.expected[-1] == max(SCORES)


def test_a_search_of_equal_scores_has_a_flat_curve() -> None:
    curve = expected_best([50.0] * 4)
    assert curve.expected == pytest.approx([50.0] * 4)
    assert curve.low == curve.high == (50.0,) * 4


def test_crossings_are_where_the_order_changes() -> None:
    steady, risky = expected_best([60.0, 61.0, 62.0, 63.0]), expected_best([0.0, 0.0, 90.0, 10.0])
    differences = np.array(steady.expected) - np.array(risky.expected)
    assert (differences > 0).tolist() == [True, True, False, False]
    assert crossings(steady, risky) == crossings(risky, steady) == [3]
    assert crossings(steady, steady) == []


def write_searched(folder: Path, head: str, top1: list[str], chosen: float) -> Path:
    search = {"trials": 4, "space": {"lr": "log:0.0001:0.01"}, "chosen": {"lr": chosen, "optimiser": "sgd"}}
    write_cell(folder, head=head, num_seeds=3, search=search)
    rates = ("0.0002", "0.001", "0.003", "0.009")
    pairs = enumerate(zip(rates, top1, strict=True))
    rows = [f"{n},{rate},{'complete' if score else 'failed'},{score}" for n, (rate, score) in pairs]
    (folder / "trials.csv").write_text("trial,lr,state,select_top1\n" + "\n".join(rows) + "\n")
    return folder


def test_comparison_has_curves_crossings_and_the_ends_of_ranges(tmp_path: Path) -> None:
    write_searched(tmp_path / "fit_head" / "squeezenet-gru", "gru", ["60", "61", "62", "63"], 0.009)
    write_searched(tmp_path / "fit_head" / "squeezenet-lstm", "lstm", ["", "0", "90", "10"], 0.003)
    write_cell(tmp_path / "fit_head" / "squeezenet-mlp", head="mlp", num_seeds=3)
    runs = [read_run(path) for path in sorted((tmp_path / "fit_head").iterdir())]
    (group,) = as_json(compare_runs(runs))["groups"]
    rows = group["budget"]["rows"]
    assert rows.keys() == {"fit_head/squeezenet-gru", "fit_head/squeezenet-lstm"}
    assert rows["fit_head/squeezenet-gru"]["expected_top1"] == pytest.approx([61.5, 62.3333, 62.75, 63], abs=1e-4)
    assert rows["fit_head/squeezenet-lstm"]["expected_top1"] == pytest.approx([25, 48.3333, 70, 90], abs=1e-4)
    assert rows["fit_head/squeezenet-gru"]["at_end_of_range"] == ["lr"]
    assert rows["fit_head/squeezenet-lstm"]["at_end_of_range"] == []
    (change,) = group["budget"]["order_changes"]
    assert {change["a"], change["b"]} == rows.keys()
    assert change["at_trials"] == [3]
    json.dumps(group["budget"])
    # Without a search there is no such entry.
    assert "budget" not in as_json(compare_runs(runs[2:]))["groups"][0]
    assert budget_json([]) == {}


def test_damaged_trials_are_an_error_with_a_way_out(tmp_path: Path) -> None:
    folder = write_searched(tmp_path / "fit_head" / "squeezenet-gru", "gru", ["60", "61", "62", "63"], 0.009)
    (folder / "trials.csv").write_text("trial,state\n0,complete\n")
    with pytest.raises(PipelineError, match=r"trials\.csv is missing or malformed.*Fit the head again"):
        as_json(compare_runs([read_run(folder)]))
    write_checksums(folder, ("metrics.json", "trials.csv"))
    (folder / "trials.csv").unlink()
    with pytest.raises(PipelineError, match=r"trials\.csv does not match"):
        read_run(folder)
