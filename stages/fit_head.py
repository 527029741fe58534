"""`pipeline fit-head`: cached features -> fitted heads, one result folder each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.errors import PipelineError
from pipeline.heads import HEADS
from pipeline.recipe import Recipe, named_recipe
from pipeline.registry import HEAD_NAMES, look_up
from pipeline.store import FeatureStore
from pipeline.training.cached_data import CachedData
from pipeline.training.cells import Cell, CellOutcome, backbone_of_store, fit_cell
from pipeline.training.compute import choose_compute

ALL = "all"
# Settings of `heads.<name>` that are not switches of the recipe.
OWN_SETTINGS = ("seeds", "seed", "precision", "threads")


def fit_head(
    *,
    store: str | Path,
    head: str | Sequence[str] = ALL,
    out: str | Path,
    recipe: str | Sequence[str] = "cached",
    seeds: int = 1,
    seed: int = 0,
    switches: Mapping[str, Any] | None = None,
    head_settings: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "cpu",
    precision: str = "auto",
    threads: int | None = None,
    loaders: int = 1,
    views: int | None = None,
    num_segments: int | None = None,
    weights: str | None = None,
    force: bool = False,
) -> list[CellOutcome]:
    """Fit heads on a store and print their table; with several recipes, each gets a folder of its own below `out`.

    `switches` change the recipe; `head_settings` change it for single heads, and may set `seeds`, `seed`, `precision`
    and `threads` for them. The features are loaded once. A cell that diverges does not keep the others from being
    fitted; it is named at the end.

    Raises:
        PipelineError: anything that the user can mend.
    """
    names = _names(head)
    recipes = [recipe] if isinstance(recipe, str) else list(recipe)
    source = FeatureStore.open(store)
    say = _say
    if source.num_pending:
        say(f"{source.num_pending} of {source.num_clips} clips of the store are not extracted yet; going on without.")
    data = CachedData(source, Path(out), say, num_segments=num_segments, num_views=views)
    wanted = [
        (Path(out) / chosen if len(recipes) > 1 else Path(out), cell)
        for chosen in recipes
        for cell in (
            _cell(
                name,
                named_recipe(chosen).changed(**(switches or {})),
                dict((head_settings or {}).get(name, {})),
                {"seeds": seeds, "seed": seed, "precision": precision, "threads": threads},
                device,
                loaders,
            )
            for name in names
        )
    ]
    for _, cell in wanted:
        # All that can be refused is refused before the first fit.
        data.check_recipe(cell.recipe)
        data.check_maps(HEADS[cell.head].maps)
    backbone = backbone_of_store(source.settings, weights or source.attributes["provenance"].get("weights"))
    outcomes: list[CellOutcome] = []
    failures: list[str] = []
    for folder, cell in wanted:
        started_at_seconds = time.monotonic()
        try:
            outcome = fit_cell(cell, data, backbone, folder, say, force=force)
        except PipelineError as error:
            if len(wanted) == 1:
                raise
            failures.append(str(error))
            say(f"failed: {error}")
            continue
        outcomes.append(outcome)
        if outcome.was_finished:
            say(f"{outcome.folder} was finished with these settings; --force fits it again.")
        else:
            say(f"{outcome.folder}: {time.monotonic() - started_at_seconds:.1f} s")
    if outcomes:
        click.echo(table_text([outcome.metrics for outcome in outcomes]))
    if failures:
        raise PipelineError(f"{len(failures)} of {len(wanted)} cells failed. " + " ".join(failures))
    return outcomes


def table_text(metrics: Sequence[Mapping[str, Any]]) -> str:
    """The table of some cells, shares in percent."""
    header = ["backbone", "head", "recipe", "seeds", "top-1", "95 % interval", "top-5", "class mean", "shuffled"]
    rows = [header]
    for values in metrics:
        val = values["val"]
        backbone = values["backbone"] + (" (random)" if values["weights"]["name"] == "random" else "")
        rows.append(
            [
                backbone,
                values["head"],
                values["recipe"]["name"],
                str(values["num_seeds"]),
                f"{val['top1']:.1f}" + (f" ± {val['top1_std']:.1f}" if "top1_std" in val else ""),
                f"{val['top1_low']:.1f} to {val['top1_high']:.1f}",
                f"{val['top5']:.1f}",
                f"{val['mean_class_accuracy']:.1f}",
                f"{values['probes']['shuffled']:.1f}",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _names(head: str | Sequence[str]) -> list[str]:
    names = head.split(",") if isinstance(head, str) else list(head)
    chosen = list(HEAD_NAMES) if ALL in names else list(dict.fromkeys(name.strip() for name in names))
    for name in chosen:
        look_up("head", name, HEADS)
    return chosen


def _cell(name: str, recipe: Recipe, own: dict[str, Any], common: Mapping[str, Any], device: str, loaders: int) -> Cell:
    settings = {**common, **{key: own.pop(key) for key in OWN_SETTINGS if key in own}}
    compute = choose_compute(name, device, settings["precision"], settings["threads"], loaders)
    seeds = tuple(range(settings["seed"], settings["seed"] + settings["seeds"]))
    if not seeds:
        raise PipelineError(f"`seeds` (={settings['seeds']}) must be at least 1.")
    return Cell(name, recipe.changed(**own), seeds, compute)


def _say(text: str) -> None:
    click.echo(text, err=True)
