"""Choose the clips that train a model, that select its best epoch, and that are reported."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pipeline.errors import PipelineError
from pipeline.recipe import TrainConfig
from pipeline.splitting import LabelledId, draw_held_out

TRAIN, DEV, VAL, TEST = "train", "dev", "val", "test"
SELECTED_ON_REPORTED_MARK = "†"
SELECTED_ON_REPORTED_NOTE = (
    "† Selected on the reported clips: these clips chose the best epoch, so its accuracy on them is too high. "
    "Give the data a split 'test', or pass --select-on dev."
)


class SplitClip(Protocol):
    """A clip with its split and label; an unlabelled clip has the label ""."""

    @property
    def clip_id(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def group(self) -> str: ...


Clip = TypeVar("Clip", bound=SplitClip)


@dataclass(frozen=True)
class SplitPlan:
    """Names of the splits that select and report, and the training clips that are held out as `dev`."""

    selected_on: str
    reported_on: str
    dev_ids: frozenset[str] = frozenset()

    def clips_of(self, part: str, clips: Iterable[Clip]) -> list[Clip]:
        """Return the labelled clips of a part: `train` (without those held out), `dev`, `val` or `test`."""
        split = TRAIN if part == DEV else part
        of_split = (clip for clip in clips if clip.label and clip.split == split)
        if split != TRAIN:
            return list(of_split)
        return [clip for clip in of_split if (clip.clip_id in self.dev_ids) == (part == DEV)]

    def sentence(self) -> str:
        """Describe the plan for a log."""
        held_out = f" ({len(self.dev_ids):,} training clips, held out)" if self.selected_on == DEV else ""
        return f"epochs are selected on {self.selected_on}{held_out}, results are reported on {self.reported_on}"


def plan_splits(clips: Sequence[SplitClip], choices: TrainConfig, where: str) -> SplitPlan:
    """Plan the splits of a data set under a recipe.

    A labelled `test` is reported and `val` selects. Without one, `val` is reported, and `select_on` of the recipe
    decides whether a held-out share of the training clips (`dev`) selects, or `val` as in the paper. The draw uses all
    labelled training clips, including those that could not be extracted, so that every stage draws the same clips.

    where: name of the data set in errors.

    Raises:
        PipelineError: there are no labelled clips to train on, to select or to report; or none can be held out.
    """
    labelled = [clip for clip in clips if clip.label]
    present = dict.fromkeys(clip.split for clip in labelled)
    reported_on = TEST if TEST in present else VAL
    needs_dev = choices.select_on == DEV and (reported_on == VAL or VAL not in present)
    selected_on = DEV if needs_dev else VAL
    for split in dict.fromkeys((TRAIN, VAL if not needs_dev else reported_on, reported_on)):
        if split not in present:
            splits = ", ".join(dict.fromkeys(clip.split for clip in clips)) or "none"
            raise PipelineError(
                f"{where} has no labelled clip in split '{split}'. Training needs labelled clips in 'train', and in "
                f"'val' or 'test' to report; its splits: {splits}."
            )
    if not needs_dev:
        return SplitPlan(selected_on, reported_on)
    if not 0 < choices.dev_share < 1:
        raise PipelineError(f"`dev_share` (={choices.dev_share:g}) must be above 0 and below 1.")
    train = [LabelledId(clip.clip_id, clip.label, clip.group) for clip in labelled if clip.split == TRAIN]
    dev_ids = draw_held_out(train, choices.dev_share, choices.dev_seed, purpose=DEV)
    if not dev_ids or len(dev_ids) == len(train):
        raise PipelineError(
            f"No training clips of {where} can be held out to select the epoch: {len(train)} labelled clips, "
            f"`dev_share` {choices.dev_share:g}, whole groups if the manifest has them. Select on the reported "
            "clips with --select-on val (tables mark such rows), or give more training clips."
        )
    return SplitPlan(DEV, reported_on, dev_ids)


def groups_of(clips: Iterable[SplitClip]) -> dict[str, str] | None:
    """Return the group of each clip, by its id; None if no clip has one."""
    groups = {clip.clip_id: clip.group for clip in clips}
    return groups if any(groups.values()) else None


def data_sha256(clips: Iterable[SplitClip]) -> str:
    """Return a digest of the ids, labels, splits and groups of a data set, in any order of its clips."""
    digest = hashlib.sha256()
    for line in sorted("\0".join((clip.clip_id, clip.label, clip.split, clip.group)) for clip in clips):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def is_marked(metrics: Mapping[str, Any]) -> bool:
    """Return whether the reported clips of `metrics.json` also selected an epoch, of the model or of its `init`."""
    return metrics["reported_on"] in (metrics["selected_on"], metrics.get("init_selected_on"))
