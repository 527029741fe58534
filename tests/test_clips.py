"""Samples for training from clips: what decides them, in which order they come, and what happens to bad ones."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.finetune.clip_loader import (
    FIRST_FRESH_DRAW,
    ClipLoader,
    LabelledClip,
    Sample,
    SampleRequest,
    SampleSettings,
    collate,
    load_sample,
)
from pipeline.recipe import SamplingConfig
from pipeline.video.decode import open_clip
from pipeline.video.render import render
from pipeline.video.views import drawn_view, test_view
from tests.conftest import REPOSITORY
from tests.support.small_clips import CLASSES, T, labelled_clips, write_clips

CPU = torch.device("cpu")
SETTINGS = SampleSettings(num_segments=T, choices=SamplingConfig(), seed=4, input_size=64)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelledClip, ...]:
    return labelled_clips(write_clips(tmp_path_factory.mktemp("clips")))


def same(one: Sample, other: Sample) -> bool:
    assert one.pixels is not None
    assert other.pixels is not None
    return one.request == other.request and one.label == other.label and torch.equal(one.pixels, other.pixels)


def test_as_many_files_may_be_open_as_clips_are_under_way() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        with ClipLoader(1, 2):
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_training_sample_is_the_view_of_seed_clip_and_epoch(clips: tuple[LabelledClip, ...]) -> None:
    sample = load_sample(SampleRequest(clips[1], epoch=6), SETTINGS)
    with open_clip(clips[1].location) as reader:
        view = drawn_view(
            FIRST_FRESH_DRAW + 6,
            clip_id=clips[1].clip_id,
            seed=4,
            num_frames=reader.num_frames,
            height=reader.height,
            width=reader.width,
            num_segments=T,
            choices=SamplingConfig(),
        )
        pixels = render(reader.read(view.frame_indices), view.crop, view.flip, 64)
    assert sample.pixels is not None
    assert torch.equal(sample.pixels.permute(0, 3, 1, 2), pixels)
    assert sample.label == clips[1].label


def test_a_validation_sample_is_the_test_view(clips: tuple[LabelledClip, ...]) -> None:
    sample = load_sample(SampleRequest(clips[0]), SETTINGS)
    with open_clip(clips[0].location) as reader:
        view = test_view(reader.num_frames, reader.height, reader.width, T, SamplingConfig())
        pixels = render(reader.read(view.frame_indices), view.crop, False, 64)
    assert sample.pixels is not None
    assert torch.equal(sample.pixels.permute(0, 3, 1, 2), pixels)


def test_each_epoch_looks_anew(clips: tuple[LabelledClip, ...]) -> None:
    seen = [load_sample(SampleRequest(clips[3], epoch), SETTINGS).pixels for epoch in range(8)]
    assert len({pixels.numpy().tobytes() for pixels in seen if pixels is not None}) >= 7


def test_samples_are_the_same_and_in_order_whatever_the_number_of_workers(clips: tuple[LabelledClip, ...]) -> None:
    requests = [SampleRequest(clip, epoch) for epoch in (0, 1) for clip in clips]
    found = []
    for num_workers in (0, 2):
        with ClipLoader(num_workers, num_ahead=5) as loader:
            found.append(list(loader.samples(requests, SETTINGS)))
    assert [sample.request for sample in found[0]] == requests
    assert all(same(one, other) for one, other in zip(*found, strict=True))


def test_no_more_is_decoded_than_asked_for_ahead(clips: tuple[LabelledClip, ...]) -> None:
    asked = 0

    def requests() -> object:
        nonlocal asked
        for epoch in range(100):
            asked += 1
            yield SampleRequest(clips[0], epoch)

    with ClipLoader(0, num_ahead=3) as loader:
        stream = loader.samples(requests(), SETTINGS)  # type: ignore[arg-type]
        for taken in range(1, 6):
            next(stream)
            assert asked <= taken + 3


def test_a_mirrored_clip_gets_the_label_of_the_other_side(clips: tuple[LabelledClip, ...]) -> None:
    swap = SampleSettings(T, SamplingConfig(flip="swap"), 4, 64, swapped_labels=(1, 0, 2))
    plain = SampleSettings(T, SamplingConfig(flip="plain"), 4, 64)
    left = next(clip for clip in clips if CLASSES[clip.label] == "swipe_left")
    samples = [load_sample(SampleRequest(left, epoch), swap) for epoch in range(12)]
    assert {sample.flip for sample in samples} == {True, False}
    assert all(sample.label == (1 if sample.flip else 0) for sample in samples)
    assert {load_sample(SampleRequest(left, epoch), plain).label for epoch in range(12)} == {0}


def test_a_missing_clip_is_a_fault_and_nothing_takes_its_place(clips: tuple[LabelledClip, ...], tmp_path: Path) -> None:
    gone = LabelledClip("gone", str(tmp_path / "gone.webm"), 0)
    with ClipLoader(0, num_ahead=2) as loader:
        first, missing, last = loader.samples([SampleRequest(clip, 0) for clip in (clips[0], gone, clips[1])], SETTINGS)
    assert missing.pixels is None
    assert missing.fault is not None
    assert (missing.fault.clip_id, missing.fault.kind) == ("gone", "missing")
    batch = collate([first, missing, last], SETTINGS, CPU)
    assert batch.frames.shape == (2, T, 3, 64, 64)
    assert [request.clip.clip_id for request in batch.requests] == [clips[0].clip_id, clips[1].clip_id]


def test_a_batch_is_channels_last_in_memory_without_a_copy(clips: tuple[LabelledClip, ...]) -> None:
    samples = [load_sample(SampleRequest(clip, 0), SETTINGS) for clip in clips[:3]]
    batch = collate(samples, SETTINGS, CPU)
    frames = batch.frames.flatten(0, 1)
    assert frames.is_contiguous(memory_format=torch.channels_last)
    assert frames.data_ptr() == batch.frames.data_ptr()
    assert batch.labels.tolist() == [clip.label for clip in clips[:3]]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_augmentation_on_the_device_equals_that_of_the_workers(clips: tuple[LabelledClip, ...], device: str) -> None:
    choices = SamplingConfig(flip="plain")
    here = SampleSettings(T, choices, 4, 224)
    there = SampleSettings(T, choices, 4, 224, on_device=True)
    requests = [SampleRequest(clip, epoch) for clip in clips[:4] for epoch in (None, 0, 1)]
    expected = collate([load_sample(request, here) for request in requests], here, CPU)
    found = collate([load_sample(request, there) for request in requests], there, torch.device(device))
    difference = (found.frames.cpu().int() - expected.frames.int()).abs()
    assert int(difference.max()) <= 1
    assert float(difference.float().mean()) < 0.03
    assert torch.equal(found.labels.cpu(), expected.labels)


def test_a_killed_worker_is_a_sentence(clips: tuple[LabelledClip, ...]) -> None:
    with ClipLoader(1, num_ahead=2) as loader:
        stream = loader.samples((SampleRequest(clips[0], epoch) for epoch in range(50)), SETTINGS)
        next(stream)
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)
        with pytest.raises(PipelineError, match=r"was killed.*Lower --workers"):
            list(stream)


def test_a_clip_that_goes_away_between_epochs_is_found(clips: tuple[LabelledClip, ...], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(clips[0].location, copy)
    clip = LabelledClip("copy", str(copy), 0)
    assert load_sample(SampleRequest(clip, 0), SETTINGS).fault is None
    shutil.rmtree(copy)
    assert load_sample(SampleRequest(clip, 1), SETTINGS).fault is not None


def test_workers_end_with_a_parent_that_is_killed(clips: tuple[LabelledClip, ...]) -> None:
    script = f"""
        import multiprocessing, sys, time
        from pipeline.recipe import SamplingConfig
        from pipeline.finetune.clip_loader import ClipLoader, LabelledClip, SampleRequest, SampleSettings
        if __name__ == "__main__":
            clip = LabelledClip("clip", {clips[0].location!r}, 0)
            with ClipLoader(1, num_ahead=2) as loader:
                next(loader.samples([SampleRequest(clip)], SampleSettings({T}, SamplingConfig(), 0, 64)))
                print(*(child.pid for child in multiprocessing.active_children()), flush=True)
                time.sleep(60)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 20
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.05)
