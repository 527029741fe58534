"""Click commands that create a settings object from the command line, `params.yaml` and the defaults."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import click
from click.core import ParameterSource

from pipeline.command_group import Failure, LoggedCommand
from pipeline.options import (
    OverrideOption,
    field_names,
    message_options,
    override_options,
    parameters_of,
    show_settings_option,
)
from pipeline.params import (
    command_params,
    expand_template,
    head_params,
    python_names,
    same_subject,
    settings_text,
    spelled,
    value_text,
    version_note,
)
from pipeline.registry import HEAD_NAMES, choose_heads, unknown_name
from pipeline.settings.quantity import quantity_text
from pipeline.settings.settings import (
    Option,
    Settings,
    option_of,
    override_groups,
    required_names,
    unknown_setting,
)

logger = logging.getLogger(__name__)

# Key of `ctx.meta`: the reason why the block of params.yaml does not apply.
_PASSED_OVER = f"{__name__}.passed_over"
SOURCES = {
    ParameterSource.COMMANDLINE: "typed",
    ParameterSource.DEFAULT_MAP: "params.yaml",
    ParameterSource.DEFAULT: "default",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.PROMPT: "typed",
}


class PipelineCommand(LoggedCommand):
    """A command whose options come from a settings class, with defaults from its block of `./params.yaml`.

    The block applies to the subject of the settings, such as the manifest of `extract`. If another subject is typed,
    the command takes nothing from the block and prints a message. The callback gets the settings object.

    settings: `package.module:Class`, imported when the command is used, because `pipeline --help` does not need it.
    overview: `package.module:function` whose text is printed if nothing is typed and required settings have no value.
    """

    def __init__(self, name: str | None, *, settings: str, overview: str | None = None, **kwargs: Any) -> None:
        self._place, self._overview = settings, overview
        super().__init__(name, **kwargs)

    @cached_property
    def settings(self) -> type[Settings]:
        module, _, name = self._place.partition(":")
        found: type[Settings] = getattr(importlib.import_module(module), name)
        return found

    @property
    def params(self) -> list[click.Parameter]:
        return self._parameters

    @params.setter
    def params(self, given: list[click.Parameter]) -> None:
        """Ignore the assignment by click: the parameters come from the settings class."""

    @cached_property
    def _parameters(self) -> list[click.Parameter]:
        options = [*parameters_of(self.settings), *override_options(self.settings), show_settings_option()]
        return [*options, *message_options()]

    @cached_property
    def _options(self) -> dict[str, Option]:
        return {item.name: option_of(self.settings, item.name) for item in dataclasses.fields(self.settings)}

    @property
    def _has_heads(self) -> bool:
        return any(item.name == "heads" for item in dataclasses.fields(self.settings))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        block = dict(ctx.default_map or {})
        other = self._other_subject(ctx, args, block) if block else None
        if other is not None:
            ctx.default_map = None
            of_block = settings_text({other: block[other]})
            ctx.meta[_PASSED_OVER] = f"the block `{_block_name(ctx)}` is for {of_block}; nothing is taken from it."
        else:
            self._check_keys(ctx, block)
        rest = super().parse_args(ctx, args)
        if other is not None:
            logger.info(f"params.yaml: {ctx.meta[_PASSED_OVER]}")
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.params.pop("show_settings"):
            click.echo(self.settings_report(ctx))
            return None
        if self._overview is not None and not self._is_complete(ctx):
            module, _, name = self._overview.partition(":")
            click.echo(getattr(importlib.import_module(module), name)())
            return None
        note = version_note(ctx.obj or {})
        if note:
            logger.warning(note)
        taken = {
            parameter.name: ctx.params[parameter.name]
            for parameter in self.get_params(ctx)
            if parameter.name in ctx.params and ctx.get_parameter_source(parameter.name) is ParameterSource.DEFAULT_MAP
        }
        if taken:
            logger.info(f"From params.yaml, block `{_block_name(ctx)}`: {settings_text(taken)}.")
        assert self.callback is not None
        return ctx.invoke(self.callback, self.resolved(ctx))

    def _is_complete(self, ctx: click.Context) -> bool:
        """Return whether something is typed, or every required setting has a value."""
        sources = {ctx.get_parameter_source(name) for name in ctx.params}
        is_typed = ParameterSource.COMMANDLINE in sources
        return is_typed or all(ctx.params.get(name) not in (None, ()) for name in required_names(self.settings))

    def resolved(self, ctx: click.Context) -> Settings:
        """Create the settings object from the command line, `params.yaml` and the defaults.

        Raises:
            click.UsageError: a required setting has no value, or a typed one has no effect.
            PipelineError: a value is not allowed.
        """
        names = {name for group in override_groups(self.settings) for name in field_names(group)}
        values = {name: value for name, value in ctx.params.items() if name not in names}
        for name in required_names(self.settings):
            if values.get(name) in (None, ()):
                is_argument = option_of(self.settings, name).is_argument
                what = f"argument {name.upper()}" if is_argument else f"option --{spelled(name)}"
                way_out = f"Give it, or put `{spelled(name)}` in the `{_block_name(ctx)}` block of ./params.yaml."
                if ctx.meta.get(_PASSED_OVER):
                    way_out = f"Give it; in params.yaml, {ctx.meta[_PASSED_OVER]}"
                raise click.UsageError(f"Missing {what}. {way_out}")
        self._check_partners(ctx)
        for name in values:
            if option_of(self.settings, name).fills_braces:
                values[name] = expand_template(values[name], values, _extract_block(ctx))
        if names:
            found = {name: ctx.params[name] for name in sorted(names)}
            values["overrides"] = {name: value for name, value in found.items() if value is not None}
        if "search" in values:
            search = values["search"]
            values["search"] = _search_of_untyped(ctx, search, _is_typed(ctx, "search"))
            if search and not values["search"] and not _is_typed(ctx, "trials"):
                values["trials"] = None  # every searched setting is typed
        if self._has_heads:
            values["heads"] = _settings_of_heads(ctx, choose_heads(values["head"], values["positions"]))
        return self.settings(**values)

    def settings_report(self, ctx: click.Context) -> str:
        """Return a list of all settings with the value and its source."""
        from pipeline.recipe import RECIPES

        recipe = RECIPES.get(str(_first(ctx.params.get("recipe"))))
        rows = []
        for parameter in self.get_params(ctx):
            name = parameter.name or ""
            if name not in ctx.params:
                continue
            value, source = ctx.params[name], SOURCES[ctx.get_parameter_source(name) or ParameterSource.DEFAULT]
            if isinstance(parameter, OverrideOption) and value is None and recipe is not None:
                value, source = _value_in_recipe(recipe, name), f"recipe {recipe.name}"
            rows.append((spelled(name), self._value_text(name, value), source))
        if self._has_heads:
            for head, block in head_params(ctx.obj or {}).items():
                state = "params.yaml, not used" if ctx.meta.get(_PASSED_OVER) else "params.yaml"
                for name, value in block.items():
                    rows.append((f"heads.{head}.{spelled(name)}", value_text(value), state))
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        lines = [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}".rstrip() for name, value, source in rows]
        if ctx.meta.get(_PASSED_OVER):
            lines.append(f"params.yaml not used: {ctx.meta[_PASSED_OVER]}")
        return "\n".join(lines)

    def _value_text(self, name: str, value: Any) -> str:
        declared = self._options.get(name, Option())
        if declared.unit and isinstance(value, int):
            return quantity_text(value, declared.unit)
        return "" if value is None else value_text(value)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        block = dict(ctx.default_map or {})
        ctx.default_map = None  # so that click shows the built-in default, which the block's value then replaces
        arguments = [self._argument_record(p, block) for p in self.get_params(ctx) if isinstance(p, click.Argument)]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments)
        for is_override, title in (
            (False, "Options"),
            (True, "Options of the recipe (each overrides the value of --recipe)"),
        ):
            options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
            parameters = [p for p in options if isinstance(p, OverrideOption) is is_override]
            records = [record for record in (_help_record(p, ctx, block) for p in parameters) if record is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        named = {name: block[name] for name in self.settings.subject if name in block}
        if named:
            with formatter.section("Settings"):
                formatter.write_text(
                    f"Defaults come from the block `{_block_name(ctx)}` of ./params.yaml. They apply only to "
                    f"{settings_text(named)}; with another value, nothing is taken from the block."
                )

    def _argument_record(self, argument: click.Argument, block: dict[str, Any]) -> tuple[str, str]:
        declared = option_of(self.settings, argument.name or "")
        choices = f" One of {', '.join(declared.choices)}." if declared.choices else ""
        value = block.get(argument.name or "")
        shown = "" if value is None else f"  [default: {value_text(value)}]"
        return argument.make_metavar(click.Context(self)), f"{declared.help}{choices}{shown}"

    def _other_subject(self, ctx: click.Context, args: list[str], block: dict[str, Any]) -> str | None:
        """Return the first parameter of the subject whose typed value differs from the block's, if any."""
        try:
            typed, _, _ = self.make_parser(ctx).parse_args(list(args))
        except click.UsageError:
            return None  # click reports it when it parses the arguments itself
        typed = {name: value for name, value in typed.items() if isinstance(value, (str, list, tuple)) and value}
        built_in = {p.name: p.default for p in self.params if p.name and isinstance(p.default, (str, int))}
        sources = (typed, block, built_in, _extract_block(ctx))
        for name in self.settings.subject:
            if name in typed and block.get(name) is not None and not same_subject(typed[name], block[name], sources):
                return name
        return None

    def _check_keys(self, ctx: click.Context, block: dict[str, Any]) -> None:
        known = [parameter.name for parameter in self.params if parameter.name]
        for key in block:
            if key not in known:
                raise Failure(str(unknown_setting(_block_name(ctx), key, known)), 1)

    def _check_partners(self, ctx: click.Context) -> None:
        """Check that no typed setting lacks another, without which it has no effect."""
        # A value of params.yaml is a default for the calls that have the other setting.
        for name, declared in self._options.items():
            partner = declared.only_with
            if partner is not None and ctx.params[partner] is None and _is_typed(ctx, name):
                given = " ".join(filter(None, (f"--{spelled(partner)}", self._options[partner].metavar)))
                raise click.UsageError(
                    f"--{spelled(name)} (={value_text(ctx.params[name])}) has no effect without --{spelled(partner)}. "
                    f"Add {given}, or leave out --{spelled(name)}."
                )


def _block_name(ctx: click.Context) -> str:
    """Return the name of the command's block: `fit_head`, or `store.verify` for a command of a group."""
    group = f"{_block_name(ctx.parent)}." if ctx.parent and ctx.parent.parent else ""
    return group + (ctx.info_name or "").replace("-", "_")


def _help_record(parameter: click.Parameter, ctx: click.Context, block: dict[str, Any]) -> tuple[str, str] | None:
    """Return option and help text; a value of the block replaces the default."""
    record = parameter.get_help_record(ctx)
    value = block.get(parameter.name or "")
    if record is None or value is None:
        return record
    shown = f"default: {value_text(value)}"
    text, num_replaced = re.subn(r"default: [^;\]]*", lambda _: shown, record[1])
    return record[0], text if num_replaced else f"{text}  [{shown}]"


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else value


def _value_in_recipe(recipe: Any, name: str) -> Any:
    from pipeline.recipe import GROUPS

    groups = (getattr(recipe, group) for group in GROUPS)
    return next(getattr(group, name) for group in groups if hasattr(group, name))


def _settings_of_heads(ctx: click.Context, heads: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return the blocks `heads.<name>` of `heads` without the typed options, and print them.

    They belong to the subject of the block `fit_head`: nothing is taken from them for another store.
    """
    if ctx.meta.get(_PASSED_OVER):
        return {}
    of_heads = head_params(ctx.obj or {})
    for head in of_heads:
        if head not in HEAD_NAMES:
            raise unknown_name("head in the block `heads` of params.yaml:", head, HEAD_NAMES)
    blocks = {
        head: {name: value for name, value in block.items() if not _is_typed(ctx, name)}
        for head, block in of_heads.items()
        if head in heads
    }
    for block in blocks.values():
        if isinstance(block.get("search"), Mapping):
            block["search"] = _search_of_untyped(ctx, block["search"])
    lines = [f"{head} {settings_text(block)}" for head, block in blocks.items() if block]
    if lines:
        logger.info(f"From params.yaml, block `heads`: {'; '.join(lines)}.")
    return blocks


def _search_of_untyped(ctx: click.Context, search: Mapping[str, Any], is_typed: bool = False) -> dict[str, Any]:
    """Return the searched settings of `params.yaml` without those that are typed, which are then fixed.

    Raises:
        click.UsageError: a setting is both fixed and searched on the command line.
    """
    search = python_names(search)
    fixed = [name for name in search if name in ctx.params and _is_typed(ctx, name)]
    if is_typed and fixed:
        key = spelled(fixed[0])
        raise click.UsageError(f"--{key} fixes a setting that --search {key}=... searches. Give one of them.")
    return {name: value for name, value in search.items() if name not in fixed}


def _is_typed(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _extract_block(ctx: click.Context) -> Mapping[str, Any]:
    """Return the block `extract`, whose values fill in the path of a store."""
    return command_params(ctx.obj or {}, "extract")
