"""Score cached features with a saved head whose network is not part of the package: imported ones, video encoders."""

from __future__ import annotations

from pathlib import Path

from pipeline.devices import find_device
from pipeline.fit_head import compute as head_compute
from pipeline.model_file import load_head


class HeadScorer:
    """The head of a model file. It has what `evaluate_store` reads of a `Scorer`, and computes no features.

    Raises:
        PipelineError: the file is not a model file, or the device does not exist.
    """

    def __init__(self, model: Path | str, device: str = "cpu", dtype: str = "auto") -> None:
        head, self.spec = load_head(model)
        self.device = find_device(device)
        self.dtype = self.spec.compute_dtype
        trained = self.spec.precision
        precision = trained if dtype == "auto" or trained == "float32" else dtype
        self.compute = head_compute.choose_compute(self.spec.head, device, precision)
        self.head = head.to(self.device)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.spec.classes
