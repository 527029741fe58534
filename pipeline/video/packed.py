"""Read clips packed in one HDF5 file, ``file.h5::clip``, which is faster than millions of small files.

Layout: a clip is a data set of bytes with the concatenated encoded images (JPG as on disk) and an attribute
`frame_sizes` with the size of each image in bytes. Slashes in a clip's name make groups. A data set with one image of
variable length in each row, as other tools write it, can be read too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.errors import ClipError
from pipeline.manifest import HDF5_SEPARATOR
from pipeline.video.images import decode_image, image_size
from pipeline.video.limits import DEFAULT_LIMITS, ClipLimits, Stopwatch
from pipeline.video.reader import ClipReader, Frame

FRAME_SIZES = "frame_sizes"
# Raised by h5py for a damaged file.
HDF5_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError)


class PackedClip(ClipReader):
    """One clip of an HDF5 file, which is opened in the reading process.

    Raises:
        ClipError: the clip is missing, has another layout, or the file or an image is damaged.
    """

    def __init__(self, path: Path, name: str, limits: ClipLimits = DEFAULT_LIMITS) -> None:
        location = self.location = f"{path}{HDF5_SEPARATOR}{name}"
        self._limits, self._watch = limits, Stopwatch(location, limits)
        try:
            self._file = h5py.File(path, "r", locking="best-effort")
        except HDF5_ERRORS as error:
            raise ClipError("unreadable", f"{path} is not an HDF5 file that can be read ({error}).") from error
        try:
            if not name or name not in self._file:
                raise ClipError("missing", f"{path} has no clip '{name}'.")
            self._data, self._ends = _layout(location, self._file[name], limits)
            if len(self._ends) == 0:
                raise ClipError("empty", f"{location} has no frames.")
            height, width = image_size(self.encoded(0), f"{location}, frame 0", limits)
        except HDF5_ERRORS as error:
            self._file.close()
            raise ClipError("unreadable", f"{location} cannot be read ({error}).") from error
        except BaseException:
            self._file.close()
            raise
        super().__init__(location, len(self._ends), height, width)

    def close(self) -> None:
        self._file.close()

    def encoded(self, ordinal: int) -> bytes:
        """Return the encoded image of one frame."""
        try:
            if self._data.dtype.kind == "O":
                return np.asarray(self._data[ordinal], np.uint8).tobytes()
            start = 0 if ordinal == 0 else int(self._ends[ordinal - 1])
            end = int(self._ends[ordinal])
            self._limits.check_image_bytes(f"{self.location}, frame {ordinal}", end - start)
            return np.asarray(self._data[start:end], np.uint8).tobytes()
        except HDF5_ERRORS as error:
            raise ClipError("corrupt", f"{self.location}: frame {ordinal} cannot be read ({error}).") from error

    def _decoded(self, ordinals: list[int]) -> Iterator[Frame]:
        for ordinal in ordinals:
            with self._watch.running():
                frame = decode_image(self.encoded(ordinal), f"{self.location}, frame {ordinal}", self._limits)
            self._check_size(f"frame {ordinal}", *frame.shape[:2])
            yield frame


def _layout(location: str, data: object, limits: ClipLimits) -> tuple[h5py.Dataset, npt.NDArray[np.int64]]:
    """Return the data set and the end of each image; with rows of variable length, each row counts as one."""
    if isinstance(data, h5py.Dataset) and data.ndim == 1:
        limits.check_bytes(location, data.nbytes)  # a data set may declare terabytes that the file does not hold
        if h5py.check_vlen_dtype(data.dtype) == np.uint8:
            return data, np.arange(1, len(data) + 1)
        if data.dtype == np.uint8 and FRAME_SIZES in data.attrs:
            ends = np.cumsum(np.asarray(data.attrs[FRAME_SIZES], np.int64))
            if (ends[-1] if len(ends) else 0) == len(data) and (np.diff(ends, prepend=0) > 0).all():
                return data, ends
            raise ClipError("corrupt", f"{location}: the sizes of its frames do not sum up to its {len(data)} bytes.")
    raise ClipError(
        "unreadable",
        f"{location} must be a data set of encoded images: bytes with the attribute `{FRAME_SIZES}`, or rows of "
        "bytes of variable length.",
    )
