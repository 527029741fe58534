"""Kills, full disks, flipped bits, two at once: nothing is lost but blocks in flight, and the bytes end up the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pipeline.errors import PipelineError
from pipeline.manifest import Clip, Manifest, read_manifest, write_manifest
from pipeline.prepare.gestures.encode import write_frame_folder
from pipeline.store import FeatureStore, layout
from pipeline.store.verify import find_corruption
from tests.support.run_stages import store_verify

CHILD = Path(__file__).parent / "support" / "extraction_child.py"
PHASES = ("decode", "forward", "write", "move", "mark")
OPTIONS: dict[str, Any] = {
    "weights": "random",
    "num_segments": 1,
    "views": 1,
    "maps": ["pooled", "spatial"],
    "compile": "eager",
    "dtype": "float32",
    "workers": 0,
    "block_clips": 2,
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("clips")
    clips = []
    for number in range(7):
        frames = np.random.default_rng(number).integers(0, 256, (3, 40, 48, 3), dtype=np.uint8)
        write_frame_folder(root / f"c{number}", frames)
        clips.append(Clip(f"c{number}", f"c{number}", "wave", "train" if number < 5 else "val"))
    write_manifest(root / "m.csv", clips, ["wave"])
    return read_manifest(root / "m.csv")


@pytest.fixture(scope="module")
def expected(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every object of a store that nothing disturbed."""
    location = tmp_path_factory.mktemp("whole") / "s.zarr"
    done = run(manifest, location)
    assert done.returncode == 0, done.stderr
    return objects_of(location)


def command(manifest: Manifest, location: Path, **changes: Any) -> list[str]:
    return [sys.executable, str(CHILD), str(manifest.path), str(location), json.dumps({**OPTIONS, **changes})]


def run(manifest: Manifest, location: Path, **changes: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(manifest, location, **changes), capture_output=True, text=True, timeout=200, env=_environment()
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def objects_of(location: Path) -> dict[str, bytes]:
    files = [path for path in location.rglob("*") if path.is_file() and path.name not in (".lock", ".workers")]
    return {str(path.relative_to(location)): path.read_bytes() for path in files}


def arrays_only(objects: dict[str, bytes]) -> dict[str, bytes]:
    return {key: data for key, data in objects.items() if key.startswith("views/")}


def resume_and_compare(manifest: Manifest, location: Path, expected: dict[str, bytes], **changes: Any) -> None:
    resumed = run(manifest, location, **changes)
    assert resumed.returncode == 0, resumed.stderr
    assert objects_of(location) == expected
    assert find_corruption(FeatureStore.open(location)) == []


@pytest.mark.parametrize(("phase", "number"), [("decode", 3), ("forward", 6), ("write", 8), ("move", 13), ("mark", 2)])
def test_a_kill_in_any_phase_leaves_a_store_that_ends_up_the_same(
    manifest: Manifest, expected: dict[str, bytes], tmp_path: Path, phase: str, number: int
) -> None:
    location, marker = tmp_path / "s.zarr", tmp_path / "killed"
    killed = run(manifest, location, kill={"phase": phase, "number": number, "marker": str(marker)})
    assert killed.returncode == -signal.SIGKILL
    assert marker.exists()
    done = sum(clip.status == "done" for clip in FeatureStore.open(location).table())
    assert done < 7
    # Finished blocks can be read whatever other files the folder has.
    assert find_corruption(FeatureStore.open(location)) == []
    resume_and_compare(manifest, location, expected)


@pytest.mark.parametrize(
    ("phase", "number"), [("move", 8), *(pytest.param(phase, 3, marks=pytest.mark.slow) for phase in PHASES[:4])]
)
def test_a_kill_while_threads_decode_ahead_and_write_behind(
    manifest: Manifest, expected: dict[str, bytes], tmp_path: Path, phase: str, number: int
) -> None:
    location, kill = tmp_path / "s.zarr", {"phase": phase, "number": number, "marker": str(tmp_path / "killed")}
    assert run(manifest, location, decode_threads=2, kill=kill).returncode == -signal.SIGKILL
    assert (tmp_path / "killed").exists()
    assert find_corruption(FeatureStore.open(location)) == []
    resume_and_compare(manifest, location, expected, decode_threads=2)


def kill_at_random_moments(
    manifest: Manifest, expected: dict[str, bytes], tmp_path: Path, seed: int, num_kills: int
) -> None:
    rng = np.random.default_rng(seed)
    location = tmp_path / "s.zarr"
    landed = 0
    for kill in range(num_kills):
        phase, number = PHASES[int(rng.integers(5))], int(rng.integers(1, 4))
        marker = tmp_path / f"killed-{kill}"
        killed = run(manifest, location, kill={"phase": phase, "number": number, "marker": str(marker)})
        landed += killed.returncode == -signal.SIGKILL
        assert marker.exists() == (killed.returncode == -signal.SIGKILL)
        if killed.returncode == 0:
            break
    assert landed
    resume_and_compare(manifest, location, expected)


@pytest.mark.slow
def test_one_kill_after_another_still_ends_up_the_same(
    manifest: Manifest, expected: dict[str, bytes], tmp_path: Path
) -> None:
    kill_at_random_moments(manifest, expected, tmp_path, seed=0, num_kills=3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, 60))
def test_kills_at_many_seeded_moments(
    manifest: Manifest, expected: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    kill_at_random_moments(manifest, expected, tmp_path, seed, num_kills=4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(40))
def test_kills_from_outside_at_any_time(
    manifest: Manifest, expected: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    location = tmp_path / "s.zarr"
    with subprocess.Popen(
        command(manifest, location), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(float(np.random.default_rng(seed).uniform(0, 1.5)))
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=200)
    assert child.returncode in (0, -signal.SIGKILL)
    resume_and_compare(manifest, location, expected)


@pytest.mark.parametrize("phase", ["forward", "move"])
def test_a_lost_worker_costs_nothing_but_time(
    manifest: Manifest, expected: dict[str, bytes], tmp_path: Path, phase: str
) -> None:
    location, marker = tmp_path / "s.zarr", tmp_path / "killed"
    kill = {"phase": phase, "number": 2, "marker": str(marker), "once": True}
    done = run(manifest, location, workers=2, kill=kill)
    assert done.returncode == 0, done.stderr
    assert marker.exists()
    assert objects_of(location) == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_workers_end_with_a_parent_that_is_killed(
    manifest: Manifest, expected: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    location = tmp_path / "s.zarr"
    with subprocess.Popen(
        command(manifest, location, workers=2),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(),
    ) as child:
        while not (location / "records/000000.json").exists():
            time.sleep(0.01)
        time.sleep(float(np.random.default_rng(seed).uniform(0, 0.5)))
        workers = psutil.Process(child.pid).children(recursive=True)
        child.kill()
        child.wait()
    assert len(workers) >= 2
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    resume_and_compare(manifest, location, expected)


@pytest.mark.slow
def test_a_block_that_kills_every_worker_is_set_aside_by_name_and_tried_again(
    manifest: Manifest, expected: dict[str, bytes], tmp_path: Path
) -> None:
    location = tmp_path / "s.zarr"
    kill = {"phase": "decode", "subject": "c2", "marker": str(tmp_path / "killed")}
    done = run(manifest, location, workers=1, kill=kill)
    assert done.returncode == 0, done.stderr
    failed = [clip for clip in FeatureStore.open(location).table() if clip.status == "failed"]
    assert [clip.clip_id for clip in failed] == ["c2", "c3"]
    assert {clip.kind for clip in failed} == {"killed-worker"}
    assert "c2: Block 1 killed every worker" in done.stdout
    resume_and_compare(manifest, location, expected)


@pytest.mark.slow
def test_a_worker_at_its_memory_limit_is_restarted_and_its_block_set_aside(
    manifest: Manifest, expected: dict[str, bytes], tmp_path: Path
) -> None:
    location = tmp_path / "s.zarr"
    ballast = {"subject": "c2", "bytes": 2 << 30, "limit_bytes": 3 << 30}
    done = run(manifest, location, workers=2, ballast=ballast)
    assert done.returncode == 0, done.stderr
    status_of = {clip.clip_id: clip.status for clip in FeatureStore.open(location).table()}
    assert {name for name, status in status_of.items() if status == "failed"} == {"c2", "c3"}
    assert set(status_of.values()) == {"done", "failed"}
    assert "c2: Block 1 killed every worker that tried it (out of memory" in done.stdout
    resume_and_compare(manifest, location, expected)


def test_a_second_extraction_on_the_same_store_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    location = tmp_path / "s.zarr"
    with subprocess.Popen(
        command(manifest, location), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()
    ) as first:
        assert first.stdout is not None
        first.stdout.readline()
        while not (location / "records/clips.json").exists():
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)
        second = run(manifest, location)
        first.send_signal(signal.SIGCONT)
        first.communicate(timeout=200)
    assert first.returncode == 0
    assert second.returncode == 1
    assert f"is being written by another process (pid {first.pid})" in second.stderr


@pytest.mark.parametrize(
    ("num_workers", "decode_threads"),
    [(0, 0), (0, 2), pytest.param(2, 0, marks=pytest.mark.slow)],
)
def test_control_c_stops_within_seconds_and_says_how_to_go_on(
    manifest: Manifest, expected: dict[str, bytes], tmp_path: Path, num_workers: int, decode_threads: int
) -> None:
    location = tmp_path / "s.zarr"
    with subprocess.Popen(
        command(manifest, location, workers=num_workers, decode_threads=decode_threads),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=_environment(),
    ) as child:
        while not (location / "records/000000.json").exists():
            time.sleep(0.01)
        os.killpg(child.pid, signal.SIGINT)
        sent_at_seconds = time.monotonic()
        _, said = child.communicate(timeout=60)
    assert time.monotonic() - sent_at_seconds < 15
    if child.returncode:
        assert "run the same command again to resume" in said
    resume_and_compare(manifest, location, expected)


FULL_DISK = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    "changes", [{}, *(pytest.param({name: 2}, marks=pytest.mark.slow) for name in ("decode_threads", "workers"))]
)
def test_a_full_disk_stops_with_a_sentence_and_the_store_goes_on_later(
    manifest: Manifest, expected: dict[str, bytes], tmp_path: Path, changes: dict[str, int]
) -> None:
    location = tmp_path / "s.zarr"
    limited = [sys.executable, "-c", FULL_DISK, *command(manifest, location, **changes)[1:]]
    full = subprocess.run(limited, capture_output=True, text=True, timeout=200, env=_environment())
    assert full.returncode == 1
    assert "PipelineError: No room for" in full.stderr
    assert "run the same command again" in full.stderr
    resume_and_compare(manifest, location, expected)


def test_flipped_bits_are_found_and_mended(manifest: Manifest, expected: dict[str, bytes], tmp_path: Path) -> None:
    location = tmp_path / "s.zarr"
    assert run(manifest, location).returncode == 0
    rng = np.random.default_rng(0)
    chunks = sorted(key for key in expected if "/c/" in key or layout.record_keys([key.rpartition("/")[2]]))
    for key in rng.choice(chunks, size=4, replace=False):
        data = bytearray((location / key).read_bytes())
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        (location / key).write_bytes(data)
    with pytest.raises(PipelineError, match="store verify --repair"):
        store_verify(store=location, manifest=manifest.path)
    assert len(store_verify(store=location, manifest=manifest.path, repair=True, workers=0)) == 4
    assert arrays_only(objects_of(location)) == arrays_only(expected)
    assert store_verify(store=location, manifest=manifest.path) == []
