"""Preprocessing of a backbone's pixels: channel order, scale, mean and standard deviation, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import PipelineError

CHANNEL_ORDERS = ("RGB", "BGR")


@dataclass(frozen=True)
class Preprocessing:
    """`(pixels * scale - mean) / std` per channel, for uint8 RGB frames that are first put into `channel_order`.

    `mean` and `std` are in `channel_order`. `input_size` is the side in pixels of the backbone's square input;
    `crop_fraction` is `input_size` divided by the short side to which a frame is resized before its centre is cropped.
    """

    channel_order: str
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_size: int = 224
    crop_fraction: float = 0.875

    def __post_init__(self) -> None:
        if self.channel_order not in CHANNEL_ORDERS:
            raise PipelineError(
                f"`channel_order` must be one of {', '.join(CHANNEL_ORDERS)}, not {self.channel_order!r}."
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise PipelineError(f"`mean` and `std` must have 3 values, `std` above 0, not {self.mean} and {self.std}.")
        if self.input_size < 1 or not 0 < self.crop_fraction <= 1:
            raise PipelineError(
                f"`input_size` must be at least 1 and `crop_fraction` in (0, 1], "
                f"not {self.input_size} and {self.crop_fraction}."
            )

    def __str__(self) -> str:
        mean, std = ("/".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return (
            f"{self.input_size} pixels, {self.crop_fraction:.3g} of the short side, {self.channel_order}, "
            f"scale {self.scale:.4g}, mean {mean}, deviation {std}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, from which `from_dict` creates an equal object."""
        return {
            "channel_order": self.channel_order,
            "scale": self.scale,
            "mean": list(self.mean),
            "std": list(self.std),
            "input_size": self.input_size,
            "crop_fraction": self.crop_fraction,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Create the object from the result of `as_dict`.

        Raises:
            PipelineError: a field is missing or unknown, or its value is not allowed.
        """
        fields = set(cls.__dataclass_fields__)
        if set(values) != fields:
            raise PipelineError(
                f"A preprocessing has the fields {', '.join(sorted(fields))}; found {', '.join(sorted(values))}."
            )
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


def stated_input_size(values: Mapping[str, Any]) -> int | None:
    """Return the input size of a preprocessing that a store or a model file states; None for imported features.

    Raises:
        PipelineError: it has none, or it is not an integer.
    """
    if isinstance(values, Mapping) and not values:
        return None
    size = values.get("input_size") if isinstance(values, Mapping) else None
    if type(size) is not int:
        raise PipelineError(f"The preprocessing {values} has no integer `input_size`. The file is damaged.")
    return size


IMAGENET_RGB = Preprocessing("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Preprocessing of torchvision's ImageNet classifiers."""

CAFFE_BGR = Preprocessing("BGR", 1.0, (104.0, 117.0, 128.0), (1.0, 1.0, 1.0))
"""Preprocessing of models ported from Caffe: BGR, 0 to 255, mean subtracted, no scaling."""
