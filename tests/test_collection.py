"""The collector is paused for a block and works again behind it, whatever happens in the block."""

from __future__ import annotations

import gc

import pytest

from pipeline.collection import paused_collection


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


def test_an_error_in_the_block_does_not_leave_the_collector_off() -> None:
    gc.enable()
    with pytest.raises(KeyError), paused_collection():
        raise KeyError
    assert gc.isenabled()
