"""Question: how often is the verdict of `pipeline compare` a false alarm, and what is the coverage of its intervals?

Heads of equal accuracy are drawn and compared, and every claim in the printed verdict is counted as a false alarm. The
difficulty of a clip is shared by all heads, specific to one head, or random in one fit; the accuracy of a seed is drawn
around that of its head, with a standard deviation of 0, 1 or 4 points. So clips and seeds are new in every trial.

    python -m benchmarks.verdicts                 # the tables of docs/compare.md, about 25 minutes on 2 cores
    python -m benchmarks.verdicts --only groups   # the table of clips in groups
    python -m benchmarks.verdicts --trials 200    # a quick look
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from pipeline.compare.comparison import Group, Row, pair_tests
from pipeline.compare.verdict import verdict_of
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.result_reader import RunResult
from pipeline.evaluation.statistics import Interval, accuracy_interval, paired_difference
from pipeline.processes import num_cores

SEEDS = (1, 2, 3, 5)
CLIPS = (20, 56, 210, 5_000)
# Standard deviation between seeds in points, for each head; the last value repeats.
SPREADS: Mapping[str, tuple[float, ...]] = {"0": (0,), "1": (1,), "4": (4,), "0 and 4": (0, 4)}
ACCURACIES = (70.0, 90.0)
INTERVAL_CLIPS, INTERVAL_ACCURACIES = (20, 33, 210), (50.0, 90.0, 99.0)
# Shares of a clip's difficulty: for all heads, for one head. The rest is random in a single fit.
SHARED, OWN = 0.5, 0.25

# Numbers of groups, clips and seeds, and the standard deviation between seeds in points.
GROUPED_CASES = (
    (6, 210, 3, 1.0), (10, 210, 3, 1.0), (10, 210, 5, 1.0), (30, 210, 5, 1.0), (30, 3_000, 5, 1.0),
    (100, 3_000, 5, 1.0), (30, 3_000, 5, 0.0), (100, 3_000, 5, 0.0),
)  # fmt: skip

BoolArray = NDArray[np.bool_]
Groups = NDArray[np.int64]


def draw_rows(
    generator: np.random.Generator,
    accuracies: Sequence[float],
    spreads: Sequence[float],
    num_seeds: int,
    num_clips: int,
    groups: Groups | None = None,
) -> list[BoolArray]:
    """Draw the clips on which each head is correct, for an expected accuracy over clips and seeds in percent.

    With `groups`, all clips of a group have the same shared difficulty, and half of the variance of a head's.

    Shape:
        returns: (S, N) for each head.
    """

    def of_clips() -> NDArray[np.float64]:
        return generator.standard_normal(num_clips)

    def of_groups() -> NDArray[np.float64]:
        return of_clips() if groups is None else generator.standard_normal(int(groups.max()) + 1)[groups]

    shared = of_groups()
    rows = []
    for accuracy, spread in zip(accuracies, spreads, strict=True):
        own = of_clips() if groups is None else np.sqrt(0.5) * (of_groups() + of_clips())
        chance = generator.standard_normal((num_seeds, num_clips))
        hardness = np.sqrt(SHARED) * shared + np.sqrt(OWN) * own + np.sqrt(1 - SHARED - OWN) * chance
        share = accuracy / 100
        of_seeds = np.full(num_seeds, share)
        if spread > 0:
            # The beta distribution with this mean and standard deviation.
            size = share * (1 - share) / (spread / 100) ** 2 - 1
            of_seeds = generator.beta(share * size, (1 - share) * size, num_seeds)
        rows.append(hardness < ndtri(of_seeds)[:, None])
    return rows


def judged(rows: Sequence[BoolArray], groups: Groups | None = None) -> Group:
    """Compare drawn rows as `pipeline compare` does."""
    num_seeds, num_clips = rows[0].shape
    clip_ids, labels = tuple(map(str, range(num_clips))), np.zeros(num_clips, dtype=np.int64)
    drawn = []
    for index, correct in enumerate(rows):
        predictions = Predictions(
            ("a", "b"), clip_ids, labels, np.empty((num_seeds, 0, 2)), 1 - correct.astype(int), groups
        )
        of_seeds = tuple(100 * correct.mean(axis=1))
        drawn.append(
            Row(
                run=RunResult(Path(f"row{index}"), {}, predictions, None, None),
                label=f"row{index}",
                complexity=None,
                top1=Interval(float(np.mean(of_seeds)), 0, 100),  # the verdict only reads the value
                top1_of_seeds=of_seeds,
                metrics={},
                pairs=None,
                order_test_drops={},
                paper_top1=None,
            )
        )
    drawn.sort(key=lambda row: (-row.top1.value, row.label))
    return Group("drawn", "none", 1, tuple(drawn), tuple(pair_tests(drawn)), ())


def is_alarm(group: Group) -> bool:
    """Return whether any head is called better, in the sentence or in the grid of pairs."""
    return "is better than" in verdict_of(group) or any(test.is_significant for test in group.tests)


def alarm_rate(num_rows: int, accuracy: float, spread: str, num_seeds: int, num_clips: int, trials: int) -> float:
    """Return the percentage of tables of equal heads in which one is called better; by McNemar's test with one seed."""
    generator = np.random.default_rng([num_rows, int(accuracy), len(spread), num_seeds, num_clips])
    pattern = SPREADS[spread]
    spreads = [pattern[index % len(pattern)] for index in range(num_rows)]
    alarms = 0
    for _ in range(trials):
        rows = draw_rows(generator, [accuracy] * num_rows, spreads, num_seeds, num_clips)
        alarms += paired_difference(rows[0], rows[1]).p_value < 0.05 if num_seeds == 1 else is_alarm(judged(rows))
    return 100 * alarms / trials


def grouped_rate(
    num_groups: int, num_clips: int, num_seeds: int, spread: float, knows_groups: bool, trials: int
) -> float:
    """Return the percentage of tables of two equal heads on clips in groups in which one is called better."""
    generator = np.random.default_rng([num_groups, num_clips, num_seeds])
    groups = np.arange(num_clips) % num_groups
    alarms = 0
    for _ in range(trials):
        rows = draw_rows(generator, [80.0, 80.0], [spread, spread], num_seeds, num_clips, groups)
        alarms += is_alarm(judged(rows, groups if knows_groups else None))
    return 100 * alarms / trials


def grouped_coverage(
    num_groups: int, num_clips: int, num_seeds: int, spread: float, knows_groups: bool, trials: int
) -> float:
    """Return the percentage of intervals over clips in groups that contain the accuracy."""
    generator = np.random.default_rng([1, num_groups, num_clips, num_seeds])
    groups = np.arange(num_clips) % num_groups
    held = 0
    for _ in range(trials):
        (correct,) = draw_rows(generator, [80.0], [spread], num_seeds, num_clips, groups)
        interval = accuracy_interval(correct, groups=groups if knows_groups else None)
        held += interval.low <= 80 <= interval.high
    return 100 * held / trials


def groups_table(pool: ProcessPoolExecutor, trials: int) -> str:
    """Return the table of false alarms and coverage for clips in groups, with and without knowledge of the groups."""
    header = [
        "groups",
        "clips",
        "seeds",
        "deviation",
        "alarms, by group",
        "alarms, by clip",
        "coverage, by group",
        "by clip",
    ]
    pending = [
        (
            case,
            [pool.submit(f, *case, knows, trials) for f in (grouped_rate, grouped_coverage) for knows in (True, False)],
        )
        for case in GROUPED_CASES
    ]
    lines = ["| " + " | ".join(header) + " |", "|" + "---:|" * len(header)]
    for case, cells in pending:
        lines.append(
            "| " + " | ".join([*(f"{n:,g}" for n in case), *(f"{cell.result():.1f}" for cell in cells)]) + " |"
        )
    return "\n".join(lines)


def coverage(accuracy: float, spread: float, num_seeds: int, num_clips: int, trials: int) -> float:
    """Return the percentage of intervals that contain the accuracy from which clips and seeds were drawn."""
    generator = np.random.default_rng([int(accuracy), int(spread), num_seeds, num_clips])
    held = 0
    for _ in range(trials):
        (correct,) = draw_rows(generator, [accuracy], [spread], num_seeds, num_clips)
        interval = accuracy_interval(correct)
        held += interval.low <= accuracy <= interval.high
    return 100 * held / trials


def table(
    pool: ProcessPoolExecutor, header: Sequence[str], rows: Sequence[tuple[Sequence[str], Callable[..., float], list]]
) -> str:
    """Return a Markdown table whose cells are computed in parallel; each row has names, a function and arguments."""
    pending = [(names, [pool.submit(function, *each) for each in arguments]) for names, function, arguments in rows]
    lines = ["| " + " | ".join(header) + " |", "|" + "---:|" * len(header)]
    for names, cells in pending:
        lines.append("| " + " | ".join([*names, *(f"{cell.result():.1f}" for cell in cells)]) + " |")
    return "\n".join(lines)


@click.command()
@click.option(
    "--trials", default=4_000, show_default=True, help="Number of trials per value; a twentieth of it for 11 rows."
)
@click.option("--jobs", default=num_cores(), help="Number of processes.  [default: one per core]")
@click.option("--only", type=click.Choice(["groups"]), help="Print one table alone.")
def main(trials: int, jobs: int, only: str | None) -> None:
    """Print false alarms and coverage in percent."""
    columns = [(accuracy, spread) for accuracy in ACCURACIES for spread in SPREADS]
    names = [f"{accuracy:.0f} %, {spread}" for accuracy, spread in columns]

    def alarm_rows(num_rows: int, seeds: Sequence[int], clips: Sequence[int], trials: int) -> list:
        return [
            ([str(s), f"{n:,}"], alarm_rate, [(num_rows, *column, s, n, trials) for column in columns])
            for s in seeds
            for n in clips
        ]

    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        click.echo(f"Two equal heads on clips in groups, percent of {trials:,} tables and intervals\n")
        click.echo(groups_table(pool, trials))
        if only == "groups":
            return
        header = ["seeds", "clips", *names]
        click.echo(f"\nFalse alarms of the verdict on two equal heads, percent of {trials:,} tables\n")
        click.echo(table(pool, header, alarm_rows(2, SEEDS[1:], CLIPS, trials)))
        click.echo("\nWith one seed each no verdict is given. McNemar's test alone would give\n")
        click.echo(table(pool, header, alarm_rows(2, (1,), CLIPS, trials)))
        click.echo(f"\nEleven equal heads, any claim in sentence or grid, percent of {trials // 20:,} tables\n")
        click.echo(table(pool, header, alarm_rows(11, SEEDS[1:], (210,), trials // 20)))
        click.echo(f"\nCoverage of the 95 % interval, percent of {trials:,} intervals\n")
        points = [(accuracy, spread) for accuracy in INTERVAL_ACCURACIES for spread in (0.0, 1.0, 4.0)]
        # An accuracy of 99 % cannot differ by 4 points between seeds.
        points = [point for point in points if point != (99.0, 4.0)]
        rows = [
            (
                [str(s), str(n)],
                coverage,
                [(accuracy, spread if s > 1 else 0.0, s, n, trials) for accuracy, spread in points],
            )
            for s in SEEDS
            for n in INTERVAL_CLIPS
        ]
        click.echo(table(pool, ["seeds", "clips", *(f"{a:.0f} %, {s:.0f}" for a, s in points)], rows))


if __name__ == "__main__":
    main()
