"""Types of the values in `metrics.json` and `timing.json`, which may come from a stranger with right checksums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import PipelineError

TEXT, COUNT, NUMBER, FLAG = "a text", "a whole number from 0 to 2^53", "a finite number", "true or false"
ANY_KEY = "*"

_NUMBERS = {ANY_KEY: NUMBER}
# A type, a list of one type, or a type by key. Keys that are not named here may have any value.
METRICS: Mapping[str, Any] = {
    "stage": TEXT,
    "head": TEXT,
    "backbone": TEXT,
    "weights": {"name": TEXT, "sha256": TEXT},
    "init": TEXT,
    "init_sha256": TEXT,
    "init_selected_on": TEXT,
    "recipe": {
        "name": TEXT,
        "frames": {ANY_KEY: (TEXT, NUMBER, FLAG)},
        "head": {ANY_KEY: (TEXT, NUMBER, FLAG)},
        "training": {ANY_KEY: (TEXT, NUMBER, FLAG, [NUMBER])},
        "finetune": {ANY_KEY: (TEXT, NUMBER, FLAG, [NUMBER])},
    },
    "search": {
        "trials": COUNT,
        "sampler": TEXT,
        "seed": COUNT,
        "space": {ANY_KEY: (TEXT, [(TEXT, NUMBER, FLAG)])},
        "complete": COUNT,
        "pruned": COUNT,
        "failed": COUNT,
        "epochs": COUNT,
        "chosen_trial": COUNT,
        "chosen": {ANY_KEY: (TEXT, NUMBER, FLAG)},
        "select": _NUMBERS,
    },
    "data": {"sha256": TEXT},
    "num_segments": COUNT,
    "num_classes": COUNT,
    "input_size": COUNT,
    "map_size": COUNT,
    "st_block": {"maps": TEXT, "parameters": COUNT, "macs": COUNT},
    "num_views": COUNT,
    "frames": TEXT,
    "selected_on": TEXT,
    "reported_on": TEXT,
    "seed": COUNT,
    "precision": TEXT,
    "threads": COUNT,
    "num_processes": COUNT,
    "device": TEXT,
    "num_train": COUNT,
    "num_failed": COUNT,
    "video_encoder": FLAG,
    "version": TEXT,
    "num_seeds": COUNT,
    "num_select": COUNT,
    "num_report": COUNT,
    "best_epoch": COUNT,
    "select": _NUMBERS,
    "report": _NUMBERS,
    "probes": _NUMBERS,
    "start": _NUMBERS,
    "gain": _NUMBERS,
    "interpolation": {ANY_KEY: {"alpha": NUMBER, "curve": [_NUMBERS]}},
    "ece": NUMBER,
    "calibrated": _NUMBERS,
}
TIMING: Mapping[str, Any] = {
    "total_seconds": NUMBER,
    "num_epochs": COUNT,
    "search": {"core_seconds": NUMBER, "seconds_of_trials": [NUMBER]},
    "seconds_of_seeds": _NUMBERS,
}
# Keys that must have a value; the others may be null.
REQUIRED = ("head", "backbone", "weights", "recipe", "num_segments", "selected_on", "reported_on", "report")
REQUIRED_OF = {"weights": ("name",), "recipe": ("name",)}


def check_metrics(metrics: Mapping[str, Any], name: str) -> None:
    """Check that metrics have the required keys, and known keys the types that commands expect.

    name: path of the file, for the message.

    Raises:
        PipelineError: a key is missing, or a value has another type.
    """
    missing = [key for key in REQUIRED if metrics.get(key) is None]
    for key, inner in REQUIRED_OF.items():
        if isinstance(metrics.get(key), Mapping):
            missing += [f"{key}.{each}" for each in inner if metrics[key].get(each) is None]
    if missing:
        raise PipelineError(f"{name} lacks {', '.join(missing)}. Fit the head again.")
    # Version 0.1 wrote only the name of the recipe.
    expected = {**METRICS, "recipe": TEXT} if isinstance(metrics["recipe"], str) else METRICS
    _check(metrics, expected, name, "")


def check_timing(timing: Mapping[str, Any], name: str) -> None:
    """Check the types of the values of a `timing.json`.

    Raises:
        PipelineError: a value has another type.
    """
    _check(timing, TIMING, name, "")


def _check(values: Mapping[str, Any], expected: Mapping[str, Any], name: str, prefix: str) -> None:
    for key, value in values.items():
        of_key = expected.get(key, expected.get(ANY_KEY))
        if value is None or of_key is None:
            continue
        if isinstance(of_key, Mapping):
            if not isinstance(value, Mapping):
                raise _wrong(name, prefix + key, value, "a JSON object")
            _check(value, of_key, name, f"{prefix}{key}.")
        elif not _fits(value, of_key):
            raise _wrong(name, prefix + key, value, _text_of(of_key))


def _fits(value: Any, expected: Any) -> bool:
    if isinstance(expected, tuple):
        return any(_fits(value, one) for one in expected)
    if isinstance(expected, list):
        return isinstance(value, list) and all(_fits(each, expected[0]) for each in value)
    if isinstance(expected, Mapping):
        return isinstance(value, Mapping) and all(
            each is None or _fits(each, expected.get(key, expected.get(ANY_KEY, ()))) for key, each in value.items()
        )
    if expected == TEXT:
        return isinstance(value, str) and value.isprintable()
    if expected == FLAG:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if expected == COUNT:
        return isinstance(value, int) and 0 <= value <= 2**53
    return isinstance(value, (int, float)) and abs(value) <= 2.0**1000


def _text_of(expected: Any) -> str:
    if isinstance(expected, tuple):
        return " or ".join(map(_text_of, expected))
    return f"a list of {_text_of(expected[0])}" if isinstance(expected, list) else str(expected)


def _wrong(name: str, key: str, value: Any, expected: str) -> PipelineError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return PipelineError(f"{name}: `{key}` (={shown}) must be {expected}. Fit the head again.")
