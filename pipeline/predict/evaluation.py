"""Score a saved model on a split: on the cached features of a store, or on decoded clips."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.devices import fixed_threads
from pipeline.errors import ClipError, ClipFailure, PipelineError
from pipeline.evaluation.metrics import confusion_matrix, round_scores
from pipeline.evaluation.order_tests import ORDER_TESTS, reordering
from pipeline.evaluation.result_writer import SeedResult
from pipeline.evaluation.selection import groups_of
from pipeline.finetune.model import STAGE as FINETUNE
from pipeline.fit_head.features import FeatureDataset, SampleOrder, load_frames, load_pooled
from pipeline.fit_head.scoring import order_test_scores, score_features
from pipeline.fit_head.spatial_features import default_map_cache, open_spatial
from pipeline.fit_head.stored_clips import labelled_rows
from pipeline.heads import HEADS
from pipeline.manifest import Clip, Manifest
from pipeline.model import ModelSpec
from pipeline.predict.decode_ahead import decoded_ahead
from pipeline.predict.head_scorer import HeadScorer
from pipeline.predict.scorer import Scorer
from pipeline.predict.view_plan import view_plan_of
from pipeline.recipe import recipe_from_dict
from pipeline.registry import IMPORTED_PREFIX, is_imported
from pipeline.store import FeatureStore
from pipeline.store.layout import TEST_VIEW
from pipeline.video.clip_views import ClipViews, load_clip_views
from pipeline.video.limits import DEFAULT_LIMITS, ClipLimits

STAGE = "evaluate"
NOT_TRAINED: tuple[Any, ...] = ()

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on the labelled clips of a split.

    num_views: number of views of a clip whose scores are averaged; the order tests only use the test view.
    faults: clips that could not be used.
    groups: group of each clip of the split by id; None if the clips have no groups.
    """

    result: SeedResult
    num_views: int
    faults: tuple[ClipFailure, ...]
    num_unlabelled: int
    groups: dict[str, str] | None


def evaluate_store(
    scorer: Scorer | HeadScorer, store: FeatureStore, split: str, num_draws: int, seed: int, scratch: Path
) -> Evaluation:
    """Score the cached features of a split; with only the test view, the figures equal those of the model's fit.

    Draws of frames need a store of all frames, because a store of segments has no draws of its validation clips.

    Raises:
        PipelineError: backbone or settings of the store differ from those of the model, or it has no such clips.
    """
    started_at_seconds = time.monotonic()
    spec, settings = scorer.spec, store.settings
    _check_store(spec, store)
    has_all_frames = settings.frames == "all"
    if num_draws and not has_all_frames:
        raise PipelineError(
            f"`draws` (={num_draws}) needs more frames than this store has ({settings.num_segments} of each view). "
            "Give --manifest to decode the clips, or a store that was made with --frames all."
        )
    class_index = _class_mapping(spec, store.classes)
    rows = labelled_rows(store, split, None if has_all_frames else (TEST_VIEW,))
    features: FeatureDataset
    if has_all_frames:
        choices = recipe_from_dict(dict(spec.recipe)).frames
        features = load_frames(store, rows, spec.num_segments, choices, scratch)
    elif scorer.head.reads == "pooled":
        features = load_pooled(store, rows, scratch)
    else:
        features = open_spatial(store, rows, default_map_cache())
    with fixed_threads(scorer.compute.threads):
        every = [score_features(scorer.head, features, scorer.compute)]
        for number in range(num_draws):
            every.append(score_features(scorer.head, features, scorer.compute, _in_place(features, seed, number)))
        order_tests = order_test_scores(scorer.head, features, scorer.compute)
    result = SeedResult(
        seed=spec.seed,
        history=NOT_TRAINED,
        best_epoch=spec.best_epoch,
        clip_ids=features.clip_ids,
        labels=class_index[features.labels[0]],
        scores=round_scores(np.mean(every, axis=0)),
        order_tests=order_tests,
        seconds=time.monotonic() - started_at_seconds,
    )
    of_split = [clip for clip in store.table() if clip.split == split]
    faults = tuple(ClipFailure(clip.clip_id, clip.kind, clip.reason) for clip in of_split if clip.status == "failed")
    num_unlabelled = sum(clip.class_index < 0 for clip in of_split)
    return Evaluation(result, 1 + num_draws, faults, num_unlabelled, groups_of(of_split))


def evaluate_manifest(
    scorer: Scorer,
    manifest: Manifest,
    split: str,
    num_crops: int,
    num_draws: int,
    seed: int,
    advance: Callable[[int], None],
    limits: ClipLimits = DEFAULT_LIMITS,
) -> Evaluation:
    """Decode the clips of a split and average their scores over crops of the test frames and draws of frames.

    Raises:
        PipelineError: the model does not have a label, there is no labelled clip, or no clip can be used.
    """
    started_at_seconds = time.monotonic()
    clips = manifest.in_split(split)
    labelled = [clip for clip in clips if clip.is_labelled]
    if not labelled:
        raise PipelineError(
            f"Split '{split}' of {manifest.path} has no labelled clip; `pipeline predict` classifies unlabelled ones."
        )
    class_index = _class_mapping(scorer.spec, manifest.classes)
    plan = view_plan_of(scorer.spec, num_crops, num_draws, seed)

    def load(clip: Clip) -> ClipViews | ClipError:
        try:
            return load_clip_views(manifest.locate(clip), partial(plan.views, clip.clip_id), plan.input_size, limits)
        except ClipError as error:
            return error

    scores: list[Scores] = []
    order_tests: dict[str, list[Scores]] = {order_test: [] for order_test in ORDER_TESTS}
    used: list[Clip] = []
    faults: list[ClipFailure] = []
    num_views = num_crops + num_draws
    for clip, found in zip(labelled, decoded_ahead(load, labelled), strict=True):
        advance(1)
        try:
            if isinstance(found, ClipError):
                raise found
            views = torch.stack([scorer.features(pixels) for pixels in found.pixels])  # (V, T, C, h, w)
        except ClipError as error:
            faults.append(error.failure(clip.clip_id))
            continue
        changed = [reordering(order_test)(views[:1], [clip.clip_id]) for order_test in ORDER_TESTS]
        every = scorer.scores(torch.cat([views, *changed]))  # (V + order tests, K)
        used.append(clip)
        scores.append(every[:num_views].mean(axis=0))
        for order_test, values in zip(ORDER_TESTS, every[num_views:], strict=True):
            order_tests[order_test].append(values)
    if not used:
        raise PipelineError(
            f"None of the {len(labelled)} labelled clips of split '{split}' could be used. The first: "
            f"'{faults[0].clip_id}', {faults[0].reason}"
        )
    result = SeedResult(
        seed=scorer.spec.seed,
        history=NOT_TRAINED,
        best_epoch=scorer.spec.best_epoch,
        clip_ids=tuple(clip.clip_id for clip in used),
        labels=class_index[np.array([manifest.class_index(clip.label) for clip in used])],
        scores=round_scores(np.stack(scores)),
        order_tests={order_test: round_scores(np.stack(values)) for order_test, values in order_tests.items()},
        seconds=time.monotonic() - started_at_seconds,
    )
    return Evaluation(result, num_views, tuple(faults), len(clips) - len(labelled), groups_of(clips))


def class_rows(result: SeedResult, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each class: clips, recall and precision in percent, and the most frequent wrong class."""
    matrix = confusion_matrix(result.scores, result.labels)
    rows: list[dict[str, Any]] = []
    for index, label in enumerate(classes):
        num_clips, num_predicted, right = int(matrix[index].sum()), int(matrix[:, index].sum()), matrix[index, index]
        others = matrix[index].copy()
        others[index] = 0
        confused = int(others.argmax())
        rows.append(
            {
                "label": label,
                "clips": num_clips,
                "recall": round(100 * float(right) / num_clips, 1) if num_clips else None,
                "precision": round(100 * float(right) / num_predicted, 1) if num_predicted else None,
                "taken_for": classes[confused] if others[confused] else "",
                "taken_for_clips": int(others[confused]),
            }
        )
    return rows


def about(scorer: Scorer | HeadScorer, evaluation: Evaluation, split: str, source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first entries of the metrics of an evaluation, as in those of `fit-head`."""
    spec = scorer.spec
    return {
        "stage": STAGE,
        "head": spec.head,
        "backbone": spec.backbone,
        "weights": dict(spec.weights),
        "trained_by": spec.stage,
        "recipe": dict(spec.recipe),
        "num_segments": spec.num_segments,
        "num_classes": spec.num_classes,
        "seed": spec.seed,
        **source,
        "selected_on": spec.selected_on,
        "reported_on": split,
        "num_views": evaluation.num_views,
        "dtype": scorer.dtype,
        "precision": scorer.compute.precision,
        "device": scorer.device.type,
        "num_failed": len(evaluation.faults),
        "num_unlabelled": evaluation.num_unlabelled,
    }


def _in_place(features: FeatureDataset, seed: int, number: int) -> SampleOrder:
    """Return a training draw with its clips in the order of the manifest."""
    draw = features.shuffled_order(seed, number)
    order = np.argsort(draw.clips)
    assert draw.frames is not None
    return SampleOrder(draw.clips[order], draw.views[order], draw.frames[order])


def _class_mapping(spec: ModelSpec, classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the model's index of each class of the data."""
    index_of = {label: index for index, label in enumerate(spec.classes)}
    unknown = [label for label in classes if label not in index_of]
    if unknown:
        raise PipelineError(
            f"The model does not have {len(unknown)} of the {len(classes)} classes of these clips, such as "
            f"'{unknown[0]}'; it has {', '.join(spec.classes[:5])}, … Evaluate it on clips with its classes."
        )
    return np.array([index_of[label] for label in classes], dtype=np.int64)


def _check_store(spec: ModelSpec, store: FeatureStore) -> None:
    settings = store.settings
    where = store.objects.location
    if spec.stage == FINETUNE:
        raise PipelineError(
            f"The backbone of this model was finetuned, so it did not make the features in {where}. Give --manifest."
        )
    choices = recipe_from_dict(dict(spec.recipe)).frames
    pairs: dict[str, tuple[Any, Any]] = {
        "backbone": (spec.backbone, settings.backbone),
        "weights": (spec.weights["sha256"], settings.weights["sha256"]),
        "channels": (spec.in_channels, settings.channels),
        "num_segments": (spec.num_segments, spec.num_segments if settings.frames == "all" else settings.num_segments),
    }
    for name in sorted({*spec.preprocessing, *settings.preprocessing}):
        pairs[name] = (spec.preprocessing.get(name), settings.preprocessing.get(name))
    if HEADS[spec.head].reads == "spatial":
        pairs["map_size"] = (spec.map_size, settings.map_size)
    if settings.frames != "all":  # else the frames are chosen here
        pairs["short_clip"] = (choices.short_clip, settings.frame_choices.short_clip)
        pairs["test_frames"] = (choices.test_frames, settings.frame_choices.test_frames)
    for name, (wanted, held) in pairs.items():
        if wanted != held:
            way_out = "Give the store on which it was fitted" + (", or --manifest." if spec.has_backbone else ".")
            if name == "backbone" and is_imported(spec.backbone):
                own = spec.backbone.removeprefix(IMPORTED_PREFIX)
                way_out += f" If one network computed the features of both, import those with --name {own}."
            raise PipelineError(
                f"The store {where} was made with {name}={held}, the model with {name}={wanted}: its scores would be "
                f"wrong. {way_out}"
            )
