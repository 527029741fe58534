"""Score clips with a classifier: they are decoded, distributed over all processes, and each is counted once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ClipFailure, PipelineError
from pipeline.evaluation.metrics import compute_metrics, round_scores
from pipeline.evaluation.order_tests import ORDER_TESTS, reordering
from pipeline.finetune.clip_loader import ClipLoader, LabelledClip, SampleRequest, SampleSettings, collate
from pipeline.finetune.distributed import World
from pipeline.finetune.frozen import FrozenActivations
from pipeline.finetune.model import EndToEnd
from pipeline.progress import Progress


@dataclass(frozen=True)
class ScoredClips:
    """Scores of the clips that could be decoded, in the given order; the same in every process.

    Shape:
        labels: (N,); scores: (N, K), rounded as in predictions.csv; order_tests: (N, K) each.
    """

    clip_ids: tuple[str, ...]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    order_tests: dict[str, NDArray[np.float64]]
    faults: tuple[ClipFailure, ...]

    def metrics(self) -> dict[str, float]:
        """Compute the metrics of these scores."""
        return compute_metrics(self.scores, self.labels)


def score_clips(
    network: EndToEnd,
    clips: Sequence[LabelledClip],
    loader: ClipLoader | FrozenActivations,
    settings: SampleSettings,
    batch_size: int,
    world: World,
    progress: Progress | None = None,
    *,
    epoch: int | None = None,
) -> ScoredClips:
    """Score clips in their test view, and in each order test; or only in their training views of an epoch.

    Raises:
        PipelineError: no clip could be decoded, or a score is not finite.
    """
    requests = world.shard([SampleRequest(clip, epoch, position) for position, clip in enumerate(clips)])
    num_classes = network.classifier.spec.num_classes
    order_tests = tuple(ORDER_TESTS) if epoch is None else ()
    # (1 + order tests, N, K), the plain scores first. Each process fills the rows of its clips; the sum has all rows.
    table = np.zeros((1 + len(order_tests), len(clips), num_classes))
    is_found = np.zeros(len(clips))
    labels = np.zeros(len(clips), dtype=np.int64)
    faults: list[ClipFailure] = []
    device = network.runtime.device
    was_training = network.training
    network.eval()
    stream = loader.samples(requests, settings)
    with torch.inference_mode():
        while samples := list(itertools.islice(stream, batch_size)):
            faults += [sample.fault for sample in samples if sample.fault is not None]
            if any(sample.pixels is not None for sample in samples):
                batch = collate(samples, settings, device)
                features = network.features(batch.frames)
                clip_ids = [request.clip.clip_id for request in batch.requests]
                seen = [features, *(reordering(order_test)(features, clip_ids) for order_test in order_tests)]
                rows = [request.position for request in batch.requests]
                for place, inputs in enumerate(seen):
                    table[place, rows] = network.scores(inputs).cpu().double().numpy()
                is_found[rows] = 1
                labels[rows] = batch.labels.cpu().numpy()  # a mirrored view may have another label than its clip
            if progress is not None:
                progress.advance(len(samples))
    network.train(was_training)
    table = world.all_reduce(torch.from_numpy(table)).numpy()
    labels = world.all_reduce(torch.from_numpy(labels)).numpy()
    found = world.all_reduce(torch.from_numpy(is_found)).numpy() > 0
    every_fault = [ClipFailure(*fault) for faults_of_one in world.all_gather(faults) for fault in faults_of_one]
    if not found.any():
        example = f" The first: '{every_fault[0].clip_id}', {every_fault[0].reason}" if every_fault else ""
        raise PipelineError(
            f"None of the {len(clips)} clips to score could be decoded.{example} Run `pipeline check` to find the "
            "problems of the manifest's files."
        )
    return ScoredClips(
        clip_ids=tuple(clip.clip_id for clip, there in zip(clips, found, strict=True) if there),
        labels=labels[found],
        scores=round_scores(table[0][found]),
        order_tests={order_test: round_scores(table[1 + place][found]) for place, order_test in enumerate(order_tests)},
        faults=tuple(every_fault),
    )
