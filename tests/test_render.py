"""The pixels of views, against `PIL.Image.resize(box=...)`, which resamples a box with edges between pixels exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import PipelineError, ShapeError
from pipeline.video.crops import CropBox, centre_crop, multiscale_crops, published_crops
from pipeline.video.render import render, render_on_device
from pipeline.video.resampling import MAX_SHIFT, MAX_SKIPPED, window_along

SHAPES = [(100, 176), (120, 160), (240, 320), (240, 427), (1080, 1920)]


def noise(height: int, width: int, num_frames: int = 1) -> np.ndarray:
    """Independent pixels: a shift of the box changes them more than those of any real frame."""
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), np.uint8)


def photo(height: int, width: int) -> np.ndarray:
    """Smooth shapes, edges and fine texture: (1, H, W, 3)."""
    random = np.random.default_rng(1)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
    picture = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    picture[height // 3 : height // 2, width // 4 : width // 2] = (230, 180, 20)
    picture += random.integers(-10, 11, picture.shape, np.int16)
    return picture.clip(0, 255).astype(np.uint8)[None]


def by_pillow(frames: np.ndarray, box: CropBox, size: int = 224) -> Tensor:
    height, width = frames.shape[1:3]
    edges = (box.left, box.top, min(box.left + box.width, width), min(box.top + box.height, height))
    images = [Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR, box=edges) for frame in frames]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


def mean_error(found: Tensor, expected: Tensor) -> float:
    return float((found.int() - expected.int()).abs().float().mean())


@pytest.mark.parametrize("shape", [*SHAPES, (256, 341), (256, 455), (333, 500), (320, 240)])
def test_the_test_view_shows_the_exact_box(shape: tuple[int, int]) -> None:
    box = centre_crop(*shape)
    for frames in (noise(*shape), photo(*shape)):
        found, expected = render(frames, box, flip=False), by_pillow(frames, box)
        assert found.dtype == torch.uint8
        assert found.shape == (1, 3, 224, 224)
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert mean_error(found, expected) < 0.5
    whole = CropBox(int(box.top), int(box.left), int(box.height), int(box.width))
    if whole != box:  # the test can tell a rounded box
        assert mean_error(render(noise(*shape), whole, flip=False), by_pillow(noise(*shape), box)) > 0.5


@pytest.mark.parametrize("shape", [(100, 176), (120, 160), (240, 320), (240, 427)])
def test_the_test_view_equals_pillow_bit_by_bit_where_the_grid_meets_a_pixel(shape: tuple[int, int]) -> None:
    frames, box = noise(*shape), centre_crop(*shape)
    assert torch.equal(render(frames, box, flip=False), by_pillow(frames, box))
    assert torch.equal(render(frames, box, flip=True), by_pillow(frames, box).flip(3))


@pytest.mark.parametrize("shape", [*SHAPES[:4], (256, 455), (101, 99), (33, 47), (241, 240), (8, 9)])
def test_crops_show_their_exact_boxes(shape: tuple[int, int]) -> None:
    frames = photo(*shape)
    for box in {*multiscale_crops(*shape), *published_crops(*shape)}:
        assert mean_error(render(frames, box, flip=False), by_pillow(frames, box)) < 0.5, box


def test_boxes_of_large_frames_and_other_output_sizes() -> None:
    for shape, size in [((1080, 1920), 224), ((720, 1280), 299), ((480, 640), 64), ((50, 60), 299)]:
        frames = photo(*shape)
        for box in (centre_crop(*shape, 0.9), *multiscale_crops(*shape)[4::9]):
            assert mean_error(render(frames, box, False, size), by_pillow(frames, box, size)) < 0.5, box


def test_a_box_without_a_window_is_resized_by_pillow() -> None:
    box = centre_crop(256, 455)  # 115.5 pixels from the left at one source pixel per output pixel
    assert window_along(box.left, box.width, 224, 455) is None
    frames = noise(256, 455, 2)
    assert torch.equal(render(frames, box, flip=False), by_pillow(frames, box))
    assert torch.equal(render(frames, box, flip=True), by_pillow(frames, box).flip(3))
    on_device = render_on_device(torch.from_numpy(frames), box, True, 224)
    assert torch.equal(on_device.permute(0, 3, 1, 2), by_pillow(frames, box).flip(3))


def test_a_window_shifts_no_output_pixel_by_more_than_it_may() -> None:
    random = np.random.default_rng(3)
    num_found = 0
    for _ in range(500):
        num_pixels = int(random.integers(20, 1500))
        extent = random.uniform(0.3, 1) * num_pixels
        offset = random.uniform(0, num_pixels - extent)
        window = window_along(offset, extent, 224, num_pixels)
        if window is None:
            continue
        num_found += 1
        scale = extent / 224
        wanted = offset + scale * (np.arange(224) + 0.5)
        centres = window.start + window.scale * (np.arange(window.num_skipped, window.num_skipped + 224) + 0.5)
        assert np.abs(centres - wanted).max() <= MAX_SHIFT * max(scale, 1) * 1.0001
        assert np.abs(centres - wanted).mean() <= MAX_SHIFT * max(scale, 1) / 1.9
        assert 0 <= window.num_skipped <= MAX_SKIPPED
        assert window.stop <= num_pixels
        # No kernel is cut where the frame has more pixels.
        assert window.start <= 0 or window.start <= centres[0] - max(scale, 1) + 0.51
        assert window.stop == num_pixels or window.stop >= centres[-1] + max(scale, 1) - 0.51
    assert num_found > 400


def test_rendering_does_not_depend_on_the_number_of_threads_or_frames() -> None:
    frames, box = noise(120, 160, 5), multiscale_crops(120, 160)[13]
    found = render(frames, box, flip=True)
    before = torch.get_num_threads()
    try:
        for num_threads in (1, 3):
            torch.set_num_threads(num_threads)
            assert torch.equal(render(frames, box, flip=True), found)
            assert torch.equal(torch.cat([render(frame[None], box, flip=True) for frame in frames]), found)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("shape", [(100, 176), (240, 320), (33, 47)])
def test_rendering_on_the_device_agrees_up_to_rounding(shape: tuple[int, int], device: str) -> None:
    frames = photo(*shape)
    for box in (centre_crop(*shape), *multiscale_crops(*shape)[::7], *published_crops(*shape)[::7]):
        for flip in (False, True):
            expected = render(frames, box, flip).permute(0, 2, 3, 1)
            found = render_on_device(torch.from_numpy(frames).to(device), box, flip, 224).cpu()
            assert int((found.int() - expected.int()).abs().max()) <= 1
            assert mean_error(found, expected) < 0.03


def test_a_large_box_is_shrunk_with_antialiasing_on_the_device() -> None:
    frames, box = noise(150, 200), centre_crop(150, 200)
    expected = render(frames, box, False, 48).permute(0, 2, 3, 1)
    found = render_on_device(torch.from_numpy(frames), box, False, 48)
    assert int((found.int() - expected.int()).abs().max()) <= 1


def test_render_leaves_the_frames_alone_and_takes_those_of_a_reader() -> None:
    frames = noise(50, 60, 3)
    frames.flags.writeable = False
    before = frames.copy()
    box = CropBox(0, 0, 50, 50)
    render(frames, box, flip=True).zero_()
    assert (frames == before).all()
    assert torch.equal(render(frames[::-1], box, False)[0], render(frames, box, False)[2])


def test_render_refuses_what_is_no_clip_or_no_box_of_it() -> None:
    frames = noise(50, 60, 3)
    with pytest.raises(ShapeError, match="T, H, W, 3"):
        render(frames[0], CropBox(0, 0, 50, 50), False)
    with pytest.raises(PipelineError, match="uint8"):
        render(frames.astype(np.float32), CropBox(0, 0, 50, 50), False)  # type: ignore[arg-type]
    outside = (CropBox(0, 0, 50.5, 50), CropBox(-0.5, 0, 50, 50), CropBox(0, 11, 50, 50), CropBox(0, 0, 0, 5))
    for box in outside:
        with pytest.raises(PipelineError, match="inside the frame"):
            render(frames, box, False)
