"""Store features as int8 codes with a scale for each clip and channel.

A value is its code times the scale. Scales are powers of two, so a product is exact in float16, and features that were
read from a store and quantised again have the same codes: export and import keep every byte. The error is at most half
a scale, which is at most 1/127 of the largest magnitude of that clip and channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

MAX_CODE = 127
MIN_EXPONENT = -24  # 2**-24 is the smallest float16 above 0
ABOUT = (
    "value = code * scale, with a scale for each clip and channel; the error is at most half a scale, which is at most "
    "1/127 of the largest magnitude of the clip and channel"
)
Float16 = npt.NDArray[np.float16]


def quantise(features: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int8], Float16]:
    """Return the codes and the scales of the finite features of one clip.

    Shape:
        features: (T, ..., C), float16. returns: (T, ..., C), int8, and (C,), float16.

    >>> quantise(np.array([[0.5, 100.0], [-127.0, 3.0]], dtype=np.float16))
    (array([[   0,  100],
           [-127,    3]], dtype=int8), array([1., 1.], dtype=float16))
    """
    values = features.astype(np.float32)
    largest = np.abs(values).max(axis=tuple(range(values.ndim - 1)), initial=0).astype(np.float64)
    # The smallest power of two that is at least largest / 127.
    mantissa, exponent = np.frexp(largest / MAX_CODE)
    exponent = np.maximum(exponent - (mantissa == 0.5), MIN_EXPONENT)
    codes = np.rint(np.ldexp(values, -exponent)).astype(np.int8)
    return codes, np.ldexp(1.0, exponent).astype(np.float16)


def dequantise(codes: npt.NDArray[np.int8], scales: Float16) -> Float16:
    """Return the values of codes; a scale of NaN, which an unfinished row has, gives NaN.

    Shape:
        codes: (..., C). scales: broadcast against codes. returns: as codes, float16.
    """
    # float32: NumPy multiplies float16 one value at a time.
    return (codes.astype(np.float32) * scales.astype(np.float32)).astype(np.float16)


def as_stored(features: Float16, store_dtype: str) -> Float16:
    """Return features as a store returns them: rounded to codes if it has int8."""
    return dequantise(*quantise(features)) if store_dtype == "int8" else features
