"""Read result folders: each is one fitted head, whose metrics are recomputed from its per-clip predictions.

A run is a folder `<stage>/<backbone>-<head>` with `metrics.json`, `predictions.csv`, `history.csv` and, if it was
fitted on this machine, `timing.json` and `model.safetensors`. If an accuracy in `metrics.json` differs from the
predictions, the two files are from different runs, which is an error.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.evaluation.checksums import check_checksums
from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.result_writer import HISTORY_FILE, METRICS_FILE, MODEL_FILE, PREDICTIONS_FILE, TIMING_FILE
from pipeline.evaluation.selection import VAL, is_marked

SCORE_PREFIX = "score:"
REQUIRED_KEYS = (
    "head", "backbone", "weights", "recipe", "num_segments", "selected_on", "reported_on", "report",
)  # fmt: skip
# metrics.json has four decimals; with up to 500,000 clips, one clip changes an accuracy by more than this.
TOLERANCE_POINTS = 0.0002


@dataclass(frozen=True)
class Predictions:
    """The scores of all seeds on the labelled clips of one split.

    Shape:
        labels: (N,), class indices; scores: (S, N, K). Clips are in the order of their ids.
    """

    classes: tuple[str, ...]
    clip_ids: tuple[str, ...]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    predicted: NDArray[np.int64]

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


@dataclass(frozen=True)
class RunResult:
    """One fitted head: its settings and metrics, its predictions, and the history of its training."""

    folder: Path
    metrics: Mapping[str, Any]
    predictions: Predictions
    history: pd.DataFrame | None
    timing: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """The last two parts of its folder, such as `fit_head/squeezenet-trn`."""
        return "/".join(self.folder.absolute().parts[-2:])

    @property
    def head(self) -> str:
        return str(self.metrics["head"])

    @property
    def backbone(self) -> str:
        return str(self.metrics["backbone"])

    @property
    def weights(self) -> str:
        return str(self.metrics["weights"]["name"])

    @property
    def recipe(self) -> str:
        """Name of the recipe; metrics.json has only the name or all options."""
        recipe = self.metrics["recipe"]
        return str(recipe["name"]) if isinstance(recipe, Mapping) else str(recipe)

    @property
    def num_segments(self) -> int:
        return int(self.metrics["num_segments"])

    @property
    def is_finetuned(self) -> bool:
        stage = self.metrics.get("stage")
        return str(stage) == "finetune" if stage is not None else self.folder.absolute().parent.name == "finetune"

    @property
    def selected_on(self) -> str:
        return str(self.metrics["selected_on"])

    @property
    def reported_on(self) -> str:
        return str(self.metrics["reported_on"])

    @property
    def is_selected_on_reported(self) -> bool:
        """Whether the reported clips also selected the epoch, which makes the accuracy too high."""
        return is_marked(self.metrics)

    @property
    def model_path(self) -> Path:
        return self.folder / MODEL_FILE

    def metrics_from_predictions(self) -> dict[str, float]:
        """Compute every metric in percent from the predictions, averaged over seeds."""
        labels = self.predictions.labels
        return {
            name: float(np.mean([metric.compute(scores, labels) for scores in self.predictions.scores]))
            for name, metric in METRICS.items()
            if metric.is_share
        }


def find_runs(places: Iterable[Path | str]) -> list[Path]:
    """Return the result folders among and inside `places`, each once, sorted by name.

    Raises:
        PipelineError: a place does not exist, or none of them contains a result.
    """
    found: dict[Path, Path] = {}
    folders = [Path(place) for place in places]
    for place in folders:
        if not place.is_dir():
            raise PipelineError(
                f"There is no folder {place}. Give folders that `pipeline fit-head` wrote, or their parent."
            )
        for metrics in sorted(place.rglob(METRICS_FILE)):
            found.setdefault(metrics.parent.resolve(), metrics.parent)
    if not found:
        raise PipelineError(
            f"There is no {METRICS_FILE} in {', '.join(map(str, folders))}. `pipeline fit-head` writes it."
        )
    return list(found.values())


def read_run(folder: Path) -> RunResult:
    """Read one result folder; check its files against their checksums, and its metrics against its predictions.

    Raises:
        PipelineError: a file is missing or malformed, or metrics.json has another accuracy than predictions.csv.
    """
    check_checksums(folder)
    metrics = with_splits(_read_json(folder / METRICS_FILE))
    missing = [key for key in REQUIRED_KEYS if key not in metrics]
    if missing:
        raise PipelineError(f"{folder / METRICS_FILE} lacks {', '.join(missing)}. Fit the head again.")
    predictions_path = folder / PREDICTIONS_FILE
    if not predictions_path.is_file():
        raise PipelineError(f"{folder} has no {PREDICTIONS_FILE}, from which every accuracy comes. Fit the head again.")
    history_path, timing_path = folder / HISTORY_FILE, folder / TIMING_FILE
    run = RunResult(
        folder=folder,
        metrics=metrics,
        predictions=read_predictions(predictions_path, str(predictions_path)),
        history=_read_history(history_path) if history_path.is_file() else None,
        timing=_read_json(timing_path) if timing_path.is_file() else None,
    )
    _check_against_metrics(run)
    return run


def with_splits(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics in the current format: version 0.1 selected and reported on `val` and used the key `val`."""
    if "report" in metrics or not isinstance(metrics.get("val"), dict):
        return dict(metrics)
    others = {key: value for key, value in metrics.items() if key not in ("val", "num_val")}
    return {
        "selected_on": VAL,
        "reported_on": VAL,
        "num_report": metrics.get("num_val"),
        **others,
        "report": metrics["val"],
    }


def read_predictions(source: Path | IO[str], name: str) -> Predictions:
    """Read a `predictions.csv`: `clip_id,label,predicted[,seed],score:<class>...`. Unlabelled clips are omitted.

    Raises:
        PipelineError: a column is missing, a label is not among the score columns, seeds cover different clips, or a
            predicted class is not the one with the highest score.
    """
    # Ids and labels are always text: a class may be named "None" or "NA".
    texts = dict.fromkeys(("clip_id", "label", "predicted"), str)
    table = _read_csv(source, name, dtype=texts, keep_default_na=False)
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
    return Predictions(classes, clip_ids, labels, scores, predicted)


def read_predictions_text(text: str, name: str) -> Predictions:
    """Read predictions from the text of a file, such as one from a Git revision."""
    return read_predictions(io.StringIO(text), name)


def pair_correct(predictions: Predictions, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64] | None:
    """Return whether the label scores higher than its partner, for the clips of the pairs; a tie counts one half.

    Chance is one half, for any number of classes. If the two classes of a pair are the time-reverse of each other, only
    the order of the frames distinguishes them. The result is None if no clip belongs to a pair.

    Shape:
        returns: (S, M), seeds by clips of the pairs.
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
    return np.asarray((own > other) + 0.5 * (own == other))


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


def _check_against_metrics(run: RunResult) -> None:
    for name, value in run.metrics_from_predictions().items():
        stated = run.metrics["report"].get(name)
        if stated is None or abs(float(stated) - value) > TOLERANCE_POINTS:
            raise PipelineError(
                f"{run.name}: metrics.json has report.{name} = {stated}, but predictions.csv gives {value:.4f}. "
                "The two files are not from the same run; fit the head again."
            )


def _read_history(path: Path) -> pd.DataFrame:
    # Version 0.1 always selected on `val` and named the columns after it.
    return _read_csv(path, str(path)).rename(columns={"val_loss": "select_loss", "val_top1": "select_top1"})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path} cannot be read as JSON: {error}. Fit the head again.") from error
    if not isinstance(values, dict):
        raise PipelineError(f"{path} must contain one JSON object. Fit the head again.")
    return values


def _read_csv(source: Path | IO[str], name: str, **options: Any) -> pd.DataFrame:
    try:
        table: pd.DataFrame = pd.read_csv(source, encoding="utf-8", **options)
    except (OSError, ValueError) as error:
        raise PipelineError(f"{name} cannot be read as a CSV: {error}. Fit the head again.") from error
    return table
