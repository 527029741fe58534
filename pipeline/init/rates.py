"""Measure the speed of backbones and heads on this machine, as far as an estimate needs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.devices import find_device, fixed_threads
from pipeline.processes import num_cores
from pipeline.registry import SPATIAL_HEADS
from pipeline.runtime import Runtime

# Heads with convolutions, whose fits use all cores; the others use one core for each seed.
PARALLEL_HEADS = frozenset({"convlstm", "fcn2d", "fcn3d"})

# Seconds to start a command of a stage, which imports torch.
START_SECONDS = 6.0

NUM_FRAMES = 8
MIN_SECONDS, MIN_HEAD_SECONDS = 0.4, 0.1
# Clips in the measured step of a head. Heads of spatial maps take seconds for a whole batch.
NUM_CLIPS, NUM_SPATIAL_CLIPS = 16, 4
# An epoch also scores the selection clips; a forward pass takes a third of the time of a training step.
SHARE_OF_SCORING = 0.1


@dataclass(frozen=True)
class BackboneRate:
    """Speed of a backbone on the device, sizes of its features of one frame in bytes, and size of its stored maps."""

    frames_per_second: float
    pooled_bytes: int
    spatial_bytes: int
    channels: int
    map_size: int


@dataclass(frozen=True)
class Machine:
    """Speeds of the machine.

    backbones: by name. clip_seconds: seconds of one training clip in one epoch, by head; on the CPU those of one core.
    fit_cores: number of cores that fit heads; 1 for a GPU, on which one fit follows another.
    """

    backbones: Mapping[str, BackboneRate]
    clip_seconds: Mapping[str, float]
    cores: int
    fit_cores: int

    def head_seconds(self, head: str, num_clips: int, seeds: int) -> float:
        """Return the seconds to fit a head: its start, and `num_clips` training steps of one clip for each seed."""
        cores = self.fit_cores if head in PARALLEL_HEADS else min(self.fit_cores, seeds)
        return START_SECONDS + self.clip_seconds[head] * num_clips * seeds / cores


def measure_machine(
    backbones: Sequence[str], heads: Sequence[str], device: str, map_size: int, num_segments: int, num_classes: int
) -> Machine:
    """Run each backbone, and a training step of each head on its features, for a moment.

    map_size: height and width to which spatial maps are averaged; 0: those of the backbone.

    Raises:
        PipelineError: a backbone, a head or the device is unknown.
    """
    rates = {name: measure_backbone(name, device, map_size) for name in backbones}
    # The features of the most expensive backbone.
    largest = max(rates.values(), key=lambda rate: rate.channels * rate.map_size**2)
    return Machine(
        backbones=rates,
        clip_seconds={head: measure_head(head, largest, device, num_segments, num_classes) for head in heads},
        cores=num_cores(),
        fit_cores=num_cores() if device == "cpu" else 1,
    )


def measure_head(head: str, features: BackboneRate, device: str, num_segments: int, num_classes: int) -> float:
    """Return the seconds that one training clip takes in an epoch, on one core or on the device."""
    from pipeline.fit_head.compute import HeadSizes, training_step
    from pipeline.heads import HEADS

    if HEADS[head].is_closed_form:
        return 0.0
    is_spatial = head in SPATIAL_HEADS
    num_clips = NUM_SPATIAL_CLIPS if is_spatial else NUM_CLIPS
    sizes = HeadSizes(features.channels, num_segments, num_classes, features.map_size if is_spatial else 1)
    runtime = Runtime(find_device(device), "float32", 1)
    clock = _clock_of(device)
    step = training_step(head, sizes, runtime, num_clips, with_optimiser=True)
    step()
    num_steps, before = 0, clock()
    while num_steps == 0 or clock() - before < MIN_HEAD_SECONDS:
        step()
        num_steps += 1
    return (1 + SHARE_OF_SCORING) * (clock() - before) / (num_steps * num_clips)


def measure_backbone(name: str, device: str, map_size: int) -> BackboneRate:
    """Run a backbone with random weights for a moment.

    Raises:
        PipelineError: the backbone or the device is unknown.
    """
    import torch

    from pipeline.backbones import build_backbone
    from pipeline.calibration import finish

    where = find_device(device)
    clock = _clock_of(device)
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
    rate = NUM_FRAMES * num_runs / (clock() - before) * (num_cores() if where.type == "cpu" else 1)
    size = min(map_size, backbone.map_size) or backbone.map_size
    # Of maps after a ReLU about 70 % are zeros, of averaged ones few: compressed, they take that much of their size.
    share = 0.85 if map_size else 0.35
    return BackboneRate(
        rate,
        pooled_bytes=2 * backbone.channels,
        spatial_bytes=round(2 * backbone.channels * size**2 * share),
        channels=backbone.channels,
        map_size=size,
    )


def _clock_of(device: str) -> Callable[[], float]:
    """Return a clock for one thread; on the CPU that of the processor, which other programs hardly affect."""
    return time.process_time if find_device(device).type == "cpu" else time.perf_counter
