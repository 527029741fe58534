"""Names of what can be chosen, without importing it, and a look-up that answers "did you mean".

The tables themselves stand beside what they list (`heads.HEADS`, `backbones.BACKBONES`); a test holds both equal. The
names are here so that `--help` can list them without importing torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from pipeline.errors import PipelineError

HEAD_NAMES = (
    "mlp",
    "tsn",
    "trn",
    "rnn_tanh",
    "rnn_relu",
    "lstm",
    "gru",
    "blstm",
    "convlstm",
    "fcn2d",
    "fcn3d",
)
SPATIAL_HEAD_NAMES = ("convlstm", "fcn3d")
BACKBONE_NAMES = ("squeezenet", "squeezenet_bypass", "bninception")
RECIPE_NAMES = ("paper", "published-code", "cached")
DATASET_NAMES = (
    "gestures",
    "jester",
    "something-v2",
    "frame-lists",
    "folders",
    "csv",
    "ucf101",
    "hmdb51",
)
WEIGHTS_NAMES = ("imagenet", "bundled", "random")

Entry = TypeVar("Entry")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> PipelineError:
    """The error for a name that is not among the known ones, with the nearest of them as a suggestion."""
    names = sorted(known)
    return PipelineError(f"Unknown {kind} '{name}'.{did_you_mean(name, names)} Known: {', '.join(names)}.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that suggests the nearest known name; an empty text where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def look_up(kind: str, name: str, table: Mapping[str, Entry]) -> Entry:
    """Return `table[name]`.

    Raises:
        PipelineError: the name is not in the table; the message lists the known names.
    """
    if name not in table:
        raise unknown_name(kind, name, table)
    return table[name]
