"""Question: how much time does an exact box cost, compared to one rounded to whole pixels and to Pillow?

Renders views of 8 of the 24 frames of a clip, with one thread and memory kept between views as in extraction: the test
view and the 50 crops, by `render`; the same boxes rounded to whole pixels, by `torch.nn.functional.interpolate` on
bytes; and exactly, by `PIL.Image.resize(box=...)`. All ways run in turn within every round. It prints the median CPU
milliseconds per view, the median of the rounds' ratios to the rounded boxes, and the mean difference from Pillow in
grey levels on noise, where it is largest.

    python -m benchmarks.render
    python -m benchmarks.render --rounds 15
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.decode import processor
from pipeline.allocator import keep_memory_between_batches
from pipeline.video.crops import CropBox, centre_crop, multiscale_crops
from pipeline.video.render import render

NUM_DECODED, SIZE = 24, 224
POSITIONS = np.arange(1, NUM_DECODED, 3)  # 8 frames
SHAPES = ((100, 176), (120, 160), (240, 320), (240, 427), (256, 455), (1080, 1920))

Way = Callable[[np.ndarray, CropBox], Tensor]


def exact(frames: np.ndarray, crop: CropBox) -> Tensor:
    return render(frames, crop, False, SIZE, POSITIONS)


def rounded(frames: np.ndarray, crop: CropBox) -> Tensor:
    """Crop whole pixels, then resize them."""
    top, left, height, width = int(crop.top), int(crop.left), int(crop.height), int(crop.width)
    box = np.array(frames[POSITIONS][:, top : top + height, left : left + width], order="C")
    pixels = torch.from_numpy(box).permute(0, 3, 1, 2)
    resized = F.interpolate(pixels, size=(SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
    return resized.contiguous(memory_format=torch.channels_last)


def by_pillow(frames: np.ndarray, crop: CropBox) -> Tensor:
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    resized = [
        Image.fromarray(frame).resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box) for frame in frames[POSITIONS]
    ]
    return torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2)


def milliseconds(way: Way, frames: np.ndarray, boxes: Sequence[CropBox]) -> float:
    started_at = time.process_time()  # CPU time: hardly affected by other processes
    for box in boxes:
        way(frames, box)
    return (time.process_time() - started_at) * 1000 / len(boxes)


def measure(frames: np.ndarray, boxes: Sequence[CropBox], rounds: int) -> dict[str, float]:
    ways: dict[str, Way] = {"exact": exact, "rounded": rounded, "pillow": by_pillow}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(rounds + 1):
        for name, way in ways.items():
            spent = milliseconds(way, frames, boxes)
            if round_number:  # the first round warms up
                times[name].append(spent)
    found = {f"{name}_ms": round(statistics.median(values), 2) for name, values in times.items()}
    ratios = [a / b for a, b in zip(times["exact"], times["rounded"], strict=True)]
    found["exact_to_rounded"] = round(statistics.median(ratios), 2)
    for name, way in (("exact", exact), ("rounded", rounded)):
        errors = [(way(frames, box).int() - by_pillow(frames, box).int()).abs().float().mean() for box in boxes]
        found[f"{name}_error"] = round(float(np.mean(errors)), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    keep_memory_between_batches()
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for height, width in SHAPES:
        frames = np.random.default_rng(0).integers(0, 256, (NUM_DECODED, height, width, 3), np.uint8)
        views = {"test view": [centre_crop(height, width)] * 5, "50 crops": multiscale_crops(height, width)}
        for name, boxes in views.items():
            print(f"{width}x{height} {name}:", json.dumps(measure(frames, boxes, rounds)), flush=True)


if __name__ == "__main__":
    main()
