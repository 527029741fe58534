"""Training batches of drawn stills: a separate process draws pools ahead, and each batch varies their images."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.bundled.stills import TARGET_NAMES, Stills, draw_stills
from pipeline.processes import end_with_parent

# Mirroring an image changes the signs of these numbers.
MIRRORED_NAMES = ("x", "angle", "side")


class StillPools:
    """Context manager for the pool of images in use; another process draws the next pool at the same time.

    `sizes` are the images' sizes in pixels, one for each pool. The images of a pool depend only on the seed and the
    number of the pool.
    """

    def __init__(self, seed: int, sizes: Sequence[int], pool_images: int, drawing_images: int) -> None:
        self._seed, self._sizes = seed, tuple(sizes)
        self._num_drawings, self._drawing_images = pool_images // drawing_images, drawing_images
        self._current: tuple[int, Stills] | None = None
        self._coming: dict[int, list[Future[Stills]]] = {}

    def __enter__(self) -> StillPools:
        # Spawned, not forked: forking a process with running torch threads can hang.
        self._executor = ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent)
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def get(self, pool: int) -> Stills:
        """Return the images of a pool, and start drawing the next one."""
        if self._current is None or self._current[0] != pool:
            # Freed before the next one is put together: only two pools are ever in memory.
            self._current = None
            self._ask_for(pool)
            drawings = [future.result() for future in self._coming.pop(pool)]
            images = np.concatenate([drawing.images for drawing in drawings])
            targets = np.concatenate([drawing.targets for drawing in drawings])
            masks = np.concatenate([drawing.masks for drawing in drawings])
            self._current = pool, Stills(images, targets, masks)
            if pool + 1 < len(self._sizes):
                self._ask_for(pool + 1)
        return self._current[1]

    def _ask_for(self, pool: int) -> None:
        if pool in self._coming:
            return
        first = pool * self._num_drawings
        self._coming[pool] = [
            self._executor.submit(draw_stills, self._seed, first + index, self._drawing_images, self._sizes[pool])
            for index in range(self._num_drawings)
        ]


def varied_batch(
    stills: Stills, rows: np.ndarray, generator: np.random.Generator, input_size: int, device: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return images of some rows, half of them mirrored and each with another brightness, with targets and masks.

    Shape:
        returns: (N, 3, S, S) float in 0 to 255, channels last; (N, 8); (N, 1, M, M) float in 0 to 1.
    """
    count = len(rows)
    images = images_of(stills, rows, device)
    targets = torch.from_numpy(stills.targets[rows]).to(device)
    masks = torch.from_numpy(stills.masks[rows]).to(device).unsqueeze(1).float() / 255
    flip = torch.from_numpy(generator.random(count) < 0.5).to(device)
    images = torch.where(flip.view(-1, 1, 1, 1), images.flip(3), images)
    masks = torch.where(flip.view(-1, 1, 1, 1), masks.flip(3), masks)
    signs = targets.new_tensor([-1 if name in MIRRORED_NAMES else 1 for name in TARGET_NAMES])
    targets = torch.where(flip.view(-1, 1), targets * signs, targets)
    gains = torch.from_numpy(generator.uniform(0.8, 1.25, (count, 1, 1, 1)).astype(np.float32)).to(device)
    seen = (resized(images, input_size) * gains).clamp(0, 255)
    return seen.contiguous(memory_format=torch.channels_last), targets, masks


def images_of(stills: Stills, rows: np.ndarray, device: str) -> Tensor:
    """Return the images of some rows, (N, 3, S, S) uint8."""
    return torch.from_numpy(stills.images[rows]).to(device).permute(0, 3, 1, 2)


def resized(images: Tensor, size: int) -> Tensor:
    """Resize images, as float; images are drawn smaller than the input, like the frames of small clips."""
    if images.shape[-1] == size:
        return images.float()
    return F.interpolate(images.float(), size=(size, size), mode="bilinear", align_corners=False)
