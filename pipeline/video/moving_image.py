"""Read animated images with Pillow: WebP, PNG, and TIFF with several pages.

FFmpeg reads only one image of WebP and TIFF, and fills the missing part of a damaged PNG with old memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from pipeline.errors import ClipError
from pipeline.video.containers import missing_end
from pipeline.video.images import IMAGE_ERRORS, num_images, open_image, rgb_of, without_warnings
from pipeline.video.limits import DEFAULT_LIMITS, ClipLimits, Stopwatch
from pipeline.video.reader import ClipReader, Frame


def has_several_images(path: Path) -> bool:
    """Return whether an image file has more than one image; False if Pillow cannot read it."""
    try:
        with without_warnings(), Image.open(path) as image:
            return num_images(image) > 1
    except (*IMAGE_ERRORS, Image.DecompressionBombError):
        return False


class MovingImage(ClipReader):
    """An image file with several images, each a frame. Every read decodes up to the last image.

    Raises:
        ClipError: truncated or damaged, or images of different sizes.
    """

    def __init__(self, path: Path, limits: ClipLimits = DEFAULT_LIMITS) -> None:
        missing = missing_end(path)
        if missing is not None:
            raise ClipError("truncated", f"{path} is truncated: {missing}. Copy or download it again.")
        self._path, self._limits, self._watch = path, limits, Stopwatch(str(path), limits)
        with open_image(path.read_bytes(), str(path), limits) as image:
            # A PNG may have a still image before its animation, for viewers without animation.
            self._num_before = int(getattr(image, "default_image", False))
            super().__init__(str(path), num_images(image) - self._num_before, image.height, image.width)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _decoded(self, ordinals: list[int]) -> Iterator[Frame]:
        wanted = set(ordinals)
        with open_image(self._path.read_bytes(), str(self._path), self._limits) as image:
            for ordinal in range(self.num_frames):
                with self._watch.running():
                    frame = self._frame(image, ordinal)
                self._check_size(f"frame {ordinal}", *frame.shape[:2])
                if ordinal in wanted:
                    yield frame

    def _frame(self, image: Image.Image, ordinal: int) -> Frame:
        try:
            with without_warnings():
                image.seek(self._num_before + ordinal)
        except IMAGE_ERRORS as error:
            raise ClipError("corrupt", f"{self._path} is damaged: {error}.") from error
        self._limits.check_pixels(f"{self._path}, frame {ordinal},", image.height, image.width)
        return rgb_of(image, str(self._path))
