"""Metrics of scores and labels. Shares are in percent, as in the paper.

Shape:
    scores: (N, K), class scores before softmax; labels: (N,), class indices from 0 to K - 1.

The best class of a clip has the highest score; in a tie, the lowest index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DivergenceError, PipelineError
from pipeline.shapes import check_shape

NUM_CALIBRATION_BINS = 15
# Scores are rounded before any metric is computed, so that predictions.csv reproduces every metric exactly.
SCORE_DECIMALS = 4
MAX_TEMPERATURE, MAX_TEMPERATURE_STEPS = 20.0, 100
MIN_CALIBRATION_CLIPS = 20  # one parameter fitted on fewer clips says little about others

Scores = NDArray[np.floating]
Labels = NDArray[np.integer]


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute probabilities along the last axis, as `scipy.special.softmax`, whose import takes half a second."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the logarithms of `softmax`, as `scipy.special.log_softmax`."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    logarithms: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logarithms


def round_scores(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round scores as they are written to predictions.csv.

    Raises:
        DivergenceError: a score is not finite.
    """
    if not np.isfinite(scores).all():
        raise DivergenceError(
            f"{int((~np.isfinite(scores).all(axis=1)).sum())} of {len(scores)} clips have scores that are not finite "
            "numbers: the head diverged. Lower lr, or clip_norm."
        )
    # Adding 0.0 turns -0.0 into 0.0 for the files.
    values: NDArray[np.float64] = np.round(scores, SCORE_DECIMALS)
    return values + np.float64(0.0)


def predicted_classes(scores: Scores) -> NDArray[np.int64]:
    """Return the class with the highest score of each clip. Shape: (N, K) -> (N,)."""
    best: NDArray[np.int64] = np.argmax(scores, axis=1)
    return best


def hits(scores: Scores, labels: Labels, k: int = 1) -> NDArray[np.bool_]:
    """Return whether the label is among the `k` best classes (or all classes, if there are fewer). Shape: (N,)."""
    _check(scores, labels)
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    lower_index = np.arange(scores.shape[1])[None, :] < labels[:, None]
    num_before = ((scores > own) | ((scores == own) & lower_index)).sum(axis=1)
    among: NDArray[np.bool_] = num_before < k
    return among


def top1(scores: Scores, labels: Labels) -> float:
    """Compute the percentage of clips whose best class is the label."""
    return _percent(hits(scores, labels, 1))


def top5(scores: Scores, labels: Labels) -> float:
    """Compute the percentage of clips whose label is among the five best classes; 100 for five classes or fewer."""
    return _percent(hits(scores, labels, 5))


def mean_class_accuracy(scores: Scores, labels: Labels) -> float:
    """Compute the mean over classes of the percentage of correct clips; classes without clips do not count."""
    right = hits(scores, labels, 1)
    num_classes = scores.shape[1]
    num_clips = np.bincount(labels, minlength=num_classes)
    num_right = np.bincount(labels, weights=right, minlength=num_classes)
    present = num_clips > 0
    return 100.0 * float(np.mean(num_right[present] / num_clips[present]))


def cross_entropy(scores: Scores, labels: Labels) -> float:
    """Compute the mean negative log likelihood of the labels, in nats, without class weights or smoothing."""
    _check(scores, labels)
    log_probabilities = log_softmax(scores.astype(np.float64))
    return -float(np.mean(log_probabilities[np.arange(len(labels)), labels]))


def ece(scores: Scores, labels: Labels, num_bins: int = NUM_CALIBRATION_BINS) -> float:
    """Compute the expected calibration error, in percent: the mean difference of confidence and accuracy.

    Clips are put into `num_bins` bins of equal width by the probability of their best class; a bin excludes its lower
    bound. The error is the mean difference of accuracy and confidence over bins, weighted by their clips.

    Source: Guo et al., On Calibration of Modern Neural Networks, 2017, eq. 3.
    """
    right = hits(scores, labels, 1)
    confidence = softmax(scores.astype(np.float64)).max(axis=1)
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    # The weight of a bin times its difference is the sum of |correct - confidence| over its clips / all clips.
    distances = np.bincount(bins, weights=right - confidence, minlength=num_bins)
    return 100.0 * float(np.abs(distances).sum() / len(labels))


def fit_temperature(scores: Scores, labels: Labels) -> float | None:
    """Return the temperature by which scores are divided so that the loss on these clips is smallest.

    It is found by Newton's method in the inverse temperature, in which the loss is convex, between 1/20 and 20. It is
    None with fewer than `MIN_CALIBRATION_CLIPS` clips, and if all clips are correct: the loss then has no minimum.

    Source: Guo et al., On Calibration of Modern Neural Networks, 2017, Sec. 4.2.
    """
    _check(scores, labels)
    if len(labels) < MIN_CALIBRATION_CLIPS or hits(scores, labels, 1).all():
        return None
    values = scores.astype(np.float64)
    own = np.take_along_axis(values, labels[:, None], axis=1)[:, 0]
    inverse = 1.0
    for _ in range(MAX_TEMPERATURE_STEPS):
        probabilities = softmax(inverse * values)
        means = (probabilities * values).sum(axis=1)
        curvature = float(((probabilities * values**2).sum(axis=1) - means**2).mean())
        slope = float((means - own).mean())
        # A step is limited to a factor of 2, because far from the minimum the curvature vanishes.
        wanted = inverse - slope / max(curvature, 1e-12)
        bounded = min(max(wanted, inverse / 2, 1 / MAX_TEMPERATURE), inverse * 2, MAX_TEMPERATURE)
        is_near = abs(bounded - inverse) < 1e-9 * inverse
        inverse = bounded
        if is_near:
            break
    return 1 / inverse


def confusion_matrix(scores: Scores, labels: Labels) -> NDArray[np.int64]:
    """Count clips by label and predicted class. Shape: (K, K), rows are labels, columns are predicted classes."""
    _check(scores, labels)
    num_classes = scores.shape[1]
    cells = labels.astype(np.int64) * num_classes + predicted_classes(scores)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class Metric:
    """A metric of scores: its function, its label in tables, and its description.

    is_share: whether it is in percent and shown in tables; every share is recomputed from predictions.csv.
    """

    compute: Callable[[Scores, Labels], float]
    label: str
    meaning: str
    is_share: bool = True


# Metrics of `metrics.json`, in its order. Tables, report, gate and the check against predictions.csv loop over them.
METRICS: dict[str, Metric] = {
    "top1": Metric(top1, "top-1", "percent of clips that are classified correctly"),
    "top5": Metric(top5, "top-5", "percent of clips whose label is among the five highest scores"),
    "mean_class_accuracy": Metric(
        mean_class_accuracy, "class", "mean class accuracy in percent, with equal weight for every class"
    ),
    "loss": Metric(cross_entropy, "loss", "mean negative log likelihood in nats", is_share=False),
}


def compute_metrics(scores: Scores, labels: Labels) -> dict[str, float]:
    """Compute every metric of `METRICS`."""
    return {name: metric.compute(scores, labels) for name, metric in METRICS.items()}


def _percent(right: NDArray[np.bool_]) -> float:
    return 100.0 * float(np.mean(right))


def _check(scores: Scores, labels: Labels) -> None:
    sizes = check_shape("scores", scores, "N K")
    check_shape("labels", labels, "N", N=sizes["N"])
    if sizes["N"] == 0:
        raise PipelineError("There are no labelled clips to score. A split needs at least one clip with a label.")
    if labels.min() < 0 or labels.max() >= sizes["K"]:
        raise PipelineError(
            f"Labels must be between 0 and {sizes['K'] - 1}, but range from {labels.min()} to {labels.max()}. "
            "Unlabelled clips (-1) are never scored: omit them."
        )
