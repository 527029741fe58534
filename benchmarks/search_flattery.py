"""Question: how much too high is the accuracy of a searched head if the search is judged on the reported clips?

Fits the settings of a finished search again with seed 0, but scores the reported clips after each epoch. Then
setting and epoch are chosen twice: on the selection clips (`trials.csv`), as `pipeline fit-head --trials` does, and on
the reported clips themselves, as is common. The store needs labelled clips in `val` and `test`. Each half is used in
both ways, and the two differences are averaged.

    python -m benchmarks.search_flattery STORE study/tuned --heads mlp,trn,gru --out docs/studies/flattery_demo.md
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from benchmarks.heads import machine
from pipeline.evaluation.result_reader import RunResult, find_runs, read_run
from pipeline.evaluation.result_writer import TRIALS_FILE
from pipeline.files import write_text
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.compute import choose_compute
from pipeline.fit_head.fit import fit_trial
from pipeline.heads import HEADS
from pipeline.processes import num_cores
from pipeline.recipe import recipe_from_dict
from pipeline.store import FeatureStore

FloatArray = NDArray[np.float64]


def selection_curves(run: RunResult) -> FloatArray:
    """Read top-1 of the selection clips after each epoch of each trial. Shape: (trials, epochs)."""
    with open(run.folder / TRIALS_FILE, newline="", encoding="utf-8") as file:
        return padded([json.loads(row["top1_by_epoch"]) for row in csv.DictReader(file)])


def reported_curves(store: str, folder: Path) -> FloatArray:
    """Fit every setting again, and return top-1 of the reported clips after each epoch. Shape: (trials, epochs)."""
    torch.set_num_threads(1)
    run = read_run(folder)
    recipe = recipe_from_dict(run.metrics["recipe"])
    names = tuple(run.metrics["search"]["chosen"])
    head_data = CachedData(FeatureStore.open(store), Path(".")).of(HEADS[run.head].reads, recipe)
    on_reported = dataclasses.replace(head_data, select=head_data.report)
    compute = choose_compute(run.head, precision="float32", threads=1)
    curves = []
    with open(run.folder / TRIALS_FILE, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            setting = {name: yaml.safe_load(row[name]) for name in names}
            curves.append(fit_trial(on_reported, run.head, recipe.with_overrides(**setting), 0, compute).top1)
    return padded(curves)


def padded(curves: Sequence[Sequence[float]]) -> FloatArray:
    """Return curves as an array; epochs after a failed fit have 0 % and are never chosen.

    >>> padded([[50.0], [60.0, 70.0]]).tolist()
    [[50.0, 0.0], [60.0, 70.0]]
    """
    length = max(map(len, curves))
    return np.array([[*curve, *[0.0] * (length - len(curve))] for curve in curves])


def flattery(chosen_on: FloatArray, judged_on: FloatArray) -> tuple[float, float]:
    """Return top-1 of `judged_on` at the best entry of `chosen_on`, and at the best entry of itself.

    >>> flattery(np.array([[50.0, 60.0]]), np.array([[58.0, 55.0]]))
    (55.0, 58.0)
    """
    return float(judged_on.flat[int(chosen_on.argmax())]), float(judged_on.max())


@click.command()
@click.argument("store")
@click.argument("tuned", type=click.Path(path_type=Path, exists=True))
@click.option("--heads", help="Heads, separated by commas.  [default: all searched heads of the folder]")
@click.option("--out", type=click.Path(path_type=Path), help="Markdown file for the table.")
def main(store: str, tuned: Path, heads: str | None, out: Path | None) -> None:
    """Print top-1 of each head with the search judged on other clips and on the reported ones."""
    runs = [run for run in map(read_run, find_runs([tuned])) if heads is None or run.head in heads.split(",")]
    if unsearched := [run.name for run in runs if "search" not in run.metrics]:
        raise click.ClickException(f"{', '.join(unsearched)}: not searched. Fit with --trials.")
    with ProcessPoolExecutor(num_cores(), multiprocessing.get_context("spawn")) as pool:
        curves = list(pool.map(functools.partial(reported_curves, store), [run.folder for run in runs]))
    lines = [
        f"`python -m benchmarks.search_flattery STORE {tuned}`, {machine('cpu')['processor']}, torch "
        f"{torch.__version__}, float32, seed 0.",
        "",
        "| head | trials × epochs | chosen on other clips | chosen on the reported clips | flattered by |",
        "|---|---:|---:|---:|---:|",
        *_rows(runs, curves),
    ]
    click.echo("\n".join(lines))
    if out is not None:
        write_text(out, "\n".join(lines) + "\n")


def _rows(runs: Sequence[RunResult], curves: Sequence[FloatArray]) -> list[str]:
    rows, differences = [], []
    for run, reported in zip(runs, curves, strict=True):
        selection = selection_curves(run)
        honest, flattered = np.mean([flattery(selection, reported), flattery(reported, selection)], axis=0)
        differences.append(flattered - honest)
        size = " × ".join(map(str, reported.shape))
        rows.append(f"| {run.head} | {size} | {honest:.1f} | {flattered:.1f} | {flattered - honest:+.1f} |")
    return [*rows, f"| mean | | | | {np.mean(differences):+.1f} |"]


if __name__ == "__main__":
    main()
