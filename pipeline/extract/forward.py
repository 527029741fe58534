"""Run the frozen backbone in extraction: channels last, optionally compiled, in batches of one size.

On a GPU, copies from and to pinned memory and the batches between them are queued asynchronously; the caller waits only
for the copy of the features.
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
from pipeline.errors import ClipError, PipelineError, first_line
from pipeline.extract.compute import RunnerConfig
from pipeline.extract.converted import converted
from pipeline.onnx_program import ENGINES, capture

FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Pending:
    """Features that are being copied to CPU memory; `copied` is None if they are already there."""

    pooled: Tensor
    maps: Tensor | None
    copied: torch.cuda.Event | None

    def result(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Wait for the features and return them, in any thread.

        Shape:
            returns: (T, C) and (T, H, W, C), float16.

        Raises:
            ClipError: a value is out of the range of float16, or not a number.
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
    """Return whether all values are finite, by their bits, because NumPy converts each float16 for `isfinite`.

    Shape:
        values: any, float16, at least one value.
    """
    # Infinity and NaN have all exponent bits set: 0x7C00 and above if positive, 0xFC00 and above if negative.
    return bool(values.view(np.int16).max() < 0x7C00 and values.view(np.uint16).max() < 0xFC00)


class BackboneRunner:
    """Compute float16 features of the frames of one clip.

    The frames are divided into batches of one size, the last one padded, so that the features of a clip do not depend
    on the other clips. The given backbone is modified (frozen, converted).

    Maps are averaged to `map_size`, by default the size of the backbone's maps; pooled features are always the mean of
    the backbone's maps.
    """

    def __init__(self, backbone: Backbone, compute: RunnerConfig, map_size: int | None = None) -> None:
        self.compute = compute
        self._map_size = backbone.map_size if map_size is None else map_size
        for parameter in backbone.parameters():
            parameter.requires_grad_(False)
        # An engine converts a backbone in float32 to its number type.
        dtype = torch.float32 if compute.compile_mode in ENGINES else getattr(torch, compute.dtype)
        self._backbone = backbone.eval().to(device=compute.device, dtype=dtype)
        if backbone.clip_frames == 1:  # weights of 3D convolutions have no such format
            self._backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        size = backbone.preprocessing.input_size
        self._example = torch.zeros(
            (compute.batch_frames, 3, size, size), dtype=torch.uint8, device=compute.device
        ).contiguous(memory_format=torch.channels_last)
        self._run = self._prepared()

    def __call__(self, frames: Tensor, keep_maps: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Compute pooled features of some frames, and their maps if they are stored.

        Shape:
            frames:  (T, 3, H, W), uint8, channels last in memory.
            returns: (T, C) and (T, H, W, C), float16.

        Raises:
            ClipError: a value is out of the range of float16, or not a number.
        """
        return self.submit(frames, keep_maps).result()

    def submit(self, frames: Tensor, keep_maps: bool) -> Pending:
        """Submit some frames; on a GPU this returns before they are computed.

        Shape:
            frames: (T, 3, H, W), uint8, channels last in memory; pinned if the device is a GPU.
        """
        vectors: list[Tensor] = []
        maps: list[Tensor] = []
        with torch.inference_mode(), self._exact():
            for start in range(0, len(frames), self.compute.batch_frames):
                batch = frames[start : start + self.compute.batch_frames]
                found = self._padded(batch)[: len(batch) // self._backbone.frames_per_map]  # (n, C, h, w)
                vectors.append(pooled(found).to(torch.float16))
                if keep_maps:
                    reduced = self._backbone.reduce_maps(found, self._map_size)
                    maps.append(reduced.permute(0, 2, 3, 1).to(torch.float16))
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
        """Use deterministic convolutions in float32 without TF32 on a GPU."""
        if not self.compute.device.startswith("cuda"):
            yield
            return
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield

    def _padded(self, batch: Tensor) -> Tensor:
        batch = batch.to(self.compute.device, non_blocking=True)
        if len(batch) < self.compute.batch_frames:
            # torch.compile compiles again for a tensor that was made in inference mode.
            with torch.inference_mode(False):
                whole = self._example.clone()
            whole[: len(batch)] = batch
            batch = whole
        return self._run(batch.contiguous(memory_format=torch.channels_last))

    def _prepared(self) -> Callable[[Tensor], Tensor]:
        run: Any = self._backbone
        if self.compute.compile_mode == "eager":
            return self._backbone
        if self.compute.compile_mode in ENGINES:
            return converted(self._backbone, self._example, self.compute.compile_mode, self.compute.dtype)
        with warnings.catch_warnings(), torch.no_grad():
            # torch warns about tracing; with a fixed shape, the trace is always valid.
            warnings.simplefilter("ignore")
            if self.compute.compile_mode == "jit":
                run = torch.jit.freeze(torch.jit.trace(self._backbone, self._example, check_trace=False))
            elif self.compute.device.startswith("cuda"):
                run = torch.compile(self._backbone, fullgraph=True, dynamic=False)
            else:
                run = compiled(self._backbone, self._example)
            with torch.inference_mode(), self._exact():
                for _ in range(2):
                    run(self._example)
        return cast("Callable[[Tensor], Tensor]", run)


def compiled(backbone: Backbone, example: Tensor) -> Callable[[Tensor], Tensor]:
    """Compile a backbone by Inductor on the CPU, with weights that are frozen into the graph.

    Freezing folds batch norms into convolutions and packs the weights once. As an option of torch.compile it has no
    effect, because Dynamo has already made the weights inputs of the graph.

    Shape:
        example: (B, 3, H, W), uint8, channels last in memory; the function takes batches of this shape.

    Raises:
        PipelineError: torch cannot compile the backbone, such as one whose operations depend on values.
    """
    import torch._inductor

    try:
        run = torch._inductor.compile(capture(backbone, example).module(), [example], options={"freezing": True})
    # torch raises errors of many types.
    except Exception as error:
        raise PipelineError(
            f"`compile` is inductor, but {backbone.name} cannot be compiled ({first_line(error)}). Use jit."
        ) from error
    return cast("Callable[[Tensor], Tensor]", run)


def _to_pinned(values: Tensor) -> Tensor:
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
