"""Question: how fast is training end to end, compared to its forward and backward pass alone?

For each number type it prints: clips per second of the second epoch of `finetune` on a manifest, including decoding,
augmentation and optimiser; clips per second of only forward, loss, backward and step on random frames in the same batch
size; their ratio (goal 0.9 on a GPU); the share of time in which the device waits for data; on a GPU the peak memory.

    python -m benchmarks.finetune --manifest data_manifests/gestures.csv --root data/gestures
    python -m benchmarks.finetune --manifest M --root R --device cuda --backbones squeezenet,bninception
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import stages.finetune
from benchmarks.heads import machine
from pipeline.devices import fixed_threads
from pipeline.finetune.model import EndToEnd, choose_runtime, fresh_classifier, set_training_mode
from pipeline.manifest import read_manifest
from pipeline.processes import num_cores
from pipeline.recipe import named_recipe
from pipeline.settings.finetune import FinetuneSettings
from pipeline.training.optimiser import build_optimiser, clear_gradients, clip_gradients, plan_parameters


def step_alone(
    backbone: str,
    head: str,
    num_classes: int,
    num_segments: int,
    batch: int,
    device: str,
    precision: str,
    parts: int = 1,
    checkpointing: bool = False,
    compile: bool = False,
) -> Callable[[], None]:
    """Return the training step of `finetune` on random frames on the device: forward, loss, backward, update."""
    recipe = named_recipe("paper")
    classes = tuple(f"class {number}" for number in range(num_classes))
    classifier = fresh_classifier(head, backbone, "random", classes, num_segments, recipe, 0)
    where = choose_runtime(device, precision)
    classifier = classifier.to(where.device)
    classifier.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    classifier.backbone.recompute = checkpointing
    if compile:
        classifier.backbone.compile()
    network = EndToEnd(classifier, where)
    set_training_mode(classifier, recipe.training)
    rate = recipe.training.lr
    plan = plan_parameters({"backbone": (classifier.backbone, rate), "head": (classifier.head, rate)}, recipe.training)
    optimiser = build_optimiser(plan, recipe.training)
    size = classifier.backbone.preprocessing.input_size
    shape = (batch, num_segments, size, size, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=where.device).permute(0, 1, 4, 2, 3)
    labels = torch.arange(batch, device=where.device) % num_classes

    def step() -> None:
        clear_gradients(plan, recipe.training)
        for part, wanted in zip(frames.chunk(parts), labels.chunk(parts), strict=True):
            (torch.nn.functional.cross_entropy(network(part), wanted, reduction="sum") / batch).backward()
        clip_gradients(plan, recipe.training)
        optimiser.step()
        _synchronise(where.device)

    return step


def clips_per_second(step: Callable[[], None], batch: int, num_steps: int = 6) -> float:
    """Use the median of `num_steps` steps, after two that select kernels and fill the allocator."""
    seconds = []
    for _ in range(2 + num_steps):
        started_at_seconds = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started_at_seconds)
    return batch / statistics.median(seconds[2:])


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--root")
    parser.add_argument("--backbones", default="squeezenet")
    parser.add_argument("--head", default="lstm")
    parser.add_argument("--num-segments", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precisions", default="bfloat16,float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--augment-on-device", action="store_true")
    arguments = parser.parse_args()
    classes = read_manifest(arguments.manifest, arguments.root).classes
    rows = []
    for backbone in arguments.backbones.split(","):
        for precision in arguments.precisions.split(","):
            with tempfile.TemporaryDirectory() as folder, fixed_threads(num_cores()):
                stages.finetune.run(
                    FinetuneSettings(
                        manifest=arguments.manifest,
                        root=arguments.root,
                        init="none",
                        out=Path(folder),
                        backbone=backbone,
                        head=arguments.head,
                        weights="random",
                        num_segments=arguments.num_segments,
                        overrides={"epochs": 2, "batch_size": arguments.batch_size},
                        device=arguments.device,
                        precision=precision,
                        workers=arguments.workers,
                        augment_on_device=arguments.augment_on_device,
                    )
                )
                timing = json.loads(next(Path(folder).glob("*/timing.json")).read_text())
                step = step_alone(
                    backbone, arguments.head, len(classes), arguments.num_segments, arguments.batch_size,
                    arguments.device, precision,
                )  # fmt: skip
                bound = clips_per_second(step, arguments.batch_size)
            last = timing["epochs"][-1]
            row = {"backbone": backbone, "head": arguments.head, "precision": precision, "batch": arguments.batch_size}
            row |= {"clips_per_second": last["train_clips_per_second"], "bound_clips_per_second": round(bound, 2)}
            row |= {"ratio": round(last["train_clips_per_second"] / bound, 3), "waiting_share": last["waiting_share"]}
            row["peak_memory_bytes"] = timing.get("peak_memory_bytes")
            rows.append(row)
    print(json.dumps({"machine": machine(arguments.device), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
