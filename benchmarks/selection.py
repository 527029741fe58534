"""Question: how much too high is the accuracy if the epoch is selected on the reported clips?

Each head is fitted again with the same seeds on a store with a labelled split `test`, but the epoch is selected on
`test`. The results of `pipeline fit-head`, which selected on `val`, give the other value. Selection does not change the
training, so the difference is the effect of selecting on the reported clips.

    python -m benchmarks.selection STORE results/fit_head --params params.yaml --out docs/studies/selection_demo.md

Heads, seeds, epochs and rates are those of the blocks `fit_head` and `heads` of a params.yaml. The results must have
been made on the same machine, since another processor rounds differently.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import yaml

from benchmarks.heads import machine
from pipeline.evaluation.metrics import top1
from pipeline.evaluation.result_reader import read_run
from pipeline.files import write_text
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.compute import choose_compute
from pipeline.fit_head.fit import fit_head
from pipeline.heads import HEADS
from pipeline.recipe import named_recipe
from pipeline.store import FeatureStore


def selected_on_test(data: CachedData, head: str, settings: Mapping[str, Any], num_seeds: int) -> list[float]:
    """Return top-1 of `test` for each seed, in percent, where `test` also selects the epoch."""
    recipe = named_recipe(str(settings["recipe"])).with_overrides(
        **{name: value for name, value in settings.items() if name not in ("recipe", "seeds", "precision")}
    )
    apart = data.of(HEADS[head].reads, recipe)
    head_data = dataclasses.replace(apart, select=apart.report)
    compute = choose_compute(head, precision=str(settings.get("precision", "auto")))
    fits = (fit_head(head_data, head, recipe, seed, compute) for seed in range(num_seeds))
    return [top1(result.scores, result.labels) for result in fits]


def selected_on_val(folder: Path, num_seeds: int, epochs: int) -> list[float]:
    """Read top-1 of `test` for each seed, in percent, from a result whose epoch was selected on `val`.

    Raises:
        ClickException: the result has other splits, seeds or epochs.
    """
    run = read_run(folder)
    found = (run.selected_on, run.reported_on, len(run.predictions.scores), run.metrics["recipe"]["training"]["epochs"])
    expected = ("val", "test", num_seeds, epochs)
    if found != expected:
        raise click.ClickException(
            f"{folder} has (selected on, reported on, seeds, epochs) = {found} instead of {expected}. "
            "Fit the head with the same params."
        )
    return [top1(scores, run.predictions.labels) for scores in run.predictions.scores]


@click.command()
@click.argument("store")
@click.argument("results", type=click.Path(path_type=Path, exists=True))
@click.option("--params", type=click.Path(path_type=Path, exists=True), default=Path("params.yaml"), show_default=True)
@click.option("--heads", help="Heads, separated by commas.  [default: heads-compared of the params]")
@click.option("--out", type=click.Path(path_type=Path), help="Markdown file for the table.")
def main(store: str, results: Path, params: Path, heads: str | None, out: Path | None) -> None:
    """Print top-1 of each head with selection on val and on test, and the difference."""
    blocks = yaml.safe_load(params.read_text(encoding="utf-8"))
    names = ("recipe", "seeds", "epochs", "precision")
    common = {name: blocks["fit_head"][name] for name in names if name in blocks["fit_head"]}
    opened = FeatureStore.open(store)
    data = CachedData(opened, Path("."))
    plan = data.plan(named_recipe(str(common.get("recipe", "cached"))).training)
    if plan.reported_on != "test" or plan.selected_on != "val":
        raise click.ClickException(f"{store} needs labelled clips in val and test; {plan.sentence()}.")
    num_clips = {split: len(opened.clips(split)) for split in ("train", "val", "test")}
    lines = [
        f"`python -m benchmarks.selection STORE {results} --params {params}`, {machine('cpu')['processor']}, torch "
        f"{torch.__version__}; {opened.settings.backbone}, weights {opened.settings.weights['name']}, "
        + ", ".join(f"{count} clips of {split}" for split, count in num_clips.items())
        + ". Top-1 of `test` in percent, mean over seeds.",
        "",
        "| head | epochs | seeds | selected on val | selected on test | flattered by |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    differences = []
    for head in heads.split(",") if heads else blocks["heads-compared"]:
        settings = {"recipe": "cached", "seeds": 1, **common, **(blocks.get("heads") or {}).get(head, {})}
        num_seeds = int(settings["seeds"])
        folder = results / f"{opened.settings.backbone}-{head}"
        apart = np.array(selected_on_val(folder, num_seeds, int(settings["epochs"])))
        on_reported = np.array(selected_on_test(data, head, settings, num_seeds))
        differences.append(float((on_reported - apart).mean()))
        lines.append(
            f"| {head} | {settings.get('epochs', '')} | {len(apart)} | {apart.mean():.1f} | {on_reported.mean():.1f} | "
            f"{differences[-1]:+.1f} |"
        )
        click.echo(lines[-1])
    lines.append(f"| mean | | | | | {np.mean(differences):+.1f} |")
    click.echo(lines[-1])
    if out is not None:
        write_text(out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
