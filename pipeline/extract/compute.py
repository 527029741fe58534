"""How the backbone is run on this machine: number type, compiler and batch, chosen by what the machine can do.

The choice is part of the store's fingerprint, since each of these changes the last bits of a feature.
"""

from __future__ import annotations

import copy
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.backbones import Backbone
from pipeline.calibration import choose_dtype as faster_dtype
from pipeline.calibration import multiplies_bfloat16_fast
from pipeline.devices import has_compiler, num_cores
from pipeline.errors import PipelineError

DTYPES = ("auto", "float32", "bfloat16")
COMPILE_MODES = ("auto", "inductor", "jit", "eager")

# ||bf16 - fp32|| / ||fp32|| of the maps of real frames. SqueezeNet gives 0.020 to 0.027 with ImageNet weights and 0.017
# with the bundled ones, pooled about half of it (`benchmarks/backbones.py`); it costs no top-1 (`docs/performance.md`).
BFLOAT16_ERROR_BOUND = 0.03

# An extraction of fewer frames is not worth measuring: it takes seconds either way.
FRAMES_WORTH_COMPILING = 4000
# Compiling takes 5 to 30 seconds a process, and makes a batch at most so many times as fast (benchmarks/backbones.py).
LEAST_COMPILING_SECONDS = 5.0
LARGEST_COMPILED_GAIN = 1.7

MAX_BATCH_FRAMES = 16

# On a GPU a batch holds all views of a clip: each has some sixty kernels to start, however few its frames. At most so
# many frames, and so many bytes of free memory for each (its largest activations, several times over).
MAX_CUDA_BATCH_FRAMES = 128
CUDA_BYTES_A_FRAME = 32 << 20


@dataclass(frozen=True)
class RunnerConfig:
    """What one process needs to know to run a backbone just as every other process does."""

    dtype: str
    compile_mode: str
    capability: str
    batch_frames: int
    device: str = "cpu"


def capability_of(device: str) -> str:
    """What the processor or GPU can do, as far as it decides a bit of a feature."""
    if device.startswith("cuda"):
        return f"cuda {torch.cuda.get_device_name(device)}"
    level = torch.backends.cpu.get_cpu_capability()
    # oneDNN's flag, as in every store so far: it is part of the fingerprint.
    extras = [
        name for name, has in (("bf16", torch.ops.mkldnn._is_mkldnn_bf16_supported()), ("amx", _has_amx())) if has
    ]
    return " ".join((platform.machine(), level, *extras))


def device_like(capability: str) -> str:
    """The device of this machine on which to compute again what was computed with such a capability."""
    return "cuda" if capability.startswith("cuda") and torch.cuda.is_available() else "cpu"


def batch_frames_of(num_segments: int, most_frames: int = MAX_BATCH_FRAMES) -> int:
    """Frames in a batch: the fewest equal batches of at most 16 (`most_frames`) that hold the segments of one view.

    >>> [batch_frames_of(segments) for segments in (1, 8, 16, 20, 0)]
    [1, 8, 16, 10, 16]
    """
    if num_segments == 0:
        return most_frames
    num_batches = -(-num_segments // most_frames)
    return -(-num_segments // num_batches)


def choose_batch_frames(device: str, num_segments: int, num_views: int) -> int:
    """Frames in a batch of a new store: of one view, or on a GPU of all views of a clip as far as its memory goes."""
    if not device.startswith("cuda"):
        return batch_frames_of(num_segments)
    num_free_bytes, _ = torch.cuda.mem_get_info(device)
    most_frames = max(1, min(MAX_CUDA_BATCH_FRAMES, num_free_bytes // CUDA_BYTES_A_FRAME))
    return batch_frames_of(num_segments * num_views, most_frames)


def choose_decode_threads(asked: int | None, device: str) -> int:
    """Threads that decode ahead: as asked, else one a core for a GPU, and none where the cores run the backbone."""
    if asked is not None:
        return asked
    if not device.startswith("cuda"):
        return 0
    # Of a container: the cores that it may use.
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)


def known_compile_mode(asked: str, device: str) -> str:
    """Return the compile mode that was asked for.

    Raises:
        PipelineError: an unknown mode, or `inductor` without a C++ compiler.
    """
    if asked not in COMPILE_MODES:
        raise PipelineError(f"`compile` (={asked!r}) must be one of {', '.join(COMPILE_MODES)}.")
    # Triton brings its own compiler for a GPU.
    if asked == "inductor" and not device.startswith("cuda") and not has_compiler():
        raise PipelineError("`compile` (='inductor') needs a C++ compiler (g++ or clang++). Install one or use auto.")
    return asked


class Speeds(Protocol):
    """Seconds of a batch of the backbone on this machine (`pipeline.extract.speeds.BackboneSpeeds` measures them)."""

    @property
    def batch_frames(self) -> int: ...
    @property
    def of_dtypes(self) -> Mapping[str, float]: ...
    def of_jit(self, dtype: str) -> float: ...
    def of_compiling(self, dtype: str) -> tuple[float, float]: ...


def choose_compile_mode(asked: str, device: str, num_frames: int, dtype: str, speeds: Speeds) -> tuple[str, str]:
    """The compile mode for `num_frames` frames, and a sentence to say once where it is not the fastest one.

    `auto` compiles where that saves more than it takes, by the measured seconds of a batch. Whether it may is asked
    first of the batch without compiling, so that a small extraction compiles nothing to find out.

    Raises:
        PipelineError: an unknown mode, or `inductor` without a C++ compiler.
    """
    asked = known_compile_mode(asked, device)
    if asked != "auto":
        return asked, ""
    can_compile = device.startswith("cuda") or has_compiler()
    if num_frames < FRAMES_WORTH_COMPILING:
        return "jit", ""
    if not can_compile:
        return "jit", "No C++ compiler found: the backbone runs frozen but not compiled, at about half the speed."
    if device.startswith("cuda"):
        return "inductor", ""
    num_batches = num_frames / speeds.batch_frames / num_cores()
    without = num_batches * speeds.of_jit(dtype)
    left_as_it_is = f"The backbone is not compiled: {num_frames:,} frames take {without:.0f} s without, too few for it."
    if without * (1 - 1 / LARGEST_COMPILED_GAIN) < LEAST_COMPILING_SECONDS:
        return "jit", left_as_it_is
    compiling, batch = speeds.of_compiling(dtype)
    with_it = compiling + num_batches * batch
    if with_it >= without:
        return "jit", left_as_it_is
    return (
        "inductor",
        f"The backbone is compiled: {num_frames:,} frames take {with_it:.0f} s instead of {without:.0f} s.",
    )


def choose_dtype(asked: str, device: str, backbone: Backbone, frames: Tensor | None, speeds: Speeds) -> tuple[str, str]:
    """The number type in which the backbone runs, and a sentence about why where it is not the obvious one.

    `auto` is bfloat16 where a batch of the backbone takes much less time in it, and its maps of `frames` (uint8, of
    real clips; None where there are none to try) then stay within `BFLOAT16_ERROR_BOUND` of those in float32.

    Raises:
        PipelineError: an unknown type.
    """
    if asked not in DTYPES:
        raise PipelineError(f"`dtype` (={asked!r}) must be one of {', '.join(DTYPES)}.")
    if asked != "auto":
        return asked, ""
    if frames is None or not multiplies_bfloat16_fast(device) or faster_dtype(speeds.of_dtypes) == "float32":
        return "float32", ""
    error = bfloat16_error(backbone, frames)
    if error <= BFLOAT16_ERROR_BOUND:
        return "bfloat16", ""
    return "float32", (
        f"In bfloat16 the maps of {backbone.name} are off by {error:.3f} (bound {BFLOAT16_ERROR_BOUND}), "
        f"so float32 is used, {speeds.of_dtypes['float32'] / speeds.of_dtypes['bfloat16']:.1f} times as slow."
    )


def bfloat16_error(backbone: Backbone, frames: Tensor) -> float:
    """Relative error of the maps of some frames in bfloat16 against float32, in the Euclidean norm.

    Shape:
        frames: (N, 3, H, W), uint8.
    """
    with torch.no_grad():
        exact = backbone(frames).double()
        rounded = copy.deepcopy(backbone).to(torch.bfloat16)(frames).double()
    return float((rounded - exact).norm() / exact.norm().clamp_min(1e-12))


def _has_amx() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())
