"""Which training choices suit frozen features: the measurements behind the recipe `cached`.

Fits heads on a store under every combination of the choices given, and prints top-1 (mean over heads and over seeds),
a line a combination, best first. Nothing is written. Run it on the demo's store and on one of real clips:

    python benchmarks/recipe_tuning.py STORE --heads mlp,lstm,gru,trn --seeds 3 \\
        --try lr=0.0003,0.001,0.003 --try epochs=20,40 --try projection_init=default,normal_0.001
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import yaml

from pipeline.heads import HEADS
from pipeline.recipe import named_recipe
from pipeline.store import FeatureStore
from pipeline.training.cached_data import CachedData
from pipeline.training.compute import choose_compute
from pipeline.training.fit import fit_head
from pipeline.training.metrics import top1


@click.command()
@click.argument("store")
@click.option("--heads", default="mlp,rnn_tanh,lstm,gru,blstm,trn", show_default=True)
@click.option("--recipe", default="cached", show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--try", "tries", multiple=True, metavar="SWITCH=A,B,...", help="Values of a switch; repeat for others.")
@click.option("--views", type=int, help="Training views used.  [default: all]")
def main(store: str, heads: str, recipe: str, seeds: int, tries: tuple[str, ...], views: int | None) -> None:
    """Print top-1 under every combination of the choices, best first."""
    data = CachedData(FeatureStore.open(store), Path("."), click.echo, num_views=views)
    names = heads.split(",")
    switches = [switch.partition("=")[0] for switch in tries]
    values = [[yaml.safe_load(value) for value in switch.partition("=")[2].split(",")] for switch in tries]
    lines: list[tuple[float, str]] = []
    for combination in itertools.product(*values):
        changes: dict[str, Any] = dict(zip(switches, combination, strict=True))
        chosen = named_recipe(recipe).changed(**changes)
        started_at_seconds = time.monotonic()
        means = {}
        for name in names:
            head_data = data.of(HEADS[name].maps, chosen.frames)
            results = [fit_head(head_data, name, chosen, seed, choose_compute(name)) for seed in range(seeds)]
            means[name] = np.mean([top1(result.scores, result.labels) for result in results])
        mean = float(np.mean(list(means.values())))
        each = "  ".join(f"{name} {value:5.1f}" for name, value in means.items())
        text = "  ".join(f"{switch}={value}" for switch, value in changes.items())
        lines.append((mean, f"{mean:5.1f}  {text}   {each}   {time.monotonic() - started_at_seconds:.0f} s"))
        click.echo(lines[-1][1], err=True)
    for _, line in sorted(lines, reverse=True):
        click.echo(line)


if __name__ == "__main__":
    main()
