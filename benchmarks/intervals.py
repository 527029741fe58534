"""Question: what does it save to read intervals of a long video in place, and are the features those of cut clips?

It draws a video (H.264, a key frame each 250 frames) and reads intervals of it, in the order of their starts, as
`extract` reads them: in place; cut without loss into FFV1 files, which are then read; and decoded from the start each
time (a few intervals, scaled by the number of frames). Pixels are compared for all
intervals, features for the first ones. The seconds are those of the processor, which other programs do not change much.

    python -m benchmarks.intervals
    python -m benchmarks.intervals --minutes 1 --intervals 20 --features 4
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.frame import PictureType, VideoFrame

from pipeline.backbones import build_backbone
from pipeline.backbones.backbone import pooled
from pipeline.recipe import SamplingConfig
from pipeline.video.clip_views import ClipViews, load_clip_views
from pipeline.video.views import View, ViewConfig

RATE, GOP, WIDTH, HEIGHT = 25, 250, 320, 240
NUM_SEGMENTS = 8
NUM_FROM_START = 4


def write_video(path: Path, num_frames: int) -> None:
    """Write moving noise with a counter as H.264."""
    picture = np.random.default_rng(0).integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    picture = picture.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = GOP
        for number in range(num_frames):
            frame = np.roll(picture, 3 * number, axis=1)
            frame[:16] = number % 256
            container.mux(stream.encode(VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def cut(video: Path, first: int, end: int, path: Path) -> None:
    """Cut frames out of a video without loss, from the nearest key frame."""
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        assert stream.time_base is not None
        source.seek(int(Fraction(first, RATE) / stream.time_base), stream=stream)
        output = target.add_stream("ffv1", rate=RATE)
        output.width, output.height, output.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in source.decode(stream):
            assert frame.pts is not None
            number = round(frame.pts * stream.time_base * RATE)
            if number >= end:
                break
            if number >= first:
                frame.pts, frame.time_base, frame.pict_type = number - first, Fraction(1, RATE), PictureType.NONE
                target.mux(output.encode(frame))
        target.mux(output.encode())


def read(location: str, input_size: int) -> ClipViews:
    """Read the test view of a clip."""
    config = ViewConfig(NUM_SEGMENTS, SamplingConfig())

    def choose_views(num_frames: int, height: int, width: int) -> list[View]:
        return [config.test(num_frames, height, width)]

    return load_clip_views(location, choose_views, input_size)


def read_from_start(video: Path, end: int) -> None:
    """Decode a video from its start up to a frame."""
    with av.open(str(video)) as container:
        container.streams.video[0].codec_context.thread_type = "NONE"
        for number, _ in enumerate(container.decode(video=0), 1):
            if number == end:
                return


def main() -> None:
    """Read the intervals in three ways and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--intervals", type=int, default=200)
    parser.add_argument("--features", type=int, default=20, help="Intervals whose features are compared.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    num_frames = round(options.minutes * 60 * RATE)
    chance = random.Random(0)
    starts = sorted(chance.randrange(num_frames - 4 * RATE) for _ in range(options.intervals))
    ranges = [(first, first + chance.randrange(2 * RATE, 4 * RATE)) for first in starts]
    backbone, _ = build_backbone("squeezenet", "bundled")
    size = backbone.preprocessing.input_size
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        video = Path(folder) / "long.mp4"
        write_video(video, num_frames)
        began = time.process_time()
        in_place = [read(f"{video}#frames={first},{end}", size).pixels[0] for first, end in ranges]
        seconds_in_place = time.process_time() - began
        seconds_of_cuts, num_equal, num_equal_features = 0.0, 0, 0
        for number, (first, end) in enumerate(ranges):
            path = Path(folder) / "cut.mkv"
            began = time.process_time()
            cut(video, first, end, path)
            pixels = read(str(path), size).pixels[0]
            seconds_of_cuts += time.process_time() - began
            num_equal += torch.equal(pixels, in_place[number])
            if number < options.features:
                num_equal_features += torch.equal(pooled(backbone(pixels)), pooled(backbone(in_place[number])))
        sample = ranges[:: max(len(ranges) // NUM_FROM_START, 1)]
        began = time.process_time()
        for _, end in sample:
            read_from_start(video, end)
        seconds_a_frame = (time.process_time() - began) / sum(end for _, end in sample)
    from_start = seconds_a_frame * sum(end for _, end in ranges)
    print(f"{len(ranges)} intervals of a video of {num_frames:,} frames ({WIDTH}x{HEIGHT}, a key frame each {GOP})")
    print(f"  in place                  {seconds_in_place:8.1f} s")
    print(
        f"  cut without loss, read    {seconds_of_cuts:8.1f} s   {seconds_of_cuts / seconds_in_place:.1f} times as long"
    )
    print(
        f"  decoded from the start    {from_start:8.1f} s   {from_start / seconds_in_place:.1f} times as long (scaled)"
    )
    print(f"  equal pixels: {num_equal} of {len(ranges)}; equal features: {num_equal_features} of {options.features}")


if __name__ == "__main__":
    main()
