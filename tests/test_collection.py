"""The collector is paused for a block and works again behind it, whatever happens in the block."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.collection import lasting_imports, paused_collection


@pytest.fixture(autouse=True)
def collector_as_before():
    was_on = gc.isenabled()
    yield
    (gc.enable if was_on else gc.disable)()


@pytest.mark.parametrize("is_on", [True, False])
def test_the_collector_is_as_before_behind_the_block(is_on: bool) -> None:
    (gc.enable if is_on else gc.disable)()
    with paused_collection():
        assert not gc.isenabled()
        with paused_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled() == is_on


def test_without_an_import_no_object_is_left_out() -> None:
    """A process that calls a stage again and again would keep all its cyclic garbage."""
    before = gc.get_freeze_count()
    with lasting_imports():
        import gc as imported_before
    assert imported_before.get_freeze_count() == before


def test_objects_of_imports_are_left_out_of_later_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.enable()
    before = gc.get_freeze_count()
    try:
        monkeypatch.delitem(sys.modules, "this", raising=False)
        with lasting_imports():
            assert not gc.isenabled()
            monkeypatch.setitem(sys.modules, "this", ModuleType("this"))
            lasting = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(lasting)
        assert not any(each is lasting for each in gc.get_objects())
    finally:
        gc.unfreeze()


CYCLE_AT_EXIT = """
import sys, tempfile, weakref
from pipeline.collection import skip_last_collection

class Cycle:
    def __init__(self):
        self.itself = self
    def __del__(self):
        print("visited")

if sys.argv[1] == "skip":
    skip_last_collection()
cycle = Cycle()
weakref.finalize(cycle, print, "finalised")
del cycle
folder = tempfile.TemporaryDirectory()
print(folder.name)
"""


@pytest.mark.parametrize(("argument", "expected"), [("skip", ["finalised"]), ("collect", ["finalised", "visited"])])
def test_the_end_runs_finalisers_and_visits_no_cycles(argument: str, expected: list[str]) -> None:
    command = [sys.executable, "-c", CYCLE_AT_EXIT, argument]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not Path(printed[0]).exists()
    assert printed[1:] == expected


def test_an_error_in_the_block_does_not_leave_the_collector_off() -> None:
    gc.enable()
    with pytest.raises(KeyError), paused_collection():
        raise KeyError
    assert gc.isenabled()
