"""A model ready to score: in the number types, and by the very code, in which its features were made in training."""

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
from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import softmax
from pipeline.extract import compute as extraction_compute
from pipeline.extract.forward import BackboneRunner
from pipeline.finetune.model import STAGE as FINETUNE
from pipeline.finetune.model import EndToEnd, choose_precision
from pipeline.fit_head import compute as head_compute
from pipeline.model import Classifier, load_model

DTYPES = ("auto", "float32", "bfloat16")


class Scorer:
    """Features and scores of a saved model. The classifier that is given is copied, not changed.

    A model that was fitted on cached features is run as the cache was made: the backbone frozen, in batches that never
    cross a view, its features rounded to float16. A finetuned model is run as it was validated in training.

    dtype: of the backbone; `auto` is the one in which the model was trained, where the machine has it, else float32.
    compile_mode: `eager` starts at once; `jit` and `inductor` pay for many clips.

    Raises:
        PipelineError: a device or type that is not there.
    """

    def __init__(
        self, classifier: Classifier, device: str = "cpu", dtype: str = "auto", compile_mode: str = "eager"
    ) -> None:
        self.spec = classifier.spec
        self.device = find_device(device)
        self.dtype = _chosen_dtype(dtype, self.spec.compute_dtype, device)
        # `auto` follows training; a type that is asked for holds for the head too.
        trained = self.spec.precision
        precision = trained if dtype == "auto" or trained == "float32" else dtype
        self.compute = head_compute.choose_compute(self.spec.head, device, precision)
        self.head = copy.deepcopy(classifier.head).eval().to(self.device)
        self._end_to_end: EndToEnd | None = None
        self._forward: BackboneRunner | None = None
        backbone = copy.deepcopy(classifier.backbone).eval()
        if self.spec.stage == FINETUNE:
            moved = Classifier(backbone.to(self.device), self.head, self.spec)
            self._end_to_end = EndToEnd(moved, choose_precision(device, self.dtype)).eval()
        else:
            mode = extraction_compute.known_compile_mode(compile_mode, device)
            capability = extraction_compute.capability_of(device)
            batch_frames = extraction_compute.batch_frames_of(self.spec.num_segments)
            how = extraction_compute.Compute(self.dtype, mode, capability, batch_frames, device)
            self._forward = BackboneRunner(backbone, how)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.spec.classes

    def features(self, pixels: Tensor) -> Tensor:
        """The features of any number of frames, as the head reads them.

        Shape:
            pixels: (T, 3, S, S) uint8. returns: (T, C, h, w), h = w = 1 for a head of pooled features.

        Raises:
            ClipError: a value beyond float16, the type of the cache.
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
        """The scores before softmax. Shape: (B, T, C, h, w) -> (B, K)."""
        with torch.inference_mode():
            if self._end_to_end is not None:
                found = self._end_to_end.scores(features.to(self.device))
            else:
                with self.compute.autocast():
                    found = self.head(self.compute.moved(features))
            return found.float().cpu().numpy().astype(np.float64)

    def clip_scores(self, views: Sequence[Tensor]) -> NDArray[np.float64]:
        """The scores of one clip: the mean over its views, before softmax. Shape: V times (T, 3, S, S) -> (K,)."""
        mean: NDArray[np.float64] = self.scores(torch.stack([self.features(view) for view in views])).mean(axis=0)
        return mean


@dataclass(frozen=True)
class ClassScore:
    """A class with its score before softmax and its probability after it, from 0 to 1."""

    label: str
    score: float
    probability: float


def ranked(scores: NDArray[np.float64], classes: Sequence[str], top: int) -> tuple[ClassScore, ...]:
    """The `top` classes, the best first; among equal scores the first class. Shape: scores: (K,)."""
    probabilities = softmax(scores)
    order = np.argsort(-scores, kind="stable")[:top]
    return tuple(ClassScore(classes[at], float(scores[at]), float(probabilities[at])) for at in order)


def open_scorer(
    model: Scorer | Classifier | Path | str, device: str = "cpu", dtype: str = "auto", compile_mode: str = "eager"
) -> Scorer:
    """A scorer of a model file or of a classifier; one that is ready already is returned as it is."""
    if isinstance(model, Scorer):
        return model
    classifier = model if isinstance(model, Classifier) else load_model(model)
    return Scorer(classifier, device, dtype, compile_mode)


def _chosen_dtype(asked: str, trained: str, device: str) -> str:
    if asked not in DTYPES:
        raise PipelineError(f"`dtype` (={asked!r}) must be one of {', '.join(DTYPES)}.")
    if asked != "auto":
        return asked
    # float16 is what a GPU without bfloat16 trains in; here float32 stands for it.
    return "bfloat16" if trained == "bfloat16" and multiplies_bfloat16_fast(device) else "float32"
