"""Per-clip predictions of a run: read `predictions.csv`, and score pairs of classes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.evaluation.columns import GROUP_COLUMN, SCORE_PREFIX, group_indices


@dataclass(frozen=True)
class Predictions:
    """The scores of all seeds on the labelled clips of one split.

    Shape:
        labels: (N,), class indices; scores: (S, N, K). Clips are in the order of their ids.
        groups: (N,), index of the group of each clip; None if the data set has no groups.
    """

    classes: tuple[str, ...]
    clip_ids: tuple[str, ...]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    predicted: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None

    @property
    def num_groups(self) -> int | None:
        return None if self.groups is None else int(self.groups.max()) + 1

    @property
    def num_seeds(self) -> int:
        return len(self.scores)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether seed s classifies clip n correctly. Shape: (S, N)."""
        return np.asarray(self.predicted == self.labels[None, :])

    @cached_property
    def clips_digest(self) -> str:
        """Digest of the clips and their labels; equal for two runs on the same clips."""
        digest = hashlib.sha256()
        for clip_id, label in zip(self.clip_ids, self.labels, strict=True):
            digest.update(f"{clip_id}\0{self.classes[label]}\0".encode())
        return digest.hexdigest()

    @cached_property
    def mean_scores(self) -> NDArray[np.float64]:
        """Class probabilities, averaged over seeds. Shape: (N, K)."""
        shifted = np.exp(self.scores - self.scores.max(axis=2, keepdims=True))
        return np.asarray((shifted / shifted.sum(axis=2, keepdims=True)).mean(axis=0))

    def confusion(self) -> NDArray[np.float64]:
        """Number of clips by label and predicted class, averaged over seeds. Shape: (K, K)."""
        num_classes = len(self.classes)
        matrix = np.zeros((num_classes, num_classes))
        np.add.at(matrix, (np.tile(self.labels, self.num_seeds), self.predicted.ravel()), 1 / self.num_seeds)
        return matrix


def read_predictions(source: Path | IO[str], name: str) -> Predictions:
    """Read a `predictions.csv`: `clip_id,label,predicted[,seed][,group],score:<class>...`, without unlabelled clips.

    Raises:
        PipelineError: a column is missing, a label is not among the score columns, seeds cover different clips, or a
            predicted class is not the one with the highest score.
    """
    # Ids and labels are always text: a class may be named "None" or "NA".
    texts = dict.fromkeys(("clip_id", "label", "predicted", GROUP_COLUMN), str)
    table = read_csv(source, name, dtype=texts, keep_default_na=False)
    columns = [str(column) for column in table.columns]
    missing = [column for column in ("clip_id", "label", "predicted") if column not in columns]
    classes = tuple(column.removeprefix(SCORE_PREFIX) for column in columns if column.startswith(SCORE_PREFIX))
    if missing or not classes:
        raise PipelineError(f"{name} lacks {', '.join(missing) or 'its score:<class> columns'}. Fit the head again.")
    table = table[table["label"] != ""]
    if table.empty:
        raise PipelineError(f"{name} has no labelled clip, so there is nothing to compare.")
    index_of = {label: index for index, label in enumerate(classes)}
    unknown = (set(table["label"]) | set(table["predicted"])) - set(classes)
    if unknown:
        raise PipelineError(f"{name} has the class '{min(unknown)}' but no column {SCORE_PREFIX}{min(unknown)}.")
    seeds = table["seed"] if "seed" in table else pd.Series("0", index=table.index)
    by_seed = [rows.sort_values("clip_id") for _, rows in table.groupby(seeds, sort=True)]
    clip_ids = tuple(by_seed[0]["clip_id"])
    if len(set(clip_ids)) != len(clip_ids):
        raise PipelineError(f"{name} has a clip twice in one seed.")
    for rows in by_seed:
        if tuple(rows["clip_id"]) != clip_ids or list(rows["label"]) != list(by_seed[0]["label"]):
            raise PipelineError(f"{name} has other clips or labels in one seed than in another. Fit the head again.")
    score_columns = [SCORE_PREFIX + label for label in classes]
    try:
        scores = np.stack([rows[score_columns].to_numpy(dtype=np.float64) for rows in by_seed])  # (S, N, K)
    except ValueError as error:
        raise PipelineError(f"{name} has a score that is not a number: {error}.") from error
    if not np.isfinite(scores).all():
        raise PipelineError(f"{name} has a score that is not finite. Fit the head again, with a lower rate.")
    predicted = np.array([[index_of[label] for label in rows["predicted"]] for rows in by_seed])  # (S, N)
    own = np.take_along_axis(scores, predicted[:, :, None], axis=2)[:, :, 0]
    wrong = np.argwhere(own < scores.max(axis=2))
    if len(wrong):
        clip_id = clip_ids[wrong[0][1]]
        raise PipelineError(f"{name}: the predicted class of clip '{clip_id}' is not the one with the highest score.")
    labels = np.array([index_of[label] for label in by_seed[0]["label"]])
    groups = group_indices(clip_ids, by_seed[0][GROUP_COLUMN]) if GROUP_COLUMN in table else None
    return Predictions(classes, clip_ids, labels, scores, predicted, groups)


def read_predictions_text(text: str, name: str) -> Predictions:
    """Read predictions from the text of a file, such as one from a Git revision."""
    return read_predictions(io.StringIO(text), name)


def pair_correct(
    predictions: Predictions, pairs: Sequence[tuple[str, str]]
) -> tuple[NDArray[np.float64], NDArray[np.int64] | None] | None:
    """Return whether the label scores higher than its partner, for the clips of the pairs; a tie counts one half.

    Chance is one half, for any number of classes. If the two classes of a pair are the time-reverse of each other, only
    the order of the frames distinguishes them. The result is None if no clip belongs to a pair.

    Shape:
        returns: (S, M), seeds by clips of the pairs; (M,), index of the group of each clip, or None without groups.
    """
    index_of = {label: index for index, label in enumerate(predictions.classes)}
    partner = {
        index_of[one]: index_of[other]
        for pair in pairs
        for one, other in (pair, pair[::-1])
        if one in index_of and other in index_of
    }
    clips = np.array([n for n, label in enumerate(predictions.labels) if int(label) in partner], dtype=np.int64)
    if not len(clips):
        return None
    labels = predictions.labels[clips]
    partners = np.array([partner[int(label)] for label in labels])
    own, other = predictions.scores[:, clips, labels], predictions.scores[:, clips, partners]
    groups = predictions.groups
    own_groups = None if groups is None else np.unique(groups[clips], return_inverse=True)[1]
    return np.asarray((own > other) + 0.5 * (own == other)), own_groups


def parse_pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Read `a:b` texts as pairs of labels.

    Raises:
        PipelineError: a text is not two labels with a colon between them.
    """
    pairs: list[tuple[str, str]] = []
    for text in texts:
        one, colon, other = (part.strip() for part in text.partition(":"))
        if not (one and colon and other) or one == other:
            raise PipelineError(f"The pair '{text}' must be two labels with a colon between them, such as left:right.")
        pairs.append((one, other))
    return pairs


def read_csv(source: Path | IO[str], name: str, **options: Any) -> pd.DataFrame:
    try:
        table: pd.DataFrame = pd.read_csv(source, encoding="utf-8", **options)
    except (OSError, ValueError) as error:
        raise PipelineError(f"{name} cannot be read as a CSV: {error}. Fit the head again.") from error
    return table
