"""Question: how fast does each head train, and how much do the fast implementations of TRN and ConvLSTM save?

Each number is a median of rounds. A comparison runs both sides in turn within every round, so that a slow period of the
machine affects both; the factor is the median of the rounds' ratios. A step is forward, loss, backward and an SGD step
on a batch in memory, with dropout. The plain implementations are those of `tests/support/plain_heads.py`; tests check
that the results are equal.

    python -m benchmarks.heads                        # everything, some minutes on 2 cores
    python -m benchmarks.heads --heads trn,lstm --rounds 9 --device cuda
    python -m benchmarks.heads --threads 1            # less noise on a shared machine
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.heads import HEADS, Head, build_head
from pipeline.recipe import HeadConfig
from tests.support import plain_heads

NUM_SEGMENTS, NUM_CLASSES = 8, 27
BACKBONES = {"squeezenet": (512, 13), "bninception": (1024, 7)}
# Clips per batch: a step must be long compared to its overhead, and a round short.
BATCH = {"convlstm": 4, "fcn3d": 16}


def machine(device: str) -> dict[str, str | int]:
    """Return a description of the machine."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.processor()
    )
    flags = next((line for line in _cpu_lines() if line.startswith("flags")), "")
    return {
        "processor": model,
        "bf16": ", ".join(name for name in ("avx512_bf16", "amx_bf16") if name in flags.split()) or "none",
        "threads": torch.get_num_threads(),
        "load": f"{os.getloadavg()[0]:.1f}",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def features_of(head: Head, batch: int, map_size: int, device: str) -> Tensor:
    """Draw random features in the layout of the store, channels last, as a view in the order of the head's input."""
    size = 1 if head.reads == "pooled" else map_size
    stored = torch.rand(batch, head.num_segments, size, size, head.in_channels, device=device)
    return stored.permute(0, 1, 4, 2, 3)


def training_step(
    head: Head, features: Tensor, dtype: str, forward: Callable[[nn.Module, Tensor], Tensor] | None = None
) -> Callable[[], None]:
    """Return one training step, to be timed."""
    labels = torch.arange(len(features), device=features.device) % head.num_classes
    optimiser = torch.optim.SGD(head.parameters(), lr=1e-4, momentum=0.9)
    head.train()

    def step() -> None:
        optimiser.zero_grad()
        low = torch.autocast(features.device.type, torch.bfloat16) if dtype == "bf16" else contextlib.nullcontext()
        with low:
            scores = head(features) if forward is None else forward(head, features)
            loss = nn.functional.cross_entropy(scores.float(), labels)
        loss.backward()
        optimiser.step()
        if features.is_cuda:
            torch.cuda.synchronize()

    return step


def seconds(step: Callable[[], None], at_least: float) -> float:
    """Measure the seconds of one step, over enough steps for `at_least` seconds."""
    count, start = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - start < at_least:
        step()
        count += 1
    return (time.perf_counter() - start) / count


def interleaved(steps: list[Callable[[], None]], rounds: int, at_least: float) -> list[list[float]]:
    """Measure the seconds of each step in each round: every round runs all of them in turn, after one warm-up."""
    for step in steps:
        step()
    return [[seconds(step, at_least) for step in steps] for _ in range(rounds)]


def training_speed(name: str, backbone: str, device: str, rounds: int, at_least: float) -> dict[str, object]:
    channels, map_size = BACKBONES[backbone]
    batch = BATCH.get(name, 32)
    steps = []
    for dtype in ("fp32", "bf16"):
        head = build_head(name, in_channels=channels, num_segments=NUM_SEGMENTS, num_classes=NUM_CLASSES).to(device)
        steps.append(training_step(head, features_of(head, batch, map_size, device), dtype))
    times = interleaved(steps, rounds, at_least)
    fp32, bf16 = (batch / statistics.median(column) for column in zip(*times, strict=True))
    return {
        "head": name,
        "maps": f"{map_size}×{map_size}" if HEADS[name].reads == "spatial" else "pooled",
        "batch": batch,
        "fp32_clips_per_second": round(fp32, 1),
        "bf16_clips_per_second": round(bf16, 1),
        "bf16_factor": round(statistics.median(a / b for a, b in times), 2),
    }


def against_plain(
    name: str, backbone: str, dtype: str, choices: HeadConfig, device: str, rounds: int, at_least: float
) -> dict[str, object]:
    channels, map_size = BACKBONES[backbone]
    batch = BATCH.get(name, 32)
    head = build_head(
        name, in_channels=channels, num_segments=NUM_SEGMENTS, num_classes=NUM_CLASSES, choices=choices
    ).to(device)
    features = features_of(head, batch, map_size, device)
    steps = [
        training_step(head, features, dtype),
        training_step(head, features, dtype, forward=plain_heads.PLAIN_HEADS[name]),
    ]
    times = interleaved(steps, rounds, at_least)
    fast, plain = (batch / statistics.median(column) for column in zip(*times, strict=True))
    return {
        "head": name,
        "maps": f"{map_size}×{map_size}" if head.reads == "spatial" else "pooled",
        "dtype": dtype,
        "fast_clips_per_second": round(fast, 1),
        "plain_clips_per_second": round(plain, 1),
        "factor": round(statistics.median(b / a for a, b in times), 2),
    }


def trained_heads() -> list[str]:
    """Return the heads that are trained by gradients."""
    return [name for name, head in HEADS.items() if not head.is_closed_form]


def show(title: str, rows: list[dict[str, object]]) -> None:
    print(f"\n{title}\n")
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + " --- |" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", default=",".join(trained_heads()), help="a list of heads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="minimum time of each measurement")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="JSON file to write the numbers to")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    names = options.heads.split(",")
    measure = (options.device, options.rounds, options.seconds)

    about = machine(options.device)
    print("Machine: " + ", ".join(f"{key} {value}" for key, value in about.items()))
    speeds = [
        training_speed(name, backbone, *measure)
        for name in names
        for backbone in (("squeezenet", "bninception") if HEADS[name].reads == "spatial" else ("squeezenet",))
    ]
    show("Training, clips/s", speeds)
    pairs = [
        against_plain(name, backbone, dtype, HeadConfig(), *measure)
        for name, backbone in (("trn", "squeezenet"), ("convlstm", "bninception"), ("convlstm", "squeezenet"))
        if name in names
        for dtype in ("fp32", "bf16")
    ]
    if pairs:
        show("Fast compared to plain implementation, training, same weights", pairs)
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "training": speeds, "plain": pairs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
