"""The server that forks the processes of fits is started before torch is imported, if several fits run at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.fit_head import parallel
from pipeline.fit_head.parallel import PRELOADED, count_fits, count_processes, start_server_early
from pipeline.fit_head.plan import HeadRequest
from pipeline.recipe import named_recipe
from pipeline.settings.fit_head import FitHeadSettings


def request_of(head: str, num_seeds: int, **changes: Any) -> HeadRequest:
    values: dict[str, Any] = {"device": "cpu", "precision": "auto", "threads": None, "search": None, **changes}
    return HeadRequest(head, named_recipe("cached"), tuple(range(num_seeds)), Path("out"), **values)


def settings_of(**changes: Any) -> FitHeadSettings:
    return FitHeadSettings(store="s.zarr", head=("gru",), out=Path("out"), **changes)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    monkeypatch.setattr(parallel, "start_forking_server", calls.append)
    monkeypatch.setattr(parallel, "num_cores", lambda: 2)
    return calls


@pytest.mark.parametrize(
    ("requests", "settings", "is_started"),
    [
        ([request_of("gru", 3)], settings_of(), True),
        ([request_of("gru", 1), request_of("mlp", 1)], settings_of(), True),
        ([request_of("gru", 1)], settings_of(), False),
        ([request_of("convlstm", 3)], settings_of(), False),
        ([request_of("convlstm", 3, threads=1)], settings_of(), True),
        ([request_of("gru", 3, threads=2)], settings_of(), False),
        ([request_of("gru", 3, device="cuda")], settings_of(), False),
        ([request_of("gru", 3)], settings_of(jobs=1), False),
        ([request_of("gru", 3)], settings_of(scheduler="tcp://host:1"), False),
    ],
)
def test_the_server_is_started_where_several_fits_run_at_once(
    started: list[Any], requests: list[HeadRequest], settings: FitHeadSettings, is_started: bool
) -> None:
    start_server_early(settings, requests)
    assert started == ([PRELOADED] if is_started else [])


def test_processes_are_no_more_than_fits(started: list[Any]) -> None:
    assert [count_fits(request_of("gru", number)) for number in (1, 3)] == [1, 3]
    assert count_processes(settings_of(jobs=8), [request_of("gru", 3)]) == 3
    assert count_processes(settings_of(), [request_of("gru", 3)]) == 3
    assert count_processes(settings_of(), []) == 0
