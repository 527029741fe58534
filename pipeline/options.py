"""Create click options from the fields of a settings class: their types, defaults and help."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from pipeline.errors import PipelineError
from pipeline.params import python_names, spelled
from pipeline.settings.quantity import parse_quantity, quantity_text
from pipeline.settings.settings import Option, Settings, hints_of, is_whole, option_of, override_groups, without_none


class OverrideOption(click.Option):
    """An option of the recipe; without a value, the recipe decides."""


class MappingOption(click.Option):
    """A repeated option NAME=VALUE, or a block of `params.yaml`; its value is a mapping."""

    def process_value(self, ctx: click.Context, value: Any) -> dict[str, Any]:
        return super().process_value(ctx, value) or {}

    def type_cast_value(self, ctx: click.Context, value: Any) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return python_names(value)
        found: dict[str, str] = {}
        for text in value or ():
            name, sign, values = str(text).partition("=")
            key = name.strip().replace("-", "_")
            if not sign or not key:
                raise click.BadParameter(f"{text!r} must be {self.metavar}.", ctx, self)
            if key in found:
                raise click.BadParameter(f"{name.strip()} is given twice.", ctx, self)
            found[key] = values
        return found


class NameList(click.ParamType[Any]):
    """Names separated by commas, or a YAML list in `params.yaml`."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        names = value.split(",") if isinstance(value, str) else value
        return tuple(str(name).strip() for name in names)


class NameListOption(click.Option):
    """An option with a `NameList`; if it is repeated, the names of all its values are joined."""

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        value, source = super().consume_value(ctx, opts)
        if source is ParameterSource.COMMANDLINE:
            value = [name for text in value for name in self.type.convert(text, self, ctx)]
        return value, source

    def type_cast_value(self, ctx: click.Context, value: Any) -> tuple[str, ...]:
        # `params.yaml` may have one text, whose characters click would take for values.
        names: tuple[str, ...] = self.type.convert(value or (), self, ctx)
        return names


class WholeNumber(click.types.IntParamType):
    """An integer; click would truncate a number of `params.yaml`, such as 2.9."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        _refuse_fraction(self, value, param, ctx)
        return super().convert(value, param, ctx)


class WholeRange(click.IntRange):
    """A `WholeNumber` within bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        _refuse_fraction(self, value, param, ctx)
        return super().convert(value, param, ctx)


class QuantityRange(WholeRange):
    """A number of bytes or pixels, with or without a unit: `500000`, `16GiB`, `1920x1080`."""

    def __init__(self, unit: str, minimum: float | None, maximum: float | None) -> None:
        super().__init__(None if minimum is None else int(minimum), None if maximum is None else int(maximum))
        self.unit = unit

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, str):
            try:
                value = parse_quantity(value, self.unit)
            except PipelineError as error:
                self.fail(str(error), param, ctx)
        return super().convert(value, param, ctx)


class RecipeValue(click.ParamType[Any]):
    """The value of an option of a recipe; `Recipe.with_overrides` checks it."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint
        if get_origin(hint) is Literal:
            self.name = "|".join(str(value) for value in get_args(hint))
        else:
            self.name = {float: "number", int: "integer", bool: "true|false"}.get(hint, "integers")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            if self.hint is bool:
                return click.BOOL.convert(value, param, ctx)
            if self.hint in (int, float):
                return self.hint(value)
            if get_origin(self.hint) is tuple:
                return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not {self.name}.", param, ctx)
        return value


def parameters_of(settings: type[Settings]) -> list[click.Parameter]:
    """Create click's arguments and options from the fields of a settings class."""
    hints = hints_of(settings)
    parameters: list[click.Parameter] = []
    for item in dataclasses.fields(settings):
        declared = option_of(settings, item.name)
        if declared.has_option:
            parameters.append(_parameter(item.name, without_none(hints[item.name]), item.default, declared))
    return parameters


def override_options(settings: type[Settings]) -> list[click.Parameter]:
    """Create an option for each field of the recipe that a command may override, with help from the docstrings."""
    options: list[click.Parameter] = []
    for group in override_groups(settings):
        hints, explained = get_type_hints(group), explained_fields(group)
        for name in field_names(group):
            value = RecipeValue(hints[name])
            flag = "--" + spelled(name)
            options.append(OverrideOption([flag, name], type=value, metavar=value.name, help=explained.get(name, "")))
    return options


def message_options() -> list[click.Option]:
    return [
        click.Option(["-q", "--quiet"], is_flag=True, help="Print only results and warnings."),
        click.Option(["-v", "--verbose"], is_flag=True, help="Print details of each step."),
    ]


def show_settings_option() -> click.Option:
    return click.Option(
        ["--show-settings"], is_flag=True, help="Print all settings with their values and sources, and exit."
    )


def _parameter(name: str, hint: Any, default: Any, declared: Option) -> click.Parameter:
    kind = _click_type(hint, declared)
    if declared.is_argument:
        is_list = get_origin(hint) is tuple
        metavar = (name.upper() if declared.is_required else f"[{name.upper()}]") + ("..." if is_list else "")
        return click.Argument([name], type=kind, required=False, nargs=-1 if is_list else 1, metavar=metavar)
    flag = "--" + spelled(name)
    if get_origin(hint) is Mapping:
        return MappingOption([flag, name], multiple=True, metavar=declared.metavar, help=declared.help)
    if hint is bool:
        flag = f"{flag}/--no-{spelled(name)}" if default else flag
        return click.Option([flag, name], is_flag=True, default=default, help=declared.help, hidden=declared.is_hidden)
    shown = ",".join(default) if isinstance(default, tuple) and default else None
    if declared.unit and default is not None:
        default = quantity_text(default, declared.unit)
    is_list = isinstance(kind, NameList)
    return (NameListOption if is_list else click.Option)(
        [flag, name],
        type=kind,
        multiple=is_list,
        default=default,
        metavar=declared.metavar,
        help=declared.help,
        hidden=declared.is_hidden,
        show_default=shown if shown is not None else default not in (None, ()),
    )


def _click_type(hint: Any, declared: Option) -> Any:
    if get_origin(hint) is tuple:
        if get_args(hint)[0] is Path:
            return click.Path(path_type=Path)
        return click.STRING if declared.is_argument else NameList()
    if declared.choices:
        return click.Choice(declared.choices)
    if hint is Path:
        return click.Path(path_type=Path)
    if declared.unit:
        return QuantityRange(declared.unit, declared.minimum, declared.maximum)
    if hint is int:
        low, high = (None if bound is None else int(bound) for bound in (declared.minimum, declared.maximum))
        return WholeNumber() if low is None and high is None else WholeRange(low, high)
    if hint is float:
        has_bounds = declared.minimum is not None or declared.maximum is not None
        return (
            click.FloatRange(declared.minimum, declared.maximum, max_open=declared.is_maximum_open)
            if has_bounds
            else click.FLOAT
        )
    return click.STRING


def _refuse_fraction(
    kind: click.ParamType[int], value: Any, param: click.Parameter | None, ctx: click.Context | None
) -> None:
    if not isinstance(value, str) and not is_whole(value):
        kind.fail(f"{value!r} is not an integer.", param, ctx)


def field_names(group: type) -> list[str]:
    return [item.name for item in dataclasses.fields(group)]


def explained_fields(group: type) -> dict[str, str]:
    """Return the description of each field from the paragraphs `name: text` or `name, name: text` of a docstring."""
    explained: dict[str, str] = {}
    names: list[str] = []
    for line in (inspect.getdoc(group) or "").splitlines():
        match = re.match(r"([a-z_]+(?:, [a-z_]+)*): (.*)", line)
        if match:
            names = match[1].split(", ")
            explained.update(dict.fromkeys(names, match[2]))
        elif line.startswith(" "):
            explained.update({name: f"{explained[name]} {line.strip()}" for name in names})
        else:
            names = []
    return {name: text.replace("`", "") for name, text in explained.items()}
