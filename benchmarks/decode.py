"""Question: how many clips per second can be decoded, and how much faster is the pipeline than simple ways?

It decodes eight frames (those of the test view) of clips of 40 drawn frames. VP9 in WebM at 240 pixels height, as in
Something-Something: `open_clip` in one process and in several, seeking to each frame, and converting every frame to
RGB. H.264 in MP4 of the same frames: also `open_clip` that decodes every picture, not only those that the eight frames
need. JPG folders at 100 pixels height, as in Jester: `open_clip` and Pillow. With `--videos`, the same two for other
videos. All ways run in turn within every round; a factor is the median of the rounds' ratios to `open_clip` in one
process.

    python -m benchmarks.decode
    python -m benchmarks.decode --processes 2 --rounds 7 --clips 40
    python -m benchmarks.decode --clips 1 --videos ~/clips/*.mp4
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

from pipeline.prepare.gestures.encode import write_frame_folder, write_video
from pipeline.video.decode import open_clip
from pipeline.video.sampling import test_frame_indices

NUM_FRAMES, NUM_SEGMENTS, FPS = 40, 8, 12
INDICES = test_frame_indices(NUM_FRAMES, NUM_SEGMENTS).tolist()


def drawn_clip(seed: int, height: int, width: int) -> np.ndarray:
    """Draw a textured, slightly noisy background with a moving shape: (T, H, W, 3)."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(40, 216, (height // 12, width // 12, 3), np.uint8))
    background = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    frames = background + random.integers(-4, 5, (NUM_FRAMES, height, width, 1), np.int16)
    for index in range(NUM_FRAMES):
        left = (seed * 7 + index * 4) % (width - width // 4)
        frames[index, height // 3 : 2 * height // 3, left : left + width // 4] = (230, 180, 150)
    return frames.clip(0, 255).astype(np.uint8)


def by_pipeline(path: str, decodes_whole: bool = False) -> np.ndarray:
    with open_clip(path) as reader:
        reader.decodes_whole = decodes_whole
        return reader.read(test_frame_indices(reader.num_frames, NUM_SEGMENTS))


def by_all_pictures(path: str) -> np.ndarray:
    return by_pipeline(path, decodes_whole=True)


def by_seeking(path: str) -> np.ndarray:
    """Seek before each frame, then decode up to it."""
    frames = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        for index in INDICES:
            seconds = index / FPS
            container.seek(int(seconds / stream.time_base), stream=stream)
            found = (frame for frame in container.decode(stream) if frame.time > seconds - 0.5 / FPS)
            frames.append(next(found).to_ndarray(format="rgb24"))
    return np.stack(frames)


def by_converting_all(path: str) -> np.ndarray:
    """Convert every frame to RGB with the library's threads, then select."""
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])[INDICES]


def by_pillow(path: str) -> np.ndarray:
    return np.stack([np.asarray(Image.open(Path(path) / f"{index + 1:05d}.jpg").convert("RGB")) for index in INDICES])


def timed(work: Callable[[], object], num_clips: int) -> float:
    """Return clips per second."""
    started_at = time.perf_counter()
    work()
    return num_clips / (time.perf_counter() - started_at)


def measure(ways: dict[str, Callable[[str], np.ndarray]], paths: Sequence[str], processes: int, rounds: int) -> dict:
    def one_by_one(way: Callable[[str], np.ndarray]) -> Callable[[], object]:
        return lambda: [way(path).shape for path in paths]

    rates: dict[str, list[float]] = {}
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(shape_of, paths)  # so that imports are not timed
        for round_number in range(rounds + 1):
            work = {name: one_by_one(way) for name, way in ways.items()}
            work[f"open_clip, {processes} processes"] = lambda: pool.map(shape_of, paths, chunksize=4)
            for name, run in work.items():
                rate = timed(run, len(paths))
                if round_number:  # the first round warms up
                    rates.setdefault(name, []).append(rate)
    reference = rates["open_clip"]
    return {
        name: {
            "clips_per_second": round(statistics.median(values), 1),
            "ratio": round(statistics.median(v / r for v, r in zip(values, reference, strict=True)), 2),
        }
        for name, values in rates.items()
    }


def shape_of(path: str) -> tuple[int, ...]:
    return by_pipeline(path).shape


def processor() -> str:
    lines: Iterable[str] = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else ()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--videos", nargs="+", default=[], metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        videos, others, folders = [], [], []
        for number in range(options.clips):
            frames = drawn_clip(number, 240, 320)
            videos.append(f"{folder}/{number}.webm")
            write_video(videos[-1], frames, FPS)
            others.append(f"{folder}/{number}.mp4")
            write_video(others[-1], frames, FPS, "libx264")
            folders.append(f"{folder}/{number}")
            write_frame_folder(folders[-1], drawn_clip(number, 100, 176))
        for way in (by_seeking, by_converting_all):
            assert (way(videos[0]) == by_pipeline(videos[0])).all(), way.__name__
        for video in (others[0], *options.videos):
            assert (by_all_pictures(video) == by_pipeline(video)).all(), video
        assert (by_pillow(folders[0]) == by_pipeline(folders[0])).all()
        vp9 = {"open_clip": by_pipeline, "seeking to each frame": by_seeking, "all frames to RGB": by_converting_all}
        needed = {"open_clip": by_pipeline, "all pictures": by_all_pictures}
        jpg = {"open_clip": by_pipeline, "Pillow": by_pillow}
        times = {"processes": options.processes, "rounds": options.rounds}
        result = {
            "machine": f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
            "kilobytes_per_video": round(sum(map(os.path.getsize, videos)) / len(videos) / 1000, 1),
            "vp9_320x240": measure(vp9, videos, **times),
            "h264_320x240": measure({**needed, "all frames to RGB": by_converting_all}, others, **times),
            "jpg_176x100": measure(jpg, folders, **times),
        }
        if options.videos:
            result["videos"] = measure(needed, options.videos, **times)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
