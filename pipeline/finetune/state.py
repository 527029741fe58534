"""What a training end to end is asked for, and what it counts on its way."""

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
    """How the training is run, apart from recipe and data.

    accumulate: parts in which a batch goes through the model, one after the other; the batch stays as large.
    max_failed: stop when more clips than this could not be used; None never stops.
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


@dataclass(frozen=True)
class ClipData:
    """Clips to train on, to select the best epoch by and to report, and how their samples are made.

    `report` is the same object as `select` where one split is both. plan: the names of these splits.
    """

    train: tuple[LabelledClip, ...]
    select: tuple[LabelledClip, ...]
    report: tuple[LabelledClip, ...]
    samples: SampleSettings
    plan: SplitPlan


@dataclass
class EpochSums:
    """What an epoch has come to so far; a checkpoint within the epoch holds it."""

    step: int = 0
    loss: float = 0.0
    weight: float = 0.0
    num_right: int = 0
    num_seen: int = 0


@dataclass
class Faults:
    """Clips that could not be used, each once, with the split that they belong to."""

    of_clip: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def add(self, split: str, faults: Sequence[ClipFailure], max_failed: int | None) -> None:
        """Note clips of a split.

        Raises:
            PipelineError: there are now more than `max_failed`.
        """
        for fault in faults:
            self.of_clip.setdefault(fault.clip_id, (split, fault.kind, fault.reason))
        if max_failed is not None and len(self.of_clip) > max_failed:
            last = faults[-1]
            raise PipelineError(
                f"{len(self.of_clip)} clips could not be used, more than --max-failed {max_failed} allows. The last: "
                f"'{last.clip_id}', {last.kind}: {last.reason} Mend the clips or raise --max-failed, and run again."
            )

    def num_of(self, split: str) -> int:
        return sum(where == split for where, _, _ in self.of_clip.values())
