"""Settings of `pipeline fit-head`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pipeline.recipe import HeadConfig, SamplingConfig, TrainConfig
from pipeline.registry import HEAD_NAMES, RECIPE_NAMES, unknown_name
from pipeline.settings.help_texts import CALIBRATION_HELP, DEVICE_HELP
from pipeline.settings.settings import Settings, option, overrides, required


@dataclass(frozen=True, kw_only=True)
class FitHeadSettings(Settings):
    """Settings of `pipeline fit-head`; block `fit_head`, and the blocks `heads.NAME` for single heads."""

    subject: ClassVar[tuple[str, ...]] = ("store",)

    store: str = required("Feature store that `pipeline extract` filled.", fills_braces=True)
    backbone: str = option("squeezenet", "Replaces {backbone} in the path of the store.")
    head: tuple[str, ...] = option(("all",), f"all, or some of {','.join(HEAD_NAMES)}.")
    out: Path = required("Folder of results; each head gets a folder in it.")
    recipe: tuple[str, ...] = option(
        ("cached",), f"One of {', '.join(RECIPE_NAMES)}; several, with commas, get a folder each."
    )
    overrides: Mapping[str, Any] = overrides(SamplingConfig, TrainConfig, HeadConfig)
    heads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: int = option(1, "Number of fits of each head, from seeds SEED, SEED+1, ...", minimum=1)
    seed: int = option(0, "The first seed.")
    device: str = option("cpu", f"Device of the heads: {DEVICE_HELP}")
    precision: str = option("auto", "Number type in which the heads run.", choices=("auto", "float32", "bfloat16"))
    threads: int | None = option(
        None, "Number of torch's threads in each fit.  [default: cores, or 1 without convolutions]", minimum=1
    )
    jobs: int | None = option(None, "Number of fits side by side.  [default: the cores]", minimum=1)
    loaders: int = option(1, "Number of threads that read spatial maps ahead; they change no result.", minimum=1)
    views: int | None = option(None, "Number of training views to use.  [default: all in the store]", minimum=1)
    num_segments: int | None = option(
        None, "Number of segments, for a store of all frames.  [default: the store's]", minimum=1
    )
    weights: str | None = option(None, "Path of the backbone weights if the file has moved.")
    calibration: Path | None = option(None, CALIBRATION_HELP)
    force: bool = option(False, "Fit finished heads again.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.head:
            if name != "all" and name not in HEAD_NAMES:
                raise unknown_name("head", name, HEAD_NAMES)
        for name in self.recipe:
            if name not in RECIPE_NAMES:
                raise unknown_name("recipe", name, RECIPE_NAMES)
