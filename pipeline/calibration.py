"""Choose the fastest number type or thread count by a short measurement, which is cached for this machine.

Processor flags do not tell which number type is fast: of two processors with the same flag, one multiplied bfloat16
twice as fast as float32, the other half as fast. A measurement is made once per processor, version of torch and shapes;
later runs read it, so that they make the same choice.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline.devices import fixed_threads
from pipeline.files import UnwritableError, read_json, write_json
from pipeline.processes import num_cores

logger = logging.getLogger(__name__)

# bfloat16 must be this many times as fast as float32: less is not worth its rounding, and noise could reverse it.
MIN_GAIN = 1.3
# A candidate that takes this many times as long as another in two rounds is not measured further.
HOPELESS = 3.0
NUM_ROUNDS = 5
MAX_SECONDS = 1.5  # of all rounds; a round that has begun is completed
# A measurement by wall time is not kept if other programs used at least this share of all cores.
MAX_LOAD = 0.25

Step = Callable[[], object]
Clock = Callable[[], float]


class Calibration:
    """Measurements of this machine, in one JSON file.

    path: by default `~/.cache/st-pipeline/calibration.json`, or the same under `$XDG_CACHE_HOME`.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = default_path() if path is None else path

    def measure(
        self,
        what: str,
        sizes: Mapping[str, Any],
        candidates: Mapping[str, Callable[[], Step]],
        clock: Clock = time.perf_counter,
        *,
        is_logged: bool = True,
    ) -> dict[str, float]:
        """Return the seconds of each candidate, from the file if they are in it; a new measurement is logged.

        A measurement by wall time that other programs disturbed is not kept, so that the next command measures again.

        what: name of the measurement, such as that of a head. sizes: other values that affect the time. candidates: for
            each name a function that prepares it and returns one step. clock: that of `clock_of`.
        """
        key = _key(what, sizes)
        known = self._read().get(key)
        if isinstance(known, dict) and known.keys() == candidates.keys():
            return {name: float(value) for name, value in known.items()}
        steps = {name: prepare() for name, prepare in candidates.items()}
        others = OtherPrograms()
        seconds = measured_seconds(steps, clock)
        load = others.load() if clock is time.perf_counter else 0.0
        kept = f"Kept in {self.path}."
        if load < MAX_LOAD:
            self._keep(key, seconds)
        else:
            kept = f"Not kept, because other programs used {load:.0%} of the cores."
        if is_logged:
            text = ", ".join(f"{name} {value * 1000:.1f} ms" for name, value in seconds.items())
            logger.info(f"Measured on this machine, a step of {what}: {text}. {kept}")
        return seconds

    def note(self, what: str, sizes: Mapping[str, Any], seconds: float | None) -> float:
        """Store seconds that were measured elsewhere, or return the stored ones; 0 if there are none."""
        key = _key(what, sizes)
        if seconds is None:
            return float(self._read().get(key, {}).get("once", 0.0))
        self._keep(key, {"once": seconds})
        return seconds

    def _keep(self, key: str, seconds: Mapping[str, float]) -> None:
        # If the cache folder is not writable, the next run measures again.
        with contextlib.suppress(OSError, UnwritableError):
            # Read again, because another process may have added measurements.
            write_json(self.path, {**self._read(), key: dict(seconds)})

    def _read(self) -> dict[str, Any]:
        try:
            values = read_json(self.path)
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}


def default_path() -> Path:
    """Return the file in the user's cache."""
    folder = os.environ.get("XDG_CACHE_HOME")
    return (Path(folder) if folder else Path.home() / ".cache") / "st-pipeline" / "calibration.json"


def choose_dtype(seconds: Mapping[str, float]) -> str:
    """Choose `bfloat16` if it is at least `MIN_GAIN` times as fast as `float32`.

    >>> choose_dtype({"float32": 1.31, "bfloat16": 1.0}), choose_dtype({"float32": 1.29, "bfloat16": 1.0})
    ('bfloat16', 'float32')
    """
    return "bfloat16" if seconds["float32"] >= MIN_GAIN * seconds["bfloat16"] else "float32"


def choose_threads(seconds: Mapping[int, float], tolerance: float = 0.1) -> int:
    """Choose the smallest number of threads whose time is within `tolerance` of the shortest.

    >>> choose_threads({1: 4.0, 2: 2.2, 4: 1.5, 8: 1.45})
    4
    """
    shortest = min(seconds.values())
    return min(threads for threads, value in seconds.items() if value <= shortest * (1 + tolerance))


def clock_of(device: str, threads: int) -> Clock:
    """Return the clock for steps of a device: processor time where one thread of the CPU does all the work.

    Other programs add to the wall time, but hardly to the processor time.
    """
    return time.process_time if device == "cpu" and threads == 1 else time.perf_counter


class OtherPrograms:
    """Load of the machine by other processes, from the creation of this object on."""

    def __init__(self) -> None:
        self._before = _core_seconds()

    def load(self) -> float:
        """Return the share of all cores that other processes used; 0 if the time is too short to tell."""
        busy, own, total = (after - before for after, before in zip(_core_seconds(), self._before, strict=True))
        # The system counts in steps of 10 ms for each core.
        return max(0.0, busy - own) / total if total > 0.2 else 0.0


def _core_seconds() -> tuple[float, float, float]:
    """Return the seconds that all cores were busy, that this process used, and of both busy and idle cores."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # On Linux, the times of guests are included in those of the user.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - idle, time.process_time(), total


def measured_seconds(steps: Mapping[str, Step], clock: Clock = time.perf_counter) -> dict[str, float]:
    """Measure steps in turn, round by round, and return the least seconds of each, without its first run.

    Other programs only add to the time, so the least is the closest to that of an idle machine.
    """
    for step in steps.values():
        step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    started_at = time.perf_counter()
    for number in range(NUM_ROUNDS):
        for name, step in steps.items():
            if number > 1 and min(found[name]) > HOPELESS * min(map(min, found.values())):
                continue
            before = clock()
            step()
            found[name].append(clock() - before)
        if time.perf_counter() - started_at > MAX_SECONDS:
            break
    return {name: min(values) for name, values in found.items()}


@cache
def multiplies_bfloat16_fast(device: str, path: Path | None = None) -> bool:
    """Return whether a convolution in bfloat16 is at least `MIN_GAIN` times as fast as in float32 on a device.

    It takes some milliseconds, and is used if no model is available to measure. One thread, because several would wait
    for each other on a busy machine.

    path: that of the `Calibration`.
    """
    sizes = {"device": device_name(device), "threads": 1}
    names = ("float32", "bfloat16")
    steps = {name: _convolution(device, getattr(torch, name)) for name in names}
    return choose_dtype(Calibration(path).measure("convolution", sizes, steps, clock_of(device, 1))) == "bfloat16"


def device_name(device: str) -> str:
    """Return `cpu`, or the name of a GPU."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


def finish(device: str) -> None:
    """Wait until a device has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _convolution(device: str, dtype: torch.dtype) -> Callable[[], Step]:
    def prepare() -> Step:
        layout = torch.channels_last
        values = torch.ones(2, 64, 28, 28, device=device, dtype=dtype).contiguous(memory_format=layout)
        weight = torch.ones(64, 64, 3, 3, device=device, dtype=dtype).contiguous(memory_format=layout)

        def step() -> None:
            with torch.inference_mode(), fixed_threads(1):
                for _ in range(4):
                    torch.nn.functional.conv2d(values, weight, padding=1)
            finish(device)

        return step

    return prepare


@cache
def _machine() -> dict[str, Any]:
    abilities = sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True)
    return {"processor": _processor(), "abilities": abilities, "cores": num_cores(), "torch": torch.__version__}


def _key(what: str, sizes: Mapping[str, Any]) -> str:
    return json.dumps({"what": what, **sizes, **_machine()}, sort_keys=True)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    found = {name.strip(): value.strip() for name, value in fields.items()}
    names = ("model name", "cpu family", "model", "stepping")
    return ", ".join(found[name] for name in names if name in found) or platform.machine()
