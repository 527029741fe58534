"""Load clips for training: worker processes or a thread decode them ahead and return them in the requested order.

A sample depends only on its request (clip, epoch) and the settings, so it is the same for any number of workers.
Workers are spawned, never forked; the number of samples decoded ahead is bounded; workers end with their parent, even
if the parent is killed.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import NamedTuple

import torch
import torch.multiprocessing  # registers reducers, so that tensors travel between processes in shared memory
from torch import Tensor

from pipeline.clip_errors import clip_errors
from pipeline.errors import ClipError, ClipFailure, PipelineError
from pipeline.finetune.augmentation import UNCHANGED, Augmentation, PixelChange
from pipeline.prefetch import prefetch
from pipeline.processes import allow_many_files, start_worker, without_interrupts
from pipeline.recipe import SamplingConfig
from pipeline.video.clip_views import load_clip_views
from pipeline.video.crops import CropBox
from pipeline.video.decode import open_clip
from pipeline.video.fatal_clips import find_fatal_clips
from pipeline.video.limits import DEFAULT_LIMITS, ClipLimits
from pipeline.video.render import render_on_device
from pipeline.video.views import View, ViewConfig
from pipeline.video.watchdog import Watchdog

# The draws of a feature store are numbered from 0: from this number on, no fitted head was trained on a draw.
FIRST_FRESH_DRAW = 1_000_000


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """A clip to train on or to score. `label` is the index of its class."""

    clip_id: str
    location: str
    label: int


@dataclass(frozen=True)
class SampleSettings:
    """Settings that, with clip and epoch, determine the pixels of a sample.

    swapped_labels: the label of each class after mirroring; empty if mirroring keeps the label.
    on_device: return whole frames; `render_on_device` then crops them.
    """

    num_segments: int
    choices: SamplingConfig
    seed: int
    input_size: int = 224
    crop_fraction: float = 0.875
    swapped_labels: tuple[int, ...] = ()
    on_device: bool = False
    limits: ClipLimits = DEFAULT_LIMITS
    augmentation: Augmentation = UNCHANGED


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """Request for the view of a clip in one epoch, or for its test view if `epoch` is None.

    position: any number; it is returned with the sample.
    """

    clip: LabelledClip
    epoch: int | None = None
    position: int = 0


class Sample(NamedTuple):
    """One view of one clip, or the failure of the clip.

    Shape:
        pixels: (T, S, S, 3) uint8, the rendered view; with `on_device` (T, H, W, 3), whole frames; of cached
            activations (T, h, w, C), float.
    change: change of the pixels that is still to be made, behind the rendering on the device.
    """

    request: SampleRequest
    label: int
    pixels: Tensor | None
    crop: CropBox
    flip: bool
    fault: ClipFailure | None = None
    change: PixelChange | None = None


class ClipBatch(NamedTuple):
    """A batch of samples without failures.

    Shape:
        frames: (B, T, 3, S, S) uint8, or activations (B, T, C, h, w); channels last in memory. labels: (B,) int64.
    """

    frames: Tensor
    labels: Tensor
    requests: tuple[SampleRequest, ...]


def load_sample(
    request: SampleRequest, settings: SampleSettings, known: Mapping[str, ClipError] | None = None
) -> Sample:
    """Decode one sample and render it, unless the device does so. A clip that fails gives a sample with its failure.

    known: errors of clips that are not decoded, by their locations.
    """
    clip = request.clip
    choose_views = partial(_views, request, settings)
    try:
        if known and clip.location in known:
            raise known[clip.location]
        if settings.on_device:
            with clip_errors(clip.location), open_clip(clip.location, settings.limits) as reader:
                (view,) = choose_views(reader.num_frames, reader.height, reader.width)
                pixels = torch.from_numpy(reader.read(view.frame_indices))  # (T, H, W, 3)
        else:
            loaded = load_clip_views(clip.location, choose_views, settings.input_size, settings.limits)
            (view,), pixels = loaded.views, loaded.pixels[0].permute(0, 2, 3, 1)  # no copy: channels last
    except ClipError as error:
        return Sample(request, clip.label, None, CropBox(0, 0, 0, 0), False, error.failure(clip.clip_id))
    label = settings.swapped_labels[clip.label] if view.flip and settings.swapped_labels else clip.label
    change = _change(request, settings)
    if change is not None and not settings.on_device:
        pixels, change = change.apply(pixels), None
    return Sample(request, label, pixels, view.crop, view.flip, change=change)


def collate(samples: Sequence[Sample], settings: SampleSettings, device: torch.device) -> ClipBatch:
    """Stack the samples without failures, at least one, and start copying them to the device."""
    sound = [(sample, sample.pixels) for sample in samples if sample.pixels is not None]
    labels = torch.tensor([sample.label for sample, _ in sound], dtype=torch.int64)
    is_cuda, size = device.type == "cuda", settings.input_size
    shape = (len(sound), settings.num_segments, size, size, 3)
    is_rendered = not settings.on_device or sound[0][1].is_floating_point()
    if not is_rendered:
        frames = torch.empty(shape, dtype=torch.uint8, device=device)
        for place, (sample, pixels) in enumerate(sound):
            moved = (pixels.pin_memory() if is_cuda else pixels).to(device, non_blocking=True)
            rendered = render_on_device(moved, sample.crop, sample.flip, size)
            frames[place] = rendered if sample.change is None else sample.change.apply(rendered)
    else:
        first = sound[0][1]
        frames = torch.empty((len(sound), *first.shape), dtype=first.dtype, pin_memory=is_cuda)
        for place, (_, pixels) in enumerate(sound):
            frames[place] = pixels
        frames = frames.to(device, non_blocking=True)
    requests = tuple(sample.request for sample, _ in sound)
    return ClipBatch(frames.permute(0, 1, 4, 2, 3), labels.to(device, non_blocking=True), requests)


class ClipLoader:
    """Context manager that loads samples ahead of their use: in `num_workers` processes, or with 0 in one thread.

    At most `num_ahead` samples are decoded and not yet used, so memory is bounded. A clip that crashes or blocks a
    worker fails, and the workers are replaced. Without workers, the supervisor of the command does the same.
    """

    def __init__(self, num_workers: int, num_ahead: int) -> None:
        if num_workers < 0 or num_ahead < 1:
            raise PipelineError(
                f"`workers` (={num_workers}) must be 0 or more, samples ahead (={num_ahead}) 1 or more."
            )
        self.num_workers, self.num_ahead = num_workers, max(num_ahead, num_workers + 1)
        self._pool: Executor | None = None
        self._fatal: dict[str, ClipError] = {}

    def __enter__(self) -> ClipLoader:
        self._pool = self._new_pool()
        return self

    def _new_pool(self) -> Executor:
        if not self.num_workers:
            return ThreadPoolExecutor(1, thread_name_prefix="clips")
        # Each clip that a worker sends is an open file here; a batch and the clips decoded ahead can exceed the default
        # limit of 1,024 files.
        allow_many_files()
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(
            self.num_workers, context, initializer=start_worker, initargs=(f"{__name__}:start_decoding",)
        )
        with without_interrupts():
            for _ in range(self.num_workers):
                pool.submit(int)  # starts a process
        return pool

    def __exit__(self, *exception: object) -> None:
        assert self._pool is not None
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    def samples(self, requests: Iterable[SampleRequest], settings: SampleSettings) -> Iterator[Sample]:
        """Yield the samples of the requests, in their order.

        Raises:
            PipelineError: a worker process was killed, or shared memory is full.
        """
        source = iter(requests)
        while True:
            pending: deque[SampleRequest] = deque()  # taken from `source`, and not yielded
            try:
                for sample in self._samples(_noted(source, pending), settings):
                    pending.popleft()
                    yield sample
                return
            except BrokenProcessPool as error:
                self._leave_out_fatal_clips(pending, settings.limits, error)
                source = chain(pending, source)

    def _samples(self, requests: Iterable[SampleRequest], settings: SampleSettings) -> Iterator[Sample]:
        assert self._pool is not None, "use the loader as a context manager"
        load = partial(_load_in_worker if self.num_workers else load_sample, settings=settings, known=self._fatal)
        try:
            # One more than `num_ahead`: the sample in use.
            yield from prefetch(self._pool, load, requests, self.num_ahead + 1)
        except RuntimeError as error:
            if "shared memory" not in str(error) and "shm" not in str(error):
                raise
            raise PipelineError(
                f"Shared memory is too small for decoded clips ({error}). Lower --workers, or give the container a "
                "larger /dev/shm."
            ) from error

    def _leave_out_fatal_clips(
        self, requests: Iterable[SampleRequest], limits: ClipLimits, error: BrokenProcessPool
    ) -> None:
        """Find the clips that ended a worker, and start new workers.

        Raises:
            PipelineError: no clip did.
        """
        fatal = find_fatal_clips(list(dict.fromkeys(request.clip.location for request in requests)), limits)
        if not fatal:
            raise PipelineError(
                f"One of the {self.num_workers} processes that decode clips was killed, usually because memory ran out "
                "or too many files were open (`ulimit -n`). Lower --workers or --batch-size and run the same command "
                "again: it resumes from its last checkpoint."
            ) from error
        assert self._pool is not None
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._fatal.update(fatal)
        self._pool = self._new_pool()


def _noted(requests: Iterator[SampleRequest], pending: deque[SampleRequest]) -> Iterator[SampleRequest]:
    for request in requests:
        pending.append(request)
        yield request


def _load_in_worker(request: SampleRequest, settings: SampleSettings, known: Mapping[str, ClipError]) -> Sample:
    with _watchdog(settings.limits).watching(request.clip.clip_id):
        return load_sample(request, settings, known)


@cache
def _watchdog(limits: ClipLimits) -> Watchdog:
    return Watchdog(limits)


def _views(request: SampleRequest, settings: SampleSettings, num_frames: int, height: int, width: int) -> list[View]:
    choices = settings.choices
    if request.epoch is not None:
        choices = dataclasses.replace(choices, crops=settings.augmentation.crops_of(request.epoch, choices.crops))
    config = ViewConfig(settings.num_segments, choices, settings.crop_fraction, settings.input_size, settings.seed)
    if request.epoch is None:
        return [config.test(num_frames, height, width)]
    return [config.draw(FIRST_FRESH_DRAW + request.epoch, request.clip.clip_id, num_frames, height, width)]


def _change(request: SampleRequest, settings: SampleSettings) -> PixelChange | None:
    if request.epoch is None:
        return None
    number = FIRST_FRESH_DRAW + request.epoch
    return settings.augmentation.draw(settings.seed, request.clip.clip_id, number, settings.input_size)


def start_decoding() -> None:
    """Prepare a worker process. `start_worker` calls it by its name."""
    # Ctrl-C reaches every process; only the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
