"""Whether a head can read order, by its definition, and whether a fitted one is shown to use it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.compare.comparison import Group, Row
from pipeline.compare.order_use import order_sentences, shuffled_loss, uses_order
from pipeline.compare.records import as_json
from pipeline.compare.table import terminal_table
from pipeline.evaluation.order_certificate import MAX_BLIND_DIFFERENCE, order_difference, order_of
from pipeline.heads import HEADS, build_head
from pipeline.registry import BLIND_HEADS
from tests.support.result_folders import CLASSES, write_cell
from tests.test_table import comparison_of


def test_the_certificate_of_every_head_is_the_declared_one() -> None:
    assert {name for name in HEADS if order_of(name) == "blind"} == BLIND_HEADS


def test_the_difference_is_that_of_the_scores_of_the_orders() -> None:
    torch.manual_seed(0)
    head = build_head("mlp", in_channels=3, num_segments=2, num_classes=4).eval()
    clip = torch.randn(1, 2, 3, 1, 1)
    before = torch.get_rng_state()
    found = order_difference(head, clip)
    torch.set_rng_state(before)
    with torch.no_grad():
        plain, swapped = head(clip), head(clip.flip(1))  # of 100 random orders of two segments, some are the other one
    expected = float((plain - swapped).abs().max() / (plain.max() - plain.min()))
    assert found == pytest.approx(expected, rel=1e-4)
    assert order_difference(build_head("ep", in_channels=3, num_segments=2, num_classes=4), clip) < MAX_BLIND_DIFFERENCE
    assert next(head.parameters()).dtype == torch.float32


def rows_of(tmp_path: Path, **cells: dict[str, object]) -> Group:
    for head, values in cells.items():
        write_cell(tmp_path / f"fit_head/squeezenet-{head}", head=head, **values)  # type: ignore[arg-type]
    (group,) = comparison_of(tmp_path, pairs=[CLASSES[:2]]).groups
    return group


def row_of(group: Group, head: str) -> Row:
    return next(row for row in group.rows if row.run.head == head)


def test_use_of_order_needs_an_interval(tmp_path: Path) -> None:
    same = {"shuffled": 20.0, "reversed": 20.0}
    group = rows_of(
        tmp_path,
        lstm={"accuracy": 0.9},  # 20 points less when shuffled
        gru={"accuracy": 0.2, "probes": same},
        tsn={"accuracy": 0.2, "probes": same},
    )
    assert [uses_order(row_of(group, head)) for head in ("lstm", "gru", "tsn")] == [True, False, None]
    loss = shuffled_loss(row_of(group, "lstm"))
    assert loss is not None
    # Two independent proportions: 54 and 42 of 60 clips, each at least as uncertain as the first.
    assert loss.value == pytest.approx(20)
    assert 0 < loss.low < 20 - 1.9 * 100 * (0.9 * 0.1 / 60 + 0.7 * 0.3 / 60) ** 0.5 + 2
    told = " ".join(order_sentences(group))
    assert "Blind to order by definition (100 random orders change no score): tsn." in told
    assert "not shown to use order" in told
    assert told.endswith(": gru.")
    assert "Warning" not in told


def test_a_blind_head_that_is_read_as_temporal_is_warned_of(tmp_path: Path) -> None:
    group = rows_of(tmp_path, tsn={"accuracy": 0.95}, lstm={"accuracy": 0.5})
    told = " ".join(order_sentences(group))
    assert "tsn is blind and has the highest top-1: no head here that can read order scored higher." in told
    assert "Warning: a blind head tells the pairs apart (tsn " in told


@pytest.mark.parametrize(("num_clips", "is_told"), [(2, False), (5, False), (6, True)])
def test_few_clips_say_nothing_about_the_best_blind_head(tmp_path: Path, num_clips: int, is_told: bool) -> None:
    group = rows_of(
        tmp_path, tsn={"accuracy": 1.0, "num_clips": num_clips}, lstm={"accuracy": 0.3, "num_clips": num_clips}
    )
    assert ("highest top-1" in " ".join(order_sentences(group))) == is_told


def test_a_blind_head_beside_blind_heads_alone_is_not_the_best_without_order(tmp_path: Path) -> None:
    group = rows_of(tmp_path, tsn={"accuracy": 0.9}, meanstd={"accuracy": 0.5})
    assert "highest top-1" not in " ".join(order_sentences(group))


def test_the_table_has_both_statements(tmp_path: Path) -> None:
    rows_of(tmp_path, tsn={"accuracy": 0.3}, lstm={"accuracy": 0.9}, unheard={"accuracy": 0.4})
    comparison = comparison_of(tmp_path)
    text = terminal_table(comparison, 300)
    assert "order" in text
    assert "uses order" in text
    found = {row["head"]: (row["order"], row["uses_order"]) for row in as_json(comparison)["groups"][0]["rows"]}
    assert found == {"tsn": ("blind", None), "lstm": ("ordered", True), "unheard": (None, None)}
