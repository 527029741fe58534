from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import PipelineError, ShapeError
from pipeline.prepare.gestures.encode import write_frame_folder, write_video
from tests.conftest import REPOSITORY


def moving_square(num_frames: int = 12, height: int = 60, width: int = 80) -> np.ndarray:
    frames = np.full((num_frames, height, width, 3), 90, np.uint8)
    for index in range(num_frames):
        frames[index, 10:30, 3 * index : 3 * index + 20] = (220, 60, 20 * index)
    return frames


def plain_decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


WRITE = """
import sys
from pipeline.prepare.gestures.encode import write_video
from tests.test_encode import moving_square
for suffix, codec in ((".webm", "libvpx-vp9"), (".mp4", "libx264"), (".mkv", "ffv1"), (".avi", "mpeg4")):
    write_video(sys.argv[1] + suffix, moving_square(), 12, codec)
"""


def test_the_bytes_do_not_depend_on_what_the_memory_held(tmp_path: Path) -> None:
    written = []
    for held in ("0", "85"):
        environment = {**os.environ, "MALLOC_PERTURB_": held}  # glibc fills with it what it hands out
        subprocess.run([sys.executable, "-c", WRITE, str(tmp_path / held)], check=True, env=environment, cwd=REPOSITORY)
        written.append([(tmp_path / held).with_suffix(s).read_bytes() for s in (".webm", ".mp4", ".mkv", ".avi")])
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".webm", "libvpx-vp9"), (".mp4", "libx264"), (".mkv", "ffv1"), (".avi", "mpeg4")]
)
def test_a_written_video_shows_the_frames_and_has_the_same_bytes_each_time(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    frames = moving_square()
    digests = set()
    for name in ("one", "two"):
        path = tmp_path / f"{name}{suffix}"
        write_video(path, frames, 12, codec)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
    decoded = plain_decode(path)
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 4
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [f"one{suffix}", f"two{suffix}"]


def test_the_frame_rate_stands_in_the_file(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.webm", moving_square(), 30000 / 1001)
    with av.open(str(tmp_path / "clip.webm")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(29.97, abs=0.01)


def test_odd_sizes_are_kept(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.webm", moving_square(height=61, width=83))
    assert plain_decode(tmp_path / "clip.webm").shape == (12, 61, 83, 3)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.webm"
    write_video(path, moving_square())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="'libx264'"):
        write_video(path, moving_square(), codec="libx264")  # WebM takes no H.264
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.webm"]


def test_a_frame_folder_is_numbered_from_one_and_replaced_whole(tmp_path: Path) -> None:
    frames = moving_square()
    write_frame_folder(tmp_path / "clip", frames, quality=95)
    names = sorted(entry.name for entry in (tmp_path / "clip").iterdir())
    assert names == [f"{number:05d}.jpg" for number in range(1, 13)]
    pixels = np.asarray(Image.open(tmp_path / "clip" / "00003.jpg"))
    assert np.abs(pixels.astype(int) - frames[2]).mean() < 4
    write_frame_folder(tmp_path / "clip", frames[:2], template="img_{:06d}.jpg", first_number=0)
    assert sorted(entry.name for entry in (tmp_path / "clip").iterdir()) == ["img_000000.jpg", "img_000001.jpg"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip"]


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="T, H, W, 3"):
        write_video(tmp_path / "clip.webm", moving_square()[0])
    with pytest.raises(PipelineError, match="uint8"):
        write_frame_folder(tmp_path / "clip", moving_square().astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match="at least one frame"):
        write_video(tmp_path / "clip.webm", moving_square()[:0])
    with pytest.raises(PipelineError, match=r"suffix.*\.webm"):
        write_video(tmp_path / "clip.xyz", moving_square())
    assert list(tmp_path.iterdir()) == []
