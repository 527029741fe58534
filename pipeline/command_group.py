"""Click group that reads `params.yaml` and prints errors as one sentence, and commands with message options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from pipeline import log
from pipeline.errors import PipelineError, transient_kind
from pipeline.options import message_options
from pipeline.params import command_params, read_params

OUT_OF_MEMORY = (
    "The process ran out of memory. Finished work is kept: stop other programs, or lower --workers, --jobs, --views or "
    "--batch-size, and run the same command again."
)


class Failure(click.ClickException):
    """An error message of one sentence and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # click declares it on the class


class LoggedCommand(click.Command):
    """A command with the options `--quiet` and `--verbose`, which set how many messages go to stderr."""

    def __init__(self, name: str | None, params: Sequence[click.Parameter] | None = None, **kwargs: Any) -> None:
        super().__init__(name, params=[*(params or ()), *message_options()], **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        log.configure(quiet=ctx.params.pop("quiet"), verbose=ctx.params.pop("verbose"))
        return rest


class PipelineGroup(click.Group):
    """A group with defaults from `./params.yaml` that prints a `PipelineError` as one sentence with an exit code."""

    command_class = LoggedCommand
    group_class = type

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        is_for_help = args[:1] in (["-h"], ["--help"], ["--version"])
        if parent is None and "default_map" not in extra and not is_for_help:
            try:
                params = read_params()
                extra["default_map"] = {name: command_params(params, name) for name in self.commands}
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
            raise  # the reader of the output has closed the pipe; click handles it
        except OSError as error:
            if error.filename is None and not transient_kind(error):
                raise
            what = error.filename or "A file or the output"
            raise Failure(f"{what} could not be read or written: {error.strerror}.", 1) from error
        except (MemoryError, RuntimeError) as error:
            if transient_kind(error) != "no-memory":
                raise
            raise Failure(OUT_OF_MEMORY, 1) from error
