"""Settings of `pipeline fit-head`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pipeline.errors import PipelineError
from pipeline.number_types import NUMBER_TYPES
from pipeline.recipe import HeadConfig, Recipe, SamplingConfig, TrainConfig, option_names
from pipeline.registry import POSITIONS, RECIPE_NAMES, choose_heads, unknown_name
from pipeline.settings import search_options
from pipeline.settings.help_texts import CALIBRATION_HELP, DEVICE_HELP, HEADS_HELP
from pipeline.settings.search import OF_HEAD
from pipeline.settings.search_options import SEARCH_SETTINGS, planned_searches
from pipeline.settings.settings import (
    Settings,
    checked,
    hints_of,
    option,
    option_of,
    overrides,
    required,
    unknown_setting,
    without_none,
)

# Settings of a block `heads.NAME` that are not options of the recipe.
OWN_SETTINGS = ("seeds", "seed", "precision", "threads", *SEARCH_SETTINGS)


@dataclass(frozen=True, kw_only=True)
class FitHeadSettings(Settings):
    """Settings of `pipeline fit-head`; block `fit_head`, and the blocks `heads.NAME` for single heads."""

    subject: ClassVar[tuple[str, ...]] = ("store",)

    store: str = required("Feature store that `pipeline extract` wrote.", fills_braces=True)
    backbone: str | None = option(None, "Backbone of the store; replaces {backbone} in --store.")
    head: tuple[str, ...] = option(("paper",), f"Heads to fit, separated by commas: {HEADS_HELP}.")
    positions: str | None = option(
        None,
        "Positions that attention adds to the features: fits attn_learned for attn and learned.",
        choices=POSITIONS,
    )
    out: Path = required("Folder of results; each head is written to a folder in it.")
    recipe: tuple[str, ...] = option(
        ("cached",), f"Recipe: {', '.join(RECIPE_NAMES)}. Several, with commas, get one folder each."
    )
    overrides: Mapping[str, Any] = overrides(SamplingConfig, TrainConfig, HeadConfig)
    heads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: int = option(1, "Number of fits of each head, with seeds SEED, SEED+1, ...", minimum=1)
    seed: int = option(0, "First seed: initial weights, order of clips and dropout.")
    search: Mapping[str, Any] = search_options.search()
    trials: int | None = search_options.trials()
    search_sampler: str = search_options.search_sampler()
    search_seed: int = search_options.search_seed()
    halving: int | None = search_options.halving()
    device: str = option("cpu", f"Device of the heads: {DEVICE_HELP}")
    precision: str = option("auto", "Number type in which the heads run.", choices=NUMBER_TYPES)
    threads: int | None = option(
        None,
        "Number of threads of torch in each fit.  [default: one per core, or 1 without convolutions]",
        minimum=1,
    )
    jobs: int | None = option(None, "Number of fits that run in parallel.  [default: one per core]", minimum=1)
    scheduler: str | None = option(
        None, "Address of a Dask cluster that runs the fits of one thread.", metavar="ADDRESS"
    )
    loaders: int = option(1, "Number of threads that read spatial maps ahead; does not affect results.", minimum=1)
    views: int | None = option(None, "Number of training views to use.  [default: all in the store]", minimum=1)
    num_segments: int | None = option(
        None, "Number of segments, for a store made with --frames all.  [default: that of the store]", minimum=1
    )
    weights: str | None = option(None, "Path of the backbone weights if the file has moved.")
    calibration: Path | None = option(None, CALIBRATION_HELP)
    tensorboard: bool = option(False, "Write TensorBoard event files too (needs the package tensorboard).")
    force: bool = option(False, "Fit heads again that are already finished.")

    def __post_init__(self) -> None:
        super().__post_init__()
        choose_heads(self.head, self.positions)  # which checks them
        for name in self.recipe:
            if name not in RECIPE_NAMES:
                raise unknown_name("recipe", name, RECIPE_NAMES)
        if self.scheduler is not None and self.jobs is not None:
            raise PipelineError(
                "--jobs starts processes here, --scheduler uses those of a cluster: give only one of them."
            )
        for name, own in self.heads.items():
            self._check_block(f"heads.{name}", own)
        blocks = [
            {name: value for name, value in own.items() if name in SEARCH_SETTINGS} for own in self.heads.values()
        ]
        planned_searches(self, OF_HEAD, [{}, *blocks])  # which checks them

    def _check_block(self, block: str, own: Mapping[str, Any]) -> None:
        known = (*OWN_SETTINGS, *option_names())
        for name in own:
            if name not in known:
                raise unknown_setting(block, name, known)
        hints = hints_of(type(self))
        for name, value in own.items():
            try:
                if name not in OWN_SETTINGS:
                    Recipe(block).with_overrides(**{name: value})  # which checks it
                elif value is not None or without_none(hints[name]) is hints[name]:
                    checked(name, value, hints[name], option_of(type(self), name))
            except PipelineError as error:
                raise PipelineError(f"Block `{block}` of params.yaml: {error}") from error

    @property
    def head_names(self) -> tuple[str, ...]:
        """The heads of the names and groups in `head`, with the positions of `positions`."""
        return choose_heads(self.head, self.positions)
