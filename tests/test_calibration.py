"""Choices by measured speed, with measurements that are given, and what is kept of real ones."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from pipeline import calibration
from pipeline.calibration import Calibration, choose_dtype, choose_threads, measured_seconds
from pipeline.fit_head.compute import HeadSizes, choose_compute

SIZES = HeadSizes(in_channels=8, num_segments=4, num_classes=3, map_size=3)


class KnownCalibration(Calibration):
    """Returns seconds that were not measured, and remembers what was asked."""

    def __init__(self, seconds: dict[str, float]) -> None:
        super().__init__(Path("nowhere.json"))
        self.seconds, self.asked = seconds, []  # type: ignore[var-annotated]

    def measure(self, what, sizes, candidates):  # type: ignore[no-untyped-def]
        self.asked.append(what)
        return {name: self.seconds[name] for name in candidates}


@pytest.mark.parametrize(("gain", "expected"), [(0.5, "float32"), (1.29, "float32"), (1.31, "bfloat16")])
def test_a_head_with_convolutions_takes_bfloat16_only_where_it_is_much_faster(
    monkeypatch: pytest.MonkeyPatch, gain: float, expected: str
) -> None:
    monkeypatch.setattr("pipeline.fit_head.compute.multiplies_bfloat16_fast", lambda device: True)
    known = KnownCalibration({"float32": gain, "bfloat16": 1.0})
    found = choose_compute("fcn3d", sizes=SIZES, calibration=known)
    assert found.precision == expected
    assert dict(found.measured) == {"float32": gain, "bfloat16": 1.0}
    assert known.asked == ["head fcn3d"]


def test_nothing_is_measured_where_the_user_names_it_or_the_head_has_no_convolutions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.fit_head.compute.multiplies_bfloat16_fast", lambda device: True)
    known = KnownCalibration({})
    assert choose_compute("fcn3d", precision="bfloat16", sizes=SIZES, calibration=known).precision == "bfloat16"
    assert choose_compute("lstm", sizes=SIZES, calibration=known).precision == "float32"
    assert not known.asked


def test_threads_are_measured_on_a_machine_of_many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.fit_head.compute.num_cores", lambda: 24)
    known = KnownCalibration({"4": 4.0, "8": 2.1, "16": 2.0, "24": 2.6})
    assert choose_compute("fcn3d", precision="float32", sizes=SIZES, calibration=known).threads == 8
    monkeypatch.setattr("pipeline.fit_head.compute.num_cores", lambda: 2)
    assert choose_compute("fcn3d", precision="float32", sizes=SIZES, calibration=known).threads == 2


def test_a_measurement_is_made_and_told_once_for_its_sizes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    made: list[str] = []

    def candidate(name: str, seconds: float):  # type: ignore[no-untyped-def]
        def prepare():  # type: ignore[no-untyped-def]
            made.append(name)
            return lambda: time.sleep(seconds)

        return prepare

    candidates = {"float32": candidate("float32", 0.02), "bfloat16": candidate("bfloat16", 0.001)}
    known = Calibration(tmp_path / "deep" / "calibration.json")
    first = known.measure("head", {"batch": 4}, candidates)
    again = Calibration(known.path).measure("head", {"batch": 4}, candidates)
    assert first == again
    assert choose_dtype(first) == "bfloat16"
    assert made == ["float32", "bfloat16"]
    (said,) = caplog.messages
    assert said.startswith("Measured on this machine, a step of head: float32 ")
    assert said.endswith(f"Kept in {known.path}.")
    known.measure("head", {"batch": 5}, candidates)
    assert made == ["float32", "bfloat16"] * 2
    key = json.loads(next(iter(json.loads(known.path.read_text()))))
    assert key["torch"] == torch.__version__


def test_a_damaged_file_is_measured_anew_and_one_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text("{")
    assert Calibration(path).measure("x", {}, {"one": lambda: lambda: None})["one"] > 0
    assert json.loads(path.read_text())
    assert Calibration(path / "below a file").measure("x", {}, {"one": lambda: lambda: None})["one"] > 0


def test_steps_take_turns_and_a_hopeless_one_is_not_repeated() -> None:
    order: list[str] = []

    def step(name: str, seconds: float):  # type: ignore[no-untyped-def]
        def run() -> None:
            order.append(name)
            time.sleep(seconds)

        return run

    found = measured_seconds({"fast": step("fast", 0.001), "slow": step("slow", 0.05)})
    assert order[:4] == ["fast", "slow", "fast", "slow"]
    assert order.count("slow") == 2
    assert order.count("fast") == 1 + calibration.NUM_ROUNDS
    assert found["slow"] > 10 * found["fast"]


def test_a_real_step_of_a_head_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    state = torch.get_rng_state()
    found = choose_compute("fcn3d", sizes=SIZES, calibration=Calibration(path))
    again = choose_compute("fcn3d", sizes=SIZES, calibration=Calibration(path))
    assert found == again
    assert torch.equal(state, torch.get_rng_state())


def test_the_fewest_threads_near_the_best_are_chosen() -> None:
    assert choose_threads({1: 1.0, 2: 0.95, 4: 0.94}) == 1
