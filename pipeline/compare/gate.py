"""The metric gate: compare the metrics in the work tree with those of a Git revision, and fail if any is worse.

The revision is read through DVC's file system, so that results in Git and in DVC's cache are both found. If its
per-clip predictions are of the same clips, each change has an interval over paired clips and seeds.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.compare.fit_budget import FitBudget
from pipeline.errors import PipelineError
from pipeline.evaluation import metrics as evaluation_metrics
from pipeline.evaluation.predictions import Predictions, read_predictions_text
from pipeline.evaluation.result_reader import RunResult, with_splits
from pipeline.evaluation.result_writer import METRICS_FILE, PREDICTIONS_FILE
from pipeline.evaluation.statistics import Interval, paired_difference
from pipeline.files import parse_json

if TYPE_CHECKING:
    from dvc.api import DVCFileSystem

METRICS = {name: metric.label for name, metric in evaluation_metrics.METRICS.items() if metric.is_share}


class UnknownRevisionError(PipelineError):
    """The revision to compare with does not exist, which is an error of the command, not a drop."""

    exit_code = 2


class GateError(PipelineError):
    """A cell lost more than is allowed, has another budget, or has vanished."""

    exit_code = 1


@dataclass(frozen=True)
class PastCell:
    """A cell of a revision."""

    name: str
    reported_on: str
    figures: dict[str, float]
    budget: FitBudget
    predictions: Predictions | None


@dataclass(frozen=True)
class Change:
    """One cell before and now, in percent; `before` or `after` is None if the cell is missing there.

    budgets: those before and now, if they must be equal; None if they need not be, or if the cell is missing in one.
    """

    name: str
    before: dict[str, float] | None
    after: dict[str, float] | None
    interval: Interval | None
    max_drop: float | None
    is_same_split: bool = True
    budgets: tuple[FitBudget, FitBudget] | None = None

    @property
    def has_other_budget(self) -> bool:
        return self.budgets is not None and self.budgets[0] != self.budgets[1]

    @property
    def drop(self) -> float | None:
        """Points of top-1 lost; negative for a gain; None if the two are of different splits."""
        if self.before is None or self.after is None or not self.is_same_split:
            return None
        return self.before["top1"] - self.after["top1"]

    @property
    def fault(self) -> str | None:
        """The reason why this cell fails the gate, in one sentence; None if it passes."""
        if self.after is None:
            return f"{self.name} has vanished: it is in the revision and not here."
        if self.budgets is not None and self.has_other_budget:
            before, after = (budget.text() for budget in self.budgets)
            return (
                f"{self.name} had another budget: {before}; here {after}. More trials or epochs alone raise a score; "
                "fit it with the same."
            )
        if self.before is None or self.drop is None or self.max_drop is None:
            return None
        # A drop of exactly the tolerance passes, despite rounding of floats.
        if self.drop <= self.max_drop + 1e-9:
            return None
        return (
            f"{self.name} lost {self.drop:.2f} points of top-1 ({self.before['top1']:.2f} -> {self.after['top1']:.2f}, "
            f"{self._interval_text()}), more than the {self.max_drop:g} allowed."
        )

    @property
    def verdict(self) -> str:
        """The verdict for the table, in one or two words."""
        if self.fault is not None:
            return "**vanished**" if self.after is None else "**budget**" if self.has_other_budget else "**drop**"
        if self.before is None:
            return "new"
        if not self.is_same_split:
            return "other split"
        return "same" if self.drop is not None and abs(self.drop) < 0.005 else "ok"

    def _interval_text(self) -> str:
        if self.interval is None:
            return "no paired interval: the revision has no predictions on the same clips"
        return f"95 % interval of the change {self.interval.low:+.2f} to {self.interval.high:+.2f}"


@dataclass(frozen=True)
class GateReport:
    """All changes against one revision."""

    revision: str
    max_drop: float | None
    changes: tuple[Change, ...]
    needs_equal_budget: bool = False

    @property
    def faults(self) -> list[str]:
        return [change.fault for change in self.changes if change.fault is not None]

    def markdown(self) -> str:
        """Return the diff as Markdown, for the terminal and for a job summary."""
        if not any(change.before for change in self.changes):
            names = "".join(f"\n- {change.name}: top-1 {(change.after or {})['top1']:.2f}" for change in self.changes)
            return f"Revision `{self.revision}` has no metrics for these folders: every cell here is new.\n{names}"
        header = [
            "cell",
            f"top-1 at {self.revision}",
            "here",
            "change",
            "95 % interval of it",
            *(label for name, label in METRICS.items() if name != "top1"),
            "verdict",
        ]
        lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 2) + "---|"]
        for change in self.changes:
            interval = "" if change.interval is None else f"{change.interval.low:+.2f} to {change.interval.high:+.2f}"
            cells = [
                change.name,
                _value(change.before, "top1"),
                _value(change.after, "top1"),
                *(_difference(change, metric) for metric in METRICS),
                change.verdict,
            ]
            cells.insert(4, interval)
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def check(self) -> str:
        """Return a sentence that the gate passes.

        Raises:
            GateError: a cell dropped beyond the tolerance, vanished, or has another budget; the message names each.
        """
        if self.faults:
            raise GateError("\n  ".join([f"The gate against {self.revision} fails.", *self.faults]))
        allowed = "" if self.max_drop is None else f"no drop of top-1 beyond the tolerance ({self.max_drop:g}), "
        budget = "equal budgets, " if self.needs_equal_budget else ""
        also = "and " if allowed or budget else ""
        return f"The gate against {self.revision} passes: {allowed}{budget}{also}no cell has vanished."


def compare_with_revision(
    cells: Sequence[RunResult],
    places: Iterable[Path | str],
    revision: str,
    max_drop: float | None = None,
    equal_budget: bool = False,
) -> GateReport:
    """Compare the cells here with those of `revision` in the same folders.

    Without `max_drop` a drop of any size passes; a vanished cell always fails. With `equal_budget`, a cell with another
    number of trials or epochs fails.

    Raises:
        UnknownRevisionError: the revision does not exist in Git.
        PipelineError: the folders are not in a Git repository, or the revision's metrics cannot be read.
    """
    folders = [Path(place).absolute() for place in places]
    root = _repository_of(folders)
    past = {cell.name: cell for cell in _cells_at(root, revision, [_relative(folder, root) for folder in folders])}
    present = {_relative(cell.folder.absolute(), root): cell for cell in cells}
    changes = []
    for name in sorted(past.keys() | present.keys()):
        before, after = past.get(name), present.get(name)
        interval = None
        if before is not None and after is not None and before.predictions is not None:
            a, b = after.predictions, before.predictions
            if a.clips_digest == b.clips_digest:
                same_seeds = a.num_seeds == b.num_seeds
                interval = paired_difference(a.correct, b.correct, groups=a.groups, same_seeds=same_seeds).points
        changes.append(
            Change(
                name,
                before.figures if before else None,
                after.metrics_from_predictions() if after else None,
                interval,
                max_drop,
                is_same_split=before is None or after is None or before.reported_on == after.reported_on,
                budgets=(before.budget, FitBudget.of(after.metrics)) if equal_budget and before and after else None,
            )
        )
    return GateReport(revision, max_drop, tuple(changes), equal_budget)


def _cells_at(root: Path, revision: str, places: Sequence[str]) -> list[PastCell]:
    # Imported late: DVC takes a third of a second, and a comparison without a revision does not need it.
    from dvc.exceptions import DvcException
    from dvc.scm import RevError, SCMError

    try:
        with _files_at(root, revision) as files:
            return _read_cells(files, revision, places)
    except RevError as error:
        raise UnknownRevisionError(
            f"Git knows no revision '{revision}' here. Name a branch, tag or commit that has been fetched, "
            "such as origin/main; a shallow clone lacks older ones (git fetch --unshallow, or fetch-depth: 0 in CI)."
        ) from error
    except SCMError as error:
        raise PipelineError(f"{root} cannot be read as a Git repository: {error}.") from error
    except DvcException as error:
        raise PipelineError(
            f"DVC cannot read its own files at revision '{revision}': {error}. Compare with a revision whose dvc.yaml "
            "files are valid (links are not)."
        ) from error


@contextlib.contextmanager
def _files_at(root: Path, revision: str) -> Iterator[DVCFileSystem]:
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(str(root), rev=revision)
    try:
        yield files
    finally:
        # DVC closes its index, but not the views of it that were read; each view has an open connection to SQLite.
        for view in vars(files.repo.index).get("data", {}).values():
            view.close()
        files.close()


def _read_cells(files: DVCFileSystem, revision: str, places: Sequence[str]) -> list[PastCell]:
    found = sorted({path for place in places for path in files.find(f"/{place}")})
    past = []
    for path in found:
        if posixpath.basename(path) != METRICS_FILE:
            continue
        folder = posixpath.dirname(path)
        name = folder.lstrip("/")
        metrics = with_splits(_parsed(files.read_text(path, encoding="utf-8"), f"{name}/{METRICS_FILE} at {revision}"))
        if not isinstance(metrics.get("report"), dict) or "top1" not in metrics["report"]:
            # Metrics of another stage or another tool: they are not of a head.
            continue
        predictions = None
        if f"{folder}/{PREDICTIONS_FILE}" in found:
            text = files.read_text(f"{folder}/{PREDICTIONS_FILE}", encoding="utf-8")
            predictions = read_predictions_text(text, f"{name}/{PREDICTIONS_FILE} at {revision}")
        figures = {key: float(metrics["report"][key]) for key in METRICS if key in metrics["report"]}
        past.append(PastCell(name, str(metrics["reported_on"]), figures, FitBudget.of(metrics), predictions))
    return past


def _repository_of(folders: Sequence[Path]) -> Path:
    first = folders[0]
    for parent in (first, *first.parents):
        # In a work tree made by `git worktree`, .git is a file, not a folder.
        if (parent / ".git").exists():
            return parent
    raise PipelineError(f"{first} is not in a Git repository, so there is no revision to compare with.")


def _relative(folder: Path, root: Path) -> str:
    try:
        return Path(posixpath.normpath(folder.as_posix())).relative_to(root).as_posix()
    except ValueError:
        raise PipelineError(f"{folder} is not in the Git repository {root}; give folders of one repository.") from None


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        values = parse_json(text)
    except ValueError as error:
        raise PipelineError(f"{name} cannot be read as JSON: {error}.") from error
    if not isinstance(values, dict):
        raise PipelineError(f"{name} must contain one JSON object.")
    return values


def _value(val: dict[str, float] | None, metric: str) -> str:
    return f"{val[metric]:.2f}" if val is not None and metric in val else ""


def _difference(change: Change, metric: str) -> str:
    if change.drop is None or change.before is None or change.after is None or metric not in change.before:
        return ""
    # Adding zero turns -0.0 into 0.0.
    return f"{round(change.after[metric] - change.before[metric], 2) + 0.0:+.2f}"
