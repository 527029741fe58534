"""A clip that crashes its decoder, or holds it up for ever, costs an extraction that clip and nothing more."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.extract import fatal_clips
from pipeline.extract.fatal_clips import Watchdog, find_fatal_clips
from pipeline.manifest import Clip, write_manifest
from pipeline.prepare.gestures.encode import write_frame_folder
from pipeline.store import FeatureStore
from pipeline.store.object_store import no_phase
from pipeline.video.limits import ClipLimits
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
    watchdog = Watchdog(ClipLimits(max_seconds=1.0), lambda *phase: told.append(phase), ended.set)
    with watchdog.on_duty():
        for number in range(6):
            watchdog.on_phase("decode", f"c{number}")
            time.sleep(0.25)  # together longer than the limit, each much shorter
            watchdog.on_phase("forward", f"c{number}")
        watchdog.on_phase("decode", "a clip that failed")
    assert not ended.wait(1.5)
    assert len(told) == 13
    watchdog.on_phase("decode", "held up")
    assert ended.wait(5)
    Watchdog(ClipLimits(), no_phase, ended.set).on_phase("decode", "c")


@pytest.mark.slow
@pytest.mark.usefixtures("fatal_decoder")
@pytest.mark.parametrize("name", ["crash", "spin"])
def test_an_extraction_loses_the_fatal_clip_alone(tmp_path: Path, name: str) -> None:
    write_clips(tmp_path, "a", name, "b")
    clips = [Clip(clip, clip, "up", "train") for clip in ("a", name, "b")]
    write_manifest(tmp_path / "m.csv", clips, ["up"])
    options = "--weights random --num-segments 2 --views 0 --maps pooled --dtype float32 --compile eager --workers 1"
    command = [sys.executable, "-m", "pipeline", "extract", "--manifest", str(tmp_path / "m.csv"), *options.split()]
    done = subprocess.run(
        [*command, "--store", str(tmp_path / "s.zarr"), "--max-clip-seconds", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    table = {clip.clip_id: (clip.status, clip.kind) for clip in FeatureStore.open(tmp_path / "s.zarr").table()}
    assert table == {"a": ("done", ""), name: ("failed", KINDS[name]), "b": ("done", "")}
