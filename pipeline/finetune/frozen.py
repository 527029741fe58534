"""Compute the activations of frozen layers once, and train on them: a cache of features in the middle of the network.

It needs views that come back: with `fixed_views`, epoch e uses view e mod N of each training clip.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from pipeline.backbones.backbone import Backbone
from pipeline.errors import ClipFailure, PipelineError
from pipeline.finetune.clip_loader import ClipLoader, LabelledClip, Sample, SampleRequest, SampleSettings, collate
from pipeline.finetune.model import CPU_FRAMES_AT_A_TIME, num_frozen_parts
from pipeline.finetune.state import ClipData
from pipeline.model import Classifier
from pipeline.progress import Progress
from pipeline.runtime import Runtime
from pipeline.scratch import temporary_folder
from pipeline.video.crops import CropBox

logger = logging.getLogger(__name__)

FILE = "activations.bin"
Key = tuple[str, int | None]
"""A clip's id and its view; None is the test view."""


class FrozenActivations:
    """A loader whose samples have the activations of the frozen layers in place of pixels.

    They are computed when the first sample is requested: for `num_views` training views of each training clip, and for
    the test view of each selection clip. Samples of other clips or settings are loaded as frames.

    Shape:
        pixels of a sample: (T, h, w, C), in the number type in which the backbone runs.
    """

    def __init__(
        self, loader: ClipLoader, classifier: Classifier, data: ClipData, runtime: Runtime, num_views: int, folder: Path
    ) -> None:
        self._loader, self._classifier, self._data, self._runtime = loader, classifier, data, runtime
        self._num_views, self._folder = num_views, folder
        self._row_of: dict[Key, int] = {}
        self._labels: dict[Key, int] = {}
        self._faults: dict[Key, ClipFailure] = {}
        self._rows: Tensor | None = None

    def samples(self, requests: Iterable[SampleRequest], settings: SampleSettings) -> Iterator[Sample]:
        """Yield the samples of the requests, in their order, as `ClipLoader.samples` does."""
        wanted = list(requests)
        if settings != self._data.samples or not all(self._is_cached(request) for request in wanted):
            yield from self._loader.samples(wanted, settings)
            return
        if self._rows is None:
            self._rows = self._compute()
        for request in wanted:
            key = request.clip.clip_id, request.epoch
            if key in self._faults:
                yield Sample(request, request.clip.label, None, CropBox(0, 0, 0, 0), False, self._faults[key])
            else:
                rows = self._rows[self._row_of[key]]
                yield Sample(request, self._labels[key], rows, CropBox(0, 0, 0, 0), False)

    def _is_cached(self, request: SampleRequest) -> bool:
        if not self._row_of:
            self._row_of = {key: row for row, (key, _) in enumerate(self._keys())}
        return (request.clip.clip_id, request.epoch) in self._row_of

    def _keys(self) -> Iterator[tuple[Key, LabelledClip]]:
        for view in range(self._num_views):
            yield from (((clip.clip_id, view), clip) for clip in self._data.train)
        yield from (((clip.clip_id, None), clip) for clip in self._data.select)

    def _compute(self) -> Tensor:
        """Compute all activations, in batches that do not depend on the training, so that a resumed one gets the same.

        Raises:
            PipelineError: no clip could be decoded, or the disk has too little space.
        """
        backbone, settings, device = self._classifier.backbone, self._data.samples, self._runtime.device
        requests = [SampleRequest(clip, key[1], row) for row, (key, clip) in enumerate(self._keys())]
        batch_size = max(1, CPU_FRAMES_AT_A_TIME // settings.num_segments)
        modes = [(layer, layer.training) for layer in backbone.modules()]
        backbone.eval()
        rows: Tensor | None = None
        stream = self._loader.samples(requests, settings)
        with torch.inference_mode(), Progress("frozen layers", len(requests)) as progress:
            while samples := list(islice(stream, batch_size)):
                for sample in samples:
                    key = sample.request.clip.clip_id, sample.request.epoch
                    self._labels[key] = sample.label
                    if sample.fault is not None:
                        self._faults[key] = sample.fault
                if any(sample.pixels is not None for sample in samples):
                    batch = collate(samples, settings, device)
                    found = self._frozen(batch.frames).cpu()
                    rows = self._create(len(requests), found[0]) if rows is None else rows
                    rows[[request.position for request in batch.requests]] = found
                progress.advance(len(samples))
        for layer, was_training in modes:
            layer.training = was_training
        if rows is None:
            raise PipelineError("No clip could be decoded. Run `pipeline check` to find the problems.")
        return rows

    def _frozen(self, frames: Tensor) -> Tensor:
        """Run the frozen parts. Shape: (B, T, 3, S, S) uint8 -> (B, T, h, w, C)."""
        backbone = self._classifier.backbone
        with self._runtime.autocast():
            inputs = backbone.normalise(frames.flatten(0, 1))
            maps = backbone.run_parts(inputs, stop=num_frozen_parts(backbone))  # (B·T, C, h, w)
        found: Tensor = maps.permute(0, 2, 3, 1).unflatten(0, (-1, self._data.samples.num_segments))
        return found

    def _create(self, num_rows: int, example: Tensor) -> Tensor:
        num_bytes = num_rows * example.numel() * example.element_size()
        free_bytes = shutil.disk_usage(self._folder).free
        where = f"{self._folder.parent}"
        if num_bytes > free_bytes:
            raise PipelineError(
                f"The activations of the frozen layers need {num_bytes / 1e9:.1f} GB in {where}, where "
                f"{free_bytes / 1e9:.1f} GB are free. Set TMPDIR to another folder, lower --fixed-views "
                f"(={self._num_views}), freeze more layers, or pass --no-cache-frozen."
            )
        logger.info(
            f"activations of the frozen layers: {num_rows:,} views of {tuple(example.shape)}, "
            f"{num_bytes / 1e9:.2f} GB in {where}, deleted at the end"
        )
        file = str(self._folder / FILE)
        return torch.from_file(file, shared=True, size=num_rows * example.numel(), dtype=example.dtype).view(
            num_rows, *example.shape
        )


@contextmanager
def frozen_activations(
    loader: ClipLoader, classifier: Classifier, data: ClipData, runtime: Runtime, num_views: int
) -> Iterator[FrozenActivations]:
    """Yield a loader of activations; its temporary file is deleted at the end, or after a kill by the next process."""
    with temporary_folder("activations") as folder:
        yield FrozenActivations(loader, classifier, data, runtime, num_views, folder)


def why_not_cached(backbone: Backbone, num_processes: int, is_compiled: bool) -> Sequence[str]:
    """Return the reasons why the activations of frozen layers cannot be cached; empty if they can."""
    reasons = []
    if not backbone.parts():
        reasons.append(f"{backbone.name} is not divided into parts")
    elif num_frozen_parts(backbone) == 0:
        reasons.append(f"the first part of {backbone.name} is not frozen as a whole")
    if num_processes > 1:
        reasons.append("there are several processes")
    if is_compiled:
        reasons.append("the backbone is compiled")
    return reasons
