"""One vocabulary of failures: what a clip causes is permanent, what a shortage causes is tried again."""

from __future__ import annotations

import ast
import errno
import pickle
from pathlib import Path

import pytest

from pipeline import clip_errors as boundary
from pipeline.clip_errors import clip_errors
from pipeline.errors import FAILURE_KINDS, TRANSIENT_KINDS, ClipError, transient_kind
from pipeline.extract.blocks import TOO_LARGE, is_stale
from pipeline.extract.provenance import FileState
from pipeline.store.record import FAILED, ClipRecord
from pipeline.store.table import TableRow

PACKAGE = Path(__file__).parents[1] / "pipeline"


def test_every_kind_in_the_package_is_of_the_vocabulary() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if name == "ClipError" and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
    assert {"missing", "corrupt", "short", "unreadable"} <= found <= FAILURE_KINDS.keys() | TRANSIENT_KINDS.keys()
    assert not FAILURE_KINDS.keys() & TRANSIENT_KINDS.keys()


def raise_because_of(cause: Exception, chained: bool) -> None:
    try:
        raise cause
    except Exception as error:
        if chained:
            raise ClipError("unreadable", "x cannot be read.") from error
        raise ClipError("unreadable", "x cannot be read.")  # noqa: B904 - the context is to be seen too


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (MemoryError(), "no-memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), "no-memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "no-memory"),
        (OSError(errno.EMFILE, "Too many open files"), "open-files"),
        (OSError(errno.ENFILE, "Too many open files in system"), "open-files"),
        (OSError(errno.EIO, "Input/output error"), "io-error"),
        (OSError(errno.ESTALE, "Stale file handle"), "io-error"),
        (OSError(errno.ETIMEDOUT, "Connection timed out"), "io-error"),
        (OSError("Can't read data (file read failed: errno = 5, error message = 'Input/output error')"), "io-error"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk-full"),
        (OSError(errno.ENOENT, "No such file or directory"), ""),
        (OSError(errno.EACCES, "Permission denied"), ""),
        (ValueError("a header that is none"), ""),
    ],
)
def test_a_shortage_behind_an_error_makes_it_transient(cause: Exception, kind: str) -> None:
    assert transient_kind(cause) == kind
    for chained in (True, False):
        with pytest.raises(ClipError) as caught:
            raise_because_of(cause, chained)
        assert caught.value.kind == (kind or "unreadable")
        assert pickle.loads(pickle.dumps(caught.value)).kind == caught.value.kind
        assert caught.value.failure("c").is_transient == bool(kind)


def test_the_boundary_turns_shortage_into_a_failure_of_the_clip_and_leaves_bugs_alone() -> None:
    with pytest.raises(ClipError, match=r"c\.mp4 could not be read: the process ran") as caught, clip_errors("c.mp4"):
        raise MemoryError
    assert caught.value.kind == "no-memory"
    with pytest.raises(RuntimeError, match="a bug"), clip_errors("c.mp4"):
        raise RuntimeError("a bug")


@pytest.mark.parametrize("kind", ["corrupt", "missing"])
def test_a_decoder_is_not_believed_while_memory_is_short(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary, "can_allocate", lambda num_bytes: False)
    with pytest.raises(ClipError) as caught, clip_errors("c.mp4"):
        raise ClipError(kind, "c.mp4: so it is.")
    assert caught.value.kind == ("no-memory" if kind == "corrupt" else kind)


@pytest.mark.parametrize("kind", [*FAILURE_KINDS, *TRANSIENT_KINDS])
def test_the_next_extraction_tries_transient_failures_and_limits_again(kind: str) -> None:
    row, state = TableRow(0, "c", "c.mp4", "wave", "train"), FileState(10, 5)
    before = ClipRecord(0, "c", "wave", FAILED, 10, "ab12", 5, kind=kind, reason="so it is")
    # A limit may have been raised since.
    assert is_stale(before, row, "c.mp4", state) == (kind in TRANSIENT_KINDS or kind == TOO_LARGE)
