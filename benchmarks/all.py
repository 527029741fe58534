"""Measure all figures of speed in one run on one machine, each with its bound and its ratio to the bound.

    python -m benchmarks.all                # some minutes: machine, heads, views, start-up, cores
    python -m benchmarks.all --long         # and the programs that take longer: extraction, peers, growth, and others
    python -m benchmarks.all --long --rounds 1 --clips 128      # the same with fewer rounds and clips

Compared steps run in turn within every round, and single-threaded steps are measured in processor time, so that other
programs have little effect. Commands and the number of used cores are measured in wall time, which needs an idle
machine. The data are the demo's store, models and clips; a figure without its data is printed as "not measured".
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.core_share import CoreShare, measure_core_share
from benchmarks.decode import processor
from benchmarks.render import NUM_DECODED, exact, rounded
from benchmarks.whole_fit import HEADS, convolution, shares
from pipeline.allocator import keep_memory_between_batches
from pipeline.fit_head.compute import HeadSizes, training_step
from pipeline.heads import build_head
from pipeline.processes import num_cores
from pipeline.runtime import Runtime
from pipeline.video.crops import CropBox, centre_crop

STORE = Path("cache/gestures/squeezenet-8seg.zarr")
MODEL = Path("results/fit_head/squeezenet-gru/model.safetensors")
CLIPS = Path("data/gestures/test")
RESULTS = (Path("results/fit_head"), Path("results/finetune"))
LONG = (
    ["benchmarks.extraction"],
    ["benchmarks.extraction", "--kind", "h264"],
    ["benchmarks.extraction", "--kind", "jpg"],
    ["benchmarks.extraction", "--backbone", "bninception", "--weights", "random"],
    ["benchmarks.decode"],
    ["benchmarks.backbones"],
    ["benchmarks.heads"],
    ["benchmarks.peers"],
    ["benchmarks.peers", "--kind", "jpg", "--only", "cores"],
    ["benchmarks.growth"],
)
OF_CLIPS = ("benchmarks.extraction", "benchmarks.peers")
WITHOUT_ROUNDS = ("benchmarks.growth",)
SIZES = HeadSizes(in_channels=512, num_segments=8, num_classes=14, map_size=13)
NUM_STEP_CLIPS = 4  # of `training_step`
NUM_VIEWS = 5


class Figure(NamedTuple):
    """A measured value, and its reference: a bound of the machine, or a goal."""

    name: str
    value: float
    bound: float
    unit: str
    bound_name: str

    def line(self) -> str:
        return (
            f"{self.name:<54} {self.value:>9.3g} {self.unit:<8} {self.bound_name:<36} {self.bound:>9.3g}"
            f"  ratio {self.value / self.bound:.2f}"
        )


def cpu_seconds(step: Callable[[], object]) -> float:
    started_at = time.process_time()
    step()
    return time.process_time() - started_at


def command_seconds(command: list[str]) -> float:
    """Measure the wall seconds of a command: some commands use other processes, which processor time leaves out.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    started_at = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started_at


def heads(rounds: int) -> Iterator[Figure]:
    """Compare the speed of a training step of heads with convolutions to that of a convolution, on one core."""
    convolve, giga = convolution(SIZES.map_size)
    for name in HEADS:
        head = build_head(name, in_channels=512, num_segments=8, num_classes=14)
        projection = 8 * 13**2 * 512 * 256  # has no gradient of its input
        giga_step = NUM_STEP_CLIPS * 2 * (3 * head.macs(13) + 2 * projection) / 1e9
        step = training_step(name, SIZES, Runtime(torch.device("cpu"), "float32", 1))
        step(), convolve()
        pairs = [(giga_step / cpu_seconds(step), giga / cpu_seconds(convolve)) for _ in range(rounds)]
        own, bound = (statistics.median(values) for values in zip(*pairs, strict=True))
        yield Figure(f"{name}: training step, float32, one core", own, bound, "GFLOP/s", "a convolution of its size")


def fits(rounds: int) -> Iterator[Figure]:
    """Compare the arithmetic of a whole fit on all cores, with reading and scoring, to that of a convolution."""
    for share in shares(HEADS, rounds, 96, 13, num_cores()):
        name = f"{share.head}, {share.maps}: whole fit, {share.cores:.2f} cores used"
        yield Figure(name, share.fit, share.bound, "GFLOP/s", "a convolution of its size")


def views(rounds: int) -> Iterator[Figure]:
    """Compare rendering a view of an exact fractional box to one of whole pixels."""
    for height, width in ((100, 176), (240, 320), (1080, 1920)):
        frames = np.random.default_rng(0).integers(0, 256, (NUM_DECODED, height, width, 3), np.uint8)
        crop = centre_crop(height, width)
        pairs = []
        for _ in range(rounds + 1):
            steps = [functools.partial(_several, way, frames, crop) for way in (exact, rounded)]
            pairs.append([cpu_seconds(step) * 1000 / NUM_VIEWS for step in steps])
        own, bound = (statistics.median(values) for values in zip(*pairs[1:], strict=True))
        yield Figure(f"view of 8 frames, {width}x{height}", own, bound, "ms", "box of whole pixels")


def _several(way: Callable[..., object], frames: np.ndarray, crop: CropBox) -> None:
    for _ in range(NUM_VIEWS):
        way(frames, crop)


def start_up(rounds: int) -> Iterator[Figure]:
    """Compare the wall seconds of commands to those of importing torch.

    On an idle machine `import torch` takes about a second, so the ratios are about seconds.
    """
    pipeline = [sys.executable, "-m", "pipeline"]
    commands = {"pipeline --help": [*pipeline, "--help"]}
    if MODEL.is_file() and CLIPS.is_dir():
        clip = next(path for path in sorted(CLIPS.rglob("*")) if path.is_file())
        commands["predict, one clip"] = [*pipeline, "predict", str(MODEL), str(clip)]
    with tempfile.TemporaryDirectory() as folder:
        if STORE.is_dir():
            options = ["--store", str(STORE), "--head", "gru", "--epochs", "1", "--seeds", "1", "--out", folder]
            commands["fit-head, nothing to do"] = [*pipeline, "fit-head", *options]
        places = [str(place) for place in RESULTS if place.is_dir()]
        if places:
            commands["compare, with report"] = [*pipeline, "compare", *places, "--out", folder]
        for name, command in commands.items():
            try:
                command_seconds(command)  # warm-up: also loads files into the cache
                torch_alone = [sys.executable, "-c", "import torch"]
                pairs = [(command_seconds(command), command_seconds(torch_alone)) for _ in range(rounds)]
            except subprocess.CalledProcessError as error:
                print(f"{name}: not measured, exit code {error.returncode}")
                continue
            own, bound = (statistics.median(values) for values in zip(*pairs, strict=True))
            yield Figure(name, own, bound, "s", "import torch")


def cores() -> Iterator[Figure]:
    """Measure three parallel seeds of a head: the used cores, and the wall time compared to sequential fits."""
    if not STORE.is_dir():
        return
    shares: dict[str, CoreShare] = {}
    for jobs in ("1", ""):
        with tempfile.TemporaryDirectory() as folder:
            options = ["--store", str(STORE), "--head", "gru", "--epochs", "20", "--seeds", "3", "--out", folder]
            shares[jobs] = measure_core_share([*options, *(["--jobs", jobs] if jobs else [])])
    number, together = num_cores(), shares[""]
    name = "fit-head, gru, 3 seeds:"
    yield Figure(f"{name} cores used until the last fit", together.until_last * number, number, "cores", "cores")
    yield Figure(f"{name} cores used in all", together.in_all * number, number, "cores", "cores")
    yield Figure(f"{name} wall", together.wall_seconds, shares["1"].wall_seconds, "s", "one after another (--jobs 1)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="Rounds of each program.  [default: 5; of a long program its own]")
    parser.add_argument("--clips", type=int, help="Clips of each extraction.  [default: the program's own]")
    parser.add_argument("--long", action="store_true", help="Run the programs that take longer, too.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory_between_batches(of_any_size=True)
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    rounds = arguments.rounds or 5
    for figures in (heads(rounds), fits(min(rounds, 3)), views(rounds), start_up(rounds), cores()):
        found = False
        for figure in figures:
            print(figure.line(), flush=True)
            found = True
        if not found:
            print("not measured: the demo's store, models and clips are not here; `make repro` makes them")
    for command in LONG if arguments.long else ():
        sizes = {
            "--rounds": None if command[0] in WITHOUT_ROUNDS else arguments.rounds,
            "--clips": arguments.clips if command[0] in OF_CLIPS else None,
        }
        given = [text for name, number in sizes.items() if number is not None for text in (name, str(number))]
        print(f"\n== python -m {' '.join([*command, *given])}", flush=True)
        status = subprocess.run([sys.executable, "-m", *command, *given], check=False).returncode
        if status:
            print(f"failed: exit code {status}", flush=True)


if __name__ == "__main__":
    main()
