"""Settings of `pipeline describe`."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.settings.settings import Settings, option, required


@dataclass(frozen=True, kw_only=True)
class DescribeSettings(Settings):
    """Settings of `pipeline describe`."""

    what: str = required("What to describe.", is_argument=True, choices=("heads", "backbones"))
    names: tuple[str, ...] = option(
        (), "Names to describe, such as timm:resnet18; nothing is downloaded.  [default: all]", is_argument=True
    )
    num_segments: int = option(8, "Number of segments of a clip.", minimum=1)
    num_classes: int = option(27, "Number of classes.", minimum=1)
    map_size: int = option(13, "Side of the spatial maps: 13 for SqueezeNet, 7 for BNInception.", minimum=1)
    json: bool = option(False, "Print a JSON list instead of a table.")
