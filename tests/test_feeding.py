"""Threads that decode ahead of the backbone, for a GPU: the same bytes, within bounds, and on a GPU nearly the same."""

from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.extract.compute import MAX_CUDA_BATCH_FRAMES, choose_batch_frames
from pipeline.extract.extract import ExtractionSummary, extract_features
from pipeline.manifest import Manifest
from pipeline.prefetch import SerialExecutor, open_executor, prefetch
from pipeline.store import FeatureStore
from tests.test_extraction import REQUEST, arrays_of, run, write_data

THREADS = 3


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    found = write_data(tmp_path, train=9, val=4)
    (tmp_path / "c2" / "00003.jpg").unlink()
    (tmp_path / "c11" / "00001.jpg").unlink()
    return found


def same_but_time(summary: ExtractionSummary) -> ExtractionSummary:
    return dataclasses.replace(summary, seconds=0, location="")


@pytest.mark.parametrize("changes", [{}, {"frames": "all"}, {"maps": ("pooled",), "views": 3}])
def test_threads_change_no_byte_and_no_figure(manifest: Manifest, tmp_path: Path, changes: dict[str, Any]) -> None:
    plain = run(manifest, tmp_path / "plain.zarr", **changes)
    fed = run(manifest, tmp_path / "fed.zarr", decode_threads=THREADS, **changes)
    assert arrays_of(tmp_path / "fed.zarr") == arrays_of(tmp_path / "plain.zarr")
    assert same_but_time(fed) == same_but_time(plain)
    assert {clip.clip_id for clip in fed.failed} == {"c2", "c11"}
    records = [FeatureStore.open(tmp_path / name).table() for name in ("plain.zarr", "fed.zarr")]
    assert records[0] == records[1]


def test_more_views_go_in_beside_those_that_are_there(manifest: Manifest, tmp_path: Path) -> None:
    for draws in (1, 3):
        run(manifest, tmp_path / "fed.zarr", decode_threads=THREADS, views=draws)
    run(manifest, tmp_path / "plain.zarr", views=3)
    assert arrays_of(tmp_path / "fed.zarr") == arrays_of(tmp_path / "plain.zarr")


def test_a_batch_with_all_views_of_a_clip_gives_each_view_its_own(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(manifest, tmp_path / "plain.zarr", views=2)
    monkeypatch.setattr("pipeline.extract.compute.choose_batch_frames", lambda *given: 6)
    run(manifest, tmp_path / "s.zarr", views=2, decode_threads=THREADS)
    monkeypatch.undo()
    found, plain = FeatureStore.open(tmp_path / "s.zarr"), FeatureStore.open(tmp_path / "plain.zarr")
    assert (found.settings.batch_frames, plain.settings.batch_frames) == (6, 2)
    near_each_other(found, plain, ("test", "train-0", "train-1"))
    # The batch is the store's, whatever is asked for later; what is there agrees with what is computed again.
    more = run(manifest, tmp_path / "s.zarr", views=4)
    assert (more.settings.batch_frames, more.num_checked_again) == (6, 3)


def near_each_other(found: FeatureStore, plain: FeatureStore, views: tuple[str, ...]) -> None:
    for view in views:
        rows = [clip.row for clip in plain.clips("train", view)]
        assert rows == [clip.row for clip in found.clips("train", view)]
        np.testing.assert_array_equal(found.read_sampling(view, rows), plain.read_sampling(view, rows))
        for read in ("read_pooled", "read_spatial_batch"):
            ours, theirs = (getattr(store, read)(view, rows).astype(np.float32) for store in (found, plain))
            np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-3)


class Watch:
    """Counts how many clips are decoded and wait for the backbone, which it slows down."""

    def __init__(self) -> None:
        self.lock, self.waiting, self.most_waiting = threading.Lock(), 0, 0
        self.decoded_by, self.forward_by = set[int](), set[int]()

    def __call__(self, phase: str, subject: str) -> None:
        if phase == "forward":
            time.sleep(0.03)
        with self.lock:
            self.waiting += {"decode": 1, "forward": -1}.get(phase, 0)
            self.most_waiting = max(self.most_waiting, self.waiting)
            {"decode": self.decoded_by, "forward": self.forward_by}.get(phase, set()).add(threading.get_ident())


def test_few_clips_wait_for_the_backbone_which_one_thread_runs(tmp_path: Path) -> None:
    watch = Watch()
    manifest = write_data(tmp_path, train=20, val=0)
    request = dataclasses.replace(REQUEST, views=0, num_segments=1, decode_threads=THREADS)
    extract_features(manifest, str(tmp_path / "s.zarr"), request, watch)
    # A clip leaves the queue before its forward pass, and the next one may begin.
    assert THREADS <= watch.most_waiting <= THREADS + 3
    assert watch.forward_by == {threading.get_ident()}
    # The executor starts a thread only while no other one is idle.
    assert 1 <= len(watch.decoded_by - watch.forward_by) <= THREADS


def test_too_many_failures_stop_the_threads_too(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="more than --max-failed 0 allows"):
        run(manifest, tmp_path / "s.zarr", max_failed=0, decode_threads=THREADS)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("extraction")]
    assert len(run(manifest, tmp_path / "s.zarr", decode_threads=THREADS).failed) == 2


@pytest.mark.parametrize("num_threads", [0, 1, 4])
def test_ahead_keeps_order_and_bound_and_passes_errors_on(num_threads: int) -> None:
    begun: list[int] = []
    found: list[int] = []

    def slow(number: int) -> int:
        begun.append(number)
        time.sleep(0.01 * (number % 3))
        if number == 7:
            raise ValueError("seven")
        return -number

    def take_all() -> None:
        with open_executor(num_threads, "test") as executor:
            for result in prefetch(executor, slow, range(100), num_pending=4):
                found.append(result)
                assert len(begun) - len(found) <= 3

    with pytest.raises(ValueError, match="seven"):
        take_all()
    assert found == [0, -1, -2, -3, -4, -5, -6][: len(found)]
    assert len(begun) <= 12


def test_nothing_runs_ahead_in_this_thread() -> None:
    assert isinstance(open_executor(0, "test").__enter__(), SerialExecutor)
    with open_executor(2, "test") as executor:
        assert isinstance(executor, ThreadPoolExecutor)


@pytest.mark.parametrize(
    ("num_segments", "num_views", "free_gigabytes", "expected"),
    [(8, 5, 64, 40), (8, 1, 64, 8), (16, 33, 64, 106), (0, 1, 64, 128), (8, 5, 1, 20), (8, 5, 0, 1)],
)
def test_a_batch_on_a_gpu_holds_all_views_as_far_as_memory_goes(
    num_segments: int, num_views: int, free_gigabytes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_gigabytes << 30, 80 << 30))
    assert choose_batch_frames("cuda", num_segments, num_views) == expected <= MAX_CUDA_BATCH_FRAMES
    assert choose_batch_frames("cpu", 8, num_views) == 8


@pytest.mark.cuda
@pytest.mark.parametrize(("mode", "dtype"), [("eager", "float32"), ("jit", "float32"), ("inductor", "bfloat16")])
def test_a_gpu_gives_nearly_the_features_of_the_processor(
    manifest: Manifest, tmp_path: Path, mode: str, dtype: str
) -> None:
    asked = {"compile": mode, "dtype": dtype, "workers": None, "device": "cuda"}
    summary = run(manifest, tmp_path / "gpu.zarr", views=2, **asked)
    assert {clip.clip_id for clip in summary.failed} == {"c2", "c11"}
    run(manifest, tmp_path / "plain.zarr", views=2)
    found, plain = FeatureStore.open(tmp_path / "gpu.zarr"), FeatureStore.open(tmp_path / "plain.zarr")
    assert found.settings.batch_frames == 6
    if dtype == "float32":
        near_each_other(found, plain, ("test", "train-0", "train-1"))
    else:
        rows = [clip.row for clip in plain.clips("train")]
        ours, theirs = (store.read_pooled("test", rows).astype(np.float32) for store in (found, plain))
        assert np.linalg.norm(ours - theirs) < 0.03 * np.linalg.norm(theirs)
    # Bit by bit the same when computed again, so that a run can go on.
    more = run(manifest, tmp_path / "gpu.zarr", views=3, **asked)
    assert more.num_checked_again == 3


@pytest.mark.cuda
def test_threads_change_no_byte_on_a_gpu(manifest: Manifest, tmp_path: Path) -> None:
    for name, threads in (("plain.zarr", 0), ("fed.zarr", 8)):
        run(manifest, tmp_path / name, device="cuda", workers=None, decode_threads=threads)
    assert arrays_of(tmp_path / "fed.zarr") == arrays_of(tmp_path / "plain.zarr")
