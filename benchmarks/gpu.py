"""Measure everything that needs a GPU in one run, and print one table with the name of the card.

    python -m benchmarks.gpu --out gpu.md            # under 25 minutes
    python -m benchmarks.gpu --device cpu --small    # the same code on few clips, to test this program

Parts: the CUDA tests; training steps end to end in each number type, with their memory, with checkpointing and
torch.compile; a whole finetune against its step alone; two processes; the demo's finetune to its gain; extraction
against the forward pass alone; heads fitted per hour. A part that fails is a row with its error, and the others go on.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

import stages.extract
import stages.fit_head
import stages.prepare
from benchmarks.finetune import clips_per_second, step_alone
from benchmarks.heads import machine
from pipeline.backbones import build_backbone
from pipeline.errors import PipelineError
from pipeline.extract.compute import RunnerConfig, capability_of
from pipeline.extract.forward import BackboneRunner
from pipeline.files import write_text
from pipeline.finetune.run import finetune
from pipeline.settings.extract import ExtractSettings
from pipeline.settings.finetune import FinetuneSettings
from pipeline.settings.fit_head import FitHeadSettings
from pipeline.settings.prepare import PrepareSettings

NUM_CLASSES = 14


class Row(NamedTuple):
    """A measured value with its unit, and what it is compared to."""

    part: str
    what: str
    value: str
    reference: str = ""


@dataclass(frozen=True)
class Bench:
    """Device, folder of the drawn clips, and sizes of the parts."""

    device: str
    folder: Path
    is_small: bool

    @property
    def manifest(self) -> Path:
        return self.folder / "gestures.csv"

    @property
    def root(self) -> Path:
        return self.folder / "gestures"

    @property
    def backbones(self) -> tuple[str, ...]:
        return ("squeezenet",) if self.is_small else ("squeezenet", "bninception")

    @property
    def precisions(self) -> tuple[str, ...]:
        return ("float32",) if self.is_small else ("float32", "bfloat16", "float16")

    @property
    def batch(self) -> int:
        return 2 if self.is_small else 32

    @property
    def num_segments(self) -> int:
        return 2 if self.is_small else 8

    def draw(self) -> None:
        """Draw the clips of the demo, or one of each class and split."""
        counts = (1, 1, 1) if self.is_small else (30, 15, 15)
        stages.prepare.run(
            PrepareSettings(
                dataset="gestures",
                root=self.root,
                out=self.manifest,
                train_clips=counts[0],
                val_clips=counts[1],
                test_clips=counts[2],
                max_frames=20 if self.is_small else 70,
            )
        )

    def extract(self, backbone: str) -> Path:
        """Extract the features of the clips, if that has not been done."""
        store = self.folder / f"{backbone}.zarr"
        stages.extract.run(
            ExtractSettings(
                manifest=self.manifest,
                root=self.root,
                store=str(store),
                backbone=backbone,
                weights="bundled" if backbone == "squeezenet" else "random",
                num_segments=self.num_segments,
                views=1,
                maps=("pooled",) if self.is_small else ("pooled", "spatial"),
                device=self.device,
            )
        )
        return store

    def fit(self, heads: tuple[str, ...], seeds: int) -> Path:
        """Fit heads on the features of SqueezeNet; return the folder of the results."""
        out = self.folder / "fit_head"
        store = self.extract("squeezenet")
        stages.fit_head.run(
            FitHeadSettings(
                store=str(store),
                head=heads,
                out=out,
                seeds=seeds,
                device=self.device,
                overrides={"epochs": 2 if self.is_small else 20},
            )
        )
        return out


def cuda_tests(bench: Bench) -> Iterator[Row]:
    """Run the tests that need a GPU; on the CPU they are only collected."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "tests"]
    if bench.device == "cpu":
        command.append("--collect-only")
    environment = {**os.environ, "REQUIRE_CUDA": "0" if bench.device == "cpu" else "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = [line for line in ended.stdout.splitlines() if re.search(r"\d+.* in [\d.]+s", line)]
    yield Row("CUDA tests", " ".join(command[2:6]), lines[-1].strip("= ") if lines else f"exit code {ended.returncode}")


def steps(bench: Bench) -> Iterator[Row]:
    """Measure the training step on random frames: clips per second and peak memory."""
    ways: dict[str, dict[str, bool]] = {"": {}}
    if not bench.is_small:
        ways |= {", checkpointing": {"checkpointing": True}, ", compiled": {"compile": True}}
    for backbone in bench.backbones:
        for precision in bench.precisions:
            for name, way in ways.items():
                what = f"{backbone}, {precision}{name}"
                yield from _guarded("training step", what, functools.partial(_step, bench, backbone, precision, way))


def _step(bench: Bench, backbone: str, precision: str, way: dict[str, bool]) -> str:
    is_cuda = bench.device.startswith("cuda")
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step = step_alone(
        backbone, "lstm", NUM_CLASSES, bench.num_segments, bench.batch, bench.device, precision,
        checkpointing=way.get("checkpointing", False), compile=way.get("compile", False),
    )  # fmt: skip
    rate = clips_per_second(step, bench.batch, 1 if bench.is_small else 6)
    memory = f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if is_cuda else ""
    return f"{rate:.1f} clips/s{memory}"


def whole_finetune(bench: Bench) -> Iterator[Row]:
    """Compare a whole training, with decoding and optimiser, to its step alone."""
    for backbone in bench.backbones:
        yield from _guarded("finetune, whole", backbone, functools.partial(_whole, bench, backbone))


def _whole(bench: Bench, backbone: str) -> tuple[str, str]:
    settings = FinetuneSettings(
        manifest=bench.manifest,
        root=bench.root,
        init="none",
        head="lstm",
        backbone=backbone,
        weights="random",
        num_segments=bench.num_segments,
        out=bench.folder / "whole",
        device=bench.device,
        overrides={"epochs": 1 if bench.is_small else 2, "batch_size": bench.batch},
    )
    result = finetune(settings)
    assert result is not None
    last = json.loads((result.folder / "timing.json").read_text())["epochs"][-1]
    precision = str(result.metrics["precision"])
    step = step_alone(backbone, "lstm", NUM_CLASSES, bench.num_segments, bench.batch, bench.device, precision)
    bound = clips_per_second(step, bench.batch, 1 if bench.is_small else 6)
    rate = last["train_clips_per_second"]
    return (
        f"{rate:.1f} clips/s, the device waits {100 * last['waiting_share']:.0f} % of the time",
        f"{rate / bound:.2f} of the step alone (goal 0.9)",
    )


def two_processes(bench: Bench) -> Iterator[Row]:
    """Train with two processes, by torchrun."""
    yield from _guarded("two processes", "finetune, one epoch", functools.partial(_two, bench))


def _two(bench: Bench) -> str:
    num_devices = torch.cuda.device_count() if bench.device.startswith("cuda") else 2
    # NCCL refuses two processes on one card; then they train on the CPU.
    device = bench.device if num_devices > 1 else "cpu"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pipeline",
        "finetune", "--manifest", str(bench.manifest), "--root", str(bench.root), "--init", "none", "--head", "lstm",
        "--weights", "random", "--num-segments", "2", "--epochs", "1", "--device", device, "--out",
        str(bench.folder / "two"), "--input-size", "64",
    ]  # fmt: skip
    started_at_seconds = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise PipelineError(f"exit code {ended.returncode}: {ended.stderr.strip().splitlines()[-1][:200]}")
    return f"{time.perf_counter() - started_at_seconds:.0f} s on {device}, with start-up"


def gain(bench: Bench) -> Iterator[Row]:
    """Finetune the demo's LSTM by the recipe `finetune`, and measure the gain over the frozen head."""
    yield from _guarded("demo", "finetune of the LSTM, recipe finetune", functools.partial(_gain, bench))


def _gain(bench: Bench) -> tuple[str, str]:
    results = bench.fit(("lstm",), 1)
    settings = FinetuneSettings(
        manifest=bench.manifest,
        root=bench.root,
        init=str(results / "squeezenet-lstm" / "model.safetensors"),
        recipe="finetune",
        seeds=1 if bench.is_small else 3,
        out=bench.folder / "gain",
        device=bench.device,
        overrides={"epochs": 1} if bench.is_small else {},
    )
    result = finetune(settings)
    assert result is not None
    found = result.metrics["gain"]
    return (
        f"{found['points']:+.1f} points [{found['low']:+.1f}, {found['high']:+.1f}] in {result.seconds:.0f} s",
        f"frozen {found['start_top1']:.1f} %",
    )


def extraction(bench: Bench) -> Iterator[Row]:
    """Compare extraction from clips to the forward pass alone."""
    for backbone in bench.backbones:
        yield from _guarded("extraction", backbone, functools.partial(_extraction, bench, backbone))


def _extraction(bench: Bench, backbone: str) -> tuple[str, str]:
    started_at_seconds = time.perf_counter()
    store = stages.extract.run(
        ExtractSettings(
            manifest=bench.manifest,
            root=bench.root,
            store=str(bench.folder / f"timed-{backbone}.zarr"),
            backbone=backbone,
            weights="random",
            num_segments=bench.num_segments,
            views=1,
            maps=("pooled",),
            device=bench.device,
        )
    )
    seconds = time.perf_counter() - started_at_seconds
    frames = store.num_frames
    network, _ = build_backbone(backbone, "random")
    batch = 4 if bench.is_small else 64
    dtype = "float32" if bench.device == "cpu" else "bfloat16"
    capability = capability_of(bench.device)
    runner = BackboneRunner(network, RunnerConfig(dtype, "eager", capability, batch, bench.device))
    size = network.preprocessing.input_size
    pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)

    def forward() -> None:
        runner(pixels, keep_maps=False)

    bound = clips_per_second(forward, batch, 1 if bench.is_small else 6)
    return f"{frames / seconds:.0f} frames/s with start-up", f"forward pass alone {bound:.0f} frames/s ({dtype}, eager)"


def fits(bench: Bench) -> Iterator[Row]:
    """Count the heads that are fitted per hour."""
    heads = ("mlp",) if bench.is_small else ("mlp", "lstm", "trn", "fcn2d", "fcn3d")
    for head in heads:
        yield from _guarded("fit-head", head, functools.partial(_fits, bench, head))


def _fits(bench: Bench, head: str) -> str:
    bench.extract("squeezenet")
    started_at_seconds = time.perf_counter()
    num_seeds = 1 if bench.is_small else 3
    bench.fit((head,), num_seeds)
    return f"{3600 * num_seeds / (time.perf_counter() - started_at_seconds):.0f} fits an hour"


def _guarded(part: str, what: str, measure: Callable[[], str | tuple[str, str]]) -> Iterator[Row]:
    """Yield the row of a measurement, or one with its error."""
    try:
        found = measure()
    except (PipelineError, RuntimeError, OSError) as error:
        yield Row(part, what, f"failed: {str(error).splitlines()[0][:200]}")
        return
    yield Row(part, what, *((found,) if isinstance(found, str) else found))


PARTS: tuple[Callable[[Bench], Iterator[Row]], ...] = (
    cuda_tests, steps, whole_finetune, two_processes, gain, extraction, fits,
)  # fmt: skip


def main() -> None:
    """Print the table, and write it to a file on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="Few clips and sizes, to test this program.")
    parser.add_argument("--out", type=Path, help="Markdown file for the table.")
    arguments = parser.parse_args()
    about = machine("cuda" if arguments.device.startswith("cuda") else "cpu")
    card = about["device"] if about["device"] != "cpu" else about["processor"]
    lines = [f"{card}, torch {about['torch']}, processor {about['processor']}.", ""]
    lines += ["| part | what | value | reference |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments.device, Path(folder), arguments.small)
        bench.draw()
        for part in PARTS:
            for row in part(bench):
                lines.append(f"| {' | '.join(row)} |")
                print(lines[-1], flush=True)
    if arguments.out is not None:
        write_text(arguments.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
