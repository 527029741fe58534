"""The learning rate over the epochs."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from pipeline.recipe import TrainConfig
from pipeline.training.schedule import Schedule


def factors(schedule: Schedule, losses: list[float]) -> list[float]:
    seen = []
    for epoch, loss in enumerate(losses):
        if schedule.is_over:
            break
        seen.append(schedule.factor(epoch))
        schedule.observe(epoch, loss)
    return seen


def test_plateau_drops_twice_then_stops() -> None:
    schedule = Schedule(TrainConfig(schedule="plateau", patience_epochs=2, epochs=100))
    seen = factors(schedule, [1.0] * 100)
    # One epoch sets the best; after each two without an improvement: a drop, a drop, the end.
    assert seen == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert schedule.is_over


def test_plateau_waits_while_the_loss_falls() -> None:
    schedule = Schedule(TrainConfig(schedule="plateau", patience_epochs=2, epochs=50))
    assert factors(schedule, [1 / (1 + epoch) for epoch in range(50)]) == [1.0] * 50
    assert schedule.is_over


def test_a_tiny_fall_is_no_improvement() -> None:
    schedule = Schedule(TrainConfig(schedule="plateau", patience_epochs=3, epochs=50))
    assert len(factors(schedule, [1 - 1e-6 * epoch for epoch in range(50)])) == 1 + 3 * 3


def test_steps_divide_by_ten_at_the_named_epochs() -> None:
    schedule = Schedule(TrainConfig(schedule="steps", step_epochs=(2, 3), epochs=5))
    assert factors(schedule, [1.0] * 9) == pytest.approx([1, 1, 0.1, 0.01, 0.01])


def test_cosine_falls_to_zero_over_the_epochs() -> None:
    schedule = Schedule(TrainConfig(schedule="cosine", epochs=4))
    assert schedule.factor(0) == 1.0
    assert schedule.factor(2) == pytest.approx(0.5)
    assert schedule.factor(1, 0.5) == pytest.approx(0.5 * (1 + math.cos(math.pi * 1.5 / 4)))
    assert schedule.factor(3, 1.0) == pytest.approx(0.0)


@pytest.mark.parametrize("kind", ["plateau", "steps", "cosine"])
def test_a_warm_up_rises_in_a_straight_line_under_any_schedule(kind: Any) -> None:
    without = Schedule(TrainConfig(schedule=kind, epochs=10))
    schedule = Schedule(TrainConfig(schedule=kind, epochs=10, warmup_epochs=2.5))
    moments = [(0, 0.0), (0, 0.25), (1, 0.0), (1, 0.5), (2, 0.25), (2, 0.5), (2, 0.75), (7, 0.5)]
    shares = [schedule.factor(*moment) / without.factor(*moment) for moment in moments]
    assert shares == pytest.approx([0, 0.1, 0.4, 0.6, 0.9, 1, 1, 1])


def test_no_epochs_are_over_at_once() -> None:
    for kind in ("plateau", "steps", "cosine"):
        assert Schedule(TrainConfig(schedule=kind, epochs=0)).is_over


def test_state_survives_a_checkpoint() -> None:
    choices = TrainConfig(schedule="plateau", patience_epochs=2, epochs=100)
    losses = [1.0, 0.9, 0.95, 0.95, 0.95, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    whole = factors(Schedule(choices), losses)
    first = Schedule(choices)
    factors(first, losses[:4])
    second = Schedule(choices)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rest = []
    for epoch in range(4, len(losses)):
        if second.is_over:
            break
        rest.append(second.factor(epoch))
        second.observe(epoch, losses[epoch])
    assert whole[4:] == rest
