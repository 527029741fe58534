"""Metrics against hand arithmetic and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special

from pipeline.errors import PipelineError
from pipeline.evaluation import metrics

SCORES = np.array(
    [
        [2.0, 1.0, 0.0],  # label 0: right
        [0.0, 3.0, 1.0],  # label 1: right
        [1.0, 0.0, 0.5],  # label 1: wrong, 0 predicted
        [0.0, 0.0, 0.0],  # label 2: wrong, ties go to class 0
    ]
)
LABELS = np.array([0, 1, 1, 2])


def test_softmax_is_that_of_scipy_bit_by_bit() -> None:
    for scores in (SCORES, np.random.default_rng(0).normal(0, 30, (50, 27)), np.array([1000.0, 1.0])):
        assert np.array_equal(metrics.softmax(scores), scipy.special.softmax(scores, axis=-1))
        assert np.array_equal(metrics.log_softmax(scores), scipy.special.log_softmax(scores, axis=-1))


def test_top1_mean_class_accuracy_and_confusion_by_hand() -> None:
    assert metrics.top1(SCORES, LABELS) == 50.0
    # Class 0: 1 of 1; class 1: 1 of 2; class 2: 0 of 1.
    assert metrics.mean_class_accuracy(SCORES, LABELS) == pytest.approx(50.0)
    assert metrics.confusion_matrix(SCORES, LABELS).tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0]]


def test_a_class_without_clips_does_not_count() -> None:
    assert metrics.mean_class_accuracy(SCORES[:2], LABELS[:2]) == 100.0


def test_top5_is_100_where_there_are_fewer_than_five_classes() -> None:
    assert metrics.top5(SCORES, LABELS) == 100.0


def test_top5_of_seven_classes_against_sorting() -> None:
    generator = np.random.default_rng(0)
    scores, labels = generator.normal(size=(200, 7)), generator.integers(0, 7, 200)
    among = [label in sorted(range(7), key=lambda c: -row[c])[:5] for row, label in zip(scores, labels, strict=True)]
    assert metrics.top5(scores, labels) == pytest.approx(100 * sum(among) / 200)


def test_ties_are_broken_by_the_lower_index_in_every_metric() -> None:
    scores = np.zeros((7, 7))
    labels = np.arange(7)
    assert metrics.hits(scores, labels, 1).tolist() == [True] + [False] * 6
    assert metrics.hits(scores, labels, 5).tolist() == [True] * 5 + [False] * 2
    assert (metrics.hits(scores, labels, 1) == (metrics.predicted_classes(scores) == labels)).all()


def test_cross_entropy_by_hand() -> None:
    expected = [
        math.log(math.exp(2) + math.exp(1) + 1) - 2,
        math.log(1 + math.exp(3) + math.exp(1)) - 3,
        math.log(math.exp(1) + 1 + math.exp(0.5)) - 0,
        math.log(3),
    ]
    assert metrics.cross_entropy(SCORES, LABELS) == pytest.approx(sum(expected) / 4)


def test_ece_by_hand() -> None:
    # Two classes, so confidence is a chosen probability: 0.9, 0.92 (bin 14 of 15) and 0.6 (bin 9, closed above).
    probabilities = np.array([0.9, 0.92, 0.6])
    scores = np.stack([np.log(probabilities), np.log(1 - probabilities)], axis=1)
    labels = np.array([0, 1, 1])  # right, wrong, wrong
    # Bin 14: accuracy 0.5, confidence 0.91, weight 2/3. Bin 9: accuracy 0, confidence 0.6, weight 1/3.
    assert metrics.ece(scores, labels) == pytest.approx(100 * (2 / 3 * 0.41 + 1 / 3 * 0.6))


def test_ece_of_certain_right_answers_is_zero() -> None:
    assert metrics.ece(np.array([[50.0, 0.0], [0.0, 50.0]]), np.array([0, 1])) == pytest.approx(0.0, abs=1e-9)


def test_unlabelled_clips_are_refused() -> None:
    with pytest.raises(PipelineError, match="never scored"):
        metrics.top1(SCORES, np.array([0, 1, -1, 2]))


def test_no_clips_are_refused() -> None:
    with pytest.raises(PipelineError, match="no labelled clips"):
        metrics.top1(np.zeros((0, 3)), np.zeros(0, dtype=np.int64))
