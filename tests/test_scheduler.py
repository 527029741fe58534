"""`--scheduler ADDRESS`: a real Dask scheduler and workers in separate processes, on loopback."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.extract import cluster
from pipeline.manifest import Manifest
from pipeline.store import FeatureStore
from pipeline.store.verify import find_corruption
from tests.support.dask_clusters import dask_cluster, free_port
from tests.test_extraction import arrays_of, run, write_data
from tests.test_faults import command

pytestmark = pytest.mark.timeout(300)

PLAIN = ["--weights", "random", "--dtype", "float32", "--compile", "eager", "--views", "1"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_data(tmp_path_factory.mktemp("clips"), train=9, val=3)


def extract(manifest: Manifest, location: Path, *options: str) -> subprocess.CompletedProcess[str]:
    arguments = ["extract", "--manifest", str(manifest.path), "--store", str(location), *PLAIN, *options]
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_cluster_gives_the_bytes_of_one_process(manifest: Manifest, tmp_path: Path) -> None:
    with dask_cluster(tmp_path, num_workers=2) as (address, _, workers):
        done = extract(manifest, tmp_path / "s.zarr", "--num-segments", "2", "--scheduler", address)
        assert done.returncode == 0, done.stderr
        assert re.search(r"Computed 12 clips, 42 frames.* [12] worker processes", done.stdout)
        assert [worker.poll() for worker in workers] == [None, None]
    run(manifest, tmp_path / "alone.zarr", block_clips=None)
    assert arrays_of(tmp_path / "s.zarr") == arrays_of(tmp_path / "alone.zarr")


@pytest.mark.slow
def test_two_extractions_share_a_cluster(manifest: Manifest, tmp_path: Path) -> None:
    with dask_cluster(tmp_path, num_workers=2) as (address, _, _):

        def extract_there(segments: int) -> subprocess.CompletedProcess[str]:
            options = ("--num-segments", str(segments), "--scheduler", address)
            return extract(manifest, tmp_path / f"{segments}.zarr", *options)

        with ThreadPoolExecutor() as pool:
            for done in pool.map(extract_there, (2, 3)):
                assert done.returncode == 0, done.stderr
    for segments in (2, 3):
        run(manifest, tmp_path / "alone.zarr", block_clips=None, num_segments=segments, rebuild=True)
        assert arrays_of(tmp_path / f"{segments}.zarr") == arrays_of(tmp_path / "alone.zarr")


@pytest.mark.slow
def test_a_worker_that_is_lost_for_good_leaves_its_block_to_the_others(manifest: Manifest, tmp_path: Path) -> None:
    marker = tmp_path / "killed"
    kill = {"phase": "write", "number": 3, "marker": str(marker), "once": True}
    with dask_cluster(tmp_path, num_workers=2) as (address, _, workers):
        done = subprocess.run(
            command(manifest, tmp_path / "s.zarr", workers=None, scheduler=address, kill=kill),
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        assert marker.exists()
        ended = [worker.poll() for worker in workers]
    assert sorted(ended, key=str) == [-signal.SIGKILL, None]
    alone = subprocess.run(command(manifest, tmp_path / "alone.zarr"), capture_output=True, timeout=200)
    assert alone.returncode == 0
    assert arrays_of(tmp_path / "s.zarr") == arrays_of(tmp_path / "alone.zarr")
    assert find_corruption(FeatureStore.open(tmp_path / "s.zarr")) == []
    assert not list((tmp_path / "s.zarr").rglob("*.part"))


@pytest.mark.slow
def test_a_scheduler_that_goes_away_is_a_sentence_and_the_rest_is_done_later(
    manifest: Manifest, tmp_path: Path
) -> None:
    location = tmp_path / "s.zarr"
    with (
        dask_cluster(tmp_path, num_workers=1) as (address, scheduler, _),
        subprocess.Popen(
            command(manifest, location, workers=None, scheduler=address),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child,
    ):
        while not (location / "records/000000.json").exists():
            time.sleep(0.01)
        scheduler.kill()
        _, said = child.communicate(timeout=120)
        assert child.returncode == 1
        assert "PipelineError: The connection to the Dask cluster is lost. Finished blocks are kept" in said
    resumed = subprocess.run(command(manifest, location), capture_output=True, text=True, timeout=200)
    assert resumed.returncode == 0, resumed.stderr
    assert {clip.status for clip in FeatureStore.open(location).table()} == {"done"}


def test_a_scheduler_that_does_not_answer_is_named(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SECONDS_TO_CONNECT", 0.5)
    location = str(tmp_path / "s.zarr")
    for address in (f"tcp://127.0.0.1:{free_port()}", "nonsense://127.0.0.1:1"):
        arguments = ["--manifest", str(manifest.path), "--store", location, *PLAIN, "--scheduler", address]
        done = CliRunner().invoke(cli, ["extract", *arguments])
        assert done.exit_code == 1, done.output
        assert f"No Dask scheduler answers at {address}" in done.output
        assert "Start one with `dask scheduler`" in done.output


def test_a_scheduler_that_accepts_and_says_nothing_is_a_sentence(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SECONDS_TO_CONNECT", 1)
    arguments = ["extract", "--manifest", str(manifest.path), "--store", str(tmp_path / "s.zarr"), *PLAIN]
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(5)
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        started_at_seconds = time.monotonic()
        done = CliRunner().invoke(cli, [*arguments, "--scheduler", address])
        assert time.monotonic() - started_at_seconds < 20  # the wait of a second, and the backbone
    assert done.exit_code == 1, done.output
    assert f"No Dask scheduler answers at {address}" in done.output
    # The lock is let go.
    assert CliRunner().invoke(cli, [*arguments, "--workers", "0"]).exit_code == 0


@pytest.mark.slow
def test_a_scheduler_that_stops_answering_is_a_sentence(manifest: Manifest, tmp_path: Path) -> None:
    with dask_cluster(tmp_path, 1) as (address, scheduler, _), ThreadPoolExecutor(1) as pool:
        running = pool.submit(extract, manifest, tmp_path / "s.zarr", "--scheduler", address)
        while not (tmp_path / "s.zarr/records/000000.json").exists():
            time.sleep(0.01)
        scheduler.send_signal(signal.SIGSTOP)
        done = running.result(timeout=90)
    if done.returncode:
        assert "has not answered for" in done.stderr
        assert "Traceback" not in done.stderr
    assert extract(manifest, tmp_path / "s.zarr", "--workers", "0").returncode == 0
