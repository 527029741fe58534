"""Short runs of the torture programs; the long ones stand in docs/robustness.md."""

from __future__ import annotations

from pathlib import Path

from benchmarks.torture import bits


def test_flipped_bits_are_named_or_without_effect(tmp_path: Path) -> None:
    outcomes = bits.run(60, seed=1, folder=tmp_path)
    assert [line for outcome in outcomes.values() for line in outcome.wrong] == []
    assert sum(outcome.num_named + outcome.num_harmless for outcome in outcomes.values()) == 60
    assert "| all | 60 |" in bits.as_table(outcomes)
