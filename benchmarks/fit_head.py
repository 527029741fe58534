"""Question: how much does the cache speed up training, and is reading from the store as fast as from RAM?

There are four measurements of interleaved pairs; each prints medians:

    ratio     an epoch of fit-head from the store compared to the same epoch from tensors in RAM (goals: pooled 0.98,
              3D-FCN in float32 0.9). RAM tensors are float32 and contiguous as (N, T, H, W, C), gathered by index.
    again     every head: an epoch of fit-head compared to one that decodes the clips and runs the backbone before it
              trains, both on one core (goals: MLP 1/100, LSTM 1/40, TRN 1/18, 3D-FCN 1/3).
    heads     every head: clips per second of training on the store's features, and seconds of an epoch.
    jester    a pooled table of Jester's size (118,562 × 8 × 512, synthetic): seconds to load it from a store's
              chunks, seconds of an MLP epoch, and peak memory.

    python benchmarks/fit_head.py ratio STORE --head mlp --head fcn3d
"""

from __future__ import annotations

import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from pipeline.extract.blocks import ClipJob
from pipeline.fit_head import fit as fit_module
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.compute import choose_compute
from pipeline.fit_head.features import FeatureDataset, SampleOrder
from pipeline.fit_head.fit import HeadDataset
from pipeline.fit_head.spatial_features import MapCache
from pipeline.heads import HEADS
from pipeline.manifest import read_manifest
from pipeline.processes import num_cores
from pipeline.recipe import Recipe, SamplingConfig, named_recipe
from pipeline.runtime import Runtime
from pipeline.store import FeatureStore
from pipeline.store.settings import StoreSettings
from pipeline.store.table import ClipRow
from pipeline.store_command.recheck import worker_like

JESTER_CLIPS = 118_562


class TensorsInRam(FeatureDataset):
    """The simplest data path: every view in one float32 tensor. Shape: (V, N, T, H, W, C)."""

    def __init__(self, features: FeatureDataset) -> None:
        super().__init__(features.clip_ids, features.labels)
        num_clips = features.num_clips
        views = []
        for view in range(features.num_views):
            draw = SampleOrder(np.arange(num_clips), np.full(num_clips, view))
            views.append(features.gather(draw).permute(0, 1, 3, 4, 2).float())
        self.tensor = torch.stack(views).flatten(0, 1)

    def gather(self, draw: SampleOrder) -> torch.Tensor:
        rows = torch.from_numpy(draw.views * self.num_clips + draw.clips)
        return self.tensor.index_select(0, rows).permute(0, 1, 4, 2, 3)


@click.group()
def main() -> None:
    """Measure the training of heads on cached features."""
    click.echo(f"{platform.processor() or platform.machine()}, {num_cores()} cores, torch {torch.__version__}")


@main.command()
@click.argument("store")
@click.option("--head", "heads", multiple=True, default=("mlp", "lstm", "trn", "fcn3d"), show_default=True)
@click.option("--precision", default="float32", show_default=True)
@click.option("--pairs", default=5, show_default=True)
@click.option("--loaders", default=1, show_default=True)
def ratio(store: str, heads: tuple[str, ...], precision: str, pairs: int, loaders: int) -> None:
    """Compare an epoch from the store with one from tensors in RAM; maps of the store are not kept in RAM."""
    recipe = named_recipe("cached")
    for name in heads:
        data = CachedData(FeatureStore.open(store), Path("."), cache=MapCache(0))
        from_store = data.of(HEADS[name].reads, recipe)
        from_ram = replace(from_store, train=TensorsInRam(from_store.train))
        compute = choose_compute(name, precision=precision, num_loaders=loaders)
        epochs = [_training(each, name, recipe, compute) for each in (from_store, from_ram)]
        seconds: list[list[float]] = [[], []]
        for pair in range(pairs + 1):
            for index in (0, 1) if pair % 2 else (1, 0):
                seconds[index].append(_seconds(epochs[index]))
        store_seconds, ram_seconds = (statistics.median(each[1:]) for each in seconds)
        num_clips = from_store.train.num_clips
        click.echo(
            f"{name}, {precision}, {compute.threads} threads: {num_clips / store_seconds:,.0f} clips/s from the store, "
            f"{num_clips / ram_seconds:,.0f} from RAM, ratio {ram_seconds / store_seconds:.3f}"
        )


@main.command()
@click.argument("store")
@click.argument("manifest")
@click.option("--root", default=None, help="Folder of the clips.  [default: folder of the manifest]")
@click.option("--head", "heads", multiple=True, default=tuple(HEADS), show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option(
    "--clips", default=24, show_default=True, help="Number of clips that are decoded and extracted in a round."
)
def again(store: str, manifest: str, root: str | None, heads: tuple[str, ...], rounds: int, clips: int) -> None:
    """Compare an epoch of fit-head with an epoch that extracts one view of every clip again, on one core."""
    opened = FeatureStore.open(store)
    settings = opened.settings
    worker = worker_like(opened, opened.provenance["weights"])
    listed = read_manifest(manifest, root)
    chosen = [clip for clip in listed.clips if clip.split == "train"]
    chosen = chosen[:: max(1, len(chosen) // clips)][:clips]
    jobs = [ClipJob(0, clip.clip_id, str(listed.locate(clip)), clip.label, ("train-0",)) for clip in chosen]
    recipe = named_recipe("cached")
    data = CachedData(opened, Path("."))
    fits = {}
    for head in heads:
        head_data = data.of(HEADS[head].reads, recipe)
        one_core = replace(choose_compute(head), threads=1)
        fits[head] = _training(head_data, head, recipe, one_core), head_data.train.num_clips, one_core.precision
    extracting: list[float] = []
    fitting: dict[str, list[float]] = {head: [] for head in heads}
    worker.features(jobs[0])
    for head in heads:
        _seconds(fits[head][0])
    for _ in range(rounds):
        started_at_seconds = time.monotonic()
        failed = [job.clip_id for job in jobs if worker.features(job).record.status != "done"]
        if failed:
            raise click.ClickException(f"clips that cannot be extracted: {', '.join(failed)}")
        extracting.append((time.monotonic() - started_at_seconds) / len(jobs))
        for head in heads:
            train, num_clips, _ = fits[head]
            fitting[head].append(_seconds(train) / num_clips)
    click.echo(
        f"decode and backbone: {1000 * statistics.median(extracting):.1f} ms a clip and view "
        f"({settings.backbone}, {settings.compute_dtype}, {settings.compile_mode})"
    )
    for head in heads:
        ratios = [(fit + extract) / fit for fit, extract in zip(fitting[head], extracting, strict=True)]
        click.echo(
            f"{head:9s} {1000 * statistics.median(fitting[head]):7.2f} ms a clip ({fits[head][2]}): an epoch of "
            f"fit-head takes 1/{statistics.median(ratios):.1f} of one that extracts again"
        )


@main.command()
@click.argument("store")
@click.option("--head", "heads", multiple=True, default=tuple(HEADS), show_default=True)
@click.option("--epochs", default=5, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def heads(store: str, heads: tuple[str, ...], epochs: int, device: str) -> None:
    """Measure every head with the defaults of fit-head: training clips per second, seconds per epoch."""
    recipe = named_recipe("cached")
    data = CachedData(FeatureStore.open(store), Path("."))
    for name in heads:
        compute = choose_compute(name, device)
        head_data = data.of(HEADS[name].reads, recipe)
        train = _training(head_data, name, recipe, compute)
        seconds = statistics.median([_seconds(train) for _ in range(epochs + 1)][1:])
        click.echo(
            f"{name:9s} {head_data.train.num_clips / seconds:9,.0f} clips/s  {seconds:8.2f} s an epoch of "
            f"{head_data.train.num_clips} clips  ({compute.precision}, {compute.threads} threads, {device})"
        )


@main.command()
@click.option("--clips", default=JESTER_CLIPS, show_default=True)
def jester(clips: int) -> None:
    """Load a table of Jester's size and train one MLP epoch on it."""
    source = _SyntheticSource(clips)
    recipe = named_recipe("cached").with_overrides(epochs=1)
    data = CachedData(source, Path("."))
    started_at_seconds = time.monotonic()
    head_data = data.of("pooled", recipe)
    load_seconds = time.monotonic() - started_at_seconds
    seconds = _seconds(_training(head_data, "mlp", recipe, choose_compute("mlp")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    click.echo(f"{clips:,} clips: loaded in {load_seconds:.1f} s, an MLP epoch {seconds:.1f} s, peak {peak:.2f} GiB")


@dataclass
class _SyntheticSource:
    """Store of synthetic pooled features of one view; all blocks have the same values."""

    num_clips: int
    classes: tuple[str, ...] = tuple(f"class {index}" for index in range(27))
    num_failed: int = 0
    settings: StoreSettings = field(init=False)

    def __post_init__(self) -> None:
        self.settings = StoreSettings(
            "squeezenet", {"name": "random", "sha256": ""}, "float32", "", "eager", 16, 1, SamplingConfig(), 8, 0,
            ("pooled",), 512, 13, {},
        )  # fmt: skip
        self._block = np.random.default_rng(0).random((4_096, 8, 512), dtype=np.float32).astype(np.float16)

        num_val = 100
        self._rows = [
            ClipRow(
                row, 0, str(row), "", "class", row % 27, "val" if row < num_val else "train", "done", "", "", 0, "", 40,
                100, 100, ("test",) if row < num_val else ("test", "train-0"),
            )
            for row in range(self.num_clips + num_val)
        ]  # fmt: skip

    def table(self) -> list[ClipRow]:
        return self._rows

    def labels_of(self, view: str, rows: Any) -> np.ndarray:
        return np.asarray(rows) % 27

    def read_pooled(self, view: str, rows: Any) -> np.ndarray:
        return self._block[: len(rows)]

    def read_spatial(self, view: str, row: int) -> np.ndarray:
        raise NotImplementedError

    def iterate_frames(self, rows: Any) -> Iterator[np.ndarray]:
        raise NotImplementedError


def _training(data: HeadDataset, name: str, recipe: Recipe, compute: Runtime) -> Callable[[], None]:
    """Return a function that trains one head for one epoch without validation."""
    fit = fit_module._Fit(data, name, recipe, 0, compute, lambda num_clips, note: None)

    def run() -> None:
        with fit_module.fixed_threads(compute.threads):
            fit._train()

    return run


def _seconds(run: Callable[[], None]) -> float:
    started_at_seconds = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started_at_seconds


if __name__ == "__main__":
    main()
