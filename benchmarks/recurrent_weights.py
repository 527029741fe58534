"""Does "RNNs are inferior" survive when the recurrent weights are trained?

The published code gives the optimiser only the first parameter of each recurrent layer (docs/paper-and-code.md, row 1).
This study fits the recurrent heads on one store under the paper's recipe, under the same recipe with that omission
alone, and under the published code's whole training and head choices; in each seed the heads start from the same
weights and see the clips in the same order. A head that is not recurrent stands beside them for scale.

    python -m benchmarks.recurrent_weights STORE --seeds 5 --out docs/studies/recurrent_weights_demo.md

The paper's learning rate is meant for a backbone that moves too and for a hundred times the clips: with it, heads on a
few hundred frozen clips hardly move in any recipe. `--lr` and `--patience-epochs` are therefore the same for all arms.
"""

from __future__ import annotations

import platform
from pathlib import Path

import click
import numpy as np
import torch

from pipeline.analysis.statistics import paired_difference
from pipeline.files import write_text
from pipeline.heads import HEADS
from pipeline.recipe import Recipe, named_recipe
from pipeline.store import FeatureStore
from pipeline.training.cached_data import CachedData
from pipeline.training.compute import choose_compute
from pipeline.training.fit import fit_head

HEAD_NAMES = ("rnn_tanh", "rnn_relu", "lstm", "gru", "blstm", "mlp")


def arms_of(lr: float, patience_epochs: int, epochs: int) -> dict[str, Recipe]:
    """The recipes compared; frames are those of the store in all of them."""
    paper = named_recipe("paper").changed(lr=lr, patience_epochs=patience_epochs, epochs=epochs)
    code = named_recipe("published-code").changed(
        lr=lr,
        epochs=epochs,
        # The published steps of 20 and 30 in 40 epochs.
        step_epochs=(epochs // 2, epochs * 3 // 4),
        sampler=paper.frames.sampler,
        short_clip=paper.frames.short_clip,
    )
    return {
        "paper": paper,
        "paper, recurrent weights untrained": paper.changed(recurrent_parameters="weight_ih_l0"),
        "published-code": code,
    }


@click.command()
@click.argument("store")
@click.option("--seeds", default=5, show_default=True)
@click.option("--heads", default=",".join(HEAD_NAMES), show_default=True)
@click.option("--lr", default=1e-2, show_default=True)
@click.option("--patience-epochs", default=10, show_default=True)
@click.option("--epochs", default=80, show_default=True, help="At most, in every arm.")
@click.option("--out", type=click.Path(path_type=Path), help="Markdown file for the table.")
def main(store: str, seeds: int, heads: str, lr: float, patience_epochs: int, epochs: int, out: Path | None) -> None:
    """Print top-1 of each head under each recipe, with the gain of training all recurrent weights."""
    opened = FeatureStore.open(store)
    data = CachedData(opened, Path("."), lambda text: click.echo(text, err=True))
    arms = arms_of(lr, patience_epochs, epochs)
    lines = [
        f"`python -m benchmarks.recurrent_weights {store} --seeds {seeds} --lr {lr:g} "
        f"--patience-epochs {patience_epochs} --epochs {epochs}`, {platform.processor() or platform.machine()}, "
        f"torch {torch.__version__}; weights {opened.settings.weights['name']}. Top-1 in percent, mean over {seeds} "
        "seeds with the standard deviation over seeds; the last column is the paired difference of the first two, with "
        "its 95 % bootstrap interval over clips and seeds.",
        "",
        f"| head | {' | '.join(arms)} | gain of training them |",
        f"|---|{'---|' * len(arms)}---|",
    ]
    for name in heads.split(","):
        correct = {}
        for arm, recipe in arms.items():
            head_data = data.of(HEADS[name].maps, recipe.frames)
            results = [fit_head(head_data, name, recipe, seed, choose_compute(name)) for seed in range(seeds)]
            correct[arm] = np.stack([result.scores.argmax(axis=1) == result.labels for result in results])  # (S, N)
            click.echo(f"{name}, {arm}: {100 * correct[arm].mean():.1f}", err=True)
        cells = [f"{100 * hits.mean():.1f} ± {100 * hits.mean(axis=1).std(ddof=1):.1f}" for hits in correct.values()]
        full, omitted = (correct[arm] for arm in list(arms)[:2])
        gain = paired_difference(full, omitted).points
        lines.append(f"| {name} | {' | '.join(cells)} | {gain.value:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}] |")
        click.echo(lines[-1])
    if out is not None:
        write_text(out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
