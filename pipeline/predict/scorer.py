"""Compute scores of a saved model with the code and the number types that made its features in training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.calibration import multiplies_bfloat16_fast
from pipeline.devices import find_device
from pipeline.evaluation.metrics import softmax
from pipeline.extract import compute as extraction_compute
from pipeline.extract.forward import BackboneRunner
from pipeline.finetune.model import STAGE as FINETUNE
from pipeline.finetune.model import EndToEnd, choose_runtime
from pipeline.fit_head import compute as head_compute
from pipeline.model import Classifier
from pipeline.model_file import load_model
from pipeline.number_types import check_number_type


class Scorer:
    """Features and scores of a saved model. The given classifier is copied, not changed.

    A model that was fitted on cached features runs as in the extraction: with a frozen backbone, batches of a single
    view, and features rounded to float16. A finetuned model runs as in the validation during training.

    dtype: number type of the backbone; `auto` is that of training if the machine supports it, else float32.
    compile_mode: `eager` starts at once; `jit` and `inductor` are worth it for many clips.

    Raises:
        PipelineError: the device or the type does not exist.
    """

    def __init__(
        self, classifier: Classifier, device: str = "cpu", dtype: str = "auto", compile_mode: str = "eager"
    ) -> None:
        self.spec = classifier.spec
        self.device = find_device(device)
        self.dtype = _chosen_dtype(dtype, self.spec.compute_dtype, device)
        # `auto` uses the types of training; a requested type is used for the head too.
        trained = self.spec.precision
        precision = trained if dtype == "auto" or trained == "float32" else dtype
        self.compute = head_compute.choose_compute(self.spec.head, device, precision)
        self.head = copy.deepcopy(classifier.head).eval().to(self.device)
        self._end_to_end: EndToEnd | None = None
        self._forward: BackboneRunner | None = None
        backbone = copy.deepcopy(classifier.backbone).eval()
        if self.spec.stage == FINETUNE:
            moved = Classifier(backbone.to(self.device), self.head, self.spec)
            self._end_to_end = EndToEnd(moved, choose_runtime(device, self.dtype)).eval()
        else:
            mode = extraction_compute.known_compile_mode(compile_mode, device, self.dtype)
            capability = extraction_compute.capability_of(device)
            batch_frames = extraction_compute.batch_frames_of(self.spec.num_segments)
            how = extraction_compute.RunnerConfig(self.dtype, mode, capability, batch_frames, device)
            self._forward = BackboneRunner(backbone, how, self.spec.map_size)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.spec.classes

    def features(self, pixels: Tensor) -> Tensor:
        """Compute the features of any number of frames, as the head reads them.

        Shape:
            pixels: (T, 3, S, S) uint8. returns: (T, C, h, w), h = w = 1 for a head of pooled features.

        Raises:
            ClipError: a value exceeds the range of float16, the type of the cache.
        """
        if self._end_to_end is not None:
            with torch.inference_mode():
                return self._end_to_end.features(pixels[None].to(self.device))[0]
        assert self._forward is not None
        vectors, maps = self._forward(pixels, self.head.reads == "spatial")
        if maps is None:
            return torch.from_numpy(vectors)[..., None, None]  # (T, C, 1, 1)
        return torch.from_numpy(maps).permute(0, 3, 1, 2)  # channels last in memory, as from the store

    def scores(self, features: Tensor) -> NDArray[np.float64]:
        """Compute the scores before softmax. Shape: (B, T, C, h, w) -> (B, K)."""
        with torch.inference_mode():
            if self._end_to_end is not None:
                found = self._end_to_end.scores(features.to(self.device))
            else:
                with self.compute.autocast():
                    found = self.head(self.compute.moved(features))
            return found.float().cpu().numpy().astype(np.float64)

    def clip_scores(self, views: Sequence[Tensor]) -> NDArray[np.float64]:
        """Compute the mean scores of a clip over its views, before softmax. Shape: V times (T, 3, S, S) -> (K,)."""
        mean: NDArray[np.float64] = self.scores(torch.stack([self.features(view) for view in views])).mean(axis=0)
        return mean


@dataclass(frozen=True)
class ClassScore:
    """A class with its score before softmax and its probability from 0 to 1."""

    label: str
    score: float
    probability: float


def ranked(scores: NDArray[np.float64], classes: Sequence[str], top: int) -> tuple[ClassScore, ...]:
    """Return the `top` classes, the best first; equal scores are in the order of the classes. Shape: scores: (K,)."""
    probabilities = softmax(scores)
    order = np.argsort(-scores, kind="stable")[:top]
    return tuple(ClassScore(classes[at], float(scores[at]), float(probabilities[at])) for at in order)


def open_scorer(
    model: Scorer | Classifier | Path | str, device: str = "cpu", dtype: str = "auto", compile_mode: str = "eager"
) -> Scorer:
    """Create the scorer of a model file or of a classifier; a given scorer is returned unchanged."""
    if isinstance(model, Scorer):
        return model
    classifier = model if isinstance(model, Classifier) else load_model(model)
    return Scorer(classifier, device, dtype, compile_mode)


def _chosen_dtype(asked: str, trained: str, device: str) -> str:
    check_number_type("dtype", asked)
    if asked != "auto":
        return asked
    # float16 is used in training on a GPU without bfloat16; here it is replaced by float32.
    return "bfloat16" if trained == "bfloat16" and multiplies_bfloat16_fast(device) else "float32"
