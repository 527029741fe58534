"""Signature of a group of rows: the whole protocol in one line. Tables with one signature may be laid side by side.

Each part has the values of all rows, without repetitions. Results of older versions did not record every part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.evaluation.result_reader import RunResult
from pipeline.files import read_json
from pipeline.recipe import AUGMENTATIONS

NOT_RECORDED = "not recorded"
NUM_DIGITS = 8
MAX_VALUES = 3
COMPARISON_FILE = "comparison.json"


def _recipe_part(run: RunResult, name: str) -> Any:
    recipe = run.metrics["recipe"]
    return recipe.get(name) if isinstance(recipe, Mapping) else None


def _sampling(run: RunResult) -> str:
    frames = _recipe_part(run, "frames")
    if frames is None:
        return NOT_RECORDED
    return (
        f"{run.num_segments} segments, {frames['sampler']}, {frames['test_frames']}, short clips {frames['short_clip']}"
    )


def _views(run: RunResult) -> str:
    frames = _recipe_part(run, "frames") or {}
    parts = [f"train {frames.get('crops', NOT_RECORDED)} x {run.metrics.get('num_views', '?')}", "test centre"]
    finetune = _recipe_part(run, "finetune") or {}
    # Recorded only where they are set.
    changes = [f"{name} {finetune[name]}" for name in AUGMENTATIONS if name in finetune]
    sizes = {"input": run.metrics.get("input_size"), "maps": run.metrics.get("map_size")}
    return ", ".join(
        [*parts, *changes, *(f"{name} {size} x {size}" for name, size in sizes.items() if size is not None)]
    )


def _recipe(run: RunResult) -> str:
    settings = {name: _recipe_part(run, name) for name in ("head", "training")}
    stage = "end to end " if run.is_finetuned else ""
    return f"{stage}{run.recipe} {_digest(settings)}"


def _search(run: RunResult) -> str:
    search = run.metrics.get("search")
    if not isinstance(search, Mapping):
        return "none"
    space = {key: value for key, value in search.items() if key in ("space", "sampler", "seed", "search")}
    return f"{search.get('trials')} trials {_digest(space)}"


PARTS: dict[str, Callable[[RunResult], str]] = {
    "data": lambda run: _short(run.metrics.get("data", {}).get("sha256")),
    "clips": lambda run: f"{len(run.predictions.clip_ids)} {_short(run.predictions.clips_digest)}",
    "sampling": _sampling,
    "backbone": lambda run: f"{run.backbone} {run.weights} {_short(run.metrics['weights'].get('sha256'))}",
    "view": _views,
    "recipe": _recipe,
    "search": _search,
    "selection": lambda run: f"{run.selected_on} > {run.reported_on}",
    "seeds": lambda run: str(run.predictions.num_seeds),
    "version": lambda run: str(run.metrics.get("version", NOT_RECORDED)),
}


def signature_of(runs: Iterable[RunResult]) -> dict[str, str]:
    """Return the parts of the signature of the runs of a group."""
    every = list(runs)
    return {name: _joined({part(run) for run in every}) for name, part in PARTS.items()}


def signature_id(signature: Mapping[str, str]) -> str:
    """Return a short digest of a signature."""
    return _digest(dict(signature))


def signature_line(signature: Mapping[str, str]) -> str:
    """Return a signature as one line that starts with its digest."""
    parts = "; ".join(f"{name} {value}" for name, value in signature.items())
    return f"Signature {signature_id(signature)}: {parts}."


def check_signatures(own: Sequence[Mapping[str, str]], place: Path) -> str:
    """Compare the signatures of the groups with those of another comparison; return a sentence if they are equal.

    place: the `comparison.json` of the other comparison, or its folder.

    Raises:
        PipelineError: the file cannot be read, or has no signature; or a part differs, which the message names.
    """
    path = place / COMPARISON_FILE if place.is_dir() else place
    try:
        groups = read_json(path)["groups"]
        theirs = [group["signature"] for group in groups]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"{path} has no signature to compare with: {error}. Give the folder that `pipeline compare --out` of "
            "this version wrote."
        ) from error
    if len(theirs) != len(own):
        raise PipelineError(f"{path} has {len(theirs)} tables, this comparison {len(own)}: they cannot be compared.")
    differences = [
        f"table {number}, {name}: here '{ours.get(name)}', there '{other.get(name)}'"
        for number, (ours, other) in enumerate(zip(own, theirs, strict=True), start=1)
        for name in dict.fromkeys((*ours, *other))
        if ours.get(name) != other.get(name)
    ]
    if differences:
        raise PipelineError("\n  ".join([f"The signature differs from that of {path}.", *differences]))
    return f"The signature is that of {path}: the tables may be laid side by side."


def _joined(values: set[str]) -> str:
    """Join the values of rows; many are abbreviated, such as the recipes of tuned heads."""
    return (
        " | ".join(sorted(values)) if len(values) <= MAX_VALUES else f"{len(values)} values {_digest(sorted(values))}"
    )


def _short(digest: str | None) -> str:
    return NOT_RECORDED if not digest else digest[:NUM_DIGITS]


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:NUM_DIGITS]
