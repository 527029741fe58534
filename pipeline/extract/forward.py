"""The backbone as it runs in extraction: frozen, channels last, compiled where that pays, in batches of one size.

On a GPU nothing here waits: copies from and to pinned memory and the batches between them are queued, and the caller
waits only for the copy of the features it asks for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones import Backbone, pooled
from pipeline.errors import ClipError
from pipeline.extract.compute import RunnerConfig

FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Pending:
    """Features on their way to this machine's memory; `copied` is None where they are there."""

    pooled: Tensor
    maps: Tensor | None
    copied: torch.cuda.Event | None

    def result(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The features, once they are there; from any thread.

        Shape:
            returns: (T, C) and (T, H, W, C), float16.

        Raises:
            ClipError: a value is beyond float16, or is no number.
        """
        if self.copied is not None:
            self.copied.synchronize()
        features = self.pooled.numpy()
        maps = None if self.maps is None else self.maps.numpy()
        for values in (features, maps):
            if values is not None and not all_finite(values):
                raise ClipError(
                    "overflow", f"A feature is beyond float16 (largest {FLOAT16_MAX:,.0f}) or not a number."
                )
        return features, maps


def all_finite(values: np.ndarray) -> bool:
    """Whether no value is infinite or no number. By their bits: NumPy converts each float16 to look at it.

    Shape:
        values: any, float16, at least one value.
    """
    # All exponent bits set: from 0x7C00 on where the sign is plus, from 0xFC00 on where it is minus.
    return bool(values.view(np.int16).max() < 0x7C00 and values.view(np.uint16).max() < 0xFC00)


class BackboneRunner:
    """Frames of one clip -> float16 features.

    A call's frames are divided into batches of one size, the last one padded: then the features of a clip depend on
    nothing else in the run. The backbone given is taken over (frozen, converted).
    """

    def __init__(self, backbone: Backbone, compute: RunnerConfig) -> None:
        self.compute = compute
        self._dtype = getattr(torch, compute.dtype)
        for parameter in backbone.parameters():
            parameter.requires_grad_(False)
        self._backbone = backbone.eval().to(device=compute.device, dtype=self._dtype)
        self._backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        size = backbone.preprocessing.input_size
        self._example = torch.zeros(
            (compute.batch_frames, 3, size, size), dtype=torch.uint8, device=compute.device
        ).contiguous(memory_format=torch.channels_last)
        self._run = self._prepared()

    def __call__(self, frames: Tensor, keep_maps: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Pooled features of some frames, and their maps where they are kept.

        Shape:
            frames:  (T, 3, H, W), uint8, channels last in memory.
            returns: (T, C) and (T, H, W, C), float16.

        Raises:
            ClipError: a value is beyond float16, or is no number.
        """
        return self.submit(frames, keep_maps).result()

    def submit(self, frames: Tensor, keep_maps: bool) -> Pending:
        """Begin with some frames; on a GPU this returns before they are done.

        Shape:
            frames: (T, 3, H, W), uint8, channels last in memory; pinned, where the device is a GPU.
        """
        vectors: list[Tensor] = []
        maps: list[Tensor] = []
        with torch.inference_mode(), self._exact():
            for start in range(0, len(frames), self.compute.batch_frames):
                batch = frames[start : start + self.compute.batch_frames]
                found = self._padded(batch)[: len(batch)]  # (n, C, h, w)
                vectors.append(pooled(found).to(torch.float16))
                if keep_maps:
                    maps.append(found.permute(0, 2, 3, 1).to(torch.float16))
            features = torch.cat(vectors)
            spatial = torch.cat(maps).contiguous() if keep_maps else None
            if not features.is_cuda:
                return Pending(features, spatial, None)
            kept = (_to_pinned(features), None if spatial is None else _to_pinned(spatial))
            copied = torch.cuda.Event()
            copied.record(torch.cuda.current_stream(features.device))
            return Pending(*kept, copied)

    @contextmanager
    def _exact(self) -> Iterator[None]:
        """On a GPU, convolutions in float32 that is not rounded to TF32, and that add in one order."""
        if not self.compute.device.startswith("cuda"):
            yield
            return
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield

    def _padded(self, batch: Tensor) -> Tensor:
        batch = batch.to(self.compute.device, non_blocking=True)
        if len(batch) < self.compute.batch_frames:
            whole = self._example.clone()
            whole[: len(batch)] = batch
            batch = whole
        return self._run(batch.contiguous(memory_format=torch.channels_last))

    def _prepared(self) -> Callable[[Tensor], Tensor]:
        run: Any = self._backbone
        if self.compute.compile_mode == "eager":
            return self._backbone
        with warnings.catch_warnings(), torch.no_grad():
            # torch warns about its own ways of tracing; the shape is fixed here, so what is traced always holds.
            warnings.simplefilter("ignore")
            if self.compute.compile_mode == "jit":
                run = torch.jit.freeze(torch.jit.trace(self._backbone, self._example, check_trace=False))
            else:
                run = torch.compile(self._backbone, fullgraph=True, dynamic=False, options={"freezing": True})
            with torch.inference_mode(), self._exact():
                for _ in range(2):
                    run(self._example)
        return cast("Callable[[Tensor], Tensor]", run)


def _to_pinned(values: Tensor) -> Tensor:
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
