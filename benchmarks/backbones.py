"""Question: how much faster are the compiled forms of a backbone than eager float32, and how large is bfloat16's error?

Each form is timed on the same batch of random frames, forward pass and normalisation. All forms run in turn within
every round, so that a slow period of the machine affects all; a factor is the median of the rounds' ratios to eager
float32 in NCHW. The error is ||bf16 - fp32|| / ||fp32|| of the maps, and of the pooled features, on frames of the given
videos (without videos, on drawn frames); with random weights, batch norms are calibrated on other frames of them.

    python -m benchmarks.backbones
    python -m benchmarks.backbones --backbones squeezenet --weights PATH.pth --videos A.mp4 B.mp4 --rounds 7
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from pipeline.allocator import keep_memory_between_batches
from pipeline.backbones import Backbone, build_backbone, calibrate_batch_norm, pooled
from pipeline.extract.converted import converted
from pipeline.extract.forward import compiled as inductor
from pipeline.onnx_program import has_engine
from pipeline.video.crops import centre_crop
from pipeline.video.render import render

Form = Callable[[Tensor], Tensor]


def eager(backbone: Backbone, example: Tensor) -> Form:
    return backbone.to(memory_format=torch.contiguous_format)


def channels_last(backbone: Backbone, example: Tensor) -> Form:
    return backbone.to(memory_format=torch.channels_last)


def frozen_trace(backbone: Backbone, example: Tensor) -> Form:
    prepared = backbone.to(torch.bfloat16).to(memory_format=torch.channels_last)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing fixes the shape, as intended
        return torch.jit.freeze(torch.jit.trace(prepared, example, check_trace=False))


def compiled(backbone: Backbone, example: Tensor) -> Form:
    for parameter in backbone.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        return inductor(backbone.to(memory_format=torch.channels_last), example)


def compiled_bfloat16(backbone: Backbone, example: Tensor) -> Form:
    return compiled(backbone.to(torch.bfloat16), example)


def in_openvino(dtype: str, backbone: Backbone, example: Tensor) -> Form:
    return converted(backbone.to(memory_format=torch.channels_last), example, "openvino", dtype)


FORMS: dict[str, Callable[[Backbone, Tensor], Form]] = {
    "eager fp32 NCHW": eager,
    "eager fp32 channels_last": channels_last,
    "jit.freeze bf16 channels_last": frozen_trace,
    "compile fp32 freezing": compiled,
    "compile bf16 freezing": compiled_bfloat16,
}
if has_engine("openvino"):
    FORMS["OpenVINO fp32"] = partial(in_openvino, "float32")
    FORMS["OpenVINO bf16"] = partial(in_openvino, "bfloat16")


def machine() -> dict[str, Any]:
    """Return a description of the machine."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "processor": model or platform.processor(),
        "bf16": ", ".join(name for name in ("avx512_bf16", "amx_bf16") if name in flags) or "none",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def speed(backbone: Backbone, batch: int, rounds: int) -> dict[str, dict[str, float]]:
    """Measure frames per second of each form, and its factor over the first, as medians of `rounds` rounds."""
    size = backbone.preprocessing.input_size
    values = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    frames = torch.from_numpy(values).permute(0, 3, 1, 2)
    layouts = {name: frames.contiguous() if name.endswith("NCHW") else frames for name in FORMS}
    forms = {name: make(copy.deepcopy(backbone), layouts[name]) for name, make in FORMS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in FORMS}
    with torch.inference_mode():
        for name, form in forms.items():
            for _ in range(3):
                form(layouts[name])
        for _ in range(rounds):
            for name, form in forms.items():
                repeats = 2 if name.startswith("eager") else 4
                started = time.perf_counter()
                for _ in range(repeats):
                    form(layouts[name])
                seconds[name].append((time.perf_counter() - started) / repeats)
    first = seconds["eager fp32 NCHW"]
    return {
        name: {
            "frames_per_second": round(batch / statistics.median(times), 1),
            "factor": round(statistics.median(a / b for a, b in zip(first, times, strict=True)), 2),
        }
        for name, times in seconds.items()
    }


def real_frames(videos: list[str], num_frames: int) -> Tensor:
    """Read equidistant frames of each video, centre crop, (N, 3, 224, 224) uint8; draw smooth ones without videos."""
    if not videos:
        coarse = torch.rand(num_frames, 3, 14, 14, generator=torch.Generator().manual_seed(0)) * 255
        return torch.nn.functional.interpolate(coarse, 224, mode="bicubic").clamp(0, 255).to(torch.uint8)
    chosen = []
    for video in videos:
        with av.open(video) as container:
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        places = np.linspace(0, len(decoded) - 1, num_frames // len(videos)).astype(int)
        frames = np.stack([decoded[place] for place in places])
        chosen.append(render(frames, centre_crop(*frames.shape[1:3]), flip=False))
    return torch.cat(chosen)


def bfloat16_errors(backbone: Backbone, frames: Tensor) -> dict[str, float]:
    """Return the relative error of bfloat16, and that of float16 storage only, in the Euclidean norm."""
    rounded_backbone = copy.deepcopy(backbone).to(torch.bfloat16)
    with torch.inference_mode():
        exact, rounded = (
            torch.cat([network(batch) for batch in frames.split(16)]).float()
            for network in (backbone, rounded_backbone)
        )

    def relative(found: Tensor, wanted: Tensor) -> float:
        return float(f"{float((found - wanted).norm() / wanted.norm()):.2e}")

    return {
        "maps": relative(rounded, exact),
        "pooled": relative(pooled(rounded), pooled(exact)),
        "float16_storage": relative(exact.half().float(), exact),
        "zeros": round(float((exact == 0).float().mean()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", default="squeezenet,bninception")
    parser.add_argument("--weights", default="random", help="random, bundled, imagenet or a path; for all backbones")
    parser.add_argument("--videos", nargs="*", default=[])
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds; 0: no timing")
    parser.add_argument(
        "--threads", type=int, default=1, help="number of threads; extraction runs processes of one thread each"
    )
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    keep_memory_between_batches()
    report: dict[str, Any] = {"machine": machine(), "batch": asked.batch, "rounds": asked.rounds}
    frames = real_frames(asked.videos, 2 * asked.frames)
    for name in asked.backbones.split(","):
        backbone, record = build_backbone(name, asked.weights)
        backbone.requires_grad_(False)
        calibrated = calibrate_batch_norm(backbone, frames[1::2]) if record.name == "random" else 0
        report[name] = {
            "weights": {"name": record.name, "sha256": record.sha256, "calibrated_batch_norms": calibrated},
            "bfloat16_error": bfloat16_errors(backbone, frames[::2]),
        }
        if asked.rounds:
            report[name]["speed"] = speed(backbone, asked.batch, asked.rounds)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
