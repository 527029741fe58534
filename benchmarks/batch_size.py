"""Question: how much time do larger batches save, and how much accuracy do they cost, with a scaled learning rate?

Fits heads with the same seeds at several batch sizes, one thread each. For each it prints the mean over heads of top-1
on the selection clips (which may be used to choose a default) and on the reported ones, and the median over heads and
seeds of its CPU time relative to that of the first. AdamW's rate is scaled by the root of the ratio of batch sizes, and
by the ratio.

    python -m benchmarks.batch_size STORE --epochs 20 --out batch_size.json
"""

from __future__ import annotations

import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.decode import processor
from pipeline.evaluation.metrics import top1
from pipeline.files import write_text
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.fit import fit_head
from pipeline.heads import HEADS
from pipeline.recipe import named_recipe
from pipeline.runtime import Runtime
from pipeline.store import FeatureStore

SMALL_HEADS = "mlp,tsn,trn,rnn_tanh,rnn_relu,lstm,gru,blstm"
BASE = 16
# Batch size, and the exponent of its ratio to `BASE` in the factor on the learning rate.
VARIANTS = ((16, 0.0), (32, 0.5), (32, 1.0), (64, 0.5), (64, 1.0))


def measured(data: CachedData, head: str, seed: int, batch_size: int, power: float, epochs: int) -> dict[str, Any]:
    """Fit once; CPU time does not include other processes on the machine."""
    recipe = named_recipe("cached")
    rate = recipe.training.lr * (batch_size / BASE) ** power
    recipe = recipe.with_overrides(batch_size=batch_size, lr=rate, epochs=epochs)
    head_data = data.of(HEADS[head].reads, recipe)
    started_at = time.process_time()
    result = fit_head(head_data, head, recipe, seed, Runtime(torch.device("cpu"), "float32", 1))
    seconds = time.process_time() - started_at
    reported = top1(result.scores, result.labels)
    selected = reported if result.selection is None else result.selection.top1
    return {
        "head": head, "seed": seed, "batch_size": batch_size, "power": power,
        "select_top1": selected, "report_top1": reported, "cpu_seconds": round(seconds, 2),
    }  # fmt: skip


def table(fits: list[dict[str, Any]]) -> str:
    """Return means over heads of the means over seeds, and the median ratio of times."""
    lines = ["| batch | rate | top-1, selection | top-1, reported | time against 16 |", "|---|---|---|---|---|"]
    first = {(fit["head"], fit["seed"]): fit for fit in fits if fit["batch_size"] == BASE}
    for batch_size, power in VARIANTS:
        own = [fit for fit in fits if (fit["batch_size"], fit["power"]) == (batch_size, power)]
        if not own:
            continue
        selected, reported = (float(np.mean([fit[key] for fit in own])) for key in ("select_top1", "report_top1"))
        ratios = [fit["cpu_seconds"] / first[fit["head"], fit["seed"]]["cpu_seconds"] for fit in own]
        rate = named_recipe("cached").training.lr * math.pow(batch_size / BASE, power)
        lines.append(
            f"| {batch_size} | {rate:.4g} | {selected:.2f} | {reported:.2f} | {statistics.median(ratios):.2f} |"
        )
    return "\n".join(lines)


@click.command()
@click.argument("store")
@click.option("--heads", default=SMALL_HEADS, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--epochs", default=20, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file with every fit.")
def main(store: str, heads: str, seeds: int, epochs: int, out: Path | None) -> None:
    """Print the table."""
    data = CachedData(FeatureStore.open(store), Path("."), lambda text: click.echo(text, err=True))
    fits = []
    for head in heads.split(","):
        for seed in range(seeds):
            for batch_size, power in VARIANTS:
                fits.append(measured(data, head, seed, batch_size, power, epochs))
                click.echo(json.dumps(fits[-1]), err=True)
    click.echo(f"{processor()}\n{table(fits)}")
    if out is not None:
        write_text(out, json.dumps(fits, indent=2) + "\n")


if __name__ == "__main__":
    main()
