"""Fingerprint of a store: all settings that determine its bytes, stored as readable attributes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.recipe import SamplingConfig
from pipeline.store.sealed import digest_of

MAP_KINDS = ("pooled", "spatial")
STORE_DTYPES = ("float16", "int8")
# Settings that older stores do not have, with the values that the bytes of those stores have.
LATER_SETTINGS: dict[str, Any] = {"video_encoder": False, "store_dtype": "float16"}
# Bounds for values read from a store, checked before memory is allocated; far above the needs of any backbone.
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
    """Settings of an extraction. Two stores with equal settings and clips have equal bytes.

    weights: `name` and `sha256` of the backbone's weights.
    compute_dtype, capability, compile_mode: how the backbone was run; each affects the last bits.
    batch_frames: the fixed number of frames in a batch; sums differ between batch sizes.
    frame_choices: sampler, short clips, crops and flip of the views.
    seed: seed of the training draws.
    maps: stored features, `pooled` or `spatial` or both.
    map_size: height and width of the stored maps, at most those of the backbone's maps.
    frames: `segments` stores T frames of each view; `all` stores pooled features of every frame of the centre crop,
        with num_segments=0.
    store_dtype: number type of the stored features, `float16` or `int8` (`pipeline.store.quantise`).
    video_encoder: whether the features come from a model that mixes the frames of a clip, such as a video transformer.
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
    video_encoder: bool = False
    store_dtype: str = "float16"

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain data for JSON."""
        values = dataclasses.asdict(self)
        for name, earlier in LATER_SETTINGS.items():
            if values[name] == earlier:
                del values[name]  # stores keep the bytes that they had before this setting
        return {
            **values,
            "maps": list(self.maps),
            "weights": dict(self.weights),
            "preprocessing": dict(self.preprocessing),
        }

    def differences(self, other: StoreSettings) -> list[str]:
        """Return the names of fields that differ from another store's settings, including each sampling option.

        `maps` is not compared, because it decides which features are stored, not their bytes.
        """
        mine, theirs = ({**LATER_SETTINGS, **_flat(settings)} for settings in (self, other))
        return [name for name in mine if name != "maps" and mine[name] != theirs[name]]

    def described(self, field: str) -> str:
        """Return `field=value` for a message; weights are shown with the start of their checksum."""
        value = {**LATER_SETTINGS, **_flat(self)}[field]
        if field == "weights":
            return f"weights={value['name']} (sha256 {value['sha256'][:8]}…)"
        return f"{field}={value}"


def fingerprint_of(settings: StoreSettings, classes: Sequence[str]) -> str:
    """Return the SHA-256 of all that decides the bytes of a store, apart from its clips.

    Each record has it, so that a block that was copied from another store is detected.
    """
    return digest_of({"settings": settings.as_dict(), "classes": list(classes)})


def settings_from_dict(values: Mapping[str, Any]) -> StoreSettings:
    """Create settings from the output of `StoreSettings.as_dict`, which may have been stored as JSON.

    Raises:
        ValueError, TypeError, KeyError: a field is missing, has another type, or is out of range.
    """
    settings = StoreSettings(
        **{**values, "frame_choices": SamplingConfig(**values["frame_choices"]), "maps": tuple(values["maps"])}
    )
    for name, (lowest, highest) in BOUNDS.items():
        value = getattr(settings, name)
        if type(value) is not int or not lowest <= value <= highest:
            raise ValueError(f"{name} (={value!r}) must be an integer from {lowest} to {highest:,}")
    if settings.map_size**2 * settings.channels * max(settings.num_segments, 1) * 2 > MAX_ROW_BYTES:
        raise ValueError(f"the features of one clip would take more than {MAX_ROW_BYTES:,} bytes")
    texts = [settings.backbone, settings.compute_dtype, settings.capability, settings.compile_mode]
    texts += [settings.weights["name"], settings.weights["sha256"], *settings.weights.values()]
    texts += vars(settings.frame_choices).values()
    if not all(type(text) is str for text in texts) or not isinstance(settings.preprocessing, Mapping):
        raise TypeError("a name in the settings is not a string")
    if not set(settings.maps) <= set(MAP_KINDS) or settings.frames not in ("segments", "all"):
        raise ValueError(f"maps (={settings.maps}) or frames (={settings.frames!r}) has an unknown value")
    if type(settings.video_encoder) is not bool or (settings.video_encoder and settings.frames == "all"):
        raise ValueError("video_encoder must be true or false, and false with frames=all")
    if settings.store_dtype not in STORE_DTYPES or (settings.store_dtype != "float16" and settings.frames == "all"):
        raise ValueError(f"store_dtype (={settings.store_dtype!r}) must be float16, or int8 with frames=segments")
    return settings


def _flat(settings: StoreSettings) -> dict[str, Any]:
    # Compare plain data, so that a tuple equals the list that JSON makes of it.
    values = _plain(settings.as_dict())
    choices = values.pop("frame_choices")
    return {**values, **choices}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
