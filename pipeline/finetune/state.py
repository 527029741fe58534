"""Settings, data and counters of a training end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.errors import ClipFailure, PipelineError
from pipeline.evaluation.selection import SplitPlan
from pipeline.finetune.clip_loader import LabelledClip, SampleSettings
from pipeline.recipe import Recipe

CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class TrainingPlan:
    """Recipe and further settings of a training.

    accumulate: number of parts into which a batch is split; the batch size does not change.
    max_failed: stop if more clips than this could not be used; None never stops.
    checkpoint_seconds: time between checkpoints within an epoch; 0 writes one after every step.
    """

    recipe: Recipe
    seed: int = 0
    accumulate: int = 1
    max_failed: int | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS

    def __post_init__(self) -> None:
        if self.accumulate < 1 or self.recipe.training.batch_size < self.accumulate:
            raise PipelineError(
                f"`accumulate` (={self.accumulate}) must lie between 1 and batch_size "
                f"(={self.recipe.training.batch_size}): it is the number of parts of a batch."
            )

    def view_of(self, epoch: int) -> int:
        """Return the number of the training view that an epoch uses."""
        num_views = self.recipe.finetune.fixed_views
        return epoch % num_views if num_views else epoch


@dataclass(frozen=True)
class ClipData:
    """Clips for training, for selecting the best epoch and for reporting, and the settings of their samples.

    `report` is the same object as `select` if one split is both. plan: the names of these splits.
    """

    train: tuple[LabelledClip, ...]
    select: tuple[LabelledClip, ...]
    report: tuple[LabelledClip, ...]
    samples: SampleSettings
    plan: SplitPlan


@dataclass
class EpochSums:
    """Sums over the steps of the current epoch; a checkpoint within the epoch includes them."""

    step: int = 0
    loss: float = 0.0
    weight: float = 0.0
    num_right: int = 0
    num_seen: int = 0


@dataclass
class Faults:
    """Clips that could not be used, each once, with their split."""

    of_clip: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def add(self, split: str, faults: Sequence[ClipFailure], max_failed: int | None) -> None:
        """Add clips of a split.

        Raises:
            PipelineError: there are now more than `max_failed`.
        """
        for fault in faults:
            self.of_clip.setdefault(fault.clip_id, (split, fault.kind, fault.reason))
        if max_failed is not None and len(self.of_clip) > max_failed:
            last = faults[-1]
            raise PipelineError(
                f"{len(self.of_clip)} clips could not be used, more than --max-failed {max_failed} allows. The last: "
                f"'{last.clip_id}', {last.kind}: {last.reason} Repair the clips or raise --max-failed, and run again."
            )

    def num_of(self, split: str) -> int:
        return sum(where == split for where, _, _ in self.of_clip.values())
