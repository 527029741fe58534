"""The fingerprint of a store: every setting that decides a byte of it, kept as readable attributes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.recipe import SamplingConfig

MAP_KINDS = ("pooled", "spatial")
# Of what is read from a store, before memory is asked for; far beyond what any backbone needs.
MAX_ROW_BYTES = 1 << 31
BOUNDS = {
    "batch_frames": (1, 1 << 16),
    "transform_version": (1, 1 << 16),
    "num_segments": (0, 1 << 12),
    "seed": (0, (1 << 63) - 1),
    "channels": (1, 1 << 16),
    "map_size": (1, 1 << 12),
}


@dataclass(frozen=True)
class StoreSettings:
    """What a store was made with. Two stores with equal settings and clips hold equal bytes.

    weights: `name` and `sha256` of the backbone's weights.
    compute_dtype, capability, compile_mode: how the backbone was run; each changes the last bits.
    batch_frames: the fixed number of frames in a batch; sums differ between batch sizes.
    frame_choices: sampler, short clips, crops and flip of the views.
    seed: of the training draws.
    maps: which of `pooled` and `spatial` are kept.
    map_size: height and width of the backbone's maps.
    frames: `segments` keeps T frames of each view; `all` keeps pooled features of every frame, centre crop, and
        num_segments is 0.
    """

    backbone: str
    weights: Mapping[str, str]
    compute_dtype: str
    capability: str
    compile_mode: str
    batch_frames: int
    transform_version: int
    frame_choices: SamplingConfig
    num_segments: int
    seed: int
    maps: tuple[str, ...]
    channels: int
    map_size: int
    preprocessing: Mapping[str, Any]
    frames: Literal["segments", "all"] = "segments"

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain data for JSON."""
        values = dataclasses.asdict(self)
        return {
            **values,
            "maps": list(self.maps),
            "weights": dict(self.weights),
            "preprocessing": dict(self.preprocessing),
        }

    def differences(self, other: StoreSettings) -> list[str]:
        """Names of the fields in which another store's settings differ, the choices of frames one by one.

        Kinds of maps are not compared: they decide what is kept, not its bytes.
        """
        mine, theirs = _flat(self), _flat(other)
        return [name for name in mine if name != "maps" and mine[name] != theirs[name]]

    def described(self, field: str) -> str:
        """`field=value` for a message, weights with the start of their checksum."""
        value = _flat(self)[field]
        if field == "weights":
            return f"weights={value['name']} (sha256 {value['sha256'][:8]}…)"
        return f"{field}={value}"


def settings_from_dict(values: Mapping[str, Any]) -> StoreSettings:
    """The settings that `StoreSettings.as_dict` wrote, also after a way through JSON.

    Raises:
        ValueError, TypeError, KeyError: a field is missing, of another type, or of a size that no store has.
    """
    settings = StoreSettings(
        **{**values, "frame_choices": SamplingConfig(**values["frame_choices"]), "maps": tuple(values["maps"])}
    )
    for name, (lowest, highest) in BOUNDS.items():
        value = getattr(settings, name)
        if type(value) is not int or not lowest <= value <= highest:
            raise ValueError(f"{name} (={value!r}) must be a whole number from {lowest} to {highest:,}")
    if settings.map_size**2 * settings.channels * max(settings.num_segments, 1) * 2 > MAX_ROW_BYTES:
        raise ValueError(f"the features of one clip would take more than {MAX_ROW_BYTES:,} bytes")
    texts = [settings.backbone, settings.compute_dtype, settings.capability, settings.compile_mode]
    texts += [settings.weights["name"], settings.weights["sha256"], *vars(settings.frame_choices).values()]
    if not all(type(text) is str for text in texts) or not isinstance(settings.preprocessing, Mapping):
        raise TypeError("a name in the settings is no text")
    if not set(settings.maps) <= set(MAP_KINDS) or settings.frames not in ("segments", "all"):
        raise ValueError(f"maps (={settings.maps}) or frames (={settings.frames!r}) is of no known kind")
    return settings


def _flat(settings: StoreSettings) -> dict[str, Any]:
    # Through plain data, so that a tuple and the list that JSON made of it are equal.
    values = _plain(settings.as_dict())
    choices = values.pop("frame_choices")
    return {**values, **choices}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
