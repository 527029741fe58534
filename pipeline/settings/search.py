"""Searches of `fit-head` and `finetune`: searched settings, their lists or ranges, and the number of trials.

This module does not import Optuna: parsing and checking a search space needs no sampler.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_origin, get_type_hints

from pipeline.errors import PipelineError
from pipeline.params import spelled
from pipeline.recipe import FinetuneConfig, HeadConfig, SamplingConfig, TrainConfig, checked_value
from pipeline.registry import unknown_name

_JUDGES = "it decides which {} judge a trial, so trials with different values cannot be compared"
_CLIPS = dict.fromkeys(("select_on", "dev_share", "dev_seed"), _JUDGES.format("clips"))
_FRAMES = dict.fromkeys(("short_clip", "test_frames"), _JUDGES.format("frames"))


@dataclass(frozen=True)
class Searchable:
    """The settings that a command can search: those of groups of the recipe, and for the others the reason why not."""

    groups: tuple[type, ...]
    excluded: Mapping[str, str]


OF_HEAD = Searchable((TrainConfig, HeadConfig), {**_CLIPS, "backbone_lr": "fit-head does not train the backbone"})
OF_TRAINING = Searchable((SamplingConfig, TrainConfig, HeadConfig, FinetuneConfig), {**_CLIPS, **_FRAMES})
LOG = "log:"
SAMPLERS = ("qmc", "random", "tpe", "grid")


@dataclass(frozen=True)
class Values:
    """A list of values of one setting."""

    values: tuple[Any, ...]

    def as_plain(self) -> Any:
        return [list(value) if isinstance(value, tuple) else value for value in self.values]


@dataclass(frozen=True)
class Range:
    """A range of numbers with inclusive ends; `is_log` samples their logarithms evenly."""

    low: float
    high: float
    is_log: bool = False

    @property
    def is_integer(self) -> bool:
        return isinstance(self.low, int)

    def as_plain(self) -> str:
        return f"{LOG if self.is_log else ''}{self.low:g}:{self.high:g}"


Dimension = Values | Range


@dataclass(frozen=True)
class Search:
    """A search for the settings of one head or one training.

    space: searched settings with their values, sorted by name, so that equal spaces have equal points.
    trials: number of settings that are tried; None tries every combination (`grid`).
    halving: rate at which successive halving keeps trials; None fits all trials to their last epoch.
    """

    space: tuple[tuple[str, Dimension], ...]
    trials: int | None
    sampler: str = "qmc"
    seed: int = 0
    halving: int | None = None

    @property
    def num_trials(self) -> int:
        """Number of trials; a grid has at most its combinations."""
        if self.sampler != "grid":
            return self.trials or 0
        num_points = math.prod(len(dimension.values) for _, dimension in self.space if isinstance(dimension, Values))
        return min(self.trials or num_points, num_points)

    def as_dict(self) -> dict[str, Any]:
        """Return the search as plain data, for the metrics and the digest of a run."""
        return {
            "trials": self.trials,
            "sampler": self.sampler,
            "seed": self.seed,
            "space": {name: dimension.as_plain() for name, dimension in self.space},
            **({} if self.halving is None else {"halving": self.halving}),
        }


def plan_search(values: Mapping[str, Any], searchable: Searchable = OF_HEAD) -> Search | None:
    """Return the search of the settings `search`, `trials`, `search_sampler`, …; None without a searched setting.

    Raises:
        PipelineError: the space is wrong, or the settings contradict each other.
    """
    space = parse_space(values["search"], searchable)
    trials, sampler, halving = values["trials"], values["search_sampler"], values["halving"]
    if not space:
        return None
    ranges = [name for name, dimension in space if isinstance(dimension, Range)]
    if sampler == "grid" and ranges:
        raise PipelineError(
            f"`search-sampler` grid tries every combination of lists, but {spelled(ranges[0])} has a range. Give a "
            "list of its values, or choose another sampler."
        )
    if sampler != "grid" and trials is None:
        raise PipelineError("A search needs a number of trials: give --trials N, or `trials: N` in params.yaml.")
    if halving is not None and sampler == "tpe":
        raise PipelineError(
            "`halving` cannot be combined with `search-sampler` tpe, which learns from finished trials. Use qmc or "
            "random."
        )
    for name in ("epochs", "min_steps"):
        if halving is not None and name in dict(space):
            raise PipelineError(
                f"`halving` decides the number of epochs, so `{spelled(name)}` cannot be searched with it."
            )
    return Search(space, trials, sampler, values["search_seed"], halving)


def parse_space(block: Mapping[str, Any], searchable: Searchable = OF_HEAD) -> tuple[tuple[str, Dimension], ...]:
    """Parse the searched settings: lists (`0,0.01`), ranges (`1:10`) and log ranges (`log:1e-4:1e-2`).

    Raises:
        PipelineError: a name is unknown, a list or range is empty, reversed or has a value that is not allowed.

    >>> parse_space({"lr": "log:1e-4:1e-2", "weight-decay": [0, 0.01]})
    (('lr', Range(low=0.0001, high=0.01, is_log=True)), ('weight_decay', Values(values=(0.0, 0.01))))
    """
    if not isinstance(block, Mapping):
        raise PipelineError(f"`search` (={block!r}) must be a block of settings, such as `lr: log:1e-4:1e-2`.")
    found: dict[str, Dimension] = {}
    for key, value in block.items():
        name = str(key).replace("-", "_")
        if name in found:
            raise PipelineError(f"`search` has {spelled(name)} twice.")
        found[name] = _dimension(name, value, searchable)
    return tuple(sorted(found.items()))


def _dimension(name: str, value: Any, searchable: Searchable) -> Dimension:
    groups = {field.name: group for group in searchable.groups for field in dataclasses.fields(group)}
    if name in searchable.excluded:
        raise PipelineError(f"{spelled(name)} cannot be searched: {searchable.excluded[name]}.")
    if name not in groups:
        known = [spelled(known) for known in groups if known not in searchable.excluded]
        raise unknown_name("setting of a search", spelled(name), known)
    group = groups[name]
    is_number = get_type_hints(group)[name] in (int, float)
    if isinstance(value, str) and ":" in value:
        if not is_number:
            raise PipelineError(f"The search of {spelled(name)} (={value}) needs a list: only numbers have ranges.")
        return _range(group, name, value.strip())
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or len(parts) < 2:
        raise PipelineError(
            f"The search of {spelled(name)} (={value!r}) must have several values: a list such as 0,0.01, a range "
            'such as "1:10" (in quotes in YAML), or a range of logarithms such as log:1e-4:1e-2.'
        )
    values = tuple(_value(group, name, part) for part in parts)
    if len(set(values)) < len(values):
        raise PipelineError(f"The search of {spelled(name)} (={value!r}) has a value twice.")
    return Values(values)


def _range(group: type, name: str, text: str) -> Range:
    is_log = text.startswith(LOG)
    ends = (text.removeprefix(LOG)).split(":")
    if len(ends) != 2:
        raise PipelineError(f"The search of {spelled(name)} (={text}) must be LOW:HIGH or log:LOW:HIGH.")
    low, high = (_value(group, name, end) for end in ends)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise PipelineError(f"The search of {spelled(name)} (={text}) must have a lower end below its upper end.")
    if is_log and low <= 0:
        raise PipelineError(
            f"The search of {spelled(name)} (={text}) must have a lower end above 0, because 0 has no logarithm. "
            f"Use {low:g}:{high:g} or a list."
        )
    return Range(low, high, is_log)


def _value(group: type, name: str, value: Any) -> Any:
    """Return a value of a list or an end of a range as the type of its setting."""
    hint = get_type_hints(group)[name]
    if isinstance(value, str):
        value = value.strip()
        try:
            if hint in (int, float):
                value = hint(value)
        except ValueError as error:
            kind = "an integer" if hint is int else "a number"
            raise PipelineError(f"The search of {spelled(name)} has {value!r}, which is not {kind}.") from error
        if hint is bool:
            value = {"true": True, "false": False}.get(value.lower(), value)
        if get_origin(hint) is tuple:
            raise PipelineError(
                f"{spelled(name)} is searched in params.yaml, as a list of lists: [[20, 30], [10, 20]]."
            )
    if name in ("epochs", "batch_size") and value == 0:
        raise PipelineError(f"The search of {spelled(name)} must have values of at least 1.")
    return checked_value(group, name, value)
