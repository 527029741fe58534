"""The one family of errors that a user can mend; anything else is a bug and keeps its traceback."""

from __future__ import annotations


class PipelineError(Exception):
    """Something the user can mend. The message has the thing, the rule, the value and the way out."""


class ShapeError(PipelineError, ValueError):
    """A tensor or array does not have the shape that its contract names."""


class ClipError(PipelineError):
    """One clip cannot be used. It is recorded with its reason and never stops a run by itself.

    `kind` is a short word that groups failures in a summary; the message says what was found.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[ClipError], tuple[str, str]]:
        # Exceptions with two arguments need this to travel between processes.
        return type(self), (self.kind, str(self))
