"""Question: how much too high is the accuracy if the epoch is selected on the reported clips?

Each head is fitted twice with the same seeds on a store with a labelled split `test`: the epoch is selected once on
`val` and once on `test`, and top-1 of `test` is reported in both cases. Selection does not change the training, so the
difference is the effect of selecting on the reported clips.

    python -m benchmarks.selection STORE --params params.yaml --out docs/studies/selection_demo.md

Heads, seeds, epochs and rates are those of the blocks `fit_head` and `heads` of a params.yaml.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import yaml

from benchmarks.heads import machine
from pipeline.evaluation.metrics import top1
from pipeline.files import write_text
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.compute import choose_compute
from pipeline.fit_head.fit import fit_head
from pipeline.heads import HEADS
from pipeline.recipe import named_recipe
from pipeline.store import FeatureStore


def measured(data: CachedData, head: str, settings: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Return top-1 of `test` for each seed: selected on `val`, and selected on `test`."""
    settings = dict(settings)
    num_seeds = int(settings.pop("seeds", 1))
    recipe = named_recipe(str(settings.pop("recipe", "cached"))).with_overrides(**settings)
    apart = data.of(HEADS[head].reads, recipe)
    on_reported = dataclasses.replace(apart, select=apart.report)
    found: tuple[list[float], list[float]] = ([], [])
    for values, head_data in zip(found, (apart, on_reported), strict=True):
        for seed in range(num_seeds):
            result = fit_head(head_data, head, recipe, seed, choose_compute(head))
            values.append(top1(result.scores, result.labels))
    return found


@click.command()
@click.argument("store")
@click.option("--params", type=click.Path(path_type=Path, exists=True), default=Path("params.yaml"), show_default=True)
@click.option("--heads", help="Heads, separated by commas.  [default: heads-compared of the params]")
@click.option("--out", type=click.Path(path_type=Path), help="Markdown file for the table.")
def main(store: str, params: Path, heads: str | None, out: Path | None) -> None:
    """Print top-1 of each head with selection on val and on test, and the difference."""
    blocks = yaml.safe_load(params.read_text(encoding="utf-8"))
    common = {key: blocks["fit_head"][key] for key in ("recipe", "seeds", "epochs") if key in blocks["fit_head"]}
    opened = FeatureStore.open(store)
    data = CachedData(opened, Path("."))
    plan = data.plan(named_recipe(str(common.get("recipe", "cached"))).training)
    if plan.reported_on != "test" or plan.selected_on != "val":
        raise click.ClickException(f"{store} needs labelled clips in val and test; {plan.sentence()}.")
    num_clips = {split: len(opened.clips(split)) for split in ("train", "val", "test")}
    lines = [
        f"`python -m benchmarks.selection STORE --params {params}`, {machine('cpu')['processor']}, torch "
        f"{torch.__version__}; {opened.settings.backbone}, weights {opened.settings.weights['name']}, "
        + ", ".join(f"{count} clips of {split}" for split, count in num_clips.items())
        + ". Top-1 of `test` in percent, mean over seeds.",
        "",
        "| head | epochs | seeds | selected on val | selected on test | flattered by |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    differences = []
    for head in heads.split(",") if heads else blocks["heads-compared"]:
        settings = {**common, **(blocks.get("heads") or {}).get(head, {})}
        apart, on_reported = (np.array(values) for values in measured(data, head, settings))
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
