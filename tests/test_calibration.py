"""Choices by measured speed, with measurements that are given, and what is kept of real ones."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline import calibration
from pipeline.calibration import (
    Calibration,
    OtherPrograms,
    choose_dtype,
    choose_threads,
    clock_of,
    measured_seconds,
    multiplies_bfloat16_fast,
)
from pipeline.fit_head.compute import HeadSizes, choose_compute
from tests.support.run_stages import extract
from tests.support.small_clips import write_clips

SIZES = HeadSizes(in_channels=8, num_segments=4, num_classes=3, map_size=3)


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other programs, although tests run in parallel."""
    monkeypatch.setattr(OtherPrograms, "load", lambda self: 0.0)


class KnownCalibration(Calibration):
    """Returns seconds that were not measured, and remembers what was asked."""

    def __init__(self, seconds: dict[str, float]) -> None:
        super().__init__(Path("nowhere.json"))
        self.seconds, self.asked = seconds, []  # type: ignore[var-annotated]

    def measure(self, what, sizes, candidates, clock=None):  # type: ignore[no-untyped-def]
        self.asked.append(what)
        return {name: self.seconds[name] for name in candidates}


@pytest.mark.parametrize(("gain", "expected"), [(0.5, "float32"), (1.29, "float32"), (1.31, "bfloat16")])
def test_a_head_with_convolutions_takes_bfloat16_only_where_it_is_much_faster(
    monkeypatch: pytest.MonkeyPatch, gain: float, expected: str
) -> None:
    monkeypatch.setattr("pipeline.fit_head.compute.multiplies_bfloat16_fast", lambda *given: True)
    known = KnownCalibration({"float32": gain, "bfloat16": 1.0})
    found = choose_compute("fcn3d", sizes=SIZES, calibration=known)
    assert found.precision == expected
    assert dict(found.measured) == {"float32": gain, "bfloat16": 1.0}
    assert known.asked == ["head fcn3d"]


def test_nothing_is_measured_where_the_user_names_it_or_the_head_has_no_convolutions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.fit_head.compute.multiplies_bfloat16_fast", lambda *given: True)
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


@pytest.mark.usefixtures("idle")
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


@pytest.mark.usefixtures("idle")
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
    assert order[:6] == ["fast", "slow"] * 3
    assert order.count("slow") == 3
    assert order.count("fast") == 1 + calibration.NUM_ROUNDS
    assert found["slow"] > 10 * found["fast"]


@pytest.mark.usefixtures("idle")
def test_a_real_step_of_a_head_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    state = torch.get_rng_state()
    found = choose_compute("fcn3d", sizes=SIZES, calibration=Calibration(path))
    again = choose_compute("fcn3d", sizes=SIZES, calibration=Calibration(path))
    assert found == again
    assert torch.equal(state, torch.get_rng_state())


def test_the_fewest_threads_near_the_best_are_chosen() -> None:
    assert choose_threads({1: 1.0, 2: 0.95, 4: 0.94}) == 1


def test_rounds_that_other_programs_disturbed_do_not_decide() -> None:
    """Of the true 2 s and 1 s, most rounds are disturbed, and those of bfloat16 more."""
    now = 0.0
    lasts = {"float32": iter([9.0, 2.5, 4.0, 2.0, 5.0, 3.0]), "bfloat16": iter([9.0, 7.0, 6.0, 5.0, 1.0, 6.0])}

    def step(name: str):  # type: ignore[no-untyped-def]
        def run() -> None:
            nonlocal now
            now += next(lasts[name])

        return run

    found = measured_seconds({name: step(name) for name in lasts}, clock=lambda: now)
    assert found == {"float32": 2.0, "bfloat16": 1.0}


def test_one_thread_is_measured_by_processor_time() -> None:
    """It hardly counts the time in which a program waits for its turn."""
    assert measured_seconds({"wait": lambda: time.sleep(0.05)}, clock_of("cpu", 1))["wait"] < 0.02
    assert measured_seconds({"wait": lambda: time.sleep(0.05)}, clock_of("cpu", 2))["wait"] > 0.04
    assert clock_of("cuda:0", 1) is time.perf_counter


def test_a_measurement_beside_other_programs_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(OtherPrograms, "load", lambda self: 0.5)
    known = Calibration(tmp_path / "calibration.json")
    candidates = {"one": lambda: lambda: None}
    assert known.measure("threads", {}, candidates, clock_of("cpu", 2))["one"] > 0
    assert caplog.messages[-1].endswith("Not kept, because other programs used 50% of the cores.")
    assert not known.path.exists()
    known.measure("one thread", {}, candidates, clock_of("cpu", 1))
    assert caplog.messages[-1].endswith(f"Kept in {known.path}.")
    assert len(json.loads(known.path.read_text())) == 1


def test_the_load_of_other_programs_is_that_of_the_system_without_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([(10.0, 5.0, 100.0), (13.0, 6.0, 108.0), (20.0, 5.0, 100.0), (20.1, 5.1, 100.1)])
    monkeypatch.setattr(calibration, "_core_seconds", lambda: next(seen))
    assert OtherPrograms().load() == pytest.approx((3 - 1) / 8)
    assert OtherPrograms().load() == 0  # too short


def test_the_load_of_a_real_program_is_found() -> None:
    others = OtherPrograms()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True)
    assert others.load() > 0.2 / calibration.num_cores()


def test_the_number_type_of_convolutions_does_not_depend_on_the_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe with several threads, beside a program on each core, chose the slower number type, and kept it."""
    found = []
    for name in ("idle", "busy"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        multiplies_bfloat16_fast.cache_clear()
        number = 2 * calibration.num_cores() if name == "busy" else 0
        programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
        try:
            found.append(multiplies_bfloat16_fast("cpu"))
        finally:
            for program in programs:
                program.kill()
                program.wait()
            multiplies_bfloat16_fast.cache_clear()
    assert found[0] == found[1]


def test_a_named_file_gets_all_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first measurement, of a convolution, went to the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    multiplies_bfloat16_fast.cache_clear()
    named = tmp_path / "calibration.json"
    choose_compute("convlstm", sizes=SIZES, threads=1, calibration=Calibration(named))
    extract(
        manifest=write_clips(tmp_path, num_train=2, num_val=1), store=tmp_path / "s.zarr", weights="random",
        num_segments=2, views=0, workers=0, dtype="auto", calibration=named,
    )  # fmt: skip
    assert "convolution" in {json.loads(key)["what"] for key in json.loads(named.read_text(encoding="utf-8"))}
    assert not (tmp_path / "cache").exists()
    multiplies_bfloat16_fast.cache_clear()
