"""Question: how close is a whole extraction to its upper bound on this machine, and how much faster than a simple loop?

It uses clips of 40 drawn frames: VP9 in WebM or H.264 in MP4 at 240 pixels height, or JPG folders at 100 (`--kind`).
The bound is 1 / (1 / D + 1 / F): D clips/s of decoding and rendering on all cores, F clips/s of the forward pass alone
on all cores, each in as many single-threaded processes as there are cores. A second bound includes compressing the
maps. The whole extraction is `pipeline extract` with as many workers, timed from the second block of each worker to the
last block, without start-up and compilation; the rate of a round is that of the extractions before and after the other
measurements, because the speed of a machine changes. The simple loop uses PyAV, converts every frame to RGB, resizes
with torchvision, and runs eager float32 in one process, all threads.

    python -m benchmarks.extraction
    python -m benchmarks.extraction --backbone bninception --weights random --kind jpg --clips 256
    python -m benchmarks.extraction --maps pooled           # no maps to compress and to write
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import multiprocessing.pool
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from PIL import Image

from benchmarks.decode import drawn_clip
from pipeline.allocator import keep_memory_between_batches
from pipeline.backbones import build_backbone
from pipeline.backbones.torchvision_import import torchvision
from pipeline.extract.compute import RunnerConfig
from pipeline.extract.extract import extract_features
from pipeline.extract.forward import BackboneRunner
from pipeline.manifest import Clip, Manifest, read_manifest, write_manifest
from pipeline.onnx_program import has_engine
from pipeline.prepare.gestures.encode import write_frame_folder, write_video
from pipeline.processes import num_cores
from pipeline.recipe import SamplingConfig
from pipeline.settings.extract import COMPILE_MODES, ExtractSettings
from pipeline.store import FeatureStore, layout
from pipeline.store.chunks import encode_chunk
from pipeline.video.decode import open_clip
from pipeline.video.render import render
from pipeline.video.views import test_view

NUM_SEGMENTS = 8
SECONDS_MEASURED = 5.0

Clock = Callable[[], float]


class Kind(NamedTuple):
    """Suffix, codec and size in pixels of clips; a folder of JPG files has no suffix and no codec."""

    suffix: str
    codec: str
    height: int
    width: int


KINDS = {
    "vp9": Kind(".webm", "libvpx-vp9", 240, 427),
    "h264": Kind(".mp4", "libx264", 240, 426),  # H.264 in 4:2:0 needs an even width
    "jpg": Kind("", "", 100, 176),
}


def write_clips(folder: Path, kind: str, count: int) -> Manifest:
    """Write a manifest of clips: sixteen different ones, each listed under several names."""
    suffix, codec, height, width = KINDS[kind]
    for number in range(16):
        frames = drawn_clip(number, height, width)
        path = folder / f"clip{number}{suffix}"
        write_video(path, frames, codec=codec) if codec else write_frame_folder(path, frames)
    clips = [Clip(f"c{number}", f"clip{number % 16}{suffix}", "moves", "val") for number in range(count)]
    write_manifest(folder / "m.csv", clips, ["moves"])
    return read_manifest(folder / "m.csv")


def pixels_of(location: str) -> torch.Tensor:
    """Render the test view of a clip."""
    with open_clip(location) as reader:
        view = test_view(reader.num_frames, reader.height, reader.width, NUM_SEGMENTS, SamplingConfig())
        return render(reader.read(view.frame_indices), view.crop, view.flip)


def decode_rate(locations: list[str], seconds: float = SECONDS_MEASURED, clock: Clock = time.perf_counter) -> float:
    """Return clips/s of decoding and rendering in this process, by a clock."""
    torch.set_num_threads(1)
    keep_memory_between_batches()
    return _rate(lambda turn: pixels_of(locations[turn % len(locations)]), seconds, clock)


def forward_rate(
    backbone: str,
    weights: str,
    compute: RunnerConfig,
    seconds: float = SECONDS_MEASURED,
    clock: Clock = time.perf_counter,
    keep_maps: bool = True,
) -> float:
    """Return clips/s of only the forward pass in this process, by a clock."""
    torch.set_num_threads(1)
    keep_memory_between_batches()
    forward = BackboneRunner(build_backbone(backbone, weights)[0], compute)
    frames = torch.randint(0, 256, (NUM_SEGMENTS, 224, 224, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    return _rate(lambda turn: forward(frames, keep_maps), seconds, clock)


def compression_rate(location: str, seconds: float = SECONDS_MEASURED) -> float:
    """Return clips/s of only compressing the maps of a store in this process."""
    store = FeatureStore.open(location)
    maps = [store.read_spatial("test", clip.row) for clip in store.clips()[:8]]
    return _rate(lambda turn: encode_chunk(maps[turn % len(maps)]), seconds)


def all_frames(location: str) -> np.ndarray:
    """Decode every frame of a clip as simple scripts do: PyAV, or Pillow for a folder. Shape: (T, H, W, 3)."""
    if Path(location).is_dir():
        return np.stack([np.asarray(Image.open(path)) for path in sorted(Path(location).iterdir())])
    with av.open(location) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def middle_frames(frames: np.ndarray) -> np.ndarray:
    """Select the middle frame of each segment, which are the frames of the test view."""
    return frames[(2 * np.arange(NUM_SEGMENTS) + 1) * len(frames) // (2 * NUM_SEGMENTS)]


def naive_rate(locations: list[str], backbone: str, weights: str) -> float:
    """Return clips/s of the simple loop."""
    network = build_backbone(backbone, weights)[0]
    resize = torchvision.transforms.Resize(256, antialias=True)

    def one(turn: int) -> None:
        chosen = middle_frames(all_frames(locations[turn % len(locations)]))
        pixels = resize(torch.from_numpy(chosen).permute(0, 3, 1, 2))
        cropped = torchvision.transforms.functional.center_crop(pixels, [224, 224])
        with torch.no_grad():
            network(cropped).half().numpy()

    return _rate(one, SECONDS_MEASURED)


def runner_of(location: Path) -> RunnerConfig:
    """Return the configuration that the backbone of a store was run with."""
    settings = FeatureStore.open(location).settings
    return RunnerConfig(settings.compute_dtype, settings.compile_mode, settings.capability, settings.batch_frames)


def whole_rate(manifest: Manifest, location: Path, request: ExtractSettings, num_workers: int) -> float:
    """Return clips/s of an extraction between its first blocks and its last."""
    extract_features(manifest, str(location), request)
    return rate_of_blocks(location, FeatureStore.open(location).num_clips, num_workers)


def rate_of_blocks(store: Path, num_clips: int, num_workers: int) -> float:
    """Return clips/s from the first block of each worker to the last block, by the times of the blocks' records."""
    keys = layout.record_keys(os.listdir(store / layout.RECORDS_FOLDER))
    ended = sorted((store / key).stat().st_mtime for key in keys)
    return (len(ended) - num_workers) * (num_clips / len(ended)) / (ended[-1] - ended[num_workers - 1])


def _rate(work: Callable[[int], object], seconds: float, clock: Clock = time.perf_counter) -> float:
    work(0)
    started, turn = clock(), 0
    while clock() - started < seconds:
        work(turn)
        turn += 1
    return turn / (clock() - started)


def on_all_cores(pool: multiprocessing.pool.Pool, cores: int, work: Callable[..., float], *arguments: object) -> float:
    """Return the sum of the rates of `cores` processes that do the same work."""
    return sum(pool.starmap(work, [arguments] * cores, chunksize=1))


def request_of(
    manifest: Manifest, store: Path, options: argparse.Namespace, cores: int, compile: str
) -> ExtractSettings:
    """Return the settings of an extraction of the test view that starts from nothing."""
    return ExtractSettings(
        manifest=manifest.path,
        store=str(store),
        backbone=options.backbone,
        weights=options.weights,
        views=0,
        workers=cores,
        compile=compile,
        rebuild=True,
    )


def fastest_mode() -> str:
    """Return the way to run a backbone that is the fastest for many clips on most machines."""
    return "openvino" if has_engine("openvino") else "inductor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="squeezenet")
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--kind", choices=list(KINDS), default="vp9")
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--maps", choices=["pooled", "spatial"], default="spatial", help="spatial: both kinds.")
    parser.add_argument("--compile", default=fastest_mode(), choices=COMPILE_MODES)
    options = parser.parse_args()
    cores = num_cores()
    print(f"{platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.1f}; {options.backbone}, {options.kind}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_clips(folder, options.kind, options.clips)
        request = request_of(manifest, folder / "s.zarr", options, cores, options.compile)
        has_maps = options.maps == "spatial"
        if not has_maps:
            request = replace(request, maps=("pooled",))
        locations = [manifest.locate(clip) for clip in manifest.clips[:16]]
        ratios, ratios_with_compression, factors = [], [], []
        with multiprocessing.get_context("spawn").Pool(cores) as pool:
            wholes = [whole_rate(manifest, folder / "s.zarr", request, cores)]
            for _ in range(options.rounds):
                compute = runner_of(folder / "s.zarr")
                decode = on_all_cores(pool, cores, decode_rate, locations)
                run = (options.backbone, options.weights, compute, SECONDS_MEASURED, time.perf_counter, has_maps)
                forward = on_all_cores(pool, cores, forward_rate, *run)
                naive = naive_rate(locations, options.backbone, options.weights)
                store = str(folder / "s.zarr")
                compress = on_all_cores(pool, cores, compression_rate, store) if has_maps else math.inf
                wholes.append(whole_rate(manifest, folder / "s.zarr", request, cores))
                whole = statistics.harmonic_mean(wholes[-2:])
                bound = 1 / (1 / decode + 1 / forward)
                with_compression = 1 / (1 / bound + 1 / compress)
                ratios.append(whole / bound)
                ratios_with_compression.append(whole / with_compression)
                factors.append(whole / naive)
                print(
                    f"decode {decode:.0f}, forward {forward:.0f} ({compute.dtype}), bound {bound:.1f}, "
                    f"whole {whole:.1f}, naive {naive:.1f} clips/s; {ratios[-1]:.2f} of the bound; "
                    f"compression {compress:.0f}, {ratios_with_compression[-1]:.2f} of the bound that includes it"
                )
    print(
        f"median: {statistics.median(ratios):.2f} of the bound, "
        f"{statistics.median(ratios_with_compression):.2f} of the bound with compression, "
        f"×{statistics.median(factors):.1f} the naive loop"
    )


if __name__ == "__main__":
    main()
