"""Clips as training sees them: decoded by worker processes or a thread, a few ahead, always in the order asked for.

A sample depends on its request and the settings alone (clip, seed, epoch), so it is the same whatever the number of
workers. Workers are spawned, never forked; what they have decoded ahead is bounded; they end with their parent, also
when that is killed.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.multiprocessing  # teaches the pickler of processes to hand tensors over in shared memory
from torch import Tensor

from pipeline.clip_errors import clip_errors
from pipeline.errors import ClipError, ClipFailure, PipelineError
from pipeline.prefetch import prefetch
from pipeline.processes import end_with_parent
from pipeline.recipe import SamplingConfig
from pipeline.video.clip_views import load_clip_views
from pipeline.video.crops import CropBox
from pipeline.video.decode import open_clip
from pipeline.video.render import render_on_device
from pipeline.video.views import View, ViewConfig

# The draws of a feature store count up from 0: from here on, a draw is one that no fitted head has seen.
FIRST_FRESH_DRAW = 1_000_000


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """A clip to train on or to score. `label` is the index of its class."""

    clip_id: str
    location: str
    label: int


@dataclass(frozen=True)
class SampleSettings:
    """What decides the pixels of a sample, apart from clip and epoch.

    swapped_labels: the label of each class after mirroring; empty where mirroring keeps the label.
    on_device: hand over whole frames; `render_on_device` then makes the crop.
    """

    num_segments: int
    choices: SamplingConfig
    seed: int
    input_size: int = 224
    crop_fraction: float = 0.875
    swapped_labels: tuple[int, ...] = ()
    on_device: bool = False


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One clip as seen in one epoch; in the test view where `epoch` is None. `position` is returned with the sample."""

    clip: LabelledClip
    epoch: int | None = None
    position: int = 0


class Sample(NamedTuple):
    """One view of one clip, or the fault that it has.

    Shape:
        pixels: (T, S, S, 3) uint8, the finished view; with `on_device` (T, H, W, 3), whole frames.
    """

    request: SampleRequest
    label: int
    pixels: Tensor | None
    crop: CropBox
    flip: bool
    fault: ClipFailure | None = None


class ClipBatch(NamedTuple):
    """Samples without faults, side by side.

    Shape:
        frames: (B, T, 3, S, S) uint8, channels last in memory; labels: (B,) int64.
    """

    frames: Tensor
    labels: Tensor
    requests: tuple[SampleRequest, ...]


def load_sample(request: SampleRequest, settings: SampleSettings) -> Sample:
    """Decode and render one sample; rendering is left out where the device does it. A clip that fails gives a fault."""
    clip = request.clip
    choose_views = partial(_views, request, settings)
    try:
        if settings.on_device:
            with clip_errors(clip.location), open_clip(clip.location) as reader:
                (view,) = choose_views(reader.num_frames, reader.height, reader.width)
                pixels = torch.from_numpy(reader.read(view.frame_indices))  # (T, H, W, 3)
        else:
            loaded = load_clip_views(clip.location, choose_views, settings.input_size)
            (view,), pixels = loaded.views, loaded.pixels[0].permute(0, 2, 3, 1)  # no copy: channels last
    except ClipError as error:
        return Sample(request, clip.label, None, CropBox(0, 0, 0, 0), False, error.failure(clip.clip_id))
    label = settings.swapped_labels[clip.label] if view.flip and settings.swapped_labels else clip.label
    return Sample(request, label, pixels, view.crop, view.flip)


def collate(samples: Sequence[Sample], settings: SampleSettings, device: torch.device) -> ClipBatch:
    """Put samples without faults, at least one, side by side and start their way to the device."""
    sound = [(sample, sample.pixels) for sample in samples if sample.pixels is not None]
    labels = torch.tensor([sample.label for sample, _ in sound], dtype=torch.int64)
    is_cuda, size = device.type == "cuda", settings.input_size
    shape = (len(sound), settings.num_segments, size, size, 3)
    if settings.on_device:
        frames = torch.empty(shape, dtype=torch.uint8, device=device)
        for place, (sample, pixels) in enumerate(sound):
            moved = (pixels.pin_memory() if is_cuda else pixels).to(device, non_blocking=True)
            frames[place] = render_on_device(moved, sample.crop, sample.flip, size)
    else:
        frames = torch.empty(shape, dtype=torch.uint8, pin_memory=is_cuda)
        for place, (_, pixels) in enumerate(sound):
            frames[place] = pixels
        frames = frames.to(device, non_blocking=True)
    requests = tuple(sample.request for sample, _ in sound)
    return ClipBatch(frames.permute(0, 1, 4, 2, 3), labels.to(device, non_blocking=True), requests)


class ClipLoader:
    """Loads samples ahead of their use: in `num_workers` processes, or with 0 in one thread. A context manager.

    At most `num_ahead` samples are decoded and not yet used, so memory stays flat.
    """

    def __init__(self, num_workers: int, num_ahead: int) -> None:
        if num_workers < 0 or num_ahead < 1:
            raise PipelineError(
                f"`workers` (={num_workers}) must be 0 or more, samples ahead (={num_ahead}) 1 or more."
            )
        self.num_workers, self.num_ahead = num_workers, max(num_ahead, num_workers + 1)
        self._pool: Executor | None = None

    def __enter__(self) -> ClipLoader:
        if self.num_workers:
            _allow_many_files()
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.num_workers, mp_context=context, initializer=_start_worker)
        else:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="clips")
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._pool is not None
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    def samples(self, requests: Iterable[SampleRequest], settings: SampleSettings) -> Iterator[Sample]:
        """The samples of the requests, in their order.

        Raises:
            PipelineError: a worker process was killed, or shared memory is full.
        """
        assert self._pool is not None, "use the loader as a context manager"
        try:
            # One more than are decoded ahead: the sample that is in use.
            yield from prefetch(self._pool, partial(load_sample, settings=settings), requests, self.num_ahead + 1)
        except BrokenProcessPool as error:
            raise PipelineError(
                f"One of the {self.num_workers} processes that decode clips was killed, most often for want of memory, "
                "or more clips were under way than this process may have files open (`ulimit -n`). Lower --workers or "
                "--batch-size, and run the same command again: it goes on from its last checkpoint."
            ) from error
        except RuntimeError as error:
            if "shared memory" not in str(error) and "shm" not in str(error):
                raise
            raise PipelineError(
                f"There is no room in shared memory for decoded clips ({error}). Lower --workers, or give the "
                "container more of /dev/shm."
            ) from error


def _views(request: SampleRequest, settings: SampleSettings, num_frames: int, height: int, width: int) -> list[View]:
    config = ViewConfig(
        settings.num_segments, settings.choices, settings.crop_fraction, settings.input_size, settings.seed
    )
    if request.epoch is None:
        return [config.test(num_frames, height, width)]
    return [config.draw(FIRST_FRESH_DRAW + request.epoch, request.clip.clip_id, num_frames, height, width)]


def _allow_many_files() -> None:
    # Each clip on its way from a worker is an open file here, and a batch with those behind it soon more than the 1,024
    # that many systems allow at first.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _start_worker() -> None:
    # An interrupt from the keyboard reaches every process; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    end_with_parent()
