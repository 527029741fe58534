"""Clips in groups: intervals and tests over groups, from the store's column to the table; calibration; signatures."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from pipeline.compare.comparison import Group, compare_runs
from pipeline.compare.indistinct import detectable_sentence, indistinct_sets
from pipeline.compare.records import as_json, csv_table
from pipeline.compare.signature import check_signatures, signature_of
from pipeline.compare.table import markdown_table
from pipeline.compare.verdict import verdict_of
from pipeline.errors import PipelineError
from pipeline.evaluation.columns import group_indices
from pipeline.evaluation.metrics import cross_entropy, fit_temperature
from pipeline.evaluation.result_reader import read_run
from pipeline.evaluation.result_writer import SeedResult, Selection, write_results
from pipeline.evaluation.selection import data_sha256, groups_of
from pipeline.evaluation.statistics import accuracy_interval, paired_difference, smallest_p_value
from pipeline.evaluation.variance import MeanVariance, design_effect
from pipeline.manifest import Clip
from tests.support.result_folders import CLASSES, write_cell

GROUPS = np.repeat(np.arange(10), 6)


def test_the_design_effect_of_equal_clips_in_a_group_is_the_size_of_the_group() -> None:
    of_groups = np.array([1, 0, 1, 1, 0, 1, 1, 0, 1, 0], dtype=float)
    # Six copies of each of ten values: ten independent values are known, not sixty.
    assert design_effect(of_groups[GROUPS], GROUPS) == pytest.approx(6 * (10 / 9) / (60 / 59))
    assert design_effect(of_groups, np.arange(10)) == pytest.approx(1)
    assert design_effect(np.ones(60), GROUPS) == 6


def test_the_error_of_few_groups_is_that_of_student() -> None:
    variance = MeanVariance(clips=0.001, clip_degrees=9)
    scale = math.sqrt(0.001)
    assert variance.half_width(0.95) == pytest.approx(stats.t.ppf(0.975, 9) * scale, rel=1e-5)
    assert variance.tail(0.1) == pytest.approx(2 * stats.t.sf(0.1 / scale, 9), rel=1e-5)


def test_the_sign_flip_test_flips_whole_groups_and_intervals_are_wider() -> None:
    generator = np.random.default_rng(0)
    hardness = np.repeat(generator.random(10), 6)
    a, b = (generator.random((3, 60)) < hardness + lead for lead in (0.3, 0.1))
    free, grouped = paired_difference(a, b), paired_difference(a, b, groups=GROUPS)
    of_groups = np.round(3 * (a.mean(axis=0) - b.mean(axis=0)).reshape(10, 6).sum(axis=1))
    signs = np.array(list(itertools.product((-1, 1), repeat=10)))
    flipped = (np.abs(signs @ of_groups) >= abs(of_groups.sum())).mean()
    assert flipped <= grouped.p_value
    assert grouped.points.value == free.points.value
    one, other = accuracy_interval(a), accuracy_interval(a, groups=GROUPS)
    assert other.high - other.low > 1.5 * (one.high - one.low)


def test_a_clip_without_a_group_is_a_group_by_itself() -> None:
    assert group_indices(["a", "b", "c", "d"], ["x", "", "x", ""]).tolist() == [0, 1, 0, 2]
    clips = [Clip("a", "a.mp4", "up", "test", (), "p1"), Clip("b", "b.mp4", "up", "test", (), "")]
    assert groups_of(clips) == {"a": "p1", "b": ""}
    assert groups_of(clips[1:]) is None
    assert data_sha256(clips) == data_sha256(clips[::-1]) != data_sha256(clips[:1])


@pytest.fixture
def grouped(tmp_path: Path) -> Path:
    folder = tmp_path / "fit_head/squeezenet-lstm"
    generator = np.random.default_rng(1)
    labels = np.arange(60) % 3
    results = []
    for seed in range(3):
        scores = generator.normal(0, 1, (60, 3)).round(4)
        scores[np.arange(60), labels] += 1.5
        results.append(
            SeedResult(
                seed=seed,
                history=(),
                best_epoch=1,
                clip_ids=tuple(f"clip{n:02d}" for n in range(60)),
                labels=labels,
                scores=scores.round(4),
                order_tests={},
                seconds=1.0,
                selection=Selection(30, 80.0, 0.5, temperature=2.0),
            )
        )
    about = {
        **{"head": "lstm", "backbone": "squeezenet", "weights": {"name": "bundled", "sha256": "ab" * 32}},
        **{"recipe": "cached", "num_segments": 8, "selected_on": "val", "reported_on": "test"},
    }
    groups = {f"clip{n:02d}": f"person{n // 6}" for n in range(60)}
    write_results(folder, about, CLASSES, results, {}, groups=groups)
    return folder


def test_groups_and_calibration_reach_the_table(grouped: Path) -> None:
    with open(grouped / "predictions.csv", newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["group"] == "person0"
    run = read_run(grouped)
    assert run.predictions.groups is not None
    assert run.predictions.groups.tolist() == GROUPS.tolist()
    comparison = compare_runs([run])
    row = comparison.rows[0]
    # One interval in metrics.json and in the table.
    assert run.metrics["report"]["top1_low"] == pytest.approx(row.top1.low, abs=1e-4)
    assert row.top1.low < accuracy_interval(run.predictions.correct).low
    assert "60 clips in 10 groups of test" in markdown_table(comparison)
    record = next(csv.DictReader(csv_table(comparison).splitlines()))
    assert record["num_groups"] == "10"
    losses = [cross_entropy(scores / 2, run.predictions.labels) for scores in run.predictions.scores]
    assert float(record["calibrated_loss"]) == pytest.approx(np.mean(losses), abs=1e-4)


def test_the_temperature_minimises_the_loss() -> None:
    generator = np.random.default_rng(2)
    labels = generator.integers(0, 5, 400)
    scores = generator.normal(0, 6, (400, 5))
    scores[np.arange(400), labels] += 5
    found = optimize.minimize_scalar(lambda t: cross_entropy(scores / t, labels), bounds=(0.05, 20), method="bounded")
    assert fit_temperature(scores, labels) == pytest.approx(found.x, rel=1e-3)


def test_there_is_no_temperature_if_the_loss_has_no_minimum_or_the_clips_are_few() -> None:
    labels = np.arange(40) % 5
    right = np.eye(5)[labels] * 9
    # Every clip is correct: the loss falls without end as the temperature falls.
    assert fit_temperature(right, labels) is None
    one_wrong = right.copy()
    one_wrong[0] = np.eye(5)[1] * 9
    # At the minimum the expected score of a clip, 9 p, is the mean score of the labels, 9 · 39/40.
    temperature = fit_temperature(one_wrong, labels)
    assert temperature is not None
    p = 1 / (1 + 4 * np.exp(-9 / temperature))
    assert p == pytest.approx(39 / 40, abs=1e-6)
    assert fit_temperature(one_wrong[:19], labels[:19]) is None


def test_a_signature_names_the_part_that_differs(grouped: Path, tmp_path: Path) -> None:
    comparison = compare_runs([read_run(grouped)])
    own = [group.signature for group in comparison.groups]
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(as_json(comparison)))
    assert "may be laid side by side" in check_signatures(own, tmp_path)
    other = [{**own[0], "selection": "test > test"}]
    with pytest.raises(PipelineError, match=r"table 1, selection: here 'test > test', there 'val > test'"):
        check_signatures(other, path)
    path.write_text('{"groups": [{}]}')
    with pytest.raises(PipelineError, match="has no signature to compare with"):
        check_signatures(own, path)


def test_a_signature_has_the_sizes_of_input_and_maps(tmp_path: Path) -> None:
    for size in (112, 224):
        write_cell(tmp_path / f"{size}/squeezenet-gru", head="gru", input_size=size, map_size=3, num_views=2)
    views = [signature_of([read_run(path)])["view"] for path in sorted(tmp_path.glob("*/*"))]
    assert [view.partition("test centre, ")[2] for view in views] == [
        "input 112 x 112, maps 3 x 3",
        "input 224 x 224, maps 3 x 3",
    ]


def test_rows_that_cannot_be_told_apart_are_the_largest_runs(tmp_path: Path) -> None:
    accuracies = {"trn": 0.95, "gru": 0.93, "lstm": 0.7, "tsn": 0.3}
    for seed, (head, accuracy) in enumerate(accuracies.items()):
        folder = tmp_path / f"fit_head/squeezenet-{head}"
        write_cell(folder, head=head, accuracy=accuracy, num_clips=300, num_seeds=5, seed=seed)
    runs = [read_run(folder) for folder in sorted((tmp_path / "fit_head").iterdir())]
    group = compare_runs(runs).groups[0]
    sets = [[row.label for row in members] for members in indistinct_sets(group)]
    assert sets == [["trn", "gru"]]
    text = markdown_table(compare_runs(runs))
    assert "Not told apart: {trn, gru}." in text
    assert "Differences under" in text
    assert "the best row is first in" in text


def test_the_row_that_the_verdict_calls_better_is_in_no_set(tmp_path: Path) -> None:
    for seed in range(8):
        folder = tmp_path / f"fit_head/squeezenet-head{seed}"
        write_cell(folder, head=f"head{seed}", accuracy=0.7 if seed else 0.79, num_clips=300, num_seeds=3, seed=seed)
    group = compare_runs([read_run(folder) for folder in sorted((tmp_path / "fit_head").iterdir())]).groups[0]
    best, *others = group.rows
    # Every test is below 5 %, and none is after the adjustment for 28 pairs.
    assert "head0 is better than every other row" in verdict_of(group)
    assert not any(group.test_of(best, row).is_significant for row in others)
    (members,) = indistinct_sets(group)
    assert {row.label for row in members} == {row.label for row in others}


def test_five_groups_can_never_show_a_difference_and_six_can() -> None:
    a, b = np.ones((3, 600), dtype=bool), np.zeros((3, 600), dtype=bool)
    for num_groups, wanted in ((5, 2 / 2**5), (6, 2 / 2**6)):
        assert paired_difference(a, b, groups=np.arange(600) % num_groups).p_value == wanted


def folder_of_groups(tmp_path: Path, accuracies: dict[str, float], num_groups: int, num_clips: int = 33) -> Group:
    """Write results of three seeds on clips in groups, and return their comparison."""
    for seed, (head, accuracy) in enumerate(accuracies.items()):
        folder = tmp_path / f"fit_head/squeezenet-{head}"
        write_cell(folder, head=head, accuracy=accuracy, num_clips=num_clips, num_seeds=3, seed=seed)
        with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*header, "group"])
            writer.writerows([*row, f"person{int(row[0].removeprefix('clip')) % num_groups}"] for row in rows)
    (group,) = compare_runs([read_run(folder) for folder in sorted((tmp_path / "fit_head").iterdir())]).groups
    assert group.num_drawn == num_groups
    return group


def test_groups_that_are_too_few_for_any_pair_are_said_to_be(tmp_path: Path) -> None:
    group = folder_of_groups(tmp_path, {"trn": 0.99, "gru": 0.98, "lstm": 0.97, "tsn": 0.4}, num_groups=7)
    assert "No row is significantly better than another" in verdict_of(group)
    # Two of 2^7 choices of signs, times six pairs.
    assert min(test.p_adjusted for test in group.tests) >= 6 * 2 / 2**7
    assert detectable_sentence(group) == (
        "With 7 groups and 6 pairs of rows, no pair can be told apart: the smallest possible p-value, adjusted for "
        "6 pairs, is 0.094. Only a row that is better than every other row can be named, because this claim needs no "
        "adjustment."
    )


def test_the_best_row_is_excepted_where_the_verdict_names_it(tmp_path: Path) -> None:
    group = folder_of_groups(tmp_path, {"trn": 0.99, "gru": 0.5, "lstm": 0.45, "tsn": 0.4}, num_groups=7)
    assert "trn is better than every other row" in verdict_of(group)
    assert detectable_sentence(group) == (
        "With 7 groups and 6 pairs of rows, no pair without trn can be told apart: the smallest possible p-value, "
        "adjusted for 6 pairs, is 0.094."
    )


@pytest.mark.parametrize(
    ("num_groups", "start"),
    [
        (5, "With 5 groups and 1 pair of rows, no pair can be told apart: the smallest possible p-value is 0.062."),
        (6, "Differences under "),
    ],
)
def test_one_pair_needs_no_adjustment(tmp_path: Path, num_groups: int, start: str) -> None:
    group = folder_of_groups(tmp_path, {"trn": 0.99, "tsn": 0.4}, num_groups, num_clips=36)
    assert str(detectable_sentence(group)).startswith(start)


@pytest.mark.parametrize("num_clips", [2, 5, 7, 12])
def test_the_smallest_p_value_is_that_of_a_head_that_is_always_right_beside_one_that_never_is(num_clips: int) -> None:
    a, b = np.ones((3, num_clips), dtype=bool), np.zeros((3, num_clips), dtype=bool)
    assert paired_difference(a, b).p_value == smallest_p_value(num_clips)


def test_the_smallest_p_value_of_many_clips_is_a_number() -> None:
    assert smallest_p_value(200_000) == 0
