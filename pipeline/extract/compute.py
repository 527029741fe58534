"""Choose number type, compiler and batch size of the backbone for this machine.

The choice is part of the store's fingerprint, because each of them affects the last bits of a feature.
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
from pipeline.devices import has_compiler
from pipeline.errors import PipelineError
from pipeline.number_types import check_number_type
from pipeline.onnx_program import ENGINES, has_engine, require_engine
from pipeline.processes import num_cores
from pipeline.settings.extract import COMPILE_MODES

# Bound on ||bf16 - fp32|| / ||fp32|| of the maps of real frames. SqueezeNet has 0.020 to 0.027 with ImageNet weights
# and 0.017 with the bundled ones, and about half of it after pooling (`benchmarks/backbones.py`), without a loss of
# top-1 (`docs/performance.md`).
BFLOAT16_ERROR_BOUND = 0.03

# Below this number of frames, extraction takes seconds with any setting, so that measuring is not worthwhile.
FRAMES_WORTH_COMPILING = 4000
# Compiling takes 5 to 30 seconds per process, and conversion to ONNX 1 to 13. The largest speed-up of a batch over the
# frozen backbone is that of OpenVINO in bfloat16 (benchmarks/backbones.py). No other mode was faster than an engine, so
# after one is measured, only a long extraction is worth the measurement of the next mode.
LEAST_PREPARING_SECONDS = 5.0
LARGEST_GAIN = 2.6
LARGEST_GAIN_OVER_ENGINE = 1.3

MAX_BATCH_FRAMES = 16

# On a GPU a batch holds all views of a clip, because a batch starts about sixty kernels however small it is. These are
# the maximum number of frames, and the free memory needed per frame (a multiple of its largest activations).
MAX_CUDA_BATCH_FRAMES = 128
CUDA_BYTES_A_FRAME = 32 << 20


@dataclass(frozen=True)
class RunnerConfig:
    """Configuration with which every process runs the backbone in the same way."""

    dtype: str
    compile_mode: str
    capability: str
    batch_frames: int
    device: str = "cpu"


def capability_of(device: str) -> str:
    """Return the capability of the processor or GPU that affects the bits of a feature."""
    if device.startswith("cuda"):
        return f"cuda {torch.cuda.get_device_name(device)}"
    level = torch.backends.cpu.get_cpu_capability()
    # Use oneDNN's flag, because existing stores have it in their fingerprint.
    extras = [
        name for name, has in (("bf16", torch.ops.mkldnn._is_mkldnn_bf16_supported()), ("amx", _has_amx())) if has
    ]
    return " ".join((platform.machine(), level, *extras))


def device_like(capability: str) -> str:
    """Return the device of this machine to repeat a computation that was made with this capability."""
    return "cuda" if capability.startswith("cuda") and torch.cuda.is_available() else "cpu"


def batch_frames_of(num_segments: int, most_frames: int = MAX_BATCH_FRAMES) -> int:
    """Return the number of frames in a batch: the fewest equal batches of at most 16 (`most_frames`) for one view.

    >>> [batch_frames_of(segments) for segments in (1, 8, 16, 20, 0)]
    [1, 8, 16, 10, 16]
    """
    if num_segments == 0:
        return most_frames
    num_batches = -(-num_segments // most_frames)
    return -(-num_segments // num_batches)


def choose_batch_frames(device: str, num_segments: int, num_views: int) -> int:
    """Return the number of frames in a batch of a new store: one view, or on a GPU all views that fit in its memory."""
    if not device.startswith("cuda"):
        return batch_frames_of(num_segments)
    num_free_bytes, _ = torch.cuda.mem_get_info(device)
    most_frames = max(1, min(MAX_CUDA_BATCH_FRAMES, num_free_bytes // CUDA_BYTES_A_FRAME))
    return batch_frames_of(num_segments * num_views, most_frames)


def choose_decode_threads(asked: int | None, device: str) -> int:
    """Return the number of threads that decode ahead; by default, one per core for a GPU and none for the CPU."""
    if asked is not None:
        return asked
    if not device.startswith("cuda"):
        return 0
    # In a container, count only the cores that it may use.
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)


def known_compile_mode(asked: str, device: str, dtype: str = "float32") -> str:
    """Check a compile mode and return it.

    Raises:
        PipelineError: an unknown mode, `inductor` without a C++ compiler, or an engine without its packages, on a GPU
            or in a type that it does not have.
    """
    if asked not in COMPILE_MODES:
        raise PipelineError(f"`compile` (={asked!r}) must be one of {', '.join(COMPILE_MODES)}.")
    if can_compile(asked, device, dtype):
        return asked
    if asked == "inductor":
        raise PipelineError("`compile` (='inductor') needs a C++ compiler (g++ or clang++). Install one or use jit.")
    types = ENGINES[asked].types
    if device.startswith("cuda") or dtype not in types:
        raise PipelineError(
            f"`compile` (={asked!r}) runs in {' or '.join(types)} on the CPU, but the request has {dtype} on {device}. "
            f"Use jit, or {types[0]} on the CPU."
        )
    require_engine(asked, f"`compile` (={asked!r})", "use jit")
    return asked


def can_compile(mode: str, device: str, dtype: str) -> bool:
    """Return whether this machine can run a backbone in a compile mode."""
    is_cuda = device.startswith("cuda")
    if mode == "inductor":
        return is_cuda or has_compiler()  # for a GPU, Triton includes a compiler
    if mode in ENGINES:
        return not is_cuda and dtype in ENGINES[mode].types and has_engine(mode)
    return True


class Speeds(Protocol):
    """Seconds per batch of the backbone on this machine, measured by `pipeline.extract.speeds.BackboneSpeeds`."""

    @property
    def batch_frames(self) -> int: ...
    @property
    def of_dtypes(self) -> Mapping[str, float]: ...
    def of_jit(self, dtype: str) -> float: ...
    def of_preparing(self, mode: str, dtype: str) -> tuple[float, float]: ...


def choose_compile_mode(asked: str, device: str, num_frames: int, dtype: str, speeds: Speeds) -> tuple[str, str]:
    """Return the compile mode for `num_frames` frames, and a message if it is not the obvious one.

    `auto` takes the mode whose preparation and batches take the least time together, by their measured seconds. A mode
    is measured only where its preparation can pay, so that a small extraction prepares nothing.

    Raises:
        PipelineError: a mode that is unknown, or that this machine lacks.
    """
    asked = known_compile_mode(asked, device, dtype)
    if asked != "auto":
        return asked, ""
    if num_frames < FRAMES_WORTH_COMPILING:
        return "jit", ""
    if device.startswith("cuda"):
        return "inductor", ""
    # Modes that are prepared faster come first, because they can make the others not worth a measurement.
    modes = [mode for mode in (*ENGINES, "inductor") if can_compile(mode, device, dtype)]
    num_batches = num_frames / speeds.batch_frames / num_cores()
    seconds = {"jit": num_batches * speeds.of_jit(dtype)}
    about: list[str] = []
    for mode in modes:
        gain = LARGEST_GAIN_OVER_ENGINE if min(seconds, key=lambda way: seconds[way]) in ENGINES else LARGEST_GAIN
        if min(seconds.values()) * (1 - 1 / gain) < LEAST_PREPARING_SECONDS:
            break
        try:
            preparing, batch = speeds.of_preparing(mode, dtype)
        except PipelineError as error:  # an engine does not have every operation
            about.append(str(error))
            continue
        seconds[mode] = preparing + num_batches * batch
    best = min(seconds, key=lambda mode: seconds[mode])
    took = f"{num_frames:,} frames take {seconds[best]:.0f} s"
    if best != "jit":
        about.append(f"The backbone runs by {best}: {took} instead of {seconds['jit']:.0f} s.")
    elif modes:
        about.append(f"The backbone is not compiled: {took} without compiling.")
    else:
        about.append("No C++ compiler found: the backbone runs frozen but not compiled, at about half the speed.")
    return best, " ".join(about)


def choose_dtype(asked: str, device: str, backbone: Backbone, frames: Tensor | None, speeds: Speeds) -> tuple[str, str]:
    """Return the number type in which the backbone runs, and a message if it is not the obvious one.

    `auto` is bfloat16 if a batch takes much less time in it, and the maps of `frames` (uint8, of real clips; None if no
    clip decodes or bfloat16 is slow) differ from those in float32 by at most `BFLOAT16_ERROR_BOUND`.

    Raises:
        PipelineError: an unknown type.
    """
    check_number_type("dtype", asked)
    if asked != "auto":
        return asked, ""
    if frames is None or faster_dtype(speeds.of_dtypes) == "float32":
        return "float32", ""
    error = bfloat16_error(backbone, frames)
    if error <= BFLOAT16_ERROR_BOUND:
        return "bfloat16", ""
    return "float32", (
        f"In bfloat16 the maps of {backbone.name} have an error of {error:.3f} (bound {BFLOAT16_ERROR_BOUND}), "
        f"so float32 is used, {speeds.of_dtypes['float32'] / speeds.of_dtypes['bfloat16']:.1f} times as slow."
    )


def bfloat16_error(backbone: Backbone, frames: Tensor) -> float:
    """Compute the relative error of the maps of some frames in bfloat16 against float32, in the Euclidean norm.

    Shape:
        frames: (N, 3, H, W), uint8.
    """
    with torch.no_grad():
        exact = backbone(frames).double()
        rounded = copy.deepcopy(backbone).to(torch.bfloat16)(frames).double()
    return relative_error(rounded, exact)


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Return ||found - exact|| / ||exact|| in the Euclidean norm."""
    return float((found - exact).norm() / exact.norm().clamp_min(1e-12))


def _has_amx() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())
