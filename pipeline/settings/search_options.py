"""Settings of a search, shared by `fit-head` and `finetune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.settings.search import SAMPLERS, Search, Searchable, plan_search
from pipeline.settings.settings import mapping, option

# A block `heads.NAME` of fit-head may have others.
SEARCH_SETTINGS = ("search", "trials", "search_sampler", "search_seed", "halving")


def search() -> Any:
    """Declare the searched settings."""
    return mapping(
        "Search a setting: NAME=VALUE,VALUE,... or NAME=LOW:HIGH or NAME=log:LOW:HIGH; may be repeated. The best "
        "setting on the selection clips is fitted with all seeds."
    )


def trials() -> Any:
    """Declare the number of trials."""
    return option(None, "Number of settings that a search tries for each head.", minimum=1)


def search_sampler() -> Any:
    """Declare the sampler."""
    help = "Sampler of a search: quasi-random, random, TPE, or every combination of lists."
    return option("qmc", help, choices=SAMPLERS)


def search_seed() -> Any:
    """Declare the seed of the sampler."""
    return option(0, "Seed of the sampler of a search.", minimum=0)


def halving() -> Any:
    """Declare the rate of successive halving."""
    help = "Successive halving: continue one of N trials at each stage.  [default: fit all to the end]"
    return option(None, help, minimum=2)


def planned_searches(
    settings: Any, searchable: Searchable, blocks: Sequence[Mapping[str, Any]] = ({},)
) -> list[Search | None]:
    """Return the search of a command's settings with each block in place of some of them.

    Raises:
        PipelineError: a search is wrong, or there are `trials` but no search.
    """
    common = {name: getattr(settings, name) for name in SEARCH_SETTINGS}
    found = [plan_search({**common, **block}, searchable) for block in blocks]
    if settings.trials is not None and not any(found):
        raise PipelineError(
            f"`trials` (={settings.trials}) needs a search: give --search NAME=VALUES, or `search` in params.yaml."
        )
    return found
