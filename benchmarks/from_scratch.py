"""Question: how many epochs does training end to end from scratch take to reach a head on frozen features?

Trains the backbone and a new head from scratch (`--init none`, the weights of the fitted head's backbone) for each
number of epochs, with a schedule of its whole length, and compares the ends with the result folder of the fitted head,
on the reported clips. A finished training in `--work` is not repeated.

    python -m benchmarks.from_scratch --manifest data_manifests/gestures.csv --root data/gestures \\
        --fitted results/fit_head/squeezenet-lstm --epochs 15,60 --threads 1 --precision bfloat16
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import pandas as pd
import torch

from benchmarks.heads import machine
from pipeline.errors import PipelineError
from pipeline.evaluation.result_reader import RunResult, read_run
from pipeline.evaluation.result_writer import HISTORY_FILE
from pipeline.evaluation.statistics import accuracy_interval, paired_difference
from pipeline.files import write_text
from pipeline.finetune.run import FinetuneResult, finetune
from pipeline.settings.finetune import FinetuneSettings

HEADER = (
    "| way | epochs | seeds | minutes of one seed | best selection top-1 of each seed | reported top-1 [95 %] "
    "| minus the frozen head |\n|---|---:|---:|---:|---|---|---|"
)


def trained_row(result: FinetuneResult, fitted: RunResult) -> str:
    """Return the row of a training, compared with the fitted head.

    Raises:
        PipelineError: the two report different clips.
    """
    run = read_run(result.folder)
    own, other = run.predictions, fitted.predictions
    if own.clip_ids != other.clip_ids:
        raise PipelineError(
            f"{result.folder} reports {len(own.clip_ids)} clips and the fitted head {len(other.clip_ids)} or other "
            "ones, so they cannot be paired. Pass the manifest and the options with which the head was fitted."
        )
    history = pd.read_csv(result.folder / HISTORY_FILE)
    best = history[history.epoch > 0].groupby("seed").select_top1.max()
    points = paired_difference(own.correct, other.correct, groups=own.groups).points
    return (
        f"| from scratch | {int(history.epoch.max())} | {own.num_seeds} | {result.seconds / own.num_seeds / 60:.0f} "
        f"| {', '.join(f'{value:.1f}' for value in best)} "
        f"| {accuracy_interval(own.correct, groups=own.groups).text()} "
        f"| {points.value:+.1f} [{points.low:+.1f}, {points.high:+.1f}] |"
    )


@click.command()
@click.option("--manifest", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--root", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--fitted", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of the fitted head."
)
@click.option("--epochs", default="60", show_default=True, help="Numbers of epochs, separated by commas.")
@click.option("--lr", default=1e-3, show_default=True, help="Rate of the head.")
@click.option("--backbone-lr", default=3e-4, show_default=True, help="Rate of the backbone.")
@click.option("--crops", default="centre", show_default=True)
@click.option("--seeds", default=1, show_default=True)
@click.option("--threads", type=int, help="Threads of torch.  [default: one per core]")
@click.option("--precision", default="auto", show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="Folder of the results, to resume.  [default: temporary]")
@click.option("--out", type=click.Path(path_type=Path), help="Markdown file for the table.")
def main(
    manifest: Path, root: Path | None, fitted: Path, epochs: str, lr: float, backbone_lr: float, crops: str, seeds: int,
    threads: int | None, precision: str, work: Path | None, out: Path | None,
) -> None:  # fmt: skip
    """Train from scratch for each number of epochs, and print a row for each."""
    frozen = read_run(fitted)
    metrics, correct = frozen.metrics, frozen.predictions.correct
    interval = accuracy_interval(correct, groups=frozen.predictions.groups)
    lines = [
        f"{machine('cpu')['processor']}, torch {torch.__version__}, {precision}; {frozen.backbone}, {metrics['head']}; "
        f"from scratch: recipe `finetune`, lr {lr:g}, backbone-lr {backbone_lr:g}, crops {crops}.\n",
        HEADER,
        f"| frozen features | | {len(correct)} | | | {interval.text()} | |",
    ]
    click.echo("\n".join(lines))
    with tempfile.TemporaryDirectory() as temporary:
        for num_epochs in map(int, epochs.split(",")):
            settings = FinetuneSettings(
                manifest=manifest, root=root, init="none", backbone=frozen.backbone, weights=metrics["weights"]["name"],
                head=metrics["head"], num_segments=metrics["num_segments"], input_size=metrics["input_size"],
                recipe="finetune", seeds=seeds, threads=threads, precision=precision,
                overrides={"lr": lr, "backbone_lr": backbone_lr, "crops": crops, "epochs": num_epochs},
                out=(work or Path(temporary)) / f"epochs-{num_epochs}",
            )  # fmt: skip
            result = finetune(settings)
            assert result is not None
            lines.append(trained_row(result, frozen))
            click.echo(lines[-1])
    if out is not None:
        write_text(out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
