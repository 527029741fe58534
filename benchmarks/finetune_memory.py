"""Question: how much do `--accumulate`, checkpointing and compiling save in a step of `finetune`, and what is the cost?

Each way runs in a separate process, one after the other: only the training step (forward, loss, backward, update) on
random frames. Memory is the peak of the process minus its memory before the first step: on a GPU the bytes allocated by
torch, on the CPU the resident pages. The first line is the whole batch at once; times are ratios to it.

    python -m benchmarks.finetune_memory
    python -m benchmarks.finetune_memory --backbone bninception --num-segments 16 --batch-size 16
    python -m benchmarks.finetune_memory --device cuda --batch-size 32
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
from typing import Any

import torch

from benchmarks.finetune import clips_per_second, step_alone
from benchmarks.heads import machine
from pipeline.allocator import keep_memory_between_batches
from pipeline.devices import fixed_threads
from pipeline.processes import num_cores

NUM_CLASSES = 12
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulate 2": {"parts": 2},
    "accumulate 4": {"parts": 4},
    "checkpointing": {"checkpointing": True},
    "compile": {"compile": True},
    "checkpointing, compile": {"checkpointing": True, "compile": True},
    "checkpointing, accumulate 4": {"checkpointing": True, "parts": 4},
}


def figures(options: argparse.Namespace, way: dict[str, Any]) -> tuple[float, int]:
    """Measure clips per second and bytes, in this process."""
    is_cuda = options.device.startswith("cuda")
    if not is_cuda:
        keep_memory_between_batches()
    with fixed_threads(options.threads):
        step = step_alone(
            options.backbone, options.head, NUM_CLASSES, options.num_segments, options.batch_size, options.device,
            options.precision, **way,
        )  # fmt: skip
        before = torch.cuda.memory_allocated() if is_cuda else _peak_resident_bytes()
        rate = clips_per_second(step, options.batch_size, options.steps)
    return rate, (torch.cuda.max_memory_allocated() if is_cuda else _peak_resident_bytes()) - before


def _peak_resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="squeezenet")
    parser.add_argument("--head", default="lstm")
    parser.add_argument("--num-segments", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--ways", default=";".join(WAYS), help="ways to measure, separated by semicolons")
    options = parser.parse_args()
    print(json.dumps(machine(options.device)))
    print(f"{options.backbone}, {options.head}, batch {options.batch_size} of {options.num_segments} segments")
    print(f"{'':28} {'clips/s':>8} {'time':>6} {'memory MB':>10} {'share':>6}")
    first: tuple[float, int] | None = None
    for name in options.ways.split(";"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rate, num_bytes = pool.apply(figures, (options, WAYS[name]))
        first = first or (rate, num_bytes)
        print(
            f"{name:28} {rate:8.2f} {first[0] / rate:6.2f} {num_bytes / 1e6:10,.0f} {num_bytes / first[1]:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
