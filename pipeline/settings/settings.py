"""Settings of each command, declared once.

A field defines an option with its help, default and checks, a key of the command's block in `params.yaml`, and an
attribute that the library reads. This module imports neither torch nor click, so that `--help` is fast.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from pipeline.errors import PipelineError
from pipeline.params import spelled
from pipeline.registry import did_you_mean
from pipeline.settings.quantity import parse_quantity

# Common names of options whose own names are too short to be found as a close match.
OTHER_NAMES = {"learning-rate": "lr", "lrate": "lr"}


@dataclass(frozen=True)
class Option:
    """Declaration of a setting, except its name, type and default.

    help: help text; it names the default if another setting or the machine decides it.
    minimum, maximum: inclusive bounds of a number; is_maximum_open excludes the upper one.
    choices: allowed values of a text.
    unit: `BYTES` or `PIXELS` of `quantity`: the value may be a text such as `16GiB` or `1920x1080`.
    is_argument: whether it is a positional argument. is_hidden: whether `--help` omits it. has_option: False for a
        setting that can only be given in Python and `params.yaml`.
    is_required: whether a missing value is an error, which names the option and the params key.
    only_with: name of another setting, without which this one has no effect: it may not be typed alone.
    fills_braces: whether `{name}` in the value is replaced by another setting, or by a value of the block `extract`.
    """

    help: str = ""
    minimum: float | None = None
    maximum: float | None = None
    is_maximum_open: bool = False
    choices: tuple[str, ...] = ()
    unit: str | None = None
    metavar: str | None = None
    is_argument: bool = False
    is_hidden: bool = False
    has_option: bool = True
    is_required: bool = False
    only_with: str | None = None
    fills_braces: bool = False


def option(default: Any, help: str, **more: Any) -> Any:
    """Declare a setting; `more` are fields of `Option`."""
    return field(default=default, metadata={"option": Option(help, **more)})


def required(help: str, **more: Any) -> Any:
    """Declare a setting that must be given, on the command line or in `params.yaml`."""
    return field(default=None, metadata={"option": Option(help, is_required=True, **more)})


def mapping(help: str) -> Any:
    """Declare a block of values by name; on the command line, a repeated option NAME=VALUE."""
    return field(default_factory=dict, metadata={"option": Option(help, metavar="NAME=VALUES")})


def overrides(*groups: type) -> Any:
    """Declare the values that replace those of the recipe: one option for each field of the groups."""
    return field(default_factory=dict, metadata={"groups": groups})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the settings of a command.

    Values are converted to the declared types (a text to a path, a list or a text with commas to a tuple) and checked
    against the declared bounds.

    subject: names of the settings that name the data. A block of `params.yaml` applies only if their values equal the
        block's.
    """

    subject: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for name, hint in hints_of(type(self)).items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, checked(name, value, hint, option_of(type(self), name)))
        for name in required_names(type(self)):
            if getattr(self, name) in (None, ()):
                raise PipelineError(f"`{name}` is required: {option_of(type(self), name).help}")


def hints_of(settings: type[Settings]) -> dict[str, Any]:
    """Return the type of each field."""
    hints = get_type_hints(settings)
    return {item.name: hints[item.name] for item in dataclasses.fields(settings)}


def option_of(settings: type[Settings], name: str) -> Option:
    """Return the declaration of a field, or an empty one if it has none."""
    item = next(item for item in dataclasses.fields(settings) if item.name == name)
    declared: Option = item.metadata.get("option", Option(has_option=False))
    return declared


def required_names(settings: type[Settings]) -> tuple[str, ...]:
    """Return the names of the fields that need a value."""
    return tuple(item.name for item in dataclasses.fields(settings) if option_of(settings, item.name).is_required)


def override_groups(settings: type[Settings]) -> tuple[type, ...]:
    """Return the groups of the recipe whose fields are options of the command."""
    for item in dataclasses.fields(settings):
        if "groups" in item.metadata:
            groups: tuple[type, ...] = item.metadata["groups"]
            return groups
    return ()


def without_none(hint: Any) -> Any:
    """Return a type without None."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint


def checked(name: str, value: Any, hint: Any, declared: Option) -> Any:
    """Return a value as the declared type.

    Raises:
        PipelineError: it is no integer where one is needed, outside the bounds, or not one of the choices.
    """
    if declared.unit and isinstance(value, str):
        value = parse_quantity(value, declared.unit)
    if without_none(hint) is int and not is_whole(value):
        raise PipelineError(f"`{spelled(name)}` (={value!r}) must be an integer.")
    value = converted(value, hint)
    check(name, value, declared)
    return value


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer, possibly as a float: 3 and 3.0, but neither 2.9 nor True."""
    return not isinstance(value, bool) and (
        isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
    )


def unknown_setting(block: str, name: str, known: Iterable[str]) -> PipelineError:
    """Return the error for an unknown key in a block of `params.yaml`."""
    names = sorted(map(spelled, known))
    key = spelled(name)
    other = OTHER_NAMES.get(key)
    hint = f" Did you mean '{other}'?" if other in names else did_you_mean(key, names)
    if key.isdigit():  # YAML takes `{lr: 0,001}` for two settings, `lr` and `1`
        hint = " A comma separates settings: write a decimal number with a point, as in 0.001."
    return PipelineError(
        f"Unknown setting in the block `{block}` of params.yaml: '{key}'.{hint} Known: {', '.join(names)}."
    )


def converted(value: Any, hint: Any) -> Any:
    """Convert a value to the declared type if that loses nothing."""
    hint = without_none(hint)
    if hint is int:
        return int(value)
    if hint is Path:
        return Path(value)
    if hint is str and isinstance(value, Path):
        return str(value)
    if get_origin(hint) is tuple:
        parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, Path) else value
        part_type = get_args(hint)[0]
        return tuple(converted(part.strip() if isinstance(part, str) else part, part_type) for part in parts)
    return value


def check(name: str, value: Any, declared: Option) -> None:
    """Check a value against its declaration.

    Raises:
        PipelineError: it is outside the bounds, or not one of the choices.
    """
    key = spelled(name)
    if declared.choices:
        for part in value if isinstance(value, tuple) else (value,):
            if part not in declared.choices:
                hint = did_you_mean(str(part), declared.choices)
                raise PipelineError(f"`{key}` (={part!r}) must be one of {', '.join(declared.choices)}.{hint}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if declared.minimum is not None and not value >= declared.minimum:
        raise PipelineError(f"`{key}` (={value:g}) must be at least {declared.minimum:g}.")
    if declared.maximum is not None:
        is_above = value >= declared.maximum if declared.is_maximum_open else value > declared.maximum
        if is_above:
            bound = "below" if declared.is_maximum_open else "at most"
            raise PipelineError(f"`{key}` (={value:g}) must be {bound} {declared.maximum:g}.")
