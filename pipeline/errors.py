"""Errors that a user can fix; any other exception is a bug and keeps its traceback."""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

FAILURE_KINDS = {
    "missing": "there is no such file, folder or member",
    "unreadable": "not a clip of a known kind, or no permission to read it",
    "no-video": "a media file without a video stream",
    "empty": "no byte, or not one frame",
    "truncated": "the end of the file is missing",
    "corrupt": "damaged frames",
    "short": "fewer frames than are asked for",
    "size-change": "frames of several sizes",
    "frame-name": "frames without a number, or named by several templates",
    "frame-twice": "two frames of one number",
    "frame-gap": "a frame number is missing",
    "too-large": "beyond a limit on pixels, bytes or time",
    "overflow": "a feature beyond float16, or not a number",
    "other-shape": "an imported array of another shape than the others",
}
"""Failures that the clip causes: no later run tries the same file again, except `too-large`, whose limit can change."""

TRANSIENT_KINDS = {
    "no-memory": "the process ran out of memory",
    "open-files": "too many files were open",
    "disk-full": "no room on a disk",
    "io-error": "the disk or the network did not deliver the file",
    "killed-worker": "the process that had the clip was killed",
}
"""Failures that say nothing about the clip: the next run tries it again."""

_KIND_OF_ERRNO = {
    **dict.fromkeys((errno.ENOMEM, errno.ENOBUFS), "no-memory"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "open-files"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "disk-full"),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.EAGAIN, errno.EINTR), "io-error"),
    **dict.fromkeys((errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN), "io-error"),
    **dict.fromkeys((errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN), "io-error"),
}


class PipelineError(Exception):
    """An error that the user can fix. The message names the thing, the rule, the value and the solution."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Constructors of subclasses have other arguments; without this, such an error cannot leave a worker process.
        return _restored, (type(self), str(self), vars(self))


def _restored(kind: type[PipelineError], message: str, state: Mapping[str, Any]) -> PipelineError:
    error = kind.__new__(kind, message)
    vars(error).update(state)
    return error


class DivergenceError(PipelineError):
    """A loss or a score is not a finite number: the training diverged."""


class ShapeError(PipelineError, ValueError):
    """A tensor or array does not have the shape of its contract."""


class ClipFailure(NamedTuple):
    """Failure of a clip: `kind` is a key of `FAILURE_KINDS` or `TRANSIENT_KINDS`, `reason` a sentence."""

    clip_id: str
    kind: str
    reason: str

    @property
    def is_transient(self) -> bool:
        """Whether the next run should try the clip again."""
        return self.kind in TRANSIENT_KINDS


def failure_lines(failures: Sequence[ClipFailure], num_examples: int = 5) -> list[str]:
    """Return the failures as lines of text: each kind with its number and a few clips, the most frequent first."""
    lines = []
    for kind, count in Counter(failure.kind for failure in failures).most_common():
        lines.append(f"Failed, {kind}: {count:,}")
        examples = [failure for failure in failures if failure.kind == kind][:num_examples]
        lines += [f"  {failure.clip_id}: {failure.reason}" for failure in examples]
        lines += [f"  … and {count - num_examples:,} more"] if count > num_examples else []
    return lines


class ClipError(PipelineError):
    """A clip cannot be used. It is recorded with its reason; a single such clip never stops a run."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self._kind = kind

    @property
    def kind(self) -> str:
        """Kind of the failure; transient if a cause of this error is a shortage or an I/O error."""
        context = None if self.__suppress_context__ else self.__context__
        return transient_kind(self.__cause__ or context) or self._kind

    def failure(self, clip_id: str) -> ClipFailure:
        """Return the failure as plain data."""
        return ClipFailure(clip_id, self.kind, str(self))

    def __reduce__(self) -> tuple[type[ClipError], tuple[str, str]]:
        # Exceptions with two arguments need this to be sent between processes; causes are not sent.
        return type(self), (self.kind, str(self))


def transient_kind(error: BaseException | None) -> str:
    """Return the transient kind of an error or of one of its causes; an empty string if there is none."""
    for cause in with_causes(error):
        if isinstance(cause, ClipError):
            return cause._kind if cause._kind in TRANSIENT_KINDS else transient_kind(cause.__cause__)
        if isinstance(cause, MemoryError) or _says_no_memory(cause):
            return "no-memory"
        found = _KIND_OF_ERRNO.get(_errno_of(cause), "")
        if found:
            return found
    return ""


def with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, then those that it was raised from or while handling, each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _says_no_memory(error: BaseException) -> bool:
    # PyTorch's allocator; oneDNN, which has no room for the code that it generates; Python without room for a stack.
    text = str(error)
    return "can't allocate memory" in text or text in ("could not create a primitive", "can't start new thread")


def _errno_of(error: BaseException) -> int:
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number:
        return number
    # HDF5 gives the number only in its message.
    stated = re.search(r"\berrno = (\d+)", str(error)) if isinstance(error, OSError) else None
    return int(stated[1]) if stated else 0


def first_line(error: Exception) -> str:
    """Return the first line of an error of another library, or its type if it has no text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
