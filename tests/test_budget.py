"""Expected best score against budget, compared with all orders of the trials."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.compare.budget import budget_json, parse_budgets
from pipeline.compare.comparison import compare_runs
from pipeline.compare.records import as_json
from pipeline.compare.table import markdown_table, terminal_table
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


def test_the_table_shows_the_search_within_smaller_budgets(tmp_path: Path) -> None:
    gru = write_searched(tmp_path / "fit_head" / "squeezenet-gru", "gru", ["60", "61", "62", "63"], 0.009)
    write_searched(tmp_path / "fit_head" / "squeezenet-lstm", "lstm", ["", "0", "90", "10"], 0.003)
    write_cell(tmp_path / "fit_head" / "squeezenet-mlp", head="mlp", num_seeds=3)
    # Four trials in two core-minutes: one minute pays for two of them, ten minutes for more than there are.
    (gru / "timing.json").write_text(json.dumps({"total_seconds": 1.0, "search": {"core_seconds": 120.0}}))
    runs = [read_run(path) for path in sorted((tmp_path / "fit_head").iterdir())]
    budgets = parse_budgets(["2", "16", "1min", "10min", "0.1min"])
    comparison = compare_runs(runs, budgets=budgets)
    texts = {row.run.head: row.at_budgets for row in comparison.rows}
    # Means over all pairs: (61 + 62 + 63 + 62 + 63 + 63) / 6 and (0 + 90 + 10 + 90 + 10 + 90) / 6.
    assert texts["gru"] == {"at 2 trials": "62.3", "at 16 trials": "≥ 63.0", "at 1 min": "62.3", "at 10 min": "≥ 63.0"}
    assert texts["lstm"] == {"at 2 trials": "48.3", "at 16 trials": "≥ 90.0"}
    assert texts["mlp"] == {}
    assert "at 2 trials" in markdown_table(comparison)
    assert "at 1 min" not in markdown_table(comparison)
    wide = terminal_table(comparison, 300)
    assert "at 1 min" in wide
    # A column that is shown is not named as left out.
    assert "leave out" not in wide


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "min", "4h", "nan", "infmin"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(PipelineError, match=r"`--at-budget` \(=.*must be a number of trials, such as 4, or of core"):
        parse_budgets([text])
