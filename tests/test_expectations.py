"""The figures of `docs/data-sets.md`: worked out by hand once, and the same as the command prints."""

from __future__ import annotations

import pytest

from benchmarks.expectations import BACKBONES, DATA_SETS, extraction_hours, gpu_hours, main, store_gb
from tests.conftest import REPOSITORY

JESTER = DATA_SETS[0]


def test_the_page_has_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["expectations"])
    main()
    page = (REPOSITORY / "docs" / "data-sets.md").read_text(encoding="utf-8")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("|", "- "))]
    assert len(lines) > 10
    assert [line for line in lines if line not in page.splitlines()] == []


def test_one_case_worked_out_by_hand() -> None:
    # 118,562 clips in two views, 29,530 in one; 8 frames of 512 half-precision numbers each.
    pooled, spatial = store_gb(JESTER, BACKBONES["squeezenet"], 8, 1)
    assert pooled == pytest.approx(266_654 * 8 * 1_024 / 1e9)
    assert spatial == pytest.approx(266_654 * 475 * 1_024 / 1e9)
    # 1,000 frames/s forward and 1,000 clips/s decoded: 9 ms a view, and 0.8 of the bound reached.
    assert extraction_hours(JESTER, 1_000, 1_000, 8, 1) == pytest.approx(266_654 * 0.009 / 0.8 / 3600)
    assert gpu_hours(JESTER, 1_000, 1_000, 8, 1) == pytest.approx(266_654 * 0.008 / 0.8 / 3600)
