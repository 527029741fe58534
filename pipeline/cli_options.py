"""Pieces of the command line: a group whose errors are sentences, and options made from the recipe's own fields."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from pipeline.errors import PipelineError
from pipeline.params import block_of, head_blocks, read_params, same_subject, settings_text, value_text
from pipeline.recipe import FrameChoices, HeadChoices, TrainingChoices
from pipeline.registry import unknown_name

Command = TypeVar("Command", bound=Callable[..., Any])

# Key of `ctx.meta`: the block of params.yaml is for another subject.
_PASSED_OVER = f"{__name__}.passed_over"


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
    """A command that takes defaults from its block of `./params.yaml`, and lists the recipe's switches apart.

    The block applies to the subject that it names: the values of the parameters in `subject`, such as the manifest of
    `extract`. When another subject is typed, the command takes nothing from the block and says so.
    """

    def __init__(self, *args: Any, subject: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.subject = subject

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        block = dict(ctx.default_map or {})
        other = self._other_subject(ctx, args, block) if block else None
        if other is not None:
            ctx.default_map = None
            ctx.meta[_PASSED_OVER] = True
            if not {"-h", "--help"} & set(args):
                click.echo(
                    f"params.yaml: the block `{_block_name(ctx)}` is for {settings_text({other: block[other]})}; "
                    "nothing is taken from it.",
                    err=True,
                )
        else:
            self._check_keys(ctx, block)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        taken = {
            parameter.name: ctx.params[parameter.name]
            for parameter in self.get_params(ctx)
            if parameter.name and ctx.get_parameter_source(parameter.name) is click.core.ParameterSource.DEFAULT_MAP
        }
        if taken:
            click.echo(f"From params.yaml, block `{_block_name(ctx)}`: {settings_text(taken)}.", err=True)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        block = dict(ctx.default_map or {})
        ctx.default_map = None  # so that click shows the built-in default, which the block's value then replaces
        for is_switch, title in ((False, "Options"), (True, "Switches of the recipe (each wins over --recipe)")):
            parameters = [p for p in self.get_params(ctx) if isinstance(p, SwitchOption) is is_switch]
            records = [record for record in (_help_record(p, ctx, block) for p in parameters) if record is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        named = {name: block[name] for name in self.subject if name in block}
        if named:
            with formatter.section("Settings"):
                formatter.write_text(
                    f"Defaults are those of the block `{_block_name(ctx)}` of ./params.yaml. They apply to "
                    f"{settings_text(named)}; with another value there, nothing is taken from the block."
                )

    def _other_subject(self, ctx: click.Context, args: list[str], block: dict[str, Any]) -> str | None:
        """Return the parameter in which the typed subject differs from the block's, if any."""
        try:
            typed, _, _ = self.make_parser(ctx).parse_args(list(args))
        except click.UsageError:
            return None  # click reports it when it parses the arguments itself
        typed = {name: value for name, value in typed.items() if isinstance(value, (str, list, tuple)) and value}
        built_in = {p.name: p.default for p in self.params if p.name and isinstance(p.default, (str, int))}
        sources = (typed, block, built_in, extract_block(ctx))
        for name in self.subject:
            if name in typed and block.get(name) is not None and not same_subject(typed[name], block[name], sources):
                return name
        return None

    def _check_keys(self, ctx: click.Context, block: dict[str, Any]) -> None:
        known = [parameter.name for parameter in self.params if parameter.name]
        for key in block:
            if key not in known:
                spelled = [name.replace("_", "-") for name in known]
                error = unknown_name(
                    f"setting in the block `{_block_name(ctx)}` of params.yaml:", key.replace("_", "-"), spelled
                )
                raise Failure(str(error), 1)


def _block_name(ctx: click.Context) -> str:
    return (ctx.info_name or "").replace("-", "_")


def _help_record(parameter: click.Parameter, ctx: click.Context, block: dict[str, Any]) -> tuple[str, str] | None:
    """Return option and help text, with the block's value as the one default where the block has one."""
    record = parameter.get_help_record(ctx)
    value = block.get(parameter.name or "")
    if record is None or value is None:
        return record
    shown = f"default: {value_text(value)}"
    text, num_replaced = re.subn(r"default: [^;\]]*", lambda _: shown, record[1])
    return record[0], text if num_replaced else f"{text}  [{shown}]"


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


def settings_of_heads(ctx: click.Context, heads: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the `heads.<name>` blocks of `heads` without what was typed, and print them.

    They belong to the subject of the block `fit_head`: nothing is taken for another store.
    """
    if ctx.meta.get(_PASSED_OVER):
        return {}
    blocks = {
        head: {name: value for name, value in block.items() if not given_on_command_line(ctx, name)}
        for head, block in head_blocks(ctx.obj or {}).items()
        if head in heads or "all" in heads
    }
    lines = [f"{head} {settings_text(block)}" for head, block in blocks.items() if block]
    if lines:
        click.echo(f"From params.yaml, block `heads`: {'; '.join(lines)}.", err=True)
    return blocks


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
