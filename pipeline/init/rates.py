"""Speed of this machine, as far as an estimate needs it: one measurement of the backbone, and a table of heads."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pipeline.devices import find_device, fixed_threads, num_cores

# Core-seconds of one training clip in one epoch with its share of validation: processor time of `pipeline fit-head
# --threads 1` on 8 segments of SqueezeNet (13x13 maps), less that of its start, on an AMD EPYC without bfloat16. There
# one core runs SqueezeNet's forward pass at `REFERENCE_FRAMES` frames per second (float32, not compiled).
HEAD_SECONDS = {
    "tsn": 0.0003,
    "mlp": 0.0005,
    "rnn_tanh": 0.0005,
    "rnn_relu": 0.0005,
    "lstm": 0.0006,
    "gru": 0.0006,
    "blstm": 0.0007,
    "trn": 0.0025,
    "fcn2d": 0.007,
    "fcn3d": 0.08,
    "convlstm": 1.0,
}
REFERENCE_FRAMES = 27.0
REFERENCE_BACKBONE = "squeezenet"
# Heads that read spatial maps; with `fcn2d` those whose fits use all cores, the others use one core for each seed.
SPATIAL_HEADS = frozenset({"convlstm", "fcn3d"})
PARALLEL_HEADS = SPATIAL_HEADS | {"fcn2d"}

NUM_FRAMES = 8
MIN_SECONDS = 0.4


@dataclass(frozen=True)
class BackboneRate:
    """Speed of a backbone on the device, and sizes of its features of one frame in bytes."""

    frames_per_second: float
    pooled_bytes: int
    spatial_bytes: int


def measure_backbone(name: str, device: str) -> BackboneRate:
    """Run a backbone with random weights for a moment.

    Raises:
        PipelineError: the backbone or the device is unknown.
    """
    import torch

    from pipeline.backbones import build_backbone
    from pipeline.calibration import finish

    where = find_device(device)
    is_cpu = where.type == "cpu"
    # One thread, by the processor's time: other work on the cores does not change it.
    clock = time.process_time if is_cpu else time.perf_counter
    backbone = build_backbone(name, "random")[0].to(where)
    size = backbone.preprocessing.input_size
    frames = torch.zeros(NUM_FRAMES, 3, size, size, dtype=torch.uint8, device=where)
    with torch.inference_mode(), fixed_threads(1):
        backbone(frames)
        finish(device)
        num_runs, before = 0, clock()
        while num_runs == 0 or clock() - before < MIN_SECONDS:
            backbone(frames)
            finish(device)
            num_runs += 1
    rate = NUM_FRAMES * num_runs / (clock() - before) * (num_cores() if is_cpu else 1)
    num_values = backbone.channels * backbone.map_size**2
    # Of maps after a ReLU about 70 % are zeros: compressed, they take about 0.35 of their size.
    return BackboneRate(rate, pooled_bytes=2 * backbone.channels, spatial_bytes=round(2 * num_values * 0.35))


def head_scale(rate: BackboneRate) -> float:
    """Return how many times as slow as the reference one core of this machine is, by the rate of SqueezeNet."""
    return REFERENCE_FRAMES / (rate.frames_per_second / num_cores())
