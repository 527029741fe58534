"""Short runs of the torture programs; the figures of long ones are in docs/robustness.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.torture import bits, kills, shortage, strangers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose study is made by the first program and used by all."""
    return tmp_path_factory.mktemp("torture")


def test_flipped_bits_are_named_or_without_effect(tmp_path: Path) -> None:
    outcomes = bits.run(60, seed=1, folder=tmp_path)
    assert [line for outcome in outcomes.values() for line in outcome.wrong] == []
    assert sum(outcome.num_named + outcome.num_harmless for outcome in outcomes.values()) == 60
    assert "| all | 60 |" in bits.as_table(outcomes)


@pytest.mark.timeout(600)
def test_killed_commands_end_as_if_undisturbed(folder: Path) -> None:
    outcomes = kills.run(2, seed=3, folder=folder, names=("store import", "store verify --repair"))
    assert [line for outcome in outcomes.values() for line in outcome.wrong] == []
    assert "| all | 2 |" in kills.as_table(outcomes)


@pytest.mark.timeout(600)
def test_strangers_change_nothing_outside(folder: Path) -> None:
    outcomes = strangers.run(4, seed=3, folder=folder, kinds=("export", "model"))
    assert [line for of_kind in outcomes.values() for outcome in of_kind.values() for line in outcome.wrong] == []
    assert "| all | 4 |" in strangers.as_table(outcomes)


@pytest.mark.timeout(600)
def test_a_shortage_is_a_sentence_and_a_rerun_completes(folder: Path) -> None:
    outcomes = shortage.run(3, seed=3, folder=folder, names=("store export",))
    assert [line for of_kind in outcomes.values() for outcome in of_kind.values() for line in outcome.wrong] == []
    assert "| store export |" in shortage.as_table(outcomes)


@pytest.mark.timeout(600)
def test_without_permission_to_write_a_command_ends_with_a_sentence(folder: Path) -> None:
    names = ("store export", "store import", "store verify --repair")
    outcomes = shortage.run(6, seed=0, folder=folder, names=names, shortages=("permission",))["permission"]
    assert [line for outcome in outcomes.values() for line in outcome.wrong] == []
    assert sum(outcome.num_completed + outcome.num_ended for outcome in outcomes.values()) == 6
    assert sum(outcome.num_ended for outcome in outcomes.values()) >= 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("program", [kills, strangers, shortage])
def test_long_torture(folder: Path, program: object) -> None:
    outcomes = program.run(40, seed=4, folder=folder)  # type: ignore[attr-defined]
    flat = [item for found in outcomes.values() for item in (found.values() if isinstance(found, dict) else (found,))]
    assert [line for outcome in flat for line in outcome.wrong] == []
