"""Pieces of the command line: a group whose errors are sentences, and options made from the recipe's own fields."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from pipeline.errors import PipelineError
from pipeline.params import block_of, head_blocks, read_params
from pipeline.recipe import FrameChoices, HeadChoices, TrainingChoices

Command = TypeVar("Command", bound=Callable[..., Any])


class Failure(click.ClickException):
    """A sentence on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # click declares it on the class


class PipelineGroup(click.Group):
    """A group with defaults from `./params.yaml`, whose `PipelineError`s become a sentence and an exit code."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        if parent is None and "default_map" not in extra:
            try:
                params = read_params()
                extra["default_map"] = {name: block_of(params, name) for name in self.commands}
                extra["obj"] = params
            except PipelineError as error:
                raise click.ClickException(str(error)) from error
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PipelineError as error:
            raise Failure(str(error), getattr(error, "exit_code", 1)) from error
        except BrokenPipeError:
            raise  # whoever read the output has gone; click knows what to do
        except OSError as error:
            if error.filename is None:
                raise
            raise Failure(f"{error.filename}: {error.strerror}.", 1) from error


class SwitchOption(click.Option):
    """One switch of a recipe; without it, the recipe decides."""


class PipelineCommand(click.Command):
    """A command whose help lists the switches of the recipe apart from its own options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for is_switch, title in ((False, "Options"), (True, "Switches of the recipe (each wins over --recipe)")):
            parameters = [p for p in self.get_params(ctx) if isinstance(p, SwitchOption) is is_switch]
            records = [record for record in (p.get_help_record(ctx) for p in parameters) if record is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class NameList(click.ParamType[Any]):
    """Names with commas between them; a YAML list in `params.yaml` counts as well."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        names = value.split(",") if isinstance(value, str) else value
        return tuple(str(name).strip() for name in names)


class Switch(click.ParamType[Any]):
    """The value of one switch of a recipe, checked where the recipe is changed."""

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


def switch_options(*groups: type) -> Callable[[Command], Command]:
    """An option for each field of the given groups of choices, with the help that stands in the group's docstring."""

    def add(command: Command) -> Command:
        for group in reversed(groups):
            hints, explained = get_type_hints(group), _explained_fields(group)
            for field in reversed(dataclasses.fields(group)):
                switch = Switch(hints[field.name])
                command = click.option(
                    "--" + field.name.replace("_", "-"),
                    field.name,
                    cls=SwitchOption,
                    type=switch,
                    metavar=switch.name,
                    help=explained.get(field.name, ""),
                )(command)
        return command

    return add


def _explained_fields(group: type) -> dict[str, str]:
    """What a docstring says of each field: paragraphs that begin with `name:` or `name, name:`."""
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


def split_switches(options: dict[str, Any]) -> dict[str, Any]:
    """Take the recipe switches that are set out of `options` and return them."""
    names = {
        field.name for group in (FrameChoices, HeadChoices, TrainingChoices) for field in dataclasses.fields(group)
    }
    switches = {name: options.pop(name) for name in names & set(options)}
    return {name: value for name, value in sorted(switches.items()) if value is not None}


def given_on_command_line(ctx: click.Context, name: str) -> bool:
    """Whether a person typed the option, as opposed to a default or `params.yaml`."""
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def settings_of_heads(ctx: click.Context) -> dict[str, dict[str, Any]]:
    """The `heads.<name>` blocks, less what was typed: an option on the command line wins."""
    return {
        head: {name: value for name, value in block.items() if not given_on_command_line(ctx, name)}
        for head, block in head_blocks(ctx.obj or {}).items()
    }


def root_of_manifest(ctx: click.Context, root: Any) -> Any:
    """The root that belongs to the manifest: that of `params.yaml` does not belong to one that was typed."""
    is_typed = given_on_command_line(ctx, "manifest") and not given_on_command_line(ctx, "root")
    return None if is_typed else root


def extract_block(ctx: click.Context) -> dict[str, Any]:
    """The `extract` block: a store's path takes its names from there."""
    return block_of(ctx.obj or {}, "extract")


def required(ctx: click.Context, **options: Any) -> None:
    """Check that options that may come from `params.yaml` are there.

    Raises:
        click.UsageError: one has no value; the message says both ways to give it.
    """
    for name, value in options.items():
        if value is None or value == ():
            option = name.replace("_", "-")
            block = (ctx.info_name or "").replace("-", "_")
            raise click.UsageError(
                f"Missing option --{option}. Give it, or put `{option}` in the `{block}` block of ./params.yaml."
            )
