"""Question: what does training end to end gain over the frozen head that it starts from, and with which options?

Finetunes fitted heads on a manifest with every combination of the given options. Options are compared by the selection
clips; the last columns are the paired gain on the reported clips, with its 95 % interval over clips and seeds.

    python -m benchmarks.finetune_gain --manifest M --root R --results results/fit_head --heads lstm,gru,mlp --seeds 3
    python -m benchmarks.finetune_gain --manifest M --root R --results results/fit_head --heads lstm --curves \\
        --try crops=centre,multiscale --try lr+backbone-lr=0.0003+0.0001,0.001+0.0003

Options joined by `+` change together. `--curves` prints the losses and accuracies of each epoch.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
import yaml

from benchmarks.heads import machine
from pipeline.evaluation.result_writer import HISTORY_FILE, MODEL_FILE, cell_name
from pipeline.files import write_text
from pipeline.finetune.run import FinetuneResult, finetune
from pipeline.settings.finetune import FinetuneSettings

COLUMNS = (
    "head", "options", "seeds", "selection top-1: start", "best of each seed", "alpha", "loss: start", "best",
    "reported top-1: start", "gain", "95 % interval", "seconds",
)  # fmt: skip
CURVE_COLUMNS = (
    "head", "options", "training loss: frozen", "first and last epoch", "selection loss: start", "by epoch",
    "selection top-1: start", "by epoch", "alpha", "reported top-1: start", "gain", "95 % interval", "seconds",
)  # fmt: skip


def combinations(tries: Sequence[str]) -> list[dict[str, Any]]:
    """Return every combination of the values of `--try`.

    >>> combinations(["crops=centre,multiscale", "lr+backbone-lr=0.1+0.2"])
    [{'crops': 'centre', 'lr': 0.1, 'backbone_lr': 0.2}, {'crops': 'multiscale', 'lr': 0.1, 'backbone_lr': 0.2}]
    """
    each: list[list[dict[str, Any]]] = []
    for option in tries:
        names, _, values = option.partition("=")
        keys = names.replace("-", "_").split("+")
        each.append([
            {key: yaml.safe_load(part) for key, part in zip(keys, value.split("+"), strict=True)}
            for value in values.split(",")
        ])  # fmt: skip
    return [{name: value for part in parts for name, value in part.items()} for parts in itertools.product(*each)]


def finetuned(settings: FinetuneSettings) -> tuple[FinetuneResult, pd.DataFrame]:
    """Finetune one head, and return its result and its history."""
    result = finetune(settings)
    assert result is not None
    return result, pd.read_csv(result.folder / HISTORY_FILE)


def curve_of(settings: FinetuneSettings, options: str) -> tuple[str, ...]:
    """Finetune one head with one seed, and return its row of the table of epochs."""
    result, history = finetuned(settings)
    metrics = result.metrics
    start, trained = history[history.epoch == 0].iloc[0], history[history.epoch > 0]
    gain, mixes = metrics["gain"], metrics.get("interpolation", {})
    return (
        str(settings.head), options, f"{start.train_loss:.3f}",
        f"{trained.train_loss.iloc[0]:.3f} → {trained.train_loss.iloc[-1]:.3f}",
        f"{start.select_loss:.3f}", ", ".join(f"{value:.3f}" for value in trained.select_loss),
        f"{start.select_top1:.1f}", ", ".join(f"{value:.1f}" for value in trained.select_top1),
        ", ".join(f"{each['alpha']:g}" for each in mixes.values()), f"{gain['start_top1']:.1f}",
        f"{gain['points']:+.1f}", f"{gain['low']:+.1f} to {gain['high']:+.1f}", f"{result.seconds:.0f}",
    )  # fmt: skip


def row_of(settings: FinetuneSettings, options: str) -> tuple[str, ...]:
    """Finetune one head, and return its row of the table."""
    result, history = finetuned(settings)
    metrics = result.metrics
    start, trained = history[history.epoch == 0], history[history.epoch > 0]
    best = trained.sort_values(["select_top1", "select_loss"], ascending=[False, True]).groupby("seed").first()
    gain, mixes = metrics["gain"], metrics.get("interpolation", {})
    return (
        str(settings.head), options, str(metrics["num_seeds"]), f"{start.select_top1.iloc[0]:.1f}",
        ", ".join(f"{value:.1f}" for value in best.select_top1),
        ", ".join(f"{each['alpha']:g}" for each in mixes.values()),
        f"{start.select_loss.iloc[0]:.3f}", f"{trained.select_loss.min():.3f}", f"{gain['start_top1']:.1f}",
        f"{gain['points']:+.1f}", f"{gain['low']:+.1f} to {gain['high']:+.1f}", f"{result.seconds:.0f}",
    )  # fmt: skip


@click.command()
@click.option("--manifest", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--root", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--results", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of fitted heads.")
@click.option("--backbone", default="squeezenet", show_default=True)
@click.option("--heads", default="lstm,gru,mlp", show_default=True)
@click.option("--recipe", default="finetune", show_default=True)
@click.option("--seeds", default=1, show_default=True)
@click.option("--precision", default="auto", show_default=True)
@click.option("--threads", type=int, help="Threads of torch.  [default: one per core]")
@click.option("--try", "tries", multiple=True, metavar="OPTION=A,B,...", help="Values of an option; repeat for others.")
@click.option("--curves", "has_curves", is_flag=True, help="Print the losses and accuracies of each epoch.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder of the results, to resume.  [default: temporary]")
@click.option("--out", type=click.Path(path_type=Path), help="Markdown file for the table.")
def main(
    manifest: Path, root: Path, results: Path, backbone: str, heads: str, recipe: str, seeds: int, precision: str,
    threads: int | None, tries: tuple[str, ...], has_curves: bool, work: Path | None, out: Path | None,
) -> None:  # fmt: skip
    """Print a row for each head and combination of options."""
    columns, row = (CURVE_COLUMNS, curve_of) if has_curves else (COLUMNS, row_of)
    about = machine("cpu")["processor"]
    lines = [
        f"{about}, torch {torch.__version__}, recipe `{recipe}`, precision {precision}; one row is one command of "
        f"`pipeline finetune --init {results}/{backbone}-HEAD/{MODEL_FILE} --seeds {seeds}`.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        for head, overrides in itertools.product(heads.split(","), combinations(tries)):
            options = ", ".join(f"{name}={value}" for name, value in overrides.items())
            settings = FinetuneSettings(
                manifest=manifest,
                root=root,
                init=str(results / cell_name(backbone, head) / MODEL_FILE),
                head=head,
                recipe=recipe,
                overrides=overrides,
                seeds=seeds,
                precision=precision,
                threads=threads,
                out=(work or Path(temporary)) / (options.replace(", ", "_") or "plain"),
            )
            lines.append(f"| {' | '.join(row(settings, options))} |")
            click.echo(lines[-1])
    if out is not None:
        write_text(out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
