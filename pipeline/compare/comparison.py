"""Compare runs: one row for each, with intervals, costs, paired tests and a verdict."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.compare.budget import Budget, scores_at
from pipeline.compare.paper import RankAgreement, paper_column, rank_agreement
from pipeline.compare.signature import signature_of
from pipeline.evaluation.predictions import pair_correct
from pipeline.evaluation.result_reader import RunResult
from pipeline.evaluation.statistics import (
    MIN_CLIPS_OF_A_TEST,
    MIN_SEEDS,
    Difference,
    Interval,
    accuracy_interval,
    holm,
    paired_difference,
)
from pipeline.registry import BLIND, BLIND_HEADS, HEADS, ORDERED

if TYPE_CHECKING:
    from pipeline.compare.head_costs import HeadCost

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Complexity:
    """Parameters and multiply-accumulates of a head's ST block for one clip, by its definition."""

    maps: str
    parameters: int
    macs: int


@dataclass(frozen=True)
class Row:
    """One line of the table. `metrics` are in percent, `order_test_drops` in points of top-1 lost.

    order: certificate of the head, `blind` or `ordered`; None if this version does not have the head.
    at_budgets: expected best top-1 on the selection clips within a smaller search, as text by column header.
    """

    run: RunResult
    label: str
    complexity: Complexity | None
    top1: Interval
    top1_of_seeds: tuple[float, ...]
    metrics: Mapping[str, float]
    pairs: Interval | None
    order_test_drops: Mapping[str, float]
    paper_top1: float | None
    cost: HeadCost | None = None
    training_seconds: float | None = None
    time_share: float | None = None
    order: str | None = None
    at_budgets: Mapping[str, str] = field(default_factory=dict)

    @property
    def knows_seeds(self) -> bool:
        """Whether the row has enough seeds to estimate the effect of another seed."""
        return len(self.top1_of_seeds) >= MIN_SEEDS

    @property
    def top1_std(self) -> float | None:
        """The standard deviation over seeds; None with one seed."""
        return float(np.std(self.top1_of_seeds, ddof=1)) if len(self.top1_of_seeds) > 1 else None


@dataclass(frozen=True)
class PairTest:
    """A paired test of two rows of a group.

    `p_adjusted` is Holm's, over all pairs of the group whose rows have enough seeds; the other pairs are adjusted
    separately.
    """

    a: Row
    b: Row
    difference: Difference
    p_adjusted: float

    @property
    def is_significant(self) -> bool:
        """Whether one row may be called better than the other; never if a row has too few seeds."""
        return self.difference.knows_seeds and self.p_adjusted < SIGNIFICANCE


@dataclass(frozen=True)
class Group:
    """Rows with one backbone, its weights and one number of segments, best first, scored on the same clips."""

    backbone: str
    weights: str
    num_segments: int
    rows: tuple[Row, ...]
    tests: tuple[PairTest, ...]
    agreements: tuple[RankAgreement, ...]

    @property
    def reported_on(self) -> str:
        """Name of the split whose clips are reported."""
        return self.rows[0].run.reported_on

    @property
    def title(self) -> str:
        run = self.rows[0].run
        num_clips, num_groups = len(run.predictions.clip_ids), run.predictions.num_groups
        groups = "" if num_groups is None else f" in {num_groups:,} groups"
        licence = run.metrics["weights"].get("license", "")
        num_classes = len(run.predictions.classes)
        return (
            f"{self.backbone}, weights {self.weights}{licence and f' ({licence})'}, {self.num_segments} segments: "
            f"{num_clips:,} clips{groups} of {self.reported_on}, {num_classes} classes"
        )

    @cached_property
    def signature(self) -> dict[str, str]:
        """The parts of the protocol of the rows."""
        return signature_of(row.run for row in self.rows)

    def recipes(self) -> str:
        """Return the recipes of the rows; if they differ, the labels of the rows name them."""
        of_stage = {
            "": sorted({row.run.recipe for row in self.rows if not row.run.is_finetuned}),
            "finetuned rows: ": sorted({row.run.recipe for row in self.rows if row.run.is_finetuned}),
        }
        return "Recipe: " + "; ".join(stage + ", ".join(names) for stage, names in of_stage.items() if names) + "."

    @cached_property
    def has_best(self) -> bool:
        """Whether the first row may be called better than every other row with enough seeds.

        It may if each of its paired tests is below 5 %. This needs no adjustment for the number of rows: the claim is
        false only if the test against the true best row is wrong.

        Source: Gutmann and Maymin, Is the selected population the best?, 1987.
        """
        p_values = [
            test.difference.p_value
            for test in (self.test_of(self.rows[0], row) for row in self.rows[1:])
            if test.difference.knows_seeds
        ]
        return bool(p_values) and self.num_drawn >= MIN_CLIPS_OF_A_TEST and max(p_values) < SIGNIFICANCE

    @property
    def num_drawn(self) -> int:
        """Number of clips, or of groups of clips if there are any, over which the tests generalise."""
        predictions = self.rows[0].run.predictions
        return len(predictions.clip_ids) if predictions.num_groups is None else predictions.num_groups

    def are_distinct(self, a: Row, b: Row) -> bool:
        """Return whether one of two rows may be called better, by the verdict or by their adjusted test."""
        return self.test_of(a, b).is_significant or (self.has_best and self.rows[0] in (a, b))

    def test_of(self, a: Row, b: Row) -> PairTest:
        """Return the test of two rows, in either order."""
        return next(test for test in self.tests if {id(test.a), id(test.b)} == {id(a), id(b)})

    def front(self) -> list[Row]:
        """Return the Pareto front: no other row has a higher top-1 for the same or fewer MACs; sorted by MACs."""
        known = [(row.complexity.macs, row) for row in self.rows if row.complexity is not None]
        front: list[Row] = []
        for _, row in sorted(known, key=lambda item: (item[0], -item[1].top1.value)):
            if not front or row.top1.value > front[-1].top1.value:
                front.append(row)
        return front


@dataclass(frozen=True)
class Comparison:
    """All groups, in the order of their backbones, and the pairs of labels."""

    groups: tuple[Group, ...]
    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def rows(self) -> list[Row]:
        return [row for group in self.groups for row in group.rows]


def compare_runs(
    runs: Sequence[RunResult],
    *,
    pairs: Sequence[tuple[str, str]] = (),
    paper: str = "auto",
    costs: Mapping[str, HeadCost] | None = None,
    budgets: Sequence[Budget] = (),
) -> Comparison:
    """Group the runs that can be compared, sort each group by top-1, and test every pair in it.

    `costs` has the measured cost of each run by its name; `budgets` are those of which the table shows the search.
    """
    seconds = {run.name: _training_seconds(run.timing) for run in runs}
    total = sum(value for value in seconds.values() if value is not None)
    by_key: dict[tuple[str, ...], list[RunResult]] = {}
    for run in runs:
        sha256 = str(run.metrics["weights"].get("sha256"))
        key = (run.backbone, run.weights, sha256, f"{run.num_segments:04d}", run.predictions.clips_digest)
        by_key.setdefault(key, []).append(run)
    groups: list[Group] = []
    for _, of_group in sorted(by_key.items()):
        labels = _labels(of_group)
        rows = [
            _row(run, label, pairs, paper, (costs or {}).get(run.name), seconds[run.name], total, budgets)
            for run, label in zip(of_group, labels, strict=True)
        ]
        rows.sort(key=lambda row: (-row.top1.value, row.label))
        first = rows[0].run
        groups.append(
            Group(
                first.backbone,
                first.weights,
                first.num_segments,
                tuple(rows),
                tuple(pair_tests(rows)),
                tuple(_agreements(rows, paper)),
            )
        )
    return Comparison(tuple(groups), tuple(pairs))


def complexity_of(run: RunResult) -> Complexity | None:
    """Return the complexity of a run's head, from its metrics.

    For metrics of older versions it is computed; it is None if this version does not have the head or backbone.
    """
    recorded = run.metrics.get("st_block")
    if recorded is None:
        from pipeline.compare.complexity import st_block_of  # imports torch

        recorded = st_block_of(run)
    if recorded is None:
        return None
    return Complexity(str(recorded["maps"]), int(recorded["parameters"]), int(recorded["macs"]))


def _labels(runs: Sequence[RunResult]) -> list[str]:
    """Return a short name for each run of a group: its head, and the properties that distinguish it from other runs."""
    recipes = {run.recipe for run in runs if not run.is_finetuned}
    labels = []
    for run in runs:
        parts = [run.head]
        if run.weights == "random":
            parts.append("random")
        if run.is_finetuned:
            parts.append("finetuned")
        elif len(recipes) > 1:
            parts.append(run.recipe)
        labels.append(", ".join(parts))
    doubled = {label for label in labels if labels.count(label) > 1}
    return [f"{label} ({run.name})" if label in doubled else label for label, run in zip(labels, runs, strict=True)]


def _row(
    run: RunResult,
    label: str,
    pairs: Sequence[tuple[str, str]],
    paper: str,
    cost: HeadCost | None,
    training_seconds: float | None,
    total_seconds: float,
    budgets: Sequence[Budget],
) -> Row:
    values = run.metrics_from_predictions()
    of_pairs = pair_correct(run.predictions, pairs)
    order_tests = run.metrics.get("probes") or {}
    column = paper_column(run.backbone, run.num_segments, run.predictions.classes, paper)
    return Row(
        run=run,
        label=label,
        complexity=complexity_of(run),
        top1=accuracy_interval(run.predictions.correct, groups=run.predictions.groups),
        top1_of_seeds=tuple(float(value) * 100 for value in run.predictions.correct.mean(axis=1)),
        metrics=values,
        pairs=None if of_pairs is None else accuracy_interval(of_pairs[0], groups=of_pairs[1]),
        order_test_drops={name: values["top1"] - float(top1) for name, top1 in order_tests.items() if top1 is not None},
        paper_top1=column.accuracies.get(run.head) if column is not None and column.same_data else None,
        cost=cost,
        training_seconds=training_seconds,
        time_share=100 * training_seconds / total_seconds
        if training_seconds is not None and total_seconds > 0
        else None,
        order=None if run.head not in HEADS else BLIND if run.head in BLIND_HEADS else ORDERED,
        at_budgets=scores_at(run, budgets),
    )


def pair_tests(rows: Sequence[Row]) -> list[PairTest]:
    """Test every pair of rows, which must be scored on the same clips."""
    pairs = list(itertools.combinations(rows, 2))
    found = [
        paired_difference(a.run.predictions.correct, b.run.predictions.correct, groups=a.run.predictions.groups)
        for a, b in pairs
    ]
    adjusted = [1.0] * len(pairs)
    for knows_seeds in (True, False):
        family = [index for index, difference in enumerate(found) if difference.knows_seeds == knows_seeds]
        for index, p_value in zip(family, holm([found[index].p_value for index in family]), strict=True):
            adjusted[index] = p_value
    return [PairTest(a, b, difference, p) for (a, b), difference, p in zip(pairs, found, adjusted, strict=True)]


def _agreements(rows: Sequence[Row], paper: str) -> Iterable[RankAgreement]:
    frozen = [row for row in rows if not row.run.is_finetuned]
    for recipe in sorted({row.run.recipe for row in frozen}):
        of_recipe = [row for row in frozen if row.run.recipe == recipe]
        run = of_recipe[0].run
        column = paper_column(run.backbone, run.num_segments, run.predictions.classes, paper)
        if column is None:
            continue
        agreement = rank_agreement(column, recipe, {row.run.head: row.top1.value for row in of_recipe})
        # A single head has no order, and the paper does not have every head.
        if agreement.num_heads > 1:
            yield agreement


def _training_seconds(timing: Mapping[str, Any] | None) -> float | None:
    """Return the time of all seeds and, if there was one, of the search; None if it is unknown on this machine."""
    seconds = None if timing is None else timing.get("total_seconds")
    if timing is None or seconds is None:
        return None
    of_search: Sequence[float] = (timing.get("search") or {}).get("seconds_of_trials", ())
    return float(seconds) + sum(of_search)
