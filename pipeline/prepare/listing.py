"""Content of a data set's files before it is written as a manifest: rows, classes and notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.manifest import Clip
from pipeline.video.suffixes import is_video_name

CLASS_ORDERS = ("file", "sorted")
DEFAULT_VAL_SHARE = 0.2
# Common names of splits, and the pipeline's names.
SPLIT_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class ListingRequest:
    """Request to a reader of data sets.

    lists: lists of the data set, if it needs them, or the folder of its label files.
    class_order: `file` keeps the order of the data set, `sorted` sorts the labels by code point.
    val_share, seed: share and seed of a drawn split, if the data set has no split.
    fold: number of the published split. columns: names of CSV columns by their meaning.
    group_by: regular expression that finds the group of a clip in its path: its parenthesis, or all that it matches.
    labels: `verb` or `noun`, for data sets with both.
    is_clip: whether a file in the folders of the classes is a clip, by its name.
    takes_file: whether `root` may be a file, as one of features.
    """

    root: Path
    lists: tuple[Path, ...] = ()
    class_order: str = "file"
    val_share: float = DEFAULT_VAL_SHARE
    seed: int = 0
    fold: int = 1
    columns: Mapping[str, str] = field(default_factory=dict)
    group_by: str | None = None
    labels: str = "verb"
    is_clip: Callable[[str], bool] = is_video_name
    takes_file: bool = False

    def __post_init__(self) -> None:
        if self.class_order not in CLASS_ORDERS:
            raise PipelineError(f"`class-order` (={self.class_order}) must be one of {', '.join(CLASS_ORDERS)}.")
        if not 0 <= self.val_share < 1:
            raise PipelineError(f"`val-share` (={self.val_share}) must be at least 0 and below 1.")
        if not self.root.is_dir() and not (self.takes_file and self.root.is_file()):
            raise PipelineError(f"{self.root} is not a folder. ROOT must be the folder of the data set.")

    @property
    def folder(self) -> Path:
        """Folder that the paths of clips are relative to."""
        return self.root.parent if self.takes_file and self.root.is_file() else self.root


@dataclass(frozen=True)
class Listing:
    """Content of a data set's files.

    Clips with missing files keep their rows: extraction records them with the reason, and every metrics file counts
    them, so that no accuracy omits them.

    layout: description of the detected layout. notes: sentences on differences from the published data set and on
        problems on disk. faulty: reason why a clip cannot be used, by its id. is_drawn: whether the splits were drawn.
    """

    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    layout: str
    extra_columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    faulty: Mapping[str, str] = field(default_factory=dict)
    is_drawn: bool = False


@dataclass(frozen=True)
class Published:
    """Published counts of a data set."""

    name: str
    num_classes: int
    num_clips: Mapping[str, int]

    def differences(self, clips: Iterable[Clip], num_classes: int) -> list[str]:
        """Return a sentence with the counts that differ from the published ones, for information only."""
        counts = Counter(clip.split for clip in clips)
        wrong = [
            f"{split} has {counts[split]:,} clips, but {published:,} were published"
            for split, published in self.num_clips.items()
            if counts[split] != published
        ]
        if num_classes != self.num_classes:
            wrong.append(f"there are {num_classes} classes, but {self.num_classes} were published")
        return [f"{self.name}: {', '.join(wrong)}."] if wrong else []


def ordered(classes: Sequence[str], class_order: str) -> tuple[str, ...]:
    """Return the unique classes in the requested order."""
    once = dict.fromkeys(classes)
    return tuple(sorted(once) if class_order == "sorted" else once)


def split_named(text: str) -> str:
    """Return the pipeline's name of a split; unknown names are kept."""
    return SPLIT_NAMES.get(text.strip().lower(), text.strip())
