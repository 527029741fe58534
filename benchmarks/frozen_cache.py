"""Question: from how many epochs on does `finetune --freeze-until LAYER --fixed-views N` pay for its cache?

For each layer it measures, per clip: a training step from frames, with decoding; the same step from cached activations;
and what a view costs to cache (decoding and the frozen layers). All are measured in turn, in seconds of the processor,
on which other programs have little influence, and their medians taken. `epochs` is the number of training epochs after
which the cache of one view has paid for itself; with N views it is N times as large. `whole` is the ratio of both for a
training of `--epochs` epochs with `--views` views. Selection clips, which are scored in each epoch, gain too and are
left out.

    python -m benchmarks.frozen_cache
    python -m benchmarks.frozen_cache --backbone bninception --input-size 112
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.heads import machine
from pipeline.devices import fixed_threads
from pipeline.finetune.clip_loader import FIRST_FRESH_DRAW, LabelledClip, SampleRequest, SampleSettings, load_sample
from pipeline.finetune.model import (
    EndToEnd,
    choose_runtime,
    freeze_up_to,
    fresh_classifier,
    num_frozen_parts,
    set_training_mode,
)
from pipeline.finetune.rates import plan_rates
from pipeline.prepare.gestures.encode import write_video
from pipeline.recipe import named_recipe
from pipeline.training.optimiser import build_optimiser, clear_gradients

LAYERS = {
    "squeezenet": "features.4,features.7,features.10",
    "bninception": "inception_3c_double_3x3_2_bn,inception_4c_double_3x3_2_bn,inception_4e_double_3x3_2_bn",
}
CLASSES = ("a", "b")


class Measured:
    """A training step with frozen layers, from frames and from cached activations."""

    def __init__(self, options: argparse.Namespace, layer: str) -> None:
        recipe = named_recipe("finetune")
        self.runtime = choose_runtime("cpu", options.precision)
        classifier = fresh_classifier(
            options.head, options.backbone, "random", CLASSES, options.num_segments, recipe, 0,
            input_size=options.input_size,
        )  # fmt: skip
        freeze_up_to(classifier.backbone, layer)
        classifier.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = EndToEnd(classifier, self.runtime)
        set_training_mode(classifier, recipe.training)
        self.plan, self.choices = plan_rates(classifier, recipe), recipe.training
        self.optimiser = build_optimiser(self.plan, self.choices)
        self.backbone = classifier.backbone

    def step(self, inputs: torch.Tensor) -> None:
        clear_gradients(self.plan, self.choices)
        labels = torch.arange(len(inputs)) % len(CLASSES)
        torch.nn.functional.cross_entropy(self.network(inputs), labels).backward()
        self.optimiser.step()

    def activations(self, frames: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), self.runtime.autocast():
            inputs = self.backbone.normalise(frames.flatten(0, 1))
            maps = self.backbone.run_parts(inputs, stop=num_frozen_parts(self.backbone))
        found: torch.Tensor = maps.unflatten(0, frames.shape[:2])
        return found


def moving_waves(phase: int) -> npt.NDArray[np.uint8]:
    """Draw 40 smooth frames of 160×120 pixels, the size of the demo's clips."""
    t, y, x, c = np.meshgrid(np.arange(40), np.arange(120), np.arange(160), np.arange(3), indexing="ij", sparse=True)
    return (127 + 100 * np.sin((x + 2 * y + 5 * t) / (9 + c) + phase)).astype(np.uint8)


def seconds_of(action: Callable[[], object]) -> float:
    started_at_seconds = time.process_time()
    action()
    return time.process_time() - started_at_seconds


def row(options: argparse.Namespace, layer: str, requests: list[SampleRequest], settings: SampleSettings) -> str:
    """Measure one layer, and return its line of the table."""
    measured = Measured(options, layer)
    pixels = [load_sample(request, settings).pixels for request in requests]
    frames = torch.stack([each for each in pixels if each is not None]).permute(0, 1, 4, 2, 3)
    cached = measured.activations(frames)
    decoding, step, frozen, short = [], [], [], []
    for _ in range(options.repeats + 1):
        decoding.append(seconds_of(lambda: [load_sample(request, settings) for request in requests]))
        step.append(seconds_of(lambda: measured.step(frames)))
        frozen.append(seconds_of(lambda: measured.activations(frames)))
        short.append(seconds_of(lambda: measured.step(cached)))
    num_clips = len(requests)
    # The first measurement selects kernels and fills the allocator.
    per_clip = [statistics.median(values[1:]) / num_clips for values in (decoding, step, frozen, short)]
    plain, cost = per_clip[0] + per_clip[1], per_clip[0] + per_clip[2]
    num_bytes = cached[0].numel() * cached.element_size()
    epochs = cost / (plain - per_clip[3])
    whole = options.epochs * plain / (options.views * cost + options.epochs * per_clip[3])
    return (
        f"{layer:30} {1e3 * per_clip[0]:7.1f} {1e3 * plain:8.1f} {1e3 * per_clip[3]:8.1f} {1e3 * cost:8.1f} "
        f"{plain / per_clip[3]:7.2f} {epochs:7.2f} {whole:6.2f} {num_bytes / 1e6:8.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="squeezenet", choices=tuple(LAYERS))
    parser.add_argument("--layers", help="frozen up to these layers")
    parser.add_argument("--head", default="lstm")
    parser.add_argument("--num-segments", type=int, default=8)
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--clips", type=int, default=4, help="number of clips in a step")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    print(json.dumps(machine("cpu")))
    print(f"{options.backbone}, {options.input_size} pixels, {options.num_segments} segments, {options.precision}")
    print(f"{'milliseconds per clip':30} {'decode':>7} {'frames':>8} {'cached':>8} {'a view':>8} {'faster':>7}", end="")
    print(f" {'epochs':>7} {'whole':>6} {'MB/view':>8}")
    with tempfile.TemporaryDirectory() as folder, fixed_threads(options.threads):
        requests = []
        for number in range(options.clips):
            path = Path(folder) / f"{number}.mp4"
            write_video(path, moving_waves(phase=number))
            requests.append(SampleRequest(LabelledClip(str(number), str(path), 0), FIRST_FRESH_DRAW))
        settings = SampleSettings(options.num_segments, named_recipe("finetune").frames, 0, options.input_size)
        for layer in (options.layers or LAYERS[options.backbone]).split(","):
            print(row(options, layer, requests, settings), flush=True)


if __name__ == "__main__":
    main()
