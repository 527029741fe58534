from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.video.flips import swapped_labels

LABELS = Path(__file__).resolve().parent.parent / "pipeline" / "prepare" / "labels"


def labels_of(name: str) -> list[str]:
    return (LABELS / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def swapped_pairs(classes: list[str]) -> set[tuple[int, int]]:
    swapped = swapped_labels(classes)
    assert all(swapped[other] == index for index, other in enumerate(swapped))
    return {(index, other) for index, other in enumerate(swapped) if index < other}


def test_something_something_v2_swaps_its_three_pairs_and_only_those() -> None:
    labels = labels_of("something_v2")
    assert len(set(labels)) == 174
    assert labels == sorted(labels)  # its indices count the sorted labels
    assert swapped_pairs(labels) == {(86, 87), (93, 94), (166, 167)}
    assert labels[86] == "Pulling something from left to right"
    assert labels[93] == "Pushing something from left to right"
    assert labels[166] == "Turning the camera left while filming something"


@pytest.mark.parametrize("in_order", [list, sorted])
def test_jester_swaps_swipes_slides_and_turns_and_only_those(in_order: type[list[str]]) -> None:
    labels = in_order(labels_of("jester"))
    assert len(set(labels)) == 27
    assert {(labels[a], labels[b]) for a, b in swapped_pairs(labels)} == {
        ("Swiping Left", "Swiping Right"),
        ("Sliding Two Fingers Left", "Sliding Two Fingers Right"),
        ("Turning Hand Clockwise", "Turning Hand Counterclockwise"),
    }


@pytest.mark.parametrize(
    "pair",
    [
        ("swipe_left", "swipe_right"),
        ("SwipeLeft", "SwipeRight"),
        ("LEFT", "RIGHT"),
        ("left hand to the right", "right hand to the left"),
        ("turn clockwise", "turn anti-clockwise"),
        ("ClockwiseTurn", "CounterClockwiseTurn"),
        ("turn left, clockwise", "turn right, counter clockwise"),
    ],
)
def test_sides_are_found_in_every_way_of_writing(pair: tuple[str, str]) -> None:
    assert swapped_labels(["still", *pair]) == (0, 2, 1)


@pytest.mark.parametrize(
    "label",
    ["leftover food", "standing upright", "brightness", "cleft", "pulling it right out", "right away", "Copyright"],
)
def test_words_that_only_contain_a_side_stay(label: str) -> None:
    assert swapped_labels([label, "Swiping Left", "Swiping Right"]) == (0, 2, 1)


def test_a_side_without_its_partner_is_refused_by_name() -> None:
    with pytest.raises(PipelineError, match=r"'Swiping Left'.*there is none.*--flip off"):
        swapped_labels(["Swiping Left", "Swiping Rightwards", "still"])
    with pytest.raises(PipelineError, match="'turn clockwise'"):
        swapped_labels(["still", "turn clockwise"])
    with pytest.raises(PipelineError, match="'wave left and right'"):
        swapped_labels(["wave left and right"])


def test_two_partners_are_refused() -> None:
    with pytest.raises(PipelineError, match=r"'swipe left'.*there are 2"):
        swapped_labels(["swipe left", "swipe right", "Swipe Right"])
