"""Question: which share of the processor's peak does a whole fit of ConvLSTM and 3D-FCN reach, with all cores?

A fit of one epoch, or of `--epochs`, on a store of synthetic maps (13 × 13 × 512, as from SqueezeNet): reading,
decompressing, training, scoring and the order tests. The first fit reads each map from the store; the second has all
maps in memory, as later epochs and seeds of a run have if the maps fit there (`MAP_CACHE_BYTES`). Its arithmetic
(multiply-accumulates of head and projection, forward and backward) per second of wall time is compared to that of a
single convolution of its size on all cores, forward and backward, measured before and after each fit. Wall time needs
an idle machine; the number of used cores is printed for that reason. "By processor time" is the same share of processor
seconds: what the fit computes beside convolutions, without idle cores.

    python -m benchmarks.whole_fit
    python -m benchmarks.whole_fit --heads fcn3d --clips 192 --rounds 5
    python -m benchmarks.whole_fit --heads fcn3d --epochs 20 --rounds 1
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.decode import processor
from benchmarks.growth import CHANNELS, NUM_SEGMENTS, write_store
from pipeline.allocator import keep_memory_between_batches
from pipeline.devices import fixed_threads
from pipeline.evaluation.order_tests import ORDER_TESTS
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.fit import HeadDataset, fit_head
from pipeline.heads import build_head
from pipeline.heads.head import NUM_FEATURES
from pipeline.processes import num_cores
from pipeline.recipe import Recipe, named_recipe
from pipeline.runtime import Runtime
from pipeline.store import FeatureStore

HEADS = ("convlstm", "fcn3d")
MAPS = ("maps from the store", "maps in memory")
SECONDS_OF_BOUND = 1.0


class Speed(NamedTuple):
    """GFLOP for each second of wall time, and of processor time."""

    wall: float
    processor: float


class Share(NamedTuple):
    """GFLOP/s of a whole fit and of a convolution by wall time, the share by processor time, and the used cores."""

    head: str
    maps: str
    fit: float
    bound: float
    by_processor: float
    cores: float


def convolution(map_size: int) -> tuple[Callable[[], None], float]:
    """Return a convolution of the heads' size with its backward pass, and its number of GFLOP."""
    values = torch.ones(32, 256, map_size, map_size).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.ones(1024, 256, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()

    def run() -> None:
        torch.nn.functional.conv2d(values, weight, padding=1).sum().backward()

    return run, 3 * 2 * values[:, 0].numel() * 9 * 256 * 1024 / 1e9


def giga_of_fit(head_name: str, data: HeadDataset, map_size: int, epochs: int) -> float:
    """Return the GFLOP of a fit: training, scoring after each epoch, and the order tests."""
    head = build_head(head_name, in_channels=CHANNELS, num_segments=NUM_SEGMENTS, num_classes=data.num_classes)
    projection = NUM_SEGMENTS * map_size**2 * CHANNELS * NUM_FEATURES
    # The features have no gradient: the projection has one product in the backward pass, other layers have two.
    of_training = epochs * data.train.num_clips * (3 * head.macs(map_size) + 2 * projection)
    num_scored = data.select.num_clips * epochs + data.report.num_clips * len(ORDER_TESTS)
    return 2 * (of_training + num_scored * (head.macs(map_size) + projection)) / 1e9


def shares(
    heads: tuple[str, ...], rounds: int, num_clips: int, map_size: int, threads: int, epochs: int = 1
) -> Iterator[Share]:
    """Measure the shares of each head; a round is the first and the second fit, each between two convolutions."""
    recipe: Recipe = named_recipe("cached").with_overrides(epochs=epochs, select_on="val")
    compute = Runtime(torch.device("cpu"), "float32", threads)
    convolve, giga_of_bound = convolution(map_size)

    def bound() -> Speed:
        count, started, spent = 0, time.perf_counter(), time.process_time()
        with fixed_threads(threads):
            while count == 0 or time.perf_counter() - started < SECONDS_OF_BOUND:
                convolve()
                count += 1
        giga = count * giga_of_bound
        return Speed(giga / (time.perf_counter() - started), giga / (time.process_time() - spent))

    with tempfile.TemporaryDirectory() as name:
        write_store(Path(name) / "s.zarr", "spatial", num_clips, map_size)
        store = FeatureStore.open(Path(name) / "s.zarr")
        bound()
        for head in heads:
            found: dict[str, list[Share]] = {maps: [] for maps in MAPS}
            for _ in range(rounds):
                data = CachedData(store, Path(name)).of("spatial", recipe)
                for maps in MAPS:
                    before = bound()
                    started, spent = time.perf_counter(), time.process_time()
                    fit_head(data, head, recipe, 0, compute)
                    seconds, spent = time.perf_counter() - started, time.process_time() - spent
                    giga = giga_of_fit(head, data, map_size, epochs)
                    behind = bound()
                    fit = Speed(giga / seconds, giga / spent)
                    wall, processor_time = ((one + other) / 2 for one, other in zip(before, behind, strict=True))
                    by_processor = fit.processor / processor_time
                    found[maps].append(Share(head, maps, fit.wall, wall, by_processor, spent / seconds))
            yield from (_middle(of_maps) for of_maps in found.values())


def _middle(found: list[Share]) -> Share:
    middle = statistics.median_low([share.fit / share.bound for share in found])
    share = next(share for share in found if share.fit / share.bound == middle)
    return share._replace(by_processor=statistics.median(each.by_processor for each in found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", default=",".join(HEADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--map-size", type=int, default=13)
    parser.add_argument("--epochs", type=int, default=1, help="`cached` trains 20; one is the worst case for reading.")
    parser.add_argument("--threads", type=int, default=num_cores())
    options = parser.parse_args()
    keep_memory_between_batches(of_any_size=True)
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    heads = tuple(options.heads.split(","))
    sizes = (options.clips, options.map_size, options.threads, options.epochs)
    for share in shares(heads, options.rounds, *sizes):
        print(
            f"{share.head}, {share.maps}: {share.fit:.0f} GFLOP/s in a whole fit, {share.bound:.0f} in a convolution: "
            f"share {share.fit / share.bound:.2f} ({share.by_processor:.2f} by processor time); "
            f"{share.cores:.2f} of {options.threads} cores used",
            flush=True,
        )


if __name__ == "__main__":
    main()
