"""Question: does the order of the heads change if each head is fitted at its own best settings?

Reads the results of two commands on one store, with the same heads, epochs and recipe: one learning rate for all heads,
and a search with the same number of trials for each head. Both report clips that chose nothing.

    pipeline fit-head --store STORE --head paper --seeds 5 --epochs 20 --lr 0.001 --precision float32 --out study/common
    pipeline fit-head --store STORE --head paper --seeds 5 --epochs 20 --precision float32 --trials 16 \\
      --search lr=log:1e-4:3e-2 --search weight-decay=0,1e-2 --out study/tuned
    python -m benchmarks.tuned_heads study/common study/tuned --out docs/studies/tuned_heads_demo.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import matplotlib
import torch

from benchmarks.heads import machine
from pipeline.compare.paper import paper_column
from pipeline.evaluation.result_reader import RunResult, find_runs, read_run
from pipeline.evaluation.statistics import (
    Difference,
    Interval,
    accuracy_interval,
    paired_difference,
    rank_correlation,
)
from pipeline.files import write_text
from pipeline.registry import BLIND_HEADS, PAPER_HEADS

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Heads of the paper by the way they combine time steps.
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "recurrent": ("rnn_tanh", "rnn_relu", "lstm", "gru", "blstm", "convlstm"),
    "fully convolutional": ("fcn2d", "fcn3d"),
    "tuples and concatenation": ("trn", "mlp"),
    "without order": ("tsn",),
}


@dataclass(frozen=True)
class Pair:
    """One head at the common settings and at its own best ones."""

    common: RunResult
    tuned: RunResult

    @property
    def head(self) -> str:
        return self.common.head

    @property
    def before(self) -> Interval:
        return accuracy_interval(self.common.predictions.correct, groups=self.common.predictions.groups)

    @property
    def after(self) -> Interval:
        return accuracy_interval(self.tuned.predictions.correct, groups=self.tuned.predictions.groups)

    @property
    def gain(self) -> Difference:
        """Tuned minus common, on the same clips; seeds are compared pair by pair where both have the same."""
        return paired_difference(
            self.tuned.predictions.correct,
            self.common.predictions.correct,
            groups=self.common.predictions.groups,
            same_seeds=self.tuned.predictions.num_seeds == self.common.predictions.num_seeds,
        )

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        search, points = self.tuned.metrics["search"], self.gain.points
        chosen = ", ".join(f"{name} {value:g}" for name, value in search["chosen"].items())
        timing = (self.tuned.timing or {}).get("search", {})
        minutes = f"{timing['core_seconds'] / 60:.1f}" if timing else "–"
        gain = f"{points.value:+.1f} [{points.low:+.1f}, {points.high:+.1f}]"
        seeds = f"{self.common.predictions.num_seeds}, {self.tuned.predictions.num_seeds}"
        return (
            self.head,
            self.before.text(),
            self.after.text(),
            f"**{gain}**" if points.low > 0 or points.high < 0 else gain,
            seeds,
            chosen,
            str(search["trials"]),
            minutes,
        )


COLUMNS = ("head", "one rate: top-1 [95 %]", "tuned: top-1 [95 %]", "gain [95 %]", "seeds", "chosen", "trials",
           "core-minutes of the search")  # fmt: skip


def read_pairs(common: Path, tuned: Path) -> list[Pair]:
    """Read the heads that both folders have, the most accurate tuned one first.

    Raises:
        ClickException: the two have different clips, epochs or recipes, or the second was not searched.
    """
    before = {run.head: run for run in map(read_run, find_runs([common]))}
    after = {run.head: run for run in map(read_run, find_runs([tuned]))}
    pairs = [Pair(before[head], after[head]) for head in before if head in after]
    for pair in pairs:
        for name, read in (
            ("clips", lambda run: run.predictions.clips_digest),
            ("epochs", lambda run: run.metrics["recipe"]["training"]["epochs"]),
            ("recipe", lambda run: run.recipe),
            ("selection clips", lambda run: run.selected_on),
        ):
            if read(pair.common) != read(pair.tuned):
                raise click.ClickException(
                    f"{pair.head}: {name} are {read(pair.common)} and {read(pair.tuned)}; they must be equal."
                )
        if "search" not in pair.tuned.metrics:
            raise click.ClickException(f"{pair.tuned.folder} was not searched. Fit it with --trials.")
    return sorted(pairs, key=lambda pair: -pair.after.value)


def findings(pairs: Sequence[Pair]) -> list[str]:
    """Return rank correlations, and the paper's findings before and after tuning, as lines of a list."""
    before, after = [pair.before.value for pair in pairs], [pair.after.value for pair in pairs]
    lines = [f"- Rank correlation of the two columns over {len(pairs)} heads: {_signed(before, after)}."]
    run = pairs[0].common
    column = paper_column(run.backbone, run.num_segments, run.predictions.classes)
    of_paper = [pair for pair in pairs if pair.head in PAPER_HEADS]
    if column is not None and len(of_paper) > 3:
        theirs = [column.accuracies[pair.head] for pair in of_paper]
        ours = [[getattr(pair, name).value for pair in of_paper] for name in ("before", "after")]
        lines.append(
            f"- Rank correlation with the paper's Table 3 ({column.title}), {len(of_paper)} heads: "
            f"{_signed(ours[0], theirs)} at one rate, {_signed(ours[1], theirs)} tuned."
        )
    for family, heads in FAMILIES.items():
        found = [pair for pair in pairs if pair.head in heads]
        if found:
            means = [sum(getattr(pair, name).value for pair in found) / len(found) for name in ("before", "after")]
            names = ", ".join(pair.head for pair in found)
            lines.append(f"- {family.capitalize()} ({names}): mean {means[0]:.1f} at one rate, {means[1]:.1f} tuned.")
    swapped = [
        f"{a.head} and {b.head}"
        for index, a in enumerate(pairs)
        for b in pairs[index + 1 :]
        if a.before.value < b.before.value
    ]
    lines.append(f"- {len(swapped)} pairs of heads change their order{': ' if swapped else ''}{'; '.join(swapped)}.")
    return lines


def draw(path: Path, pairs: Sequence[Pair]) -> None:
    """Plot each head at one rate and tuned, with intervals; heads that are blind to order are hollow."""
    figure, axes = plt.subplots(figsize=(7, 1.2 + 0.32 * len(pairs)), layout="constrained")
    for place, pair in enumerate(reversed(pairs)):
        for interval, offset, colour in ((pair.before, 0.14, "tab:grey"), (pair.after, -0.14, "tab:blue")):
            errors = [[interval.value - interval.low], [interval.high - interval.value]]
            hollow = {"markerfacecolor": "white"} if pair.head in BLIND_HEADS else {}
            axes.errorbar(interval.value, place + offset, xerr=errors, fmt="o", markersize=5, color=colour, **hollow)
    axes.set_yticks(range(len(pairs)), [pair.head for pair in reversed(pairs)])
    axes.set(xlabel="top-1 in percent, with its 95 % interval", xlim=(0, 100))
    axes.plot([], [], "o", color="tab:grey", label="one rate for all")
    axes.plot([], [], "o", color="tab:blue", label="tuned")
    axes.plot([], [], "o", color="tab:grey", markerfacecolor="white", label="blind to order")
    axes.legend(loc="best")
    axes.grid(alpha=0.3, axis="x")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _signed(a: Sequence[float], b: Sequence[float]) -> str:
    value = rank_correlation(a, b)
    return "not defined" if value is None else f"{value:+.2f}"


@click.command()
@click.argument("common", type=click.Path(path_type=Path, exists=True))
@click.argument("tuned", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), help="Markdown file; a plot is written beside it.")
def main(common: Path, tuned: Path, out: Path | None) -> None:
    """Print a table of all heads at one rate and tuned, and what it says of the paper's findings."""
    pairs = read_pairs(common, tuned)
    if not pairs:
        raise click.ClickException(f"{common} and {tuned} have no head in common.")
    lines = [
        f"{machine('cpu')['processor']}, torch {torch.__version__}; {pairs[0].common.backbone}, weights "
        f"{pairs[0].common.weights}; selected on `{pairs[0].common.selected_on}`, reported on "
        f"`{pairs[0].common.reported_on}` ({len(pairs[0].common.predictions.labels)} clips).",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|---|{'---:|' * 3}---|---|---:|---:|",
        *(f"| {' | '.join(pair.cells())} |" for pair in pairs),
        "",
        *findings(pairs),
    ]
    click.echo("\n".join(lines))
    if out is not None:
        write_text(out, "\n".join(lines) + "\n")
        draw(out.with_suffix(".svg"), pairs)


if __name__ == "__main__":
    main()
