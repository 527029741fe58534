"""Train the `bundled` weights: SqueezeNet's feature layers on drawn still images, without any download.

The training is a list of phases over pools of drawn images, small images first. Every random number follows from the
seed and the number of the step, and checkpoints are written during the training, so that a stopped and resumed run
gives the weights of an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.squeezenet import SqueezeNet
from pipeline.bundled.pretext import QUESTIONS, Pretext, answerable
from pipeline.bundled.still_pools import StillPools, images_of, resized, varied_batch
from pipeline.bundled.stills import MASK_STRIDE, Stills, draw_stills
from pipeline.calibration import multiplies_bfloat16_fast
from pipeline.errors import PipelineError
from pipeline.files import atomic_path
from pipeline.prepare.gestures.seeding import generator_for
from pipeline.progress import Progress
from pipeline.training.checkpoint import save_state

HELD_OUT_BATCH = -1
LARGEST_ACTIVATION = 1000.0
# The map of a smaller image has a single cell, which has no position to predict.
SMALLEST_INPUT = 48


@dataclass(frozen=True)
class Phase:
    """Pools of images of one size: drawn with `drawn_size` pixels, resized to `input_size` for the network."""

    drawn_size: int
    input_size: int
    num_pools: int
    num_passes: int


PHASES = (Phase(96, 96, 9, 3), Phase(112, 160, 2, 2), Phase(112, 224, 2, 2))


@dataclass(frozen=True)
class BundledSettings:
    """All settings that determine the weights (on one machine, with one number of threads)."""

    seed: int = 0
    phases: tuple[Phase, ...] = PHASES
    pool_images: int = 8192
    drawing_images: int = 256
    batch_size: int = 128
    peak_learning_rate: float = 1.5e-3
    weight_decay: float = 1e-4
    warm_up_steps: int = 300
    averaging: float = 0.998

    def __post_init__(self) -> None:
        if self.pool_images % self.drawing_images or self.pool_images % self.batch_size:
            raise PipelineError(
                f"`pool_images` (={self.pool_images}) must be a multiple of `drawing_images` (={self.drawing_images}) "
                f"and of `batch_size` (={self.batch_size})."
            )
        for phase in self.phases:
            if phase.input_size < SMALLEST_INPUT or phase.drawn_size % MASK_STRIDE:
                raise PipelineError(
                    f"A phase needs an `input_size` of at least {SMALLEST_INPUT} and a `drawn_size` that is a multiple "
                    f"of {MASK_STRIDE}, not {phase.input_size} and {phase.drawn_size}."
                )

    @property
    def steps_per_pass(self) -> int:
        return self.pool_images // self.batch_size

    @property
    def num_steps(self) -> int:
        return sum(phase.num_pools * phase.num_passes for phase in self.phases) * self.steps_per_pass


@dataclass(frozen=True)
class BundledSummary:
    """Result of a run: steps done, total steps, time, and the mean absolute errors on held-out stills."""

    out: Path
    steps_done: int
    num_steps: int
    seconds: float
    errors: dict[str, float]
    largest_activation: float

    @property
    def is_finished(self) -> bool:
        return self.steps_done == self.num_steps


@dataclass(frozen=True)
class _Step:
    number: int
    pool: int
    phase: Phase
    rows: np.ndarray
    progress: float


def train_bundled(
    out: Path,
    checkpoint: Path,
    settings: BundledSettings | None = None,
    *,
    minutes: float = 45.0,
    device: str = "cpu",
    checkpoint_every_steps: int = 200,
    stop_after_steps: int | None = None,
) -> BundledSummary:
    """Start or resume the training, and write the averaged weights to `out` in float16.

    After `minutes` the run stops at a checkpoint; the same call resumes from it.

    Raises:
        PipelineError: the checkpoint has other settings, or activations exceed the range of float16.
    """
    settings = settings or BundledSettings()
    started_at_seconds = time.monotonic()
    backbone = SqueezeNet()
    backbone.initialise(settings.seed)
    backbone = backbone.to(device)
    pretext = _pretext(backbone.channels, settings.seed).to(device)
    network = nn.ModuleDict({"backbone": backbone, "pretext": pretext})
    averaged = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=settings.peak_learning_rate, weight_decay=settings.weight_decay
    )
    done = _restore(checkpoint, settings, network, averaged, optimiser)
    sizes = [phase.drawn_size for phase in settings.phases for _ in range(phase.num_pools)]
    pools = StillPools(settings.seed, sizes, settings.pool_images, settings.drawing_images)
    with pools, Progress("train-bundled", settings.num_steps, "steps", done=done) as progress:
        for step in _steps(settings, start=done):
            losses = _train_step(network, optimiser, settings, step, pools.get(step.pool), device)
            _average(averaged, network, min(settings.averaging, (1 + step.number) / (10 + step.number)))
            done = step.number + 1
            progress.advance(1, note=f"{step.phase.input_size} px, {losses}")
            is_over = (time.monotonic() - started_at_seconds) / 60 >= minutes or done == stop_after_steps
            if is_over or done % checkpoint_every_steps == 0:
                _save(checkpoint, settings, network, averaged, optimiser, done)
                _write_weights(out, averaged, settings, done)
            if is_over:
                break
    _save(checkpoint, settings, network, averaged, optimiser, done)
    network.load_state_dict(averaged)
    errors, largest = held_out_errors(backbone, pretext, settings, device=device)
    if not largest < LARGEST_ACTIVATION:
        raise PipelineError(
            f"The largest activation is {largest:g}; features are stored in float16 and must stay below "
            f"{LARGEST_ACTIVATION:g}. Train again with a lower learning rate."
        )
    _write_weights(out, averaged, settings, done)
    return BundledSummary(out, done, settings.num_steps, time.monotonic() - started_at_seconds, errors, largest)


def held_out_errors(
    backbone: Backbone,
    pretext: Pretext,
    settings: BundledSettings,
    *,
    device: str = "cpu",
) -> tuple[dict[str, float], float]:
    """Measure mean absolute errors of the linear read-out on held-out stills, and the largest activation."""
    phase, num_images = settings.phases[-1], min(512, settings.pool_images)
    stills = draw_stills(settings.seed, HELD_OUT_BATCH, num_images, phase.drawn_size)
    answers, largest = [], 0.0
    with torch.inference_mode():
        for rows in np.array_split(np.arange(num_images), max(1, num_images // 32)):
            images = resized(images_of(stills, rows, device), phase.input_size)
            maps = backbone(images.round().to(torch.uint8))
            largest = max(largest, float(maps.abs().max()))
            answers.append(pretext.read(maps))
        targets = torch.from_numpy(stills.targets).to(device)
        distances = (torch.cat(answers) - targets[:, [question.column for question in QUESTIONS]]).abs()
        errors = {}
        for index, question in enumerate(QUESTIONS):
            weights = answerable(targets, question)
            errors[question.name] = float((distances[:, index] * weights).sum() / weights.sum())
    return errors, largest


def _steps(settings: BundledSettings, start: int) -> Iterator[_Step]:
    """Yield every step from `start` on, with its images and the progress of the training, counted in pixels."""
    pixels_per_phase = [phase.input_size**2 * phase.num_pools * phase.num_passes for phase in settings.phases]
    pixels_done, number, pool = 0.0, 0, 0
    total = sum(pixels_per_phase)
    for phase in settings.phases:
        for _ in range(phase.num_pools):
            for turn in range(phase.num_passes):
                order = generator_for("order", settings.seed, pool, turn).permutation(settings.pool_images)
                for rows in np.split(order, settings.steps_per_pass):
                    if number >= start:
                        yield _Step(number, pool, phase, rows, pixels_done / total)
                    pixels_done += phase.input_size**2 / settings.steps_per_pass
                    number += 1
            pool += 1


def _train_step(
    network: nn.ModuleDict,
    optimiser: torch.optim.Optimizer,
    settings: BundledSettings,
    step: _Step,
    stills: Stills,
    device: str,
) -> str:
    warm_up = min(1.0, (step.number + 1) / settings.warm_up_steps)
    rate = settings.peak_learning_rate * warm_up * (0.5 + 0.5 * math.cos(math.pi * step.progress))
    for group in optimiser.param_groups:
        group["lr"] = rate
    numbers = generator_for("variation", settings.seed, step.number)
    images, targets, masks = varied_batch(stills, step.rows, numbers, step.phase.input_size, device)
    backbone, pretext = network["backbone"], network["pretext"]
    assert isinstance(backbone, Backbone)
    with _autocast(device):
        maps = backbone.forward_features(backbone.normalise(images))
    losses: dict[str, Tensor] = pretext(maps, targets, masks)
    optimiser.zero_grad(set_to_none=True)
    total = torch.stack(list(losses.values())).sum()
    if not bool(torch.isfinite(total)):
        raise PipelineError(
            f"The loss is {float(total.detach())} at step {step.number}: the training has diverged. "
            "Delete the checkpoint and start again with a lower `peak_learning_rate`."
        )
    total.backward()
    # Clipped, because without batch norm a rare large gradient does much harm.
    nn.utils.clip_grad_norm_(network.parameters(), 2.0)
    optimiser.step()
    return " ".join(f"{name} {float(loss.detach()):.3f}" for name, loss in losses.items())


def _autocast(device: str) -> AbstractContextManager[None]:
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16) if multiplies_bfloat16_fast(kind) else nullcontext()


def _pretext(channels: int, seed: int) -> Pretext:
    # Forked random state: the initial weights of the read-outs do not depend on earlier draws.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Pretext(channels)


def _average(averaged: dict[str, Tensor], network: nn.Module, keep: float) -> None:
    for name, value in network.state_dict().items():
        averaged[name].lerp_(value, 1.0 - keep)


def _save(
    path: Path,
    settings: BundledSettings,
    network: nn.Module,
    averaged: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    done: int,
) -> None:
    state: dict[str, Any] = {
        "settings": repr(asdict(settings)),
        "done": done,
        "network": network.state_dict(),
        "averaged": averaged,
        "optimiser": optimiser.state_dict(),
    }
    save_state(path, state)


def _restore(
    path: Path,
    settings: BundledSettings,
    network: nn.Module,
    averaged: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> int:
    """Load a checkpoint, if there is one; return the number of steps done."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["settings"] != repr(asdict(settings)):
        raise PipelineError(
            f"The checkpoint {path} belongs to other settings: {state['settings']}. "
            "Use the same settings, or delete it to start again."
        )
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    for name, value in state["averaged"].items():
        averaged[name].copy_(value)
    return int(state["done"])


def _write_weights(out: Path, averaged: dict[str, Tensor], settings: BundledSettings, done: int) -> None:
    prefix = "backbone."
    tensors = {
        name.removeprefix(prefix): value.to("cpu", torch.float16).contiguous()
        for name, value in averaged.items()
        if name.startswith(prefix)
    }
    metadata = {
        "backbone": SqueezeNet.name,
        "made_by": "pipeline train-bundled: drawn still images of hands, no photographs, no clips",
        "seed": str(settings.seed),
        "steps": f"{done} of {settings.num_steps}",
        "input_size": str(settings.phases[-1].input_size),
    }
    with atomic_path(out) as aside:
        save_file(tensors, aside, metadata)
