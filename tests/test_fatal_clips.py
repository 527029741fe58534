"""A clip that crashes its decoder, or holds it up for ever, costs an extraction that clip and nothing more."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.finetune.clip_loader import ClipLoader, LabelledClip, SampleRequest, SampleSettings, load_sample
from pipeline.finetune.model import fresh_classifier
from pipeline.manifest import Clip, write_manifest
from pipeline.model_file import save_model
from pipeline.prepare.gestures.encode import write_frame_folder
from pipeline.recipe import SamplingConfig, named_recipe
from pipeline.store import FeatureStore
from pipeline.video import fatal_clips
from pipeline.video.fatal_clips import find_fatal_clips
from pipeline.video.limits import ClipLimits
from pipeline.video.watchdog import Watchdog
from tests.conftest import REPOSITORY
from tests.support.oddities import pictures

LIMITS = ClipLimits(max_seconds=1)
KINDS = {"crash": "corrupt", "spin": "too-large", "starve": "no-memory"}


@pytest.fixture
def fatal_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.pathsep.join((str(REPOSITORY / "tests" / "support" / "fatal_decoder"), str(REPOSITORY)))
    monkeypatch.setenv("PYTHONPATH", path)


def write_clips(root: Path, *names: str) -> list[str]:
    for name in names:
        write_frame_folder(root / name, pictures(3))
    return [str(root / name) for name in names]


@pytest.mark.usefixtures("fatal_decoder")
def test_clips_are_to_blame_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fatal_clips, "SECONDS_TO_START", 10.0)
    locations = write_clips(tmp_path, "sound", "crash", "damaged", "starve", "spin", "last")
    (tmp_path / "damaged" / "00003.jpg").write_bytes(b"no image")
    found = find_fatal_clips(locations, LIMITS)
    assert {Path(location).name: error.kind for location, error in found.items()} == KINDS
    for location, error in found.items():
        assert str(error).startswith(location)


def test_sound_and_damaged_clips_are_not_to_blame(tmp_path: Path) -> None:
    locations = [*write_clips(tmp_path, "a", "b"), str(tmp_path / "missing"), "zero\0byte"]
    assert find_fatal_clips(locations, LIMITS) == {}


def test_a_process_that_does_not_start_blames_no_clip(tmp_path: Path) -> None:
    assert find_fatal_clips(write_clips(tmp_path, "a"), LIMITS, "no.such:opener") == {}


def test_the_watchdog_ends_a_process_that_is_held_up_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fatal_clips, "SECONDS_TO_START", 0.0)
    ended, told = threading.Event(), []
    blamed: list[str] = []

    def end(clip: str) -> None:
        blamed.append(clip)
        ended.set()

    watchdog = Watchdog(ClipLimits(max_seconds=1.0), lambda *phase: told.append(phase), end)
    for number in range(6):
        with watchdog.watching(f"c{number}"):
            time.sleep(0.25)  # together longer than the limit, each much shorter
        watchdog.on_phase("forward", f"c{number}")
    assert not ended.wait(1.5)
    assert len(told) == 18
    # Another thread goes on decoding beside the clip that is held up.
    watchdog.on_phase("decode", "held up")
    for number in range(40):
        with watchdog.watching(f"d{number}"):
            if ended.wait(0.25):
                break
    assert set(blamed) == {"held up"}


def write_three(root: Path, name: str) -> None:
    write_clips(root, "a", name, "b")
    write_manifest(root / "m.csv", [Clip(clip, clip, "up", "train") for clip in ("a", name, "b")], ["up"])


def extract(root: Path, workers: int) -> subprocess.CompletedProcess[str]:
    options = "--weights random --num-segments 2 --views 0 --maps pooled --dtype float32 --compile eager"
    command = [sys.executable, "-m", "pipeline", "extract", "--manifest", "m.csv", *options.split()]
    return subprocess.run(
        [*command, "--store", "s.zarr", "--max-clip-seconds", "1", "--workers", str(workers)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def statuses(root: Path) -> dict[str, tuple[str, str]]:
    return {clip.clip_id: (clip.status, clip.kind) for clip in FeatureStore.open(root / "s.zarr").table()}


@pytest.mark.usefixtures("fatal_decoder")
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["crash", pytest.param("spin", marks=pytest.mark.slow)])
def test_an_extraction_loses_the_fatal_clip_alone(tmp_path: Path, name: str, workers: int) -> None:
    write_three(tmp_path, name)
    done = extract(tmp_path, workers)
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path) == {"a": ("done", ""), name: ("failed", KINDS[name]), "b": ("done", "")}


@pytest.mark.usefixtures("fatal_decoder")
@pytest.mark.parametrize("name", ["crash", pytest.param("spin", marks=pytest.mark.slow)])
def test_a_loader_of_training_clips_loses_the_fatal_clip_alone(tmp_path: Path, name: str) -> None:
    names = ["a", "b", name, "c", "d"]
    locations = write_clips(tmp_path, *names)
    settings = SampleSettings(2, SamplingConfig(), 0, 32, limits=LIMITS)
    clips = [LabelledClip(*pair, 0) for pair in zip(names, locations, strict=True)]
    requests = [SampleRequest(clip, epoch, epoch) for epoch in range(2) for clip in clips]
    with ClipLoader(1, num_ahead=2) as loader:
        samples = list(loader.samples(iter(requests), settings))
    assert [sample.request for sample in samples] == requests
    faults = [(sample.request.clip.clip_id, sample.fault.kind) for sample in samples if sample.fault is not None]
    assert faults == [(name, KINDS[name])] * 2
    for sample in samples:
        if sample.fault is None:
            expected = load_sample(sample.request, settings)
            assert torch.equal(sample.pixels, expected.pixels)


@pytest.mark.usefixtures("fatal_decoder")
@pytest.mark.parametrize("name", ["crash", pytest.param("spin", marks=pytest.mark.slow)])
def test_a_check_reports_the_fatal_clip_and_goes_on(tmp_path: Path, name: str) -> None:
    names = [*(f"c{number}" for number in range(20)), name, "last"]
    write_clips(tmp_path, *names)
    write_manifest(tmp_path / "m.csv", [Clip(clip, clip, "up", "train") for clip in names], ["up"])
    (tmp_path / "c3" / "00002.jpg").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "check", "m.csv", "--decode", "--max-clip-seconds", "1", "--out", "f.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "Decoded 20 clips" in done.stdout
    with open(tmp_path / "f.csv", encoding="utf-8", newline="") as file:
        found = {row["clip_id"]: row["kind"] for row in csv.DictReader(file) if row["kind"] != "duplicate"}
    assert found == {name: KINDS[name], "c3": "frame-gap"}


def run(root: Path, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *command, "--max-clip-seconds", "1"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        **options,
    )


def write_model(path: Path) -> None:
    classifier = fresh_classifier("tsn", "squeezenet", "random", ("up", "down"), 2, named_recipe("paper"), 0)
    save_model(path, classifier.spec, classifier.head, classifier.backbone)


@pytest.mark.usefixtures("fatal_decoder")
@pytest.mark.parametrize("name", ["crash", pytest.param("spin", marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", ["text", "csv", "json"])
def test_predict_counts_the_fatal_clip_and_prints_each_other_clip_once(tmp_path: Path, name: str, format: str) -> None:
    write_clips(tmp_path, *"abcdefghijklmnop", name)
    write_model(tmp_path / "m.safetensors")
    sound = list("abcdefghijklmnop")
    expected = run(tmp_path, "predict", "m.safetensors", *sound, "--format", format)
    assert expected.returncode == 0, expected.stderr
    # The paths come from stdin, which a second run cannot read again.
    names = [*sound[:12], name, *sound[12:]]
    done = run(tmp_path, "predict", "m.safetensors", "-", "--format", format, input="\n".join(names))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Error: 1 of 17 clips could not be used" in done.stderr
    if format == "json":
        found = json.loads(done.stdout)
        assert found[12]["clip"] == name
        assert found[12]["error"]["kind"] == KINDS[name]
        del found[12]
        assert found == json.loads(expected.stdout)
    else:
        assert done.stdout == expected.stdout


@pytest.mark.usefixtures("fatal_decoder")
@pytest.mark.parametrize("name", ["crash", "starve", pytest.param("spin", marks=pytest.mark.slow)])
def test_predict_of_a_fatal_clip_ends_with_a_sentence(tmp_path: Path, name: str) -> None:
    write_clips(tmp_path, name)
    write_model(tmp_path / "m.safetensors")
    done = run(tmp_path, "predict", "m.safetensors", name)
    assert done.returncode == 1
    assert done.stdout == ""
    sentence = {
        "crash": "crash crashes its decoder (SIGSEGV).",
        "starve": "starve ends the process that decodes it, probably for lack of memory.",
        "spin": "spin blocks its decoder for longer than the 1 s of --max-clip-seconds.",
    }[name]
    assert f"Warning: {sentence}" in done.stderr
    assert done.stderr.endswith("Error: 1 of 1 clips could not be used; the reasons are printed above.\n")


@pytest.mark.usefixtures("fatal_decoder")
@pytest.mark.parametrize("name", ["crash", pytest.param("spin", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "command",
    [
        "evaluate m.safetensors --manifest m.csv --split train --json",
        "check m.csv --decode --workers 0",
        "finetune --manifest m.csv --init m.safetensors --out new --epochs 1 --batch-size 2 --threads 1 --workers 0"
        " --precision float32 --checkpoint-seconds 0",
    ],
    ids=["evaluate", "check", "finetune"],
)
def test_a_command_without_workers_loses_the_fatal_clip_alone(tmp_path: Path, command: str, name: str) -> None:
    write_three(tmp_path, name)
    write_model(tmp_path / "m.safetensors")
    clips = [Clip(clip, clip, "up", "train") for clip in ("a", "b")]
    clips += [Clip(name, name, "down", "train"), Clip("c", "a", "down", "val")]
    write_manifest(tmp_path / "m.csv", clips, ["up", "down"])
    done = run(tmp_path, *command.split())
    assert "Traceback" not in done.stderr
    if command.startswith("evaluate"):
        assert done.returncode == 0, done.stderr
        metrics = json.loads(done.stdout)
        assert (metrics["num_report"], metrics["num_failed"]) == (2, 1)
    elif command.startswith("check"):
        assert done.returncode == 1
        assert f"{KINDS[name]}: 1\n" in done.stdout
        assert "Decoded 3 clips" in done.stdout
    else:
        assert done.returncode == 0, done.stderr
        metrics = json.loads(next((tmp_path / "new").glob("*/metrics.json")).read_text())
        assert metrics["num_failed"] == 1


def test_a_crash_that_no_clip_causes_ends_with_a_sentence(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pipeline import supervisor; "
        "supervisor.allow_supervision(); supervisor.supervise(); "
        "os.kill(os.getpid(), getattr(signal, sys.argv[1]))"
    )
    for name, cause in {
        "SIGSEGV": "crashed (SIGSEGV)",
        "SIGKILL": "was killed, usually because memory ran out",
    }.items():
        done = subprocess.run([sys.executable, "-c", program, name], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith(f"Error: The process {cause}")
    # Any other signal ends the command as before.
    assert subprocess.run([sys.executable, "-c", program, "SIGTERM"], check=False).returncode == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_supervisor_ends_both_processes(number: signal.Signals) -> None:
    program = (
        "import os, signal, time; from pipeline import supervisor; "
        # A shell starts background processes, such as a whole test run, with interrupts ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        "supervisor.allow_supervision(); supervisor.supervise(); "
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(number)
        # Python ends by the signal after an interrupt that nothing catches.
        assert parent.wait(20) == -number
        end_seconds = time.monotonic() + 20
        while is_running(child):
            assert time.monotonic() < end_seconds
            time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
