"""Find runs of `fit-head` that were finished with the same settings, without importing torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.result_writer import read_finished, read_metrics
from pipeline.fit_head.plan import AUTO, HeadRequest
from pipeline.fit_head.stored_clips import StoredClips
from pipeline.imports import code_digest
from pipeline.recipe import Recipe
from pipeline.registry import HEADS, module_of
from pipeline.settings.search import Search

# Its imports are all code that a fit runs, except for the head.
FIT_MODULE = "pipeline.fit_head.steps"


def find_finished(request: HeadRequest, clips: StoredClips) -> Mapping[str, Any] | None:
    """Return the metrics of a finished run on the CPU that matches `request`, or None.

    Number type and threads match if the request leaves them to the machine.
    """
    folder = request.folder(clips.source.settings.backbone)
    metrics = read_metrics(folder)
    device, precision, threads = (metrics.get(name) for name in ("device", "precision", "threads"))
    is_asked = (
        device == request.device == "cpu"
        and request.precision in (AUTO, precision)
        and request.threads in (None, threads)
    )
    if not is_asked or not isinstance(device, str) or not isinstance(precision, str) or not isinstance(threads, int):
        return None
    recipe = clips.check_recipe(request.recipe)
    digest = run_digest(request.head, recipe, request.seeds, clips, device, precision, threads, request.search)
    return read_finished(folder, digest)


def run_digest(
    head: str,
    recipe: Recipe,
    seeds: Sequence[int],
    clips: StoredClips,
    device: str,
    precision: str,
    threads: int,
    search: Search | None = None,
) -> str:
    """Return a digest of everything that determines the metrics of a run, including the code."""
    values = {
        "head": head,
        "recipe": recipe.as_dict(),
        "seeds": seeds,
        "compute": [device, precision, threads],
        "data": clips.digest,
        "code": code_digest((FIT_MODULE, module_of(HEADS[head]))),
        **({} if search is None else {"search": search.as_dict()}),
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
