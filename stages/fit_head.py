"""`pipeline fit-head`: cached features -> fitted heads, one result folder each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from torch import nn

from pipeline.devices import num_cores
from pipeline.errors import PipelineError
from pipeline.evaluation.selection import SELECTED_ON_REPORTED_MARK, SELECTED_ON_REPORTED_NOTE, is_marked
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.compute import choose_compute
from pipeline.fit_head.run import Cell, CellOutcome, backbone_of_store, fit_cell
from pipeline.fit_head.workers import CellTask, StoreRequest, TaskResult, fit_side_by_side
from pipeline.heads import HEADS
from pipeline.recipe import Recipe, named_recipe
from pipeline.registry import HEAD_NAMES, look_up
from pipeline.store import FeatureStore

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
    jobs: int | None = None,
    force: bool = False,
) -> list[CellOutcome]:
    """Fit heads on a store and print their table; with several recipes, each gets a folder of its own below `out`.

    `switches` change the recipe; `head_settings` change it for single heads, and may set `seeds`, `seed`, `precision`
    and `threads` for them. With `jobs` above 1 (by default the number of cores), cells of one thread are fitted side
    by side in as many processes; the others follow one by one. A cell that diverges does not keep the others from
    being fitted; it is named at the end. Neither order nor `jobs` changes a result.

    Raises:
        PipelineError: anything that the user can mend.
    """
    asked = _names(head)
    recipes = [recipe] if isinstance(recipe, str) else list(recipe)
    out = Path(out)
    source = FeatureStore.open(store)
    if source.num_pending:
        _say(f"{source.num_pending} of {source.num_clips} clips of the store are not extracted yet; going on without.")
    weights = weights or source.attributes["provenance"].get("weights")
    request = StoreRequest(str(store), out, num_segments, views, weights)
    data = CachedData(source, out, _say, num_segments, views)
    names = _served(asked, data)
    tasks: list[CellTask] = []
    for chosen in recipes:
        changed = named_recipe(chosen).changed(**(switches or {}))
        _say(f"{chosen}: {data.plan(changed.training).sentence()}")
        for name in names:
            common = {"seeds": seeds, "seed": seed, "precision": precision, "threads": threads}
            cell = _cell(name, changed, dict((head_settings or {}).get(name, {})), common, device, loaders)
            # All that can be refused is refused before the first fit.
            data.check_recipe(cell.recipe)
            data.check_maps(HEADS[name].maps, name)
            tasks.append(CellTask(cell, out / chosen if len(recipes) > 1 else out, force))
    backbone = backbone_of_store(source.settings, weights)
    together = [task for task in tasks if task.cell.compute.threads == 1 and task.cell.compute.device.type == "cpu"]
    jobs = min(num_cores() if jobs is None else jobs, len(together))
    if jobs < 2:
        together = []
    results = list(_reported(fit_side_by_side(request, together, jobs))) if together else []
    results += _reported(_one_by_one([task for task in tasks if task not in together], data, backbone, len(tasks) > 1))
    # In the order in which the heads were named, whichever was done first.
    results.sort(key=lambda result: tasks.index(result.task))
    outcomes = [result.outcome for result in results if result.outcome is not None]
    if outcomes:
        click.echo(table_text([outcome.metrics for outcome in outcomes]))
    failures = [result.failure for result in results if result.failure]
    if failures:
        raise PipelineError(f"{len(failures)} of {len(tasks)} cells failed. " + " ".join(failures))
    return outcomes


def _one_by_one(
    tasks: Sequence[CellTask], data: CachedData, backbone: nn.Module, goes_on: bool
) -> Iterator[TaskResult]:
    """Fit cells in this process. With `goes_on`, one that fails does not keep the others from being fitted."""
    for task in tasks:
        try:
            outcome = fit_cell(task.cell, data, backbone, task.out, _say, force=task.force)
        except PipelineError as error:
            if not goes_on:
                raise
            yield TaskResult(task, None, str(error), ())
        else:
            yield TaskResult(task, outcome, "", ())


def _reported(results: Iterable[TaskResult]) -> Iterator[TaskResult]:
    """Say what came of each cell as soon as it is there."""
    for result in results:
        for line in result.said:
            _say(line)
        if result.outcome is None:
            _say(f"{result.task.cell.head} failed: {result.failure}")
        elif result.outcome.was_finished:
            _say(f"{result.outcome.folder} was finished with these settings; --force fits it again.")
        else:
            _say(f"{result.outcome.folder}: {_reported_text(result.outcome.metrics)}")
        yield result


def table_text(metrics: Sequence[Mapping[str, Any]]) -> str:
    """The table of some cells, shares in percent."""
    header = [
        "backbone",
        "head",
        "recipe",
        "seeds",
        "selected on",
        "reported on",
        "top-1",
        "95 % interval",
        "top-5",
        "class mean",
        "shuffled",
    ]
    rows = [header]
    for values in metrics:
        report = values["report"]
        backbone = values["backbone"] + (" (random)" if values["weights"]["name"] == "random" else "")
        rows.append(
            [
                backbone,
                values["head"] + (f" {SELECTED_ON_REPORTED_MARK}" if is_marked(values) else ""),
                values["recipe"]["name"],
                str(values["num_seeds"]),
                values["selected_on"],
                values["reported_on"],
                f"{report['top1']:.1f}" + (f" ± {report['top1_std']:.1f}" if "top1_std" in report else ""),
                f"{report['top1_low']:.1f} to {report['top1_high']:.1f}",
                f"{report['top5']:.1f}",
                f"{report['mean_class_accuracy']:.1f}",
                f"{values['probes']['shuffled']:.1f}",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if any(is_marked(values) for values in metrics):
        lines.append(SELECTED_ON_REPORTED_NOTE)
    return "\n".join(lines)


def _reported_text(metrics: Mapping[str, Any]) -> str:
    return f"{metrics['reported_on']} top-1 {metrics['report']['top1']:.1f} %"


def _names(head: str | Sequence[str]) -> list[str]:
    """The heads that are named, each once; or `all`."""
    names = [name.strip() for name in (head.split(",") if isinstance(head, str) else head)]
    for name in names:
        if name != ALL:
            look_up("head", name, HEADS)
    return list(dict.fromkeys(names))


def _served(names: list[str], data: CachedData) -> list[str]:
    """The named heads; `all` are all that the store has the maps for."""
    if ALL in names:
        served = [name for name in HEAD_NAMES if data.serves(HEADS[name].maps)]
        left_out = [name for name in HEAD_NAMES if name not in served]
        if left_out:
            _say(f"left out, since the store has no maps for them: {', '.join(left_out)}")
        return served
    return names


def _cell(name: str, recipe: Recipe, own: dict[str, Any], common: Mapping[str, Any], device: str, loaders: int) -> Cell:
    settings = {**common, **{key: own.pop(key) for key in OWN_SETTINGS if key in own}}
    compute = choose_compute(name, device, settings["precision"], settings["threads"], loaders)
    seeds = tuple(range(settings["seed"], settings["seed"] + settings["seeds"]))
    if not seeds:
        raise PipelineError(f"`seeds` (={settings['seeds']}) must be at least 1.")
    return Cell(name, recipe.changed(**own), seeds, compute)


def _say(text: str) -> None:
    click.echo(text, err=True)
