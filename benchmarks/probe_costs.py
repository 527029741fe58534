"""Question: what do disk, time and memory of a probe on frozen image models come to, at 8 and 16 frames?

Random weights give the same rates as trained ones. A rate is of one core, by the processor's time, so that other work
on the machine does not change it; memory is the peak of a process with the frozen network and a batch of one view. Disk
is without compression, of the test view and four training views.

    python -m benchmarks.probe_costs timm:vit_small_patch16_224 timm:vit_base_patch16_224 timm:convnext_tiny
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import torch

from benchmarks.heads import machine
from pipeline.backbones import build_backbone
from pipeline.extract.compute import RunnerConfig
from pipeline.extract.forward import BackboneRunner

NUM_VIEWS = 5
BATCH = 8
NUM_RUNS = 3
TYPES = ("float32", "bfloat16")


def measured(name: str, dtype: str) -> dict[str, float]:
    """Measure the rate of a backbone on one core, in frames per second, and the peak memory of this process."""
    torch.set_num_threads(1)
    backbone, _ = build_backbone(name, "random")
    size, channels, map_size = backbone.preprocessing.input_size, backbone.channels, backbone.map_size
    runner = BackboneRunner(backbone, RunnerConfig(dtype, "jit", "", BATCH))
    frames = torch.zeros(BATCH, 3, size, size, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    runner(frames, True)
    began = time.process_time()
    for _ in range(NUM_RUNS):
        runner(frames, True)
    seconds = (time.process_time() - began) / NUM_RUNS
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"rate": BATCH / seconds, "memory": memory, "channels": channels, "map_size": map_size}


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measured(*sys.argv[2:])))
        return
    print(machine("cpu"))
    print(
        "| backbone | frames | pooled, MB | maps, MB | maps int8, MB "
        f"| {', '.join(f'{dtype}, min' for dtype in TYPES)} | memory, MB |\n|---|---:|---:|---:|---:|---:|---:|"
    )
    for name in sys.argv[1:]:
        found = {}
        for dtype in TYPES:
            command = [sys.executable, "-m", "benchmarks.probe_costs", "--one", name, dtype]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[dtype] = json.loads(answer.splitlines()[-1])
        first = found[TYPES[0]]
        for num_frames in (8, 16):
            num_values = 1000 * NUM_VIEWS * num_frames * first["channels"]  # pooled, of 1,000 clips
            minutes = ", ".join(f"{1000 * NUM_VIEWS * num_frames / found[dtype]['rate'] / 60:,.0f}" for dtype in TYPES)
            maps = num_values * first["map_size"] ** 2
            print(
                f"| {name} | {num_frames} | {num_values * 2 / 1e6:,.0f} | {maps * 2 / 1e6:,.0f} | {maps / 1e6:,.0f} "
                f"| {minutes} | {first['memory'] / 1e6:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
