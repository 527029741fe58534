"""Question: are RNNs still inferior if their recurrent weights are trained?

The published code gives the optimiser only the first parameter of each recurrent layer (docs/paper-and-code.md, row 1).
This study fits the recurrent heads on one store with the paper's recipe, with the same recipe and only that omission,
and with all training and head options of the published code. For each seed the ST blocks have the same initial weights
and the same order of clips; only the projection of the published code has other initial weights, N(0, 0.001). A head
that is not recurrent is included for comparison.

    python -m benchmarks.recurrent_weights STORE --seeds 5 --out docs/studies/recurrent_weights_demo.md

The paper's learning rate is meant for a backbone that is trained too, and for a hundred times as many clips: with it,
heads on a few hundred frozen clips hardly change with any recipe. Therefore `--lr` and `--patience-epochs` are the same
for all recipes, and so is the batch size: the published 128 would give a quarter of the steps.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.fits import right_clips
from benchmarks.heads import machine
from pipeline.evaluation.statistics import paired_difference
from pipeline.files import write_text
from pipeline.fit_head.cached_data import CachedData
from pipeline.processes import num_cores
from pipeline.recipe import Recipe, named_recipe
from pipeline.store import FeatureStore

HEAD_NAMES = ("rnn_tanh", "rnn_relu", "lstm", "gru", "blstm", "mlp")


def arms_of(lr: float, patience_epochs: int, epochs: int) -> dict[str, Recipe]:
    """Return the recipes to compare; all use the frames of the store."""
    paper = named_recipe("paper").with_overrides(lr=lr, patience_epochs=patience_epochs, epochs=epochs)
    code = named_recipe("published-code").with_overrides(
        lr=lr,
        epochs=epochs,
        batch_size=paper.training.batch_size,
        # In proportion to the published steps at epochs 20 and 30 of 40.
        step_epochs=(epochs // 2, epochs * 3 // 4),
        sampler=paper.frames.sampler,
        short_clip=paper.frames.short_clip,
    )
    return {
        "paper": paper,
        "paper, recurrent weights untrained": paper.with_overrides(recurrent_parameters="weight_ih_l0"),
        "published-code": code,
    }


@lru_cache(maxsize=1)
def data_of(store: str) -> CachedData:
    """Load the features of a store, once in each process."""
    return CachedData(FeatureStore.open(store), Path("."))


def right_clips_on(store: str, head: str, recipe: Recipe, seed: int) -> np.ndarray:
    """Call `right_clips` on a store that each process opens once."""
    return right_clips(data_of(store), head, recipe, seed)


@click.command()
@click.argument("store")
@click.option("--seeds", default=5, show_default=True)
@click.option("--heads", default=",".join(HEAD_NAMES), show_default=True)
@click.option("--lr", default=1e-2, show_default=True)
@click.option("--patience-epochs", default=10, show_default=True)
@click.option("--epochs", default=60, show_default=True, help="Maximum number of epochs, for every recipe.")
@click.option("--jobs", default=num_cores(), help="Number of parallel fits.  [default: one per core]")
@click.option("--out", type=click.Path(path_type=Path), help="Markdown file for the table.")
def main(
    store: str, seeds: int, heads: str, lr: float, patience_epochs: int, epochs: int, jobs: int, out: Path | None
) -> None:
    """Print top-1 of each head with each recipe, and the gain of training all recurrent weights."""
    opened = FeatureStore.open(store)
    arms = arms_of(lr, patience_epochs, epochs)
    lines = [
        f"`python -m benchmarks.recurrent_weights STORE --seeds {seeds} --lr {lr:g} "
        f"--patience-epochs {patience_epochs} --epochs {epochs}`, {machine('cpu')['processor']}, torch "
        f"{torch.__version__}; {opened.settings.backbone}, weights {opened.settings.weights['name']}. Top-1 in "
        f"percent, mean over {seeds} seeds ± the standard deviation over seeds; then what training all recurrent "
        "weights gains (first column less second) and what the paper's recipe gains over the whole published code "
        "(first less third), paired by clip, with 95 % intervals over clips and seeds.",
        "",
        f"| head | {' | '.join(arms)} | trained less untrained | paper less published code |",
        f"|---|{'---|' * len(arms)}---|---|",
    ]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        fits = {
            (head, arm): [pool.submit(right_clips_on, store, head, recipe, seed) for seed in range(seeds)]
            for head in heads.split(",")
            for arm, recipe in arms.items()
        }
        for head in heads.split(","):
            correct = [np.stack([fit.result() for fit in fits[head, arm]]) for arm in arms]  # (S, N) each
            cells = [f"{100 * each.mean():.1f} ± {100 * each.mean(axis=1).std(ddof=1):.1f}" for each in correct]
            gains = [paired_difference(correct[0], other).points for other in correct[1:]]
            cells += [f"{gain.value:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]" for gain in gains]
            lines.append(f"| {head} | {' | '.join(cells)} |")
            click.echo(lines[-1])
    if out is not None:
        write_text(out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
