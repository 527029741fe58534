"""Question: how accurate is a linear model on the demo's frozen features, with and without the order of the frames?

A ridge regression on the test views of a store is fitted on the training clips; its penalty is chosen on `val`, and it
is evaluated on `test`:

    python -m benchmarks.demo_probe cache/gestures/squeezenet-8seg.zarr

`mean` uses the mean over the segments, `sorted` the values of each channel sorted over the segments (all information
except the order), `ordered` the segments in order. It prints the accuracy over all classes, and within each
time-reversed pair, where chance is 50 %.
"""

from __future__ import annotations

import sys

import numpy as np

from pipeline.prepare.gestures.motion import GESTURES
from pipeline.store import FeatureStore

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


def ridge_scores(train: np.ndarray, labels: np.ndarray, test: np.ndarray, penalty: float) -> np.ndarray:
    """Compute the class scores of the rows of `test`, by a ridge regression on one-hot labels in its dual form."""
    mean, spread = train.mean(0), train.std(0) + 1e-3 * train.std() + 1e-9
    scale = spread * np.sqrt(train.shape[1])
    train, test = (train - mean) / scale, (test - mean) / scale
    wanted = np.eye(labels.max() + 1)[labels]
    weights = np.linalg.solve(train @ train.T + penalty * np.eye(len(train)), wanted - wanted.mean(0))
    return test @ train.T @ weights


def main(location: str) -> None:
    store = FeatureStore.open(location)
    features, labels = {}, {}
    for split in ("train", "val", "test"):
        rows = [clip.row for clip in store.clips(split)]
        features[split] = store.read_pooled("test", rows).astype(np.float64)  # (n, T, C)
        labels[split] = store.labels_of("test", rows)
    pair_of = {gesture.label: gesture.pair for gesture in GESTURES}
    pairs = np.array([pair_of.get(label, "") for label in store.classes])
    counts = " + ".join(str(len(of_split)) for of_split in labels.values())
    print(f"{location}: weights {store.settings.weights}, {counts} clips")
    orders = {
        "mean": lambda values: values.mean(1),
        "sorted": lambda values: np.sort(values, axis=1).reshape(len(values), -1),
        "ordered": lambda values: values.reshape(len(values), -1),
    }
    for name, order in orders.items():
        train, val, test = (order(features[split]) for split in ("train", "val", "test"))

        def accuracy_on_val(penalty: float, train: np.ndarray = train, val: np.ndarray = val) -> float:
            return float((ridge_scores(train, labels["train"], val, penalty).argmax(1) == labels["val"]).mean())

        scores = ridge_scores(train, labels["train"], test, max(PENALTIES, key=accuracy_on_val))
        accuracy = float((scores.argmax(1) == labels["test"]).mean())
        within = {}
        for pair in sorted(set(pairs.tolist()) - {""}):
            members = np.flatnonzero(pairs == pair)
            rows_of_pair = np.isin(labels["test"], members)
            chosen = members[scores[rows_of_pair][:, members].argmax(1)]
            within[pair] = float((chosen == labels["test"][rows_of_pair]).mean())
        parts = ", ".join(f"{pair} {100 * value:.0f}" for pair, value in within.items())
        mean_within = 100 * float(np.mean(list(within.values()))) if within else float("nan")
        print(f"{name:8s} top-1 {100 * accuracy:5.1f} %, within pairs {mean_within:5.1f} % ({parts})")


if __name__ == "__main__":
    main(*sys.argv[1:])
