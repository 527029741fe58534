"""Which clips select an epoch and which are reported: the rule, and that every stage follows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import top1
from pipeline.evaluation.selection import DEV, TRAIN, is_marked, plan_splits
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.fit import HeadDataset, fit_head
from pipeline.heads.lstm import LSTMHead
from pipeline.recipe import TrainConfig, named_recipe
from pipeline.runtime import Runtime
from pipeline.splitting import LabelledId
from pipeline.store.table import ClipRow
from tests.support.memory_source import MemorySource, make_source

CPU = Runtime(torch.device("cpu"), "float32", threads=1)
RECIPE = named_recipe("cached").with_overrides(epochs=6, lr=3e-3)


class SplitId(LabelledId):
    """A clip in memory, its split in front of its id."""

    @property
    def split(self) -> str:
        return self.clip_id.partition("/")[0]


def clips(**num_by_split: int) -> list[SplitId]:
    return [
        SplitId(f"{split}/{label}{number}", "" if split.startswith("un") else label)
        for split, count in num_by_split.items()
        for label in "ab"
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("num_by_split", "select_on", "selected_on", "reported_on"),
    [
        ({"train": 20, "val": 5}, "dev", "dev", "val"),
        ({"train": 20, "val": 5}, "val", "val", "val"),
        ({"train": 20, "val": 5, "test": 5}, "dev", "val", "test"),
        ({"train": 20, "val": 5, "test": 5}, "val", "val", "test"),
        ({"train": 20, "test": 5}, "dev", "dev", "test"),
    ],
)
def test_the_rule(num_by_split: dict[str, int], select_on: Any, selected_on: str, reported_on: str) -> None:
    found = clips(**num_by_split)
    plan = plan_splits(found, TrainConfig(select_on=select_on), "M")
    assert (plan.selected_on, plan.reported_on) == (selected_on, reported_on)
    parts = {part: {clip.clip_id for clip in plan.clips_of(part, found)} for part in {TRAIN, selected_on, reported_on}}
    # No clip trains that selects or is reported, and none is lost.
    assert not parts[TRAIN] & (parts[selected_on] | parts[reported_on])
    assert sum(map(len, parts.values())) == len(found)
    assert len(plan.dev_ids) == (4 if selected_on == DEV else 0)  # a tenth of 20 clips of each of two labels


def test_unlabelled_test_clips_report_nothing() -> None:
    found = [*clips(train=20, val=5), SplitId("test/1", "")]
    plan = plan_splits(found, TrainConfig(select_on="dev"), "M")
    assert (plan.selected_on, plan.reported_on) == ("dev", "val")


def test_the_defaults_are_those_of_the_recipes() -> None:
    chosen = {name: named_recipe(name).training.select_on for name in ("cached", "paper", "published-code")}
    assert chosen == {"cached": "dev", "paper": "val", "published-code": "val"}


@pytest.mark.parametrize(
    ("num_by_split", "choices", "message"),
    [
        ({"val": 5}, {}, "no labelled clip in split 'train'"),
        ({"train": 5}, {}, "no labelled clip in split 'val'"),
        ({"train": 5}, {"select_on": "dev"}, "no labelled clip in split 'val'"),
        ({"train": 5, "test": 5}, {"select_on": "val"}, "no labelled clip in split 'val'"),
        ({"train": 1, "val": 5}, {"select_on": "dev"}, "--select-on val"),
        ({"train": 5, "val": 5}, {"select_on": "dev", "dev_share": 0.0}, "dev_share"),
        ({"train": 5, "val": 5}, {"select_on": "dev", "dev_share": 1.0}, "dev_share"),
    ],
)
def test_what_cannot_be_planned_is_refused(num_by_split: dict[str, int], choices: Any, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        plan_splits(clips(**num_by_split), TrainConfig(**choices), "M")


def test_the_held_out_clips_are_the_same_for_every_training_seed_and_head(tmp_path: Path) -> None:
    data = CachedData(make_source(), tmp_path)
    plans = [data.plan(RECIPE.with_overrides(lr=lr).training) for lr in (1e-3, 1e-2)]
    assert plans[0] == plans[1]
    assert plans[0].dev_ids != data.plan(RECIPE.with_overrides(dev_seed=1).training).dev_ids


def test_clips_that_failed_do_not_move_the_draw() -> None:
    """`finetune` sees clips that `extract` could not read, and has to hold out the same ones."""
    source = make_source()
    before = plan_splits(source.table(), RECIPE.training, "M").dev_ids
    source.rows[0] = source.rows[0]._replace(status="failed")
    assert plan_splits(source.table(), RECIPE.training, "M").dev_ids == before


def test_held_out_clips_neither_train_nor_are_reported(tmp_path: Path) -> None:
    data = CachedData(make_source(), tmp_path)
    plan = data.plan(RECIPE.training)
    for maps in ("pooled", "spatial"):
        head_data = data.of(maps, RECIPE)
        train, select, report = (
            set(features.clip_ids) for features in (head_data.train, head_data.select, head_data.report)
        )
        assert select == plan.dev_ids
        assert len(train) + len(select) == 60
        assert not train & select
        assert not report & (train | select)
        # Selection sees the test view, as the report does.
        assert head_data.select.num_views == 1


def test_two_recipes_on_one_store_get_their_own_clips(tmp_path: Path) -> None:
    data = CachedData(make_source(), tmp_path)
    held_out, whole = data.of("pooled", RECIPE), data.of("pooled", RECIPE.with_overrides(select_on="val"))
    assert whole.train.num_clips == held_out.train.num_clips + held_out.select.num_clips == 60
    assert whole.select is whole.report
    assert held_out.report is whole.report  # loaded once


def with_test_split(source: MemorySource) -> MemorySource:
    """Every second validation clip becomes a test clip."""
    is_val = [number for number, row in enumerate(source.rows) if row.split == "val"]
    for number in is_val[::2]:
        source.rows[number] = source.rows[number]._replace(split="test")
    return source


def scored_by(head: torch.nn.Module, features: Any) -> np.ndarray:
    """Scores of the test view, worked out here."""
    with torch.inference_mode():
        found: np.ndarray = head.eval()(features.gather(features.sequential_order()).float()).numpy()
    return found


def test_the_epoch_is_the_best_one_of_the_selection_clips_and_the_report_of_others(tmp_path: Path) -> None:
    head_data = CachedData(with_test_split(make_source()), tmp_path).of("pooled", RECIPE)
    result = fit_head(head_data, "lstm", RECIPE, 0, CPU)
    best = max(result.history, key=lambda record: (record.select_top1, -(record.select_loss or 0.0), -record.epoch))
    assert result.best_epoch == best.epoch
    assert result.selection is not None
    assert (result.selection.top1, result.selection.loss) == (best.select_top1, best.select_loss)
    assert result.clip_ids == head_data.report.clip_ids
    np.testing.assert_allclose(result.scores, scored_by(result.head, head_data.report), atol=1e-4)
    select = scored_by(result.head, head_data.select)
    assert top1(select, head_data.select.labels[0]) == result.selection.top1


def test_the_reported_clips_change_nothing_in_the_fit(tmp_path: Path) -> None:
    """Other reported labels give the same head: what is reported has no way into training or selection."""
    heads = []
    for shift in (0, 1):
        source = with_test_split(make_source())
        head_data = CachedData(source, tmp_path).of("pooled", RECIPE)
        head_data.report.labels[:] = (head_data.report.labels + shift) % 3
        heads.append(fit_head(head_data, "lstm", RECIPE, 0, CPU).head)
    assert isinstance(heads[0], LSTMHead)
    for one, other in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_reported_clips_are_scored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head_data = CachedData(with_test_split(make_source()), tmp_path).of("pooled", RECIPE)
    num_gathered = 0
    gather = type(head_data.report).gather

    def counting(features: Any, draw: Any) -> torch.Tensor:
        nonlocal num_gathered
        num_gathered += features is head_data.report
        return gather(features, draw)

    monkeypatch.setattr(type(head_data.report), "gather", counting)
    result = fit_head(head_data, "lstm", RECIPE, 0, CPU)
    assert num_gathered == 1 + len(result.order_tests)


def test_one_split_for_both_selects_as_before(tmp_path: Path) -> None:
    """Selecting on the reported clips gives the highest top-1 of any epoch: the flattery that is to be avoided."""
    head_data = CachedData(with_test_split(make_source()), tmp_path).of("pooled", RECIPE)
    both = HeadDataset(head_data.train, head_data.report, head_data.report, *vars_of_sizes(head_data))
    flattered = fit_head(both, "lstm", RECIPE, 0, CPU)
    assert flattered.selection is None
    assert top1(flattered.scores, flattered.labels) == max(record.select_top1 or 0.0 for record in flattered.history)
    honest = fit_head(head_data, "lstm", RECIPE, 0, CPU)
    assert top1(honest.scores, honest.labels) <= top1(flattered.scores, flattered.labels)


def vars_of_sizes(head_data: HeadDataset) -> tuple[Any, ...]:
    return (head_data.num_classes, head_data.num_segments, head_data.in_channels, head_data.backbone)


def test_no_extracted_clip_to_report_is_an_error(tmp_path: Path) -> None:
    source = make_source()
    source.rows[:] = [failed_if_val(row) for row in source.rows]
    with pytest.raises(PipelineError, match="None of the 30 labelled clips of split 'val' is extracted"):
        CachedData(source, tmp_path).of("pooled", RECIPE)


def failed_if_val(row: ClipRow) -> ClipRow:
    return row._replace(status="failed") if row.split == "val" else row


def test_a_row_is_marked_where_the_reported_clips_selected_it_or_its_start() -> None:
    assert is_marked({"selected_on": "val", "reported_on": "val"})
    assert not is_marked({"selected_on": "dev", "reported_on": "val"})
    assert is_marked({"selected_on": "dev", "reported_on": "val", "init_selected_on": "val"})
    assert not is_marked({"selected_on": "none", "reported_on": "val", "init_selected_on": "none"})
