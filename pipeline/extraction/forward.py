"""The backbone as it runs in extraction: frozen, channels last, compiled where that pays, in batches of one size."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones import Backbone, pooled
from pipeline.errors import ClipError
from pipeline.extraction.compute import Compute

FLOAT16_MAX = float(np.finfo(np.float16).max)


class Forward:
    """Frames of one clip and view -> float16 features.

    Batches never cross a clip and view and are padded to one size: then the features of a clip depend on nothing else
    in the run. The backbone given is taken over (frozen, converted).
    """

    def __init__(self, backbone: Backbone, compute: Compute) -> None:
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
        vectors: list[Tensor] = []
        maps: list[Tensor] = []
        with torch.inference_mode():
            for start in range(0, len(frames), self.compute.batch_frames):
                batch = frames[start : start + self.compute.batch_frames]
                found = self._padded(batch)[: len(batch)]  # (n, C, h, w)
                vectors.append(pooled(found).to(torch.float16).cpu())
                if keep_maps:
                    maps.append(found.permute(0, 2, 3, 1).to(torch.float16).cpu())
        features = torch.cat(vectors).numpy()
        spatial = torch.cat(maps).contiguous().numpy() if keep_maps else None
        for values in (features, spatial):
            if values is not None and not np.isfinite(values).all():
                raise ClipError(
                    "overflow", f"A feature is beyond float16 (largest {FLOAT16_MAX:,.0f}) or not a number."
                )
        return features, spatial

    def _padded(self, batch: Tensor) -> Tensor:
        batch = batch.to(self.compute.device)
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
            with torch.inference_mode():
                for _ in range(2):
                    run(self._example)
        return cast("Callable[[Tensor], Tensor]", run)
