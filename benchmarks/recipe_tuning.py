"""Question: which training options suit frozen features? The recipe `cached` comes from these measurements.

Fits heads on a store with every combination of the given options, and prints top-1 of the selection clips (mean over
heads and over seeds), one line per combination, best first; the reported clips are not used. Run it on the demo's store
and on one of real clips:

    python -m benchmarks.recipe_tuning STORE --heads mlp,lstm,gru,trn --seeds 3 \\
        --try lr=0.0003,0.001,0.003 --try epochs=20,40 --try projection_init=default,normal_0.001
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import click
import numpy as np
import yaml

from benchmarks.fits import selection_top1
from pipeline.files import write_text
from pipeline.fit_head.cached_data import CachedData
from pipeline.recipe import named_recipe
from pipeline.store import FeatureStore


@click.command()
@click.argument("store")
@click.option("--heads", default="mlp,rnn_tanh,rnn_relu,lstm,gru,blstm,trn", show_default=True)
@click.option("--recipe", default="cached", show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option(
    "--try",
    "tries",
    multiple=True,
    metavar="OPTION=A,B,...",
    help="Values of an option of the recipe; repeat for others.",
)
@click.option("--views", type=int, help="Number of training views to use.  [default: all]")
@click.option("--out", type=click.Path(path_type=Path), help="Markdown file for the table.")
def main(
    store: str, heads: str, recipe: str, seeds: int, tries: tuple[str, ...], views: int | None, out: Path | None
) -> None:
    """Print top-1 for every combination of the options, best first."""
    opened = FeatureStore.open(store)
    data = CachedData(opened, Path("."), num_views=views)
    names = heads.split(",")
    switches = [switch.partition("=")[0] for switch in tries]
    values = [[yaml.safe_load(value) for value in switch.partition("=")[2].split(",")] for switch in tries]
    rows: list[tuple[float, str]] = []
    for combination in itertools.product(*values):
        chosen = named_recipe(recipe).with_overrides(**dict(zip(switches, combination, strict=True)))
        started_at_seconds = time.monotonic()
        means = {}
        for name in names:
            means[name] = np.mean([selection_top1(data, name, chosen, seed) for seed in range(seeds)])
        mean = float(np.mean(list(means.values())))
        cells = [*map(str, combination), f"**{mean:.1f}**", *(f"{value:.1f}" for value in means.values())]
        rows.append((mean, f"| {' | '.join(cells)} |"))
        click.echo(f"{rows[-1][1]} {time.monotonic() - started_at_seconds:.0f} s", err=True)
    lines = [
        f"`python -m benchmarks.recipe_tuning STORE --recipe {recipe} --heads {heads} --seeds {seeds} "
        f"{' '.join(f'--try {switch}' for switch in tries)}`: {opened.settings.backbone}, weights "
        f"{opened.settings.weights['name']}, {len(data.views)} training views. Top-1 in percent of the selection "
        f"clips ({data.plan(named_recipe(recipe).training).selected_on}) at the best epoch, mean over seeds; best "
        "combination first.",
        "",
        f"| {' | '.join([*switches, 'mean', *names])} |",
        f"|{'---|' * len(switches)}{'---:|' * (1 + len(names))}",
        *(row for _, row in sorted(rows, key=lambda row: -row[0])),
    ]
    click.echo("\n".join(lines))
    if out is not None:
        write_text(out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
