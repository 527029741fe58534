"""Speed of this machine, as far as an estimate needs it: a measurement of the backbones, and a table of heads."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
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
    # Measured beside the LSTM in one process, as multiples of its time.
    "linear": 0.0003,
    "knn": 0.0001,
    "concat": 0.0003,
    "meanstd": 0.0003,
    "diff": 0.0003,
    **dict.fromkeys(("attn", "attn_sincos", "attn_learned"), 0.0006),
    **dict.fromkeys(("attn4", "attn4_sincos", "attn4_learned"), 0.0026),
    **dict.fromkeys(("ep", "ep_sincos", "ep_learned"), 0.0004),
    "transformer": 0.0016,
    "tcn": 0.0011,
    "shift": 0.0004,
    "mamba": 0.0026,
}
REFERENCE_FRAMES = 27.0
REFERENCE_BACKBONE = "squeezenet"
REFERENCE_MAP_SIZE = 13
# Heads that read spatial maps; with `fcn2d` those whose fits use all cores, the others use one core for each seed.
SPATIAL_HEADS = frozenset({"convlstm", "fcn3d"})
PARALLEL_HEADS = SPATIAL_HEADS | {"fcn2d"}

# Seconds to start a command of a stage, which imports torch.
START_SECONDS = 6.0

NUM_FRAMES = 8
MIN_SECONDS = 0.4


@dataclass(frozen=True)
class BackboneRate:
    """Speed of a backbone on the device, sizes of its features of one frame in bytes, and size of its stored maps."""

    frames_per_second: float
    pooled_bytes: int
    spatial_bytes: int
    map_size: int = REFERENCE_MAP_SIZE


@dataclass(frozen=True)
class Machine:
    """Speeds of the machine.

    backbones: by name. small_scale, parallel_scale: how many times as long as on one reference core a step of a small
        head takes on one core here, and that of a head in `PARALLEL_HEADS` on the device (on the CPU: on one core).
    map_size: height and width of the spatial maps.
    """

    backbones: Mapping[str, BackboneRate]
    cores: int
    small_scale: float
    parallel_scale: float
    map_size: int = REFERENCE_MAP_SIZE

    def head_seconds(self, head: str, num_clips: int, seeds: int) -> float:
        """Return the seconds to fit a head: its start, and `num_clips` training steps of one clip for each seed."""
        if head in PARALLEL_HEADS:
            scale, cores = self.parallel_scale, self.cores
        else:
            scale, cores = self.small_scale, min(self.cores, seeds)
        if head in SPATIAL_HEADS:
            scale *= (self.map_size / REFERENCE_MAP_SIZE) ** 2
        return START_SECONDS + HEAD_SECONDS[head] * scale * num_clips * seeds / cores


def measure_machine(backbones: Sequence[str], device: str, map_size: int) -> Machine:
    """Run each backbone on the device, and the reference backbone, for a moment.

    map_size: height and width to which spatial maps are averaged; 0: those of the backbone.

    Raises:
        PipelineError: a backbone or the device is unknown.
    """
    rates = {name: measure_backbone(name, device, map_size) for name in backbones}
    reference = REFERENCE_BACKBONE
    on_device = rates.get(reference) or measure_backbone(reference, device, map_size)
    on_cpu = on_device if device == "cpu" else measure_backbone(reference, "cpu", map_size)
    cores = num_cores()
    return Machine(
        backbones=rates,
        cores=cores,
        small_scale=REFERENCE_FRAMES * cores / on_cpu.frames_per_second,
        parallel_scale=REFERENCE_FRAMES * cores / on_device.frames_per_second,
        map_size=max(rate.map_size for rate in rates.values()),
    )


def measure_backbone(name: str, device: str, map_size: int) -> BackboneRate:
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
    size = min(map_size, backbone.map_size) or backbone.map_size
    # Of maps after a ReLU about 70 % are zeros, of averaged ones few: compressed, they take that much of their size.
    share = 0.85 if map_size else 0.35
    return BackboneRate(
        rate,
        pooled_bytes=2 * backbone.channels,
        spatial_bytes=round(2 * backbone.channels * size**2 * share),
        map_size=size,
    )
