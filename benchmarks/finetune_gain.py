"""Question: what does training end to end gain over the frozen head that it starts from, and with which options?

Finetunes fitted heads on a manifest with every combination of the given options. Options are compared by the selection
clips; the last columns are the paired gain on the reported clips, with its 95 % interval over clips and seeds.

    python -m benchmarks.finetune_gain --manifest M --root R --results results/fit_head --heads lstm,gru,mlp --seeds 3
    python -m benchmarks.finetune_gain --manifest M --root R --results results/fit_head --heads lstm \\
        --try crops=centre,multiscale --try lr=0.0003,0.001
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
import yaml

from benchmarks.heads import machine
from pipeline.evaluation.result_writer import HISTORY_FILE, MODEL_FILE, cell_name
from pipeline.files import write_text
from pipeline.finetune.run import finetune
from pipeline.settings.finetune import FinetuneSettings

COLUMNS = (
    "head", "options", "seeds", "selection top-1: start", "best of each seed", "alpha", "loss: start", "best",
    "reported top-1: start", "gain", "95 % interval", "seconds",
)  # fmt: skip


def row_of(settings: FinetuneSettings, options: str) -> tuple[str, ...]:
    """Finetune one head, and return its row of the table."""
    result = finetune(settings)
    assert result is not None
    metrics, history = result.metrics, pd.read_csv(result.folder / HISTORY_FILE)
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
@click.option("--work", type=click.Path(path_type=Path), help="Folder of the results, to resume.  [default: temporary]")
@click.option("--out", type=click.Path(path_type=Path), help="Markdown file for the table.")
def main(
    manifest: Path, root: Path, results: Path, backbone: str, heads: str, recipe: str, seeds: int, precision: str,
    threads: int | None, tries: tuple[str, ...], work: Path | None, out: Path | None,
) -> None:  # fmt: skip
    """Print a row for each head and combination of options."""
    names = [option.partition("=")[0] for option in tries]
    values = [[yaml.safe_load(value) for value in option.partition("=")[2].split(",")] for option in tries]
    about = machine("cpu")["processor"]
    lines = [
        f"{about}, torch {torch.__version__}, recipe `{recipe}`, precision {precision}; one row is one command of "
        f"`pipeline finetune --init {results}/{backbone}-HEAD/{MODEL_FILE} --seeds {seeds}`.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        for head, combination in itertools.product(heads.split(","), itertools.product(*values)):
            overrides: dict[str, Any] = dict(zip(names, combination, strict=True))
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
            lines.append(f"| {' | '.join(row_of(settings, options))} |")
            click.echo(lines[-1])
    if out is not None:
        write_text(out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
