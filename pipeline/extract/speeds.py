"""Measure the time of a batch of the backbone on this machine by number type and compiler, for `auto`."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any

import torch

from pipeline.backbones import Backbone
from pipeline.calibration import Calibration, Step, clock_of, device_name, finish
from pipeline.devices import fixed_threads
from pipeline.extract.compute import RunnerConfig
from pipeline.extract.forward import BackboneRunner
from pipeline.onnx_program import ENGINES


@dataclass(frozen=True)
class BackboneSpeeds:
    """Measured times of a backbone. Each is measured on first use, unless it is in the calibration.

    Every process of an extraction runs the model with one thread, so the measurement uses one thread.
    """

    backbone: Backbone
    device: str
    batch_frames: int
    calibration: Calibration

    @cached_property
    def of_dtypes(self) -> dict[str, float]:
        """Seconds per batch in float32 and bfloat16, frozen but not compiled."""
        steps = {dtype: partial(self._step, dtype, "jit") for dtype in ("float32", "bfloat16")}
        return self._measure("backbone, types", self._sizes(), steps)

    def of_jit(self, dtype: str) -> float:
        """Measure the seconds per batch, frozen but not compiled."""
        steps = {"jit": partial(self._step, dtype, "jit")}
        return self._measure("backbone, jit", self._sizes(dtype=dtype), steps)["jit"]

    def of_preparing(self, mode: str, dtype: str) -> tuple[float, float]:
        """Measure the seconds to prepare a compile mode (to compile or convert the backbone), and per batch then.

        Raises:
            PipelineError: the backbone cannot be run in this mode.
        """
        spent: list[float] = []
        sizes = self._sizes(dtype=dtype)
        if mode in ENGINES:
            sizes["engine"] = version(mode)

        def prepared() -> Step:
            started_at = time.perf_counter()
            step = self._step(dtype, mode)
            spent.append(time.perf_counter() - started_at)
            return step

        batch = self._measure(f"backbone, {mode}", sizes, {mode: prepared})[mode]
        preparing = self.calibration.note(f"backbone, preparing {mode}", sizes, spent[0] if spent else None)
        return preparing, batch

    def _measure(
        self, what: str, sizes: Mapping[str, Any], steps: Mapping[str, Callable[[], Step]]
    ) -> dict[str, float]:
        return self.calibration.measure(what, sizes, steps, clock_of(self.device, 1))

    def _sizes(self, **others: str) -> dict[str, Any]:
        return {
            **others,
            "backbone": self.backbone.name,
            "input": self.backbone.preprocessing.input_size,
            "batch": self.batch_frames,
            "device": device_name(self.device),
        }

    def _step(self, dtype: str, mode: str) -> Callable[[], None]:
        with fixed_threads(1):
            runner = BackboneRunner(
                copy.deepcopy(self.backbone), RunnerConfig(dtype, mode, "", self.batch_frames, self.device)
            )
        size = self.backbone.preprocessing.input_size
        frames = torch.zeros((self.batch_frames, 3, size, size), dtype=torch.uint8)
        frames = frames.contiguous(memory_format=torch.channels_last)

        def step() -> None:
            with fixed_threads(1):
                runner(frames, True)
            finish(self.device)

        return step
