"""Question: how long does a search over all pooled heads take, and does it keep every core busy?

The same `pipeline fit-head --trials N` runs twice, with one process per core and with one process (`--jobs 1`), into
empty folders. `share` is the CPU time of the command divided by wall time and cores: until the last fit has started,
and over the whole run. The trials of both runs must be equal. With `--manifest`, one epoch end to end is measured too.

    python -m benchmarks.sweep cache/gestures/squeezenet-8seg.zarr --trials 16 --epochs 20 \\
        --manifest data_manifests/gestures.csv --root data/gestures
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from benchmarks.core_share import measure_core_share
from pipeline.evaluation.result_writer import MODEL_FILE, TIMING_FILE
from pipeline.processes import num_cores
from pipeline.registry import PAPER_HEADS, SPATIAL_HEADS

POOLED = tuple(name for name in PAPER_HEADS if name not in SPATIAL_HEADS)


@click.command()
@click.argument("store")
@click.option("--head", "heads", default=",".join(POOLED), show_default=True)
@click.option("--trials", default=16, show_default=True)
@click.option("--epochs", default=20, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--one/--no-one", "has_one", default=True, help="Also run the same fits one after another.")
@click.option("--manifest", help="Clips of the store: also train the first head end to end for one epoch.")
@click.option("--root", default=".", show_default=True, help="Folder of the clips.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder that keeps the results.  [default: temporary]")
def main(
    store: str, heads: str, trials: int, epochs: int, seeds: int, has_one: bool, manifest: str | None, root: str,
    out: Path | None,
) -> None:  # fmt: skip
    """Measure a search over heads: wall time, share of the cores, and the same fits one after another."""
    click.echo(f"{num_cores()} cores, {heads.count(',') + 1} heads × {trials} trials × {epochs} epochs, {seeds} seeds")
    arguments = ["--store", store, "--head", heads, "--trials", str(trials), "--seeds", str(seeds)]
    arguments += ["--epochs", str(epochs), "--search", "lr=log:1e-4:3e-2", "--search", "weight-decay=0,1e-2"]
    arguments += ["--recipe", "cached", "--precision", "float32"]
    with tempfile.TemporaryDirectory() as folder:
        outs = {"together": out or Path(folder, "together"), "one by one": Path(folder, "one")}
        wall_seconds = {"together": _run(arguments, outs["together"], "together")}
        if manifest is not None:
            model = next(outs["together"].glob(f"*-{heads.split(',')[0]}/{MODEL_FILE}"))
            click.echo(f"one epoch end to end: {_epoch_seconds(model, manifest, root, Path(folder)):.0f} s on one core")
        if has_one:
            wall_seconds["one by one"] = _run([*arguments, "--jobs", "1"], outs["one by one"], "one by one")
            pairs = [[(out / path.relative_to(outs["together"])).read_bytes() for out in outs.values()]
                     for path in outs["together"].rglob("trials.csv")]  # fmt: skip
            equal = sum(first == second for first, second in pairs)
            click.echo(f"equal trials.csv: {equal} of {len(pairs)}")
            click.echo(f"together takes {wall_seconds['together'] / wall_seconds['one by one']:.2f} of one by one")


def _run(arguments: list[str], out: Path, name: str) -> float:
    """Run a search, print its times, and return its wall time in seconds."""
    try:
        share = measure_core_share([*arguments, "--out", str(out)])
    except subprocess.CalledProcessError as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"{name}: {share.wall_seconds:.0f} s wall, {share.cpu_seconds:.0f} s of CPU, share of the cores "
        f"{share.until_last:.2f} until the last fit starts ({share.last_start_seconds:.0f} s), "
        f"{share.in_all:.2f} in all"
    )
    return share.wall_seconds


def _epoch_seconds(model: Path, manifest: str, root: str, folder: Path) -> float:
    """Train a fitted head and its backbone for one epoch in one thread, and return its seconds with its validation."""
    command = [sys.executable, "-m", "pipeline", "finetune", "--init", str(model), "--manifest", manifest]
    command += ["--root", root, "--recipe", "finetune", "--epochs", "1", "--threads", "1", "--precision", "float32"]
    subprocess.run([*command, "--out", str(folder / "finetune"), "--quiet"], check=True, stdout=subprocess.DEVNULL)
    timing = json.loads((folder / "finetune" / model.parent.name / TIMING_FILE).read_text())
    return float(timing["epochs"][0]["seconds_at_end"])


if __name__ == "__main__":
    main()
