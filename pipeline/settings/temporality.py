"""Settings of `pipeline temporality`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.registry import BLIND_HEADS, HEAD_NAMES
from pipeline.settings.settings import Settings, option, required


@dataclass(frozen=True, kw_only=True)
class TemporalitySettings(Settings):
    """Settings of `pipeline temporality`."""

    store: str = required("Feature store that `pipeline extract` wrote.", is_argument=True)
    out: Path = option(Path("results/temporality"), "Folder to write table, picture and class list to.")
    head: str = option(
        "diff", "Head of pooled features that reads order and is fitted for the measurements.", choices=HEAD_NAMES
    )
    seeds: int = option(3, "Number of fits of each measurement.", minimum=1)
    epochs: int = option(30, "Number of epochs of each fit.", minimum=1)
    num_segments: int | None = option(
        None, "Number of segments, for a store made with --frames all.  [default: that of the store]", minimum=2
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head in BLIND_HEADS:
            raise PipelineError(
                f"`head` (={self.head}) is blind to order, so it cannot show where order matters. Choose an ordered "
                "head, such as diff, mlp or gru."
            )
