"""A clip that crashes its decoder, or holds it up for ever, costs an extraction that clip and nothing more."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.extract import decoding_log
from pipeline.finetune.clip_loader import ClipLoader, LabelledClip, SampleRequest, SampleSettings, load_sample
from pipeline.finetune.model import fresh_classifier
from pipeline.manifest import Clip, write_manifest
from pipeline.model import save_model
from pipeline.prepare.gestures.encode import write_frame_folder
from pipeline.recipe import SamplingConfig, named_recipe
from pipeline.store import FeatureStore, layout
from pipeline.store.object_store import open_object_store
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


@pytest.mark.slow
@pytest.mark.usefixtures("fatal_decoder")
@pytest.mark.parametrize("name", ["crash", "spin"])
def test_an_extraction_loses_the_fatal_clip_alone(tmp_path: Path, name: str) -> None:
    write_three(tmp_path, name)
    done = extract(tmp_path, workers=1)
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path) == {"a": ("done", ""), name: ("failed", KINDS[name]), "b": ("done", "")}


@pytest.mark.usefixtures("fatal_decoder")
@pytest.mark.parametrize("name", ["crash", pytest.param("spin", marks=pytest.mark.slow)])
def test_without_workers_the_next_run_records_the_fatal_clip(tmp_path: Path, name: str) -> None:
    write_three(tmp_path, name)
    ended = extract(tmp_path, workers=0)
    assert ended.returncode == {"crash": -signal.SIGSEGV, "spin": 1}[name], ended.stderr
    if name == "spin":
        assert "The clip spin blocks its decoder" in ended.stderr
        assert "run the same command again" in ended.stderr
    # A clip that blocks is tried again by each run, and then no longer in the run's own process.
    for _ in range(2 if name == "spin" else 1):
        done = extract(tmp_path, workers=0)
        assert done.returncode == 0, done.stderr
        assert "It is recorded as failed." in done.stderr
        assert statuses(tmp_path) == {"a": ("done", ""), name: ("failed", KINDS[name]), "b": ("done", "")}
    assert not (tmp_path / "s.zarr" / layout.DECODING_KEY).exists()


def test_what_a_killed_run_left_is_read_with_care(tmp_path: Path) -> None:
    objects = open_object_store(str(tmp_path / "s.zarr"))
    path = tmp_path / "s.zarr" / layout.DECODING_KEY
    path.parent.mkdir(parents=True)
    texts: list[tuple[bytes, set[str]]] = [(b'["a", "b"]', {"a", "b"}), (b'["a"', set()), (b'{"a": 1}', set())]
    for text, expected in (*texts, (b"[1, null]", set())):
        path.write_bytes(text)
        assert decoding_log._taken(objects) == expected
        assert not path.exists()
    path.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes(b'["a"]')
    with pytest.raises(PipelineError, match="cannot be opened"):
        decoding_log._taken(objects)


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


@pytest.mark.slow
@pytest.mark.usefixtures("fatal_decoder")
@pytest.mark.parametrize("command", ["check m.csv --decode --workers 0", "predict m.safetensors a spin b"])
def test_a_clip_that_blocks_a_command_without_workers_ends_it_with_a_sentence(tmp_path: Path, command: str) -> None:
    write_three(tmp_path, "spin")
    classifier = fresh_classifier("tsn", "squeezenet", "random", ("up", "down"), 2, named_recipe("paper"), 0)
    save_model(tmp_path / "m.safetensors", classifier.spec, classifier.head, classifier.backbone)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *command.split(), "--max-clip-seconds", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Error: The clip spin blocks its decoder for longer than the 1 s of --max-clip-seconds." in done.stderr
