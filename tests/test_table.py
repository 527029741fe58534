"""Reading of result folders, their judgement, and the table's forms."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.compare.columns import count_text, legend_of, points_text
from pipeline.compare.comparison import Comparison, compare_runs
from pipeline.compare.latency import measure_head
from pipeline.compare.paper import paper_column, rank_agreement, table3
from pipeline.compare.plots import against_paper
from pipeline.compare.records import as_json, csv_table
from pipeline.compare.report import write_report
from pipeline.compare.table import markdown_table, remarks_of, terminal_table
from pipeline.compare.training_curves import training_curves
from pipeline.compare.verdict import verdict_of
from pipeline.errors import PipelineError
from pipeline.evaluation.predictions import pair_correct, parse_pairs
from pipeline.evaluation.result_reader import find_runs, read_run
from pipeline.evaluation.result_writer import SeedResult, write_results
from pipeline.fit_head.table import table_text
from pipeline.registry import HEAD_NAMES
from tests.support.result_folders import CLASSES, write_cell, write_json


def comparison_of(root: Path, **options: object) -> Comparison:
    return compare_runs([read_run(folder) for folder in find_runs([root])], **options)  # type: ignore[arg-type]


def accuracy_from_file(folder: Path) -> float:
    """Top-1 from predictions.csv by nothing but the csv module, mean over seeds."""
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return 100 * sum(row["label"] == row["predicted"] for row in rows) / len(rows)


def test_every_accuracy_in_the_table_comes_from_the_predictions(tmp_path: Path) -> None:
    for seed, (head, accuracy) in enumerate({"lstm": 0.8, "tsn": 0.3, "fcn3d": 0.95}.items()):
        write_cell(tmp_path / f"fit_head/squeezenet-{head}", head=head, accuracy=accuracy, num_seeds=2, seed=seed)
    comparison = comparison_of(tmp_path)
    rows = list(csv.DictReader(io.StringIO(csv_table(comparison))))
    assert [row["head"] for row in rows] == ["fcn3d", "lstm", "tsn"]
    for row in rows:
        wanted = accuracy_from_file(tmp_path / row["cell"])
        assert float(row["top1"]) == pytest.approx(wanted, abs=1e-4)
        assert f"| {row['head']} |" in markdown_table(comparison)
        assert f"{wanted:.1f} [" in terminal_table(comparison, 80)


def test_metrics_that_contradict_the_predictions_are_an_error_naming_the_cell(tmp_path: Path) -> None:
    folder = write_cell(tmp_path / "fit_head/squeezenet-lstm")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["report"]["top1"] += 1
    write_json(folder / "metrics.json", metrics)
    with pytest.raises(PipelineError, match=r"fit_head/squeezenet-lstm: metrics.json has report.top1"):
        read_run(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("clip_id,", "id,", 1), "lacks clip_id"),
        (lambda text: text.replace("score:still", "still"), "no column score:still"),
        (lambda text: text.split("\n")[0] + "\n", "no labelled clip"),
        (lambda text: "\n".join(text.split("\n")[:-2]) + "\n", "other clips or labels in one seed"),
        (lambda text: text.replace("clip000,swipe_left,swipe_left", "clip000,swipe_left,still", 1), "not the one with"),
        (lambda text: text.replace("clip001", "clip000"), "a clip twice"),
        (lambda text: _without_score(text, "nan"), "not finite"),
        (lambda text: _without_score(text, "much"), "is not a number"),
    ],
)
def test_malformed_predictions_are_sentences(tmp_path: Path, change: object, message: str) -> None:
    folder = write_cell(tmp_path / "fit_head/squeezenet-lstm", num_seeds=2, accuracy=1.0)
    path = folder / "predictions.csv"
    path.write_text(change(path.read_text()))  # type: ignore[operator]
    with pytest.raises(PipelineError, match=message):
        read_run(folder)


def _without_score(text: str, value: str) -> str:
    lines = text.split("\n")
    lines[1] = ",".join([*lines[1].split(",")[:-1], value])
    return "\n".join(lines)


def test_unlabelled_clips_are_not_scored(tmp_path: Path) -> None:
    folder = write_cell(tmp_path / "fit_head/squeezenet-lstm", num_clips=30)
    with open(folder / "predictions.csv", "a", encoding="utf-8") as file:
        file.write("unlabelled,,still,0,0.0,0.0,1.0\n")
    assert len(read_run(folder).predictions.clip_ids) == 30


def test_classes_that_look_like_missing_values_are_kept(tmp_path: Path) -> None:
    folder = write_cell(tmp_path / "fit_head/squeezenet-lstm", classes=("None", "NA", "null"))
    assert read_run(folder).predictions.classes == ("None", "NA", "null")


def test_missing_folders_and_files_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="There is no folder"):
        find_runs([tmp_path / "nothing"])
    with pytest.raises(PipelineError, match=r"There is no metrics\.json in"):
        find_runs([tmp_path])
    folder = write_cell(tmp_path / "fit_head/squeezenet-lstm")
    (folder / "predictions.csv").unlink()
    with pytest.raises(PipelineError, match=r"has no predictions\.csv"):
        read_run(folder)


def test_a_cell_that_two_places_name_counts_once(tmp_path: Path) -> None:
    folder = write_cell(tmp_path / "fit_head/squeezenet-lstm")
    assert find_runs([folder, tmp_path, tmp_path / "fit_head"]) == [folder]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_terminal_table_fits_the_terminal(tmp_path: Path, width: int) -> None:
    for head in HEAD_NAMES:
        write_cell(tmp_path / f"fit_head/squeezenet-{head}", head=head)
    write_cell(tmp_path / "finetune/squeezenet-lstm")
    text = terminal_table(comparison_of(tmp_path, pairs=[CLASSES[:2]]), width)
    assert max(map(len, text.split("\n"))) <= width
    for column in ("head", "params", "MACs", "top-1 [95 %]", "pairs", "reversed"):
        assert column in text
    assert "lstm, finetuned" in text
    assert ("memory" in text) is False, "nothing was measured"


def test_columns_that_do_not_fit_are_named_with_the_width_that_shows_all(tmp_path: Path) -> None:
    write_cell(tmp_path / "fit_head/squeezenet-lstm")
    comparison = comparison_of(tmp_path)
    narrow = terminal_table(comparison, 60)
    left_out = re.search(r"60 characters leave out: (.+); (\d+) show all\.", " ".join(narrow.split()))
    assert left_out is not None
    assert "maps" in left_out[1]
    headers = next(line for line in narrow.split("\n") if line.startswith("head"))
    assert not any(name in headers for name in left_out[1].split(", "))
    assert not set(legend_of(comparison, width=60)) & set(left_out[1].split(", "))
    needed = int(left_out[2])
    assert "leave out" not in terminal_table(comparison, needed)
    assert "leave out" in terminal_table(comparison, needed - 1)


def test_the_judgement_names_lead_cost_and_recipe(tmp_path: Path) -> None:
    for seed, (head, accuracy) in enumerate({"fcn3d": 0.95, "lstm": 0.6, "tsn": 0.3}.items()):
        folder = tmp_path / f"fit_head/squeezenet-{head}"
        write_cell(folder, head=head, accuracy=accuracy, num_clips=200, num_seeds=3, seed=seed)
    write_cell(tmp_path / "finetune/squeezenet-lstm", accuracy=0.6, num_clips=200, num_seeds=3, recipe="paper", seed=7)
    (group,) = comparison_of(tmp_path).groups
    best, second = group.rows[:2]
    text = " ".join(remarks_of(group))
    lead = best.top1.value - second.top1.value
    assert f"top-1 {best.top1.value:.1f} %, {lead:.1f} points above the next, {second.label}." in text
    assert re.search(r"cheapest first: tsn: .* % for 0; lstm.* % for 4\.20 M; fcn3d: .* % for 523 M\.", text)
    assert text.endswith("Recipe: cached; finetuned rows: paper.")


@pytest.mark.parametrize(("points", "text"), [(-0.04, "0.0"), (0.0, "0.0"), (-0.05, "-0.1"), (7.62, "+7.6")])
def test_differences_have_a_sign_and_zero_has_none(points: float, text: str) -> None:
    assert points_text(points) == text


def test_parameters_and_macs_are_those_of_the_reference(tmp_path: Path) -> None:
    classes = tuple(f"class{index:02d}" for index in range(27))
    write_cell(tmp_path / "a/squeezenet-fcn3d", head="fcn3d", classes=classes)
    write_cell(tmp_path / "a/bninception-fcn3d", head="fcn3d", classes=classes, backbone="bninception")
    found = {row.run.backbone: row.complexity for row in comparison_of(tmp_path).rows}
    # From the reference table: exact parameters, MACs at 13 x 13 and at 7 x 7.
    assert [found["squeezenet"].parameters, found["squeezenet"].macs] == [1_556_571, 524_489_472]
    assert [found["bninception"].parameters, found["bninception"].macs] == [1_556_571, 152_070_912]


def test_random_weights_are_named_in_every_row(tmp_path: Path) -> None:
    write_cell(tmp_path / "a/squeezenet-lstm", weights="random")
    write_cell(tmp_path / "b/squeezenet-lstm", weights="bundled")
    comparison = comparison_of(tmp_path)
    assert [row.label for row in comparison.rows] == ["lstm", "lstm, random"]
    for text in (markdown_table(comparison), terminal_table(comparison, 80), csv_table(comparison)):
        of_random = [line for line in text.split("\n") if "lstm" in line and "random" in line]
        assert of_random, text


def test_only_cells_on_the_same_clips_are_tested_against_each_other(tmp_path: Path) -> None:
    write_cell(tmp_path / "a/squeezenet-lstm", num_clips=60)
    write_cell(tmp_path / "a/squeezenet-gru", head="gru", num_clips=61)
    assert [len(group.rows) for group in comparison_of(tmp_path).groups] == [1, 1]


def test_better_is_only_said_when_a_paired_test_says_so(tmp_path: Path) -> None:
    for seed, (head, accuracy) in enumerate({"fcn3d": 0.9, "convlstm": 0.89, "tsn": 0.3}.items()):
        folder = tmp_path / f"a/squeezenet-{head}"
        write_cell(folder, head=head, accuracy=accuracy, num_clips=200, num_seeds=3, seed=seed)
    group = comparison_of(tmp_path).groups[0]
    first, second = group.rows[:2]
    assert f"{first.label} has the highest top-1, {first.top1.value:.1f} %; " in verdict_of(group)
    assert (
        f"not significantly different from it (paired tests, 5 %, Holm over all pairs): {second.label}."
        in verdict_of(group)
    )
    assert "It is better than the one other row." in verdict_of(group)
    assert first.label != second.label
    write_cell(tmp_path / "b/squeezenet-gru", head="gru", accuracy=0.5, num_clips=40, num_seeds=3)
    write_cell(tmp_path / "b/squeezenet-lstm", head="lstm", accuracy=0.5, num_clips=40, num_seeds=3, seed=1)
    assert "No row is significantly better" in verdict_of(comparison_of(tmp_path / "b").groups[0])


def claims(comparison: Comparison) -> list[str]:
    """What is called better in a comparison of one group: the sentence's claims, and pairs of the grid."""
    (group,) = comparison.groups
    found = [f"{test.a.label}, {test.b.label}" for test in group.tests if test.is_significant]
    if "is better than" in verdict_of(group):
        found.append(verdict_of(group))
    return found


def test_with_one_seed_nothing_is_called_better(tmp_path: Path) -> None:
    write_cell(tmp_path / "squeezenet-fcn3d", head="fcn3d", accuracy=0.95, num_clips=200)
    write_cell(tmp_path / "squeezenet-tsn", head="tsn", accuracy=0.2, num_clips=200)
    comparison = comparison_of(tmp_path)
    assert claims(comparison) == []
    assert "One seed: the effect of another seed is unknown" in verdict_of(comparison.groups[0])
    (test,) = as_json(comparison)["groups"][0]["tests"]
    assert (test["test"], test["knows_seeds"]) == ("McNemar", False)
    assert 0 < test["p"] < 1e-20
    write_cell(tmp_path / "squeezenet-lstm", head="lstm", accuracy=0.97, num_clips=200, num_seeds=3)
    write_cell(tmp_path / "squeezenet-gru", head="gru", accuracy=0.5, num_clips=200, num_seeds=3)
    verdict = verdict_of(comparison_of(tmp_path).groups[0])
    assert verdict.startswith("lstm is better than every other row of 3 or more seeds (paired tests, 5 %)")
    assert verdict.endswith("above the next, gru. One seed, so the effect of another seed is unknown: fcn3d; tsn.")


def test_two_seeds_give_no_verdict(tmp_path: Path) -> None:
    # They may agree by chance, and then seem to leave nothing to chance.
    write_cell(tmp_path / "squeezenet-fcn3d", head="fcn3d", accuracy=0.95, num_clips=200, num_seeds=2)
    write_cell(tmp_path / "squeezenet-tsn", head="tsn", accuracy=0.2, num_clips=200, num_seeds=3)
    comparison = comparison_of(tmp_path)
    assert claims(comparison) == []
    assert "Fewer than 3 seeds: the effect of another seed is unknown" in verdict_of(comparison.groups[0])


@pytest.mark.parametrize("num_clips", [1, 5])
@pytest.mark.parametrize("num_seeds", [3, 5])
def test_few_clips_give_no_verdict(tmp_path: Path, num_clips: int, num_seeds: int) -> None:
    for head, accuracy in {"fcn3d": 1.5, "tsn": -0.5}.items():
        folder = tmp_path / f"squeezenet-{head}"
        write_cell(folder, head=head, accuracy=accuracy, num_clips=num_clips, num_seeds=num_seeds)
    comparison = comparison_of(tmp_path)
    assert [row.top1.value for row in comparison.rows] == [100, 0]
    assert claims(comparison) == []
    assert "Fewer than 6 clips are too few to call a row better." in verdict_of(comparison.groups[0])


def test_the_best_of_60_rows_is_named(tmp_path: Path) -> None:
    for number in range(60):
        accuracy = 0.97 if number == 17 else 0.88 - 0.01 * number
        folder = tmp_path / f"squeezenet-{number:02d}"
        write_cell(folder, head="lstm", accuracy=accuracy, num_clips=300, num_seeds=3, seed=number)
    comparison = comparison_of(tmp_path)
    (group,) = comparison.groups
    assert len(group.tests) == 60 * 59 / 2
    assert group.rows[0].run.name.endswith("squeezenet-17")
    assert verdict_of(group).startswith(f"{group.rows[0].label} is better than every other row (paired tests, 5 %)")
    tests = as_json(comparison)["groups"][0]["tests"]
    assert min(test["p"] for test in tests) > 0


def test_one_certain_head_is_better_than_22_at_chance(tmp_path: Path) -> None:
    for number in range(23):
        folder = tmp_path / f"squeezenet-{number:02d}"
        write_cell(folder, accuracy=1.5 if number == 5 else 1 / 3, num_clips=210, num_seeds=3, seed=number)
    (group,) = comparison_of(tmp_path).groups
    assert verdict_of(group).startswith(f"{group.rows[0].label} is better than every other row")


def test_one_accuracy_has_one_interval(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    results = []
    for seed in range(3):
        scores = np.eye(3)[labels] + generator.normal(0, 0.7, (90, 3)).round(4)
        ids = tuple(f"clip{clip:02d}" for clip in range(90))
        results.append(
            SeedResult(
                seed=seed,
                history=(),
                best_epoch=1,
                clip_ids=ids,
                labels=labels,
                scores=scores,
                order_tests={"shuffled": scores},
                seconds=1.0,
            )
        )
    about = {
        "head": "lstm",
        "backbone": "squeezenet",
        "weights": {"name": "bundled", "sha256": ""},
        "num_segments": 8,
        "selected_on": "dev",
        "reported_on": "val",
    }
    folder = tmp_path / "fit_head/squeezenet-lstm"
    val = write_results(folder, {**about, "recipe": {"name": "cached"}}, CLASSES, results, {})["report"]
    comparison = comparison_of(tmp_path)
    (row,) = csv.DictReader(io.StringIO(csv_table(comparison)))
    assert [row["top1_low"], row["top1_high"]] == [str(val["top1_low"]), str(val["top1_high"])]
    assert f"{val['top1_low']:.1f} to {val['top1_high']:.1f}" in table_text(
        [json.loads((folder / "metrics.json").read_text())]
    )
    assert f"[{val['top1_low']:.1f}, {val['top1_high']:.1f}]" in terminal_table(comparison, 120)


def test_rows_that_were_selected_on_the_reported_clips_are_marked_in_every_table(tmp_path: Path) -> None:
    write_cell(tmp_path / "fit_head/squeezenet-lstm", head="lstm", selected_on="val", recipe="paper")
    write_cell(tmp_path / "fit_head/squeezenet-mlp", head="mlp", selected_on="dev", recipe="paper")
    write_cell(
        tmp_path / "finetune/squeezenet-gru", head="gru", recipe="paper", stage="finetune", init_selected_on="val"
    )
    comparison = comparison_of(tmp_path)
    metrics = [json.loads((row.run.folder / "metrics.json").read_text()) for row in comparison.rows]
    write_report(tmp_path / "report.html", comparison)
    html = re.sub(r"<svg.*?</svg>|<[^>]+>", " ", (tmp_path / "report.html").read_text(), flags=re.DOTALL)
    texts = {
        "terminal": terminal_table(comparison, 100),
        "markdown": markdown_table(comparison),
        "fit-head": table_text(
            [
                {
                    **values,
                    "recipe": {"name": "paper"},
                    "report": {**values["report"], "top1_low": 0.0, "top1_high": 99.0},
                }
                for values in metrics
            ]
        ),
        "report": html,
    }
    for name, text in texts.items():
        marked = {head for head in ("lstm", "mlp", "gru") if re.search(rf"{head}(, finetuned)? †", text)}
        assert marked == {"lstm", "gru"}, name
        assert "Selected on the reported clips" in " ".join(text.split()), name
    rows = {row["head"]: row for row in csv.DictReader(io.StringIO(csv_table(comparison)))}
    assert {head: row["selected_on_reported"] for head, row in rows.items()} == {
        "lstm": "True",
        "mlp": "False",
        "gru": "True",
    }


def test_without_such_rows_nothing_is_marked(tmp_path: Path) -> None:
    write_cell(tmp_path / "fit_head/squeezenet-lstm", head="lstm")
    comparison = comparison_of(tmp_path)
    assert "†" not in terminal_table(comparison, 200) + markdown_table(comparison)
    assert "of val, 3 classes" in terminal_table(comparison, 200)


def test_results_of_version_0_1_are_read_and_marked(tmp_path: Path) -> None:
    folder = write_cell(tmp_path / "fit_head/squeezenet-lstm")
    metrics = json.loads((folder / "metrics.json").read_text())
    old = {key: value for key, value in metrics.items() if key not in ("selected_on", "reported_on", "report")}
    write_json(folder / "metrics.json", {**old, "val": metrics["report"], "num_val": old.pop("num_report")})
    history = (folder / "history.csv").read_text().replace("select_", "val_")
    (folder / "history.csv").write_text(history)
    cell = read_run(folder)
    assert (cell.selected_on, cell.reported_on, cell.metrics["num_report"]) == ("val", "val", 60)
    assert cell.is_selected_on_reported
    assert training_curves(cell.history) is not None
    assert cell.history is not None
    assert "select_top1" in cell.history


def test_rows_of_different_splits_are_not_compared(tmp_path: Path) -> None:
    write_cell(tmp_path / "fit_head/squeezenet-lstm", head="lstm")
    write_cell(tmp_path / "fit_head/squeezenet-gru", head="gru", num_clips=45, reported_on="test", selected_on="val")
    assert sorted(group.reported_on for group in comparison_of(tmp_path).groups) == ["test", "val"]


def test_pairs_count_only_which_of_the_two_is_higher(tmp_path: Path) -> None:
    folder = tmp_path / "a/squeezenet-tsn"
    write_cell(folder)
    lines = ["clip_id,label,predicted,score:swipe_left,score:swipe_right,score:still"]
    lines += ["a,swipe_left,still,1.0,0.5,9.0", "b,swipe_right,swipe_left,2.0,1.0,0.0"]
    lines += ["c,swipe_left,swipe_left,3.0,3.0,0.0", "d,still,still,0.0,0.0,1.0"]
    (folder / "predictions.csv").write_text("\n".join(lines) + "\n")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["report"] = {"top1": 50.0, "top5": 100.0, "mean_class_accuracy": 50.0}
    write_json(folder / "metrics.json", metrics)
    found = pair_correct(read_run(folder).predictions, [("swipe_left", "swipe_right")])
    assert found is not None
    assert found[0].tolist() == [[1.0, 0.0, 0.5]]
    assert found[1] is None
    assert pair_correct(read_run(folder).predictions, []) is None


def test_pairs_are_checked() -> None:
    assert parse_pairs(["a:b", " c : d "]) == [("a", "b"), ("c", "d")]
    with pytest.raises(PipelineError, match="two labels with a colon"):
        parse_pairs(["ab"])


def test_rank_correlation_with_the_paper_is_there_whatever_it_is(tmp_path: Path) -> None:
    of_paper = {row["head"]: float(row["jester_8_squeezenet"]) for row in table3()}
    for head, accuracy in of_paper.items():
        # The reverse of the paper's order.
        write_cell(tmp_path / f"fit_head/squeezenet-{head}", head=head, accuracy=(100 - accuracy) / 40, num_clips=300)
    comparison = comparison_of(tmp_path)
    (agreement,) = comparison.groups[0].agreements
    assert agreement.num_heads == 11
    assert agreement.correlation is not None
    assert agreement.correlation < -0.9
    assert "11 heads, recipe cached: -" in terminal_table(comparison, 120)
    assert "only the order of the heads is compared" in agreement.sentence()


def test_the_column_of_the_paper_follows_data_set_segments_and_backbone() -> None:
    jester = ("Drumming Fingers", "Doing other things", "Swiping Left", "Zooming In With Full Hand")
    something = ("Approaching something with your camera", "Bending something so that it deforms")

    def named(*arguments: object) -> tuple[str, bool] | None:
        column = paper_column(*arguments)  # type: ignore[arg-type]
        return None if column is None else (column.name, column.same_data)

    assert named("squeezenet", 8, jester) == ("jester_8_squeezenet", True)
    assert named("bninception", 16, something) == ("something_16_bninception", True)
    assert named("squeezenet_bypass", 16, jester) == ("jester_8_squeezenet", False)
    assert named("squeezenet", 8, ("a", "b")) == ("jester_8_squeezenet", False)
    assert named("torchvision:resnet18", 8, jester) is None
    with pytest.raises(PipelineError, match=r"Unknown data set of Table 3 'jestr'\. Did you mean 'jester'"):
        paper_column("squeezenet", 8, (), "jestr")


def test_the_papers_numbers_stand_beside_those_of_its_own_data_alone(tmp_path: Path) -> None:
    jester = ("Drumming Fingers", "Doing other things", "Swiping Left", "Zooming In With Full Hand")
    write_cell(tmp_path / "a/squeezenet-lstm", classes=jester)
    write_cell(tmp_path / "b/squeezenet-lstm")
    assert [row.paper_top1 for row in comparison_of(tmp_path / "a").rows] == [84.28]
    assert [row.paper_top1 for row in comparison_of(tmp_path / "b").rows] == [None]


def test_two_recipes_are_compared_with_the_paper_one_by_one(tmp_path: Path) -> None:
    # The paper's order on Jester: fcn3d, mlp, lstm, tsn.
    heads = ("fcn3d", "mlp", "lstm", "tsn")
    for recipe, accuracies in {"cached": (0.9, 0.7, 0.5, 0.3), "paper": (0.3, 0.5, 0.7, 0.9)}.items():
        for head, accuracy in zip(heads, accuracies, strict=True):
            write_cell(tmp_path / f"{recipe}/squeezenet-{head}", head=head, accuracy=accuracy, recipe=recipe)
    (group,) = comparison_of(tmp_path).groups
    assert [(one.recipe, one.correlation) for one in group.agreements] == [("cached", 1.0), ("paper", -1.0)]
    for agreement in group.agreements:
        names = {text.get_text() for text in against_paper(group, agreement).axes[0].texts}
        assert names == {f"{head}, {agreement.recipe}" for head in heads}


@pytest.mark.parametrize(("num_heads", "correlation"), [(3, None), (4, 1.0)])
def test_three_heads_have_no_rank_correlation(num_heads: int, correlation: float | None) -> None:
    column = paper_column("squeezenet", 8, ())
    assert column is not None
    agreement = rank_agreement(column, "cached", dict(list(column.accuracies.items())[:num_heads]))
    assert agreement.correlation == (None if correlation is None else pytest.approx(correlation))
    assert ("needs 4 heads" in agreement.sentence()) == (correlation is None)
    # Without a correlation nothing is compared.
    assert ("only the order of the heads is compared" in agreement.sentence()) == (correlation is not None)


def test_the_data_file_of_table_3_agrees_with_the_paper() -> None:
    rows = {row["head"]: row for row in table3()}
    assert len(rows) == 11
    assert set(rows) <= set(HEAD_NAMES)
    assert (rows["trn"]["something_8_bninception"], rows["fcn3d"]["jester_8_squeezenet"]) == ("46.91", "90.19")
    column = paper_column("squeezenet", 8, ())
    assert column is not None
    assert rank_agreement(column, "cached", dict(column.accuracies)).correlation == pytest.approx(1)


@pytest.mark.shared
def test_the_data_file_of_table_3_is_the_reference(shared: Path) -> None:
    reference = shared / "reference/table3.csv"
    with open(reference, newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == list(table3())


def test_nothing_that_is_tracked_holds_a_time(tmp_path: Path) -> None:
    for head, seconds in {"lstm": 3.0, "gru": 77.0}.items():
        write_cell(tmp_path / f"fit_head/squeezenet-{head}", head=head, seconds=seconds)
    comparison = comparison_of(tmp_path)
    assert {row.label: row.time_share for row in comparison.rows} == pytest.approx({"lstm": 3.75, "gru": 96.25})
    tracked = markdown_table(comparison) + csv_table(comparison) + json.dumps(as_json(comparison))
    for name in ("ms/clip", "latency", "time_share", "96.2", "memory"):
        assert name not in tracked
    assert "time" in terminal_table(comparison, 200)


def test_json_has_every_test_of_a_pair(tmp_path: Path) -> None:
    for head in ("lstm", "gru", "tsn"):
        write_cell(tmp_path / f"fit_head/squeezenet-{head}", head=head)
    (group,) = as_json(comparison_of(tmp_path))["groups"]
    assert len(group["tests"]) == 3
    assert all(np.isfinite(test["p_adjusted"]) for test in group["tests"])
    json.dumps(group, allow_nan=False)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (999_999, "1.00 M"), (138_523, "139 k"), (6_379_543_296, "6.38 G")]
)
def test_counts_have_three_figures(count: int, text: str) -> None:
    assert count_text(count) == text


def test_a_measured_head_has_at_least_its_parameters_in_memory() -> None:
    cost = measure_head("mlp", in_channels=512, num_segments=8, num_classes=27, map_size=13, num_runs=2)
    assert cost.latency_ms > 0
    num_bytes = 4 * (1_062_939 + 512 * 256 + 256)
    assert num_bytes < cost.memory_bytes < num_bytes + 200_000
