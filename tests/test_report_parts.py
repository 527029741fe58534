"""Searches in the report: curves against the budget, the score against each setting; small charts."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipeline.compare.budget import TrialRow
from pipeline.compare.charts import Line, Panel, line_chart, log_ticks, ticks_of
from pipeline.compare.comparison import compare_runs
from pipeline.compare.report import class_recalls, segment_tables, write_report
from pipeline.compare.search_charts import budget_note, numeric_settings, search_pages
from pipeline.evaluation.result_reader import read_run
from tests.support.result_folders import write_cell

COLUMNS = "trial,lr,optimiser,state,epochs,best_epoch,select_top1,select_loss,top1_by_epoch,loss_by_epoch,reason"


def write_trials(folder: Path, rows: list[tuple[float, str, float]]) -> None:
    with open(folder / "trials.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS.split(","))
        for number, (rate, state, top1) in enumerate(rows):
            writer.writerow(
                [number, rate, "adamw", state, 20, 5, "" if state == "failed" else top1, 0.5, "[]", "[]", ""]
            )


@pytest.mark.parametrize(("chosen", "is_at_end"), [(0.001, False), (0.01, True)])
def test_a_search_is_shown(tmp_path: Path, chosen: float, is_at_end: bool) -> None:
    for head, best in (("lstm", 80.0), ("gru", 60.0)):
        search = {"trials": 3, "space": {"lr": "log:1e-4:1e-2"}, "chosen": {"lr": chosen}}
        folder = write_cell(tmp_path / f"fit_head/squeezenet-{head}", head=head, search=search)
        write_trials(folder, [(0.0001, "complete", 40), (0.001, "complete", best), (0.01, "failed", 0)])
    comparison = compare_runs([read_run(folder) for folder in sorted((tmp_path / "fit_head").iterdir())])
    pages = search_pages(comparison.groups[0].rows)
    assert [name for name, _, _ in pages[0].settings] == ["lr"]
    assert budget_note(pages) == "No pair of heads changes its order with the budget."
    write_report(tmp_path / "report.html", comparison)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Expected best against budget" in text
    assert ("is at an end of its range" in text) is is_at_end


def test_a_setting_that_is_no_number_has_no_chart() -> None:
    assert numeric_settings([TrialRow({"optimiser": name}, "complete", 50) for name in ("sgd", "adamw")]) == []


def test_segment_counts_are_side_by_side_and_classes_have_their_recall(tmp_path: Path) -> None:
    for number in (8, 16):
        for head, accuracy in (("lstm", 0.5 + number / 100), ("gru", 0.7)):
            folder = tmp_path / f"{number}/squeezenet-{head}"
            write_cell(folder, head=head, accuracy=accuracy, num_segments=number, seconds=90.0)
    comparison = compare_runs([read_run(folder) for folder in sorted(tmp_path.glob("*/*"))])
    (table,) = segment_tables(comparison)
    assert table.num_segments == [8, 16]
    cells = dict(table.rows)["lstm"]
    assert [cell is not None and cell.is_best for cell in cells] == [False, True]
    predictions = comparison.groups[0].rows[0].run.predictions
    label, num_clips, values = class_recalls(comparison.groups[0])[1]
    of_class = predictions.labels == predictions.classes.index(label)
    assert num_clips == of_class.sum() == 20
    assert values[0] == pytest.approx(100 * predictions.correct[:, of_class].mean())
    write_report(tmp_path / "report.html", comparison)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "numbers of segments side by side" in text
    assert 'data-value="90.0">1 min 30 s' in text
    assert "Recall of each class" in text


def test_ticks_are_round_and_points_lie_between_them() -> None:
    assert ticks_of(0, 100, 5) == [0, 20, 40, 60, 80, 100]
    assert ticks_of(0.31, 0.52, 5) == pytest.approx([0.35, 0.4, 0.45, 0.5])
    assert log_ticks(0.0003, 0.0004) == [0.0003, 0.0004]
    chart = line_chart([Panel([Line([(1, 0), (3, 100)], name="a <b>")], "y", (0, 100))], "x")
    assert "a &lt;b&gt;" in chart
    assert 'd="M44.0 102.0L248.0 6.0"' in chart, "the lowest point at the bottom left, the highest at the top right"
