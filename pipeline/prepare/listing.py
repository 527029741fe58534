"""What a data set's own files say, before it becomes a manifest: rows, classes, and what was found on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.manifest import Clip

CLASS_ORDERS = ("file", "sorted")
DEFAULT_VAL_SHARE = 0.2
# The pipeline's word for each name that people give a split.
SPLIT_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class ListingRequest:
    """What is asked of a reader of data sets.

    lists: the data set's own lists, where it needs them; label files that lie elsewhere than the clips.
    class_order: `file` keeps the order that the data set gives, `sorted` sorts the labels by code point.
    val_share, seed: of a split that is drawn, where the data set brings none.
    fold: which of several published splits. columns: names of the columns of a CSV, by what they hold.
    """

    root: Path
    lists: tuple[Path, ...] = ()
    class_order: str = "file"
    val_share: float = DEFAULT_VAL_SHARE
    seed: int = 0
    fold: int = 1
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.class_order not in CLASS_ORDERS:
            raise PipelineError(f"`class-order` (={self.class_order}) must be one of {', '.join(CLASS_ORDERS)}.")
        if not 0 <= self.val_share < 1:
            raise PipelineError(f"`val-share` (={self.val_share}) must be at least 0 and below 1.")
        if not self.root.is_dir():
            raise PipelineError(f"{self.root} is not a folder. ROOT must be the folder of the data set.")


@dataclass(frozen=True)
class Listing:
    """A data set as its files tell it.

    Clips whose files are missing keep their rows: extraction records them with the reason, and every metrics file
    counts them, so they cannot vanish from an accuracy.

    layout: which of the known layouts it is, in words. notes: sentences about what is unlike the published data set,
        or wrong on disk. faulty: the reason for each clip that cannot be used as it lies there, by its id.
    """

    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    layout: str
    extra_columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    faulty: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """The counts that a data set was published with."""

    name: str
    num_classes: int
    num_clips: Mapping[str, int]

    def differences(self, clips: Iterable[Clip], num_classes: int) -> list[str]:
        """A sentence with the numbers for each count that differs; the published ones decide nothing."""
        counts = Counter(clip.split for clip in clips)
        wrong = [
            f"{split} has {counts[split]:,} clips here, {published:,} as published"
            for split, published in self.num_clips.items()
            if counts[split] != published
        ]
        if num_classes != self.num_classes:
            wrong.append(f"there are {num_classes} classes here, {self.num_classes} as published")
        return [f"{self.name}: {', '.join(wrong)}."] if wrong else []


def ordered(classes: Sequence[str], class_order: str) -> tuple[str, ...]:
    """The classes in the order that was asked for, each once."""
    once = dict.fromkeys(classes)
    return tuple(sorted(once) if class_order == "sorted" else once)


def split_named(text: str) -> str:
    """The pipeline's word for a split; a name that it does not know stays."""
    return SPLIT_NAMES.get(text.strip().lower(), text.strip())
