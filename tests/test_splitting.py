"""Draws of clips to hold out: their size, their stability, and groups that stay together."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from pipeline.splitting import LabelledId, draw_held_out, stratified_split


def clips_of_people(num_people: int, labels: str, takes: int) -> list[LabelledId]:
    return [
        LabelledId(f"{person}-{label}-{take}", label, f"person{person}")
        for person in range(num_people)
        for label in labels
        for take in range(takes)
    ]


def test_the_share_holds_for_each_label() -> None:
    clips = [LabelledId(f"{label}{number}", label) for label in "abc" for number in range(40)]
    held_out = draw_held_out(clips, 0.1, 0, "dev")
    assert Counter(clip_id[0] for clip_id in held_out) == {"a": 4, "b": 4, "c": 4}


def test_draws_for_different_purposes_are_independent() -> None:
    clips = [LabelledId(f"{number}", "a") for number in range(200)]
    dev, split = (draw_held_out(clips, 0.5, 0, purpose) for purpose in ("dev", "split"))
    # Two independent halves of 200 share about 50 clips, with a standard deviation of 3.5.
    assert 35 <= len(dev & split) <= 65


def test_no_group_is_on_both_sides() -> None:
    clips = clips_of_people(20, "abc", 4)
    held_out = draw_held_out(clips, 0.1, 0, "dev")
    sides = {clip.group: {other.clip_id in held_out for other in clips if other.group == clip.group} for clip in clips}
    assert all(len(side) == 1 for side in sides.values())
    assert sum(side == {True} for side in sides.values()) == 2  # a tenth of 20 people
    assert held_out != draw_held_out(clips, 0.1, 1, "dev")


def test_groups_of_one_clip_give_the_share_of_each_label() -> None:
    clips = [LabelledId(f"{label}{number}", label, f"{label}{number}") for label in "ab" for number in range(30)]
    assert Counter(clip_id[0] for clip_id in draw_held_out(clips, 0.2, 0, "dev")) == {"a": 6, "b": 6}


def test_a_label_keeps_a_training_clip_whatever_the_groups() -> None:
    # Label b is known from person 0 alone, whose clips therefore have to stay.
    clips = [*clips_of_people(4, "a", 5), LabelledId("only", "b", "person0"), LabelledId("only2", "b", "person0")]
    for seed in range(20):
        held_out = draw_held_out(clips, 0.3, seed, "dev")
        assert held_out
        assert not held_out & {"only", "only2"}


def test_one_group_cannot_be_divided() -> None:
    assert draw_held_out(clips_of_people(1, "ab", 10), 0.1, 0, "dev") == frozenset()


def test_clips_without_a_group_are_drawn_one_by_one() -> None:
    clips = [*clips_of_people(2, "a", 3), *(LabelledId(f"alone{number}", "a") for number in range(14))]
    held_out = draw_held_out(clips, 0.2, 3, "dev")
    assert 3 <= len(held_out) <= 5  # a fifth of 20, to the nearest group
    for person in ("0", "1"):
        assert len({clip_id in held_out for clip_id in (f"{person}-a-{take}" for take in range(3))}) == 1


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_a_drawn_validation_split_keeps_groups_together(share: float) -> None:
    clips = clips_of_people(12, "ab", 3)
    split = stratified_split(clips, share, 0)
    of_person = {person: {split[clip.clip_id] for clip in clips if clip.group == person} for _, _, person in clips}
    assert all(len(splits) == 1 for splits in of_person.values())
    num_val = sum(value == "val" for value in split.values())
    assert num_val == pytest.approx(share * len(clips), abs=6)  # a person has six clips


def test_a_thousand_draws_of_groups_keep_groups_shares_and_classes() -> None:
    # Groups of very different sizes, each with one to three of the five labels.
    generator = random.Random(0)
    clips = []
    for group in range(40):
        for label in generator.sample("abcde", generator.randint(1, 3)):
            clips += [LabelledId(f"{group}-{label}-{n}", label, f"g{group}") for n in range(generator.randint(1, 9))]
    total = Counter(clip.label for clip in clips)
    members = Counter((clip.label, clip.group) for clip in clips)
    largest = {label: max(count for (of, _), count in members.items() if of == label) for label in total}
    share = 0.2
    for seed in range(1000):
        held_out = draw_held_out(clips, share, seed, "split")
        sides = {clip.group for clip in clips if clip.clip_id in held_out}
        assert not sides & {clip.group for clip in clips if clip.clip_id not in held_out}
        taken = Counter(clip.label for clip in clips if clip.clip_id in held_out)
        for label, count in total.items():
            # Within one group of what was asked, so that classes stay balanced.
            assert abs(taken[label] - share * count) <= largest[label], (seed, label)
            assert taken[label] < count
