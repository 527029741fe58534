"""Question: how much too high is the accuracy of a searched head if the search is judged on the reported clips?

Fits the settings of a finished search again with seed 0, and scores `val` and `test` after each epoch. Then the clips
of both are split at random, many times, into three equal parts: one that selects, one that is reported and one that is
neither. Setting and epoch are chosen twice: on the selecting part, as `pipeline fit-head --trials` does, and on the
reported part itself, as is common. The optimism is the reported accuracy minus that of the same fit on the third part.

    python -m benchmarks.search_flattery STORE study/tuned --heads mlp,trn,gru --out docs/studies/flattery_demo.md
"""

from __future__ import annotations

import csv
import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import click
import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from benchmarks.heads import machine
from pipeline.evaluation.result_reader import find_runs, read_run
from pipeline.evaluation.result_writer import TRIALS_FILE
from pipeline.files import write_text
from pipeline.fit_head import fit
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.compute import choose_compute
from pipeline.fit_head.features import FeatureDataset
from pipeline.fit_head.scoring import score_features
from pipeline.heads import HEADS
from pipeline.heads.head import Head
from pipeline.processes import num_cores
from pipeline.recipe import recipe_from_dict
from pipeline.runtime import Runtime
from pipeline.store import FeatureStore

BoolArray = NDArray[np.bool_]


class Optimism(NamedTuple):
    """Mean reported top-1 in percent, and how far it is above that on clips that neither select nor are reported."""

    top1: float
    points: float


def correct_clips(store: str, folder: Path) -> BoolArray:
    """Fit every setting of a search again, and return the clips of `val` and `test` that each epoch predicts correctly.

    Shape:
        returns: (E, N), epochs of all settings by clips.
    """
    torch.set_num_threads(1)
    run = read_run(folder)
    recipe = recipe_from_dict(run.metrics["recipe"])
    names = tuple(run.metrics["search"]["chosen"])
    data = CachedData(FeatureStore.open(store), Path(".")).of(HEADS[run.head].reads, recipe)
    compute = choose_compute(run.head, precision="float32", threads=1)
    epochs: list[BoolArray] = []

    def scored_and_kept(head: Head, features: FeatureDataset, runtime: Runtime) -> NDArray[np.float64]:
        scores = score_features(head, features, runtime)
        others = score_features(head, data.report, runtime)
        both = ((scores, features.labels[0]), (others, data.report.labels[0]))
        epochs.append(np.concatenate([each.argmax(axis=1) == labels for each, labels in both]))
        return scores

    with open(run.folder / TRIALS_FILE, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            setting = {name: yaml.safe_load(row[name]) for name in names}
            with mock.patch.object(fit, "score_features", scored_and_kept):
                fit.fit_trial(data, run.head, recipe.with_overrides(**setting), 0, compute)
    return np.array(epochs)


def optimism(correct: BoolArray, num_splits: int) -> tuple[Optimism, Optimism]:
    """Return the optimism of choosing on other clips, and on the reported clips.

    Shape:
        correct: (E, N), fits by clips.
    """
    num_clips = correct.shape[1] // 3
    generator = np.random.default_rng(0)
    order = np.argsort(generator.random((num_splits, correct.shape[1])), axis=1)
    parts = np.zeros((3, correct.shape[1], num_splits))
    for part, mask in enumerate(parts):
        np.put_along_axis(mask, order.T[part * num_clips : (part + 1) * num_clips], 1.0, axis=0)
    selecting, reported, fresh = 100 * np.einsum("en,pns->pes", correct.astype(float), parts, optimize=True) / num_clips
    found = []
    for chosen_on in (selecting, reported):
        best = chosen_on.argmax(axis=0)[None]
        top1, elsewhere = (float(np.take_along_axis(of, best, axis=0).mean()) for of in (reported, fresh))
        found.append(Optimism(top1, top1 - elsewhere))
    return found[0], found[1]


@click.command()
@click.argument("store")
@click.argument("tuned", type=click.Path(path_type=Path, exists=True))
@click.option("--heads", help="Heads, separated by commas.  [default: all searched heads of the folder]")
@click.option("--splits", default=2_000, show_default=True, help="Number of random splits of the clips.")
@click.option("--jobs", default=num_cores(), help="Number of processes.  [default: one per core]")
@click.option("--out", type=click.Path(path_type=Path), help="Markdown file for the table.")
def main(store: str, tuned: Path, heads: str | None, splits: int, jobs: int, out: Path | None) -> None:
    """Print the optimism of each head with the search judged on other clips and on the reported ones."""
    runs = [run for run in map(read_run, find_runs([tuned])) if heads is None or run.head in heads.split(",")]
    if unsearched := [run.name for run in runs if "search" not in run.metrics]:
        raise click.ClickException(f"{', '.join(unsearched)}: not searched. Fit with --trials.")
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        found = pool.map(functools.partial(correct_clips, store), [run.folder for run in runs])
        optimisms = [optimism(correct, splits) for correct in found]
    lines = [
        f"`python -m benchmarks.search_flattery STORE {tuned.name}`, {machine('cpu')['processor']}, torch "
        f"{torch.__version__}, float32, seed 0, {splits:,} splits.",
        "",
        "| head | chosen on other clips: top-1 | optimism | chosen on the reported clips: top-1 | optimism |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {run.head} | {other.top1:.1f} | {other.points:+.2f} | {same.top1:.1f} | {same.points:+.2f} |"
            for run, (other, same) in zip(runs, optimisms, strict=True)
        ),
        f"| mean | | {np.mean([other.points for other, _ in optimisms]):+.2f} | | "
        f"{np.mean([same.points for _, same in optimisms]):+.2f} |",
    ]
    click.echo("\n".join(lines))
    if out is not None:
        write_text(out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
