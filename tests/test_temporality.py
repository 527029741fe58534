"""Which classes need order, by hand and on clips whose label is in the order of their segments alone."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.features import FeatureDataset
from pipeline.manifest import Clip
from pipeline.prepare.listing import Listing
from pipeline.prepare.subset import subset_of
from pipeline.recipe import named_recipe
from pipeline.settings.temporality import TemporalitySettings
from pipeline.temporality import command
from pipeline.temporality.datasets import Directions, StillFrames
from pipeline.temporality.measure import MEASURES, Measured, measure
from pipeline.temporality.pairs import proposed_pairs, reverse_pairs
from pipeline.temporality.table import ALL_CLASSES, class_rows, markdown, shown_text, temporal_classes
from tests.support.memory_source import CLASSES, MemorySource, T, make_source


@pytest.fixture(scope="module")
def source() -> MemorySource:
    return make_source(num_train=90)


def features(source: MemorySource, folder: Path) -> FeatureDataset:
    return CachedData(source, folder).of("pooled", named_recipe("cached")).train


@pytest.mark.parametrize(
    ("one", "other", "is_pair"),
    [
        ("Sliding Two Fingers Left", "Sliding Two Fingers Right", True),
        ("swipe_up", "swipe_down", True),
        ("Pushing Hand Away", "Pulling Hand In", True),
        ("Turning Hand Clockwise", "Turning Hand Counterclockwise", True),
        ("Pushing something from left to right", "Pushing something from right to left", True),
        ("Covering something with something", "Uncovering something with something", True),
        ("Putting something into something", "Taking something out of something", False),
        ("Swiping Left", "Swiping Up", False),
        ("Swiping Left", "Sliding Right", False),
        ("Swiping Left", "Swiping Left", False),
    ],
)
def test_opposite_words_propose_a_pair(one: str, other: str, is_pair: bool) -> None:
    assert proposed_pairs([one, other]) == ([(one, other)] if is_pair else [])


def test_pairs_are_confirmed_by_reversed_clips() -> None:
    labels = np.repeat([0, 1, 2, 3, 4], 20)
    names = ("left", "right", "up", "down", "wave")
    swapped = np.where(labels == 0, 1, np.where(labels == 1, 0, labels))
    pairs = reverse_pairs(names, labels, labels[None], swapped[None])
    assert [(pair.labels, pair.is_proposed, pair.is_confirmed) for pair in pairs] == [
        (("left", "right"), True, True),
        (("up", "down"), True, False),
    ]
    assert (pairs[0].swapped_reversed.value, pairs[0].swapped_in_order.value) == (100, 0)
    # A pair that no text proposes is found, too; one that is confused in order as well is none.
    found = reverse_pairs(("a", "b", "up", "down", "wave"), labels, labels[None], swapped[None])
    assert (found[0].labels, found[0].is_proposed, found[0].is_confirmed) == (("a", "b"), False, True)
    assert not reverse_pairs(names, labels, swapped[None], swapped[None])[0].is_confirmed


def test_data_sets_without_time_and_with_both_directions(source: MemorySource, tmp_path: Path) -> None:
    plain = features(source, tmp_path)
    order = plain.sequential_order().at(slice(0, 3))
    values = plain.gather(order)
    still = StillFrames(plain).gather(order)
    assert torch.equal(still, values[:, T // 2 : T // 2 + 1].expand_as(values))
    both = Directions(plain)
    assert both.num_clips == 2 * plain.num_clips
    drawn = both.sequential_order()
    assert both.batch(drawn).labels.tolist() == [0] * plain.num_clips + [1] * plain.num_clips
    everything = both.gather(drawn)
    assert torch.equal(everything[plain.num_clips :], everything[: plain.num_clips].flip(1))
    shuffled = both.shuffled_order(0, 0)
    assert sorted(shuffled.clips) == list(range(both.num_clips))
    assert np.array_equal(shuffled.clips, both.shuffled_order(0, 0).clips)
    batch, number = both.batch(shuffled), int(shuffled.clips[0])
    assert int(batch.labels[0]) == int(number >= plain.num_clips)


def test_classes_of_order_alone_need_order(
    source: MemorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "FeatureStore", type("Opened", (), {"open": staticmethod(lambda _: source)}))
    out = tmp_path / "out"
    settings = TemporalitySettings(store="unused", head="mlp", seeds=1, epochs=8, out=out)
    command.temporality(settings)
    with open(out / "classes.csv", newline="") as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    assert list(rows) == [*CLASSES, ALL_CLASSES]
    for label, other in (("forwards", "backwards"), ("backwards", "forwards")):
        row = rows[label]
        assert float(row["ordered"]) > 80
        assert float(row["reversed"]) < 20
        assert float(row["unordered"]) < 80
        assert row["reverse"] == other
    with open(out / "pairs.csv", newline="") as file:
        (pair,) = csv.DictReader(file)
    assert (pair["label"], pair["reverse"], pair["confirmed"]) == ("forwards", "backwards", "True")
    num_listed = len((out / "temporal_classes.txt").read_text().splitlines())
    assert f"{num_listed} of 3 classes are shown to need order or to have a reverse: " in capsys.readouterr().out
    assert "30 clips of val, 3 classes" in (out / "temporality.md").read_text()
    assert "| forwards / backwards |" in (out / "temporality.md").read_text()
    assert (out / "classes.svg").read_text().startswith("<?xml")
    # The list is what `pipeline prepare --subset` reads.
    clips = tuple(Clip(str(n), f"{n}.mp4", label, "train") for n, label in enumerate(CLASSES))
    kept = subset_of(Listing(clips, CLASSES, "drawn"), out / "temporal_classes.txt")
    assert {"forwards", "backwards"} <= set(kept.classes)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    command.temporality(settings)
    assert before == {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_rows_are_those_of_the_clips(source: MemorySource, tmp_path: Path) -> None:
    found = measure(source, TemporalitySettings(store="unused", head="diff", seeds=2, epochs=1, out=tmp_path))
    rows = class_rows(found, [])
    for index, row in enumerate(rows[:-1]):
        clips = found.labels == index
        assert row.num_clips == clips.sum() == 10
        assert row.measures["arrow"].value == pytest.approx(100 * found.right["arrow"][:, clips].mean())
    assert temporal_classes(rows) == [row.label for row in rows[:-1] if row.order_gain.low > 0]


def test_a_blind_or_spatial_head_is_refused(source: MemorySource) -> None:
    with pytest.raises(PipelineError, match=r"`head` \(=attn\) is blind to order"):
        TemporalitySettings(store="s", head="attn")
    with pytest.raises(PipelineError, match=r"`head` \(=fcn3d\) reads spatial maps"):
        measure(source, TemporalitySettings(store="s", head="fcn3d"))


def test_the_header_has_the_number_of_groups() -> None:
    labels, right = np.arange(33) % 3, np.ones((3, 33))
    predicted = np.tile(labels, (3, 1))
    for groups, what in ((None, "33 clips of val"), (np.arange(33) % 7, "33 clips in 7 groups of val")):
        found = Measured(CLASSES, labels, groups, dict.fromkeys(MEASURES, right), predicted, predicted, "diff", "val")
        text = markdown(found, class_rows(found, []), [])
        assert text.startswith(f"{what}, 3 classes, head `diff`, 3 seeds; ")
        assert ("intervals over groups of clips and seeds" in text) == (groups is not None)


@pytest.mark.parametrize(
    ("num_shown", "text"),
    [
        (0, "0 of 4 classes are shown to need order or to have a reverse"),
        (1, "1 of 4 classes is shown to need order or to have a reverse"),
    ],
)
def test_a_class_that_is_not_listed_is_not_said_to_need_no_order(num_shown: int, text: str) -> None:
    assert shown_text(num_shown, 4) == text
