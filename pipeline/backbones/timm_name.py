"""Names of timm's models: `timm:NAME[@SIZE][+TAP…]`, such as `timm:vit_tiny_patch16_224@112+5+11+cls`.

`@112` is short for `+112px`, the form in stores, results and `params.yaml`: DVC separates names of stages with `@`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.errors import PipelineError

PREFIX = "timm:"
CLASS_TOKEN = "cls"
_PATTERN = re.compile(r"(?P<model>[\w.-]+)(@(?P<short>\d+)|\+(?P<size>\d+)px)?(?P<taps>(\+\w+)*)")


@dataclass(frozen=True)
class TimmName:
    """The parts of a name.

    model: timm's name, with the tag of the weights if it has one.
    input_size: side of the square input in pixels; None: that of the model.
    taps: numbers of layers, and `cls` for the class token of the last layer; none: the last layer.
    """

    model: str
    input_size: int | None = None
    taps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = [tap for tap in self.taps if tap != CLASS_TOKEN and not tap.isdecimal()]
        if wrong or len(set(self.taps)) < len(self.taps):
            raise PipelineError(
                f"The taps of {PREFIX}{self.model} (={','.join(self.taps)}) must be different numbers of layers, or "
                f"{CLASS_TOKEN}, such as 5,11,{CLASS_TOKEN}."
            )

    def __str__(self) -> str:
        size = "" if self.input_size is None else f"+{self.input_size}px"
        return f"{PREFIX}{self.model}{size}{''.join(f'+{tap}' for tap in self.taps)}"


def parse_timm_name(name: str) -> TimmName:
    """Return the parts of a name, with or without the prefix `timm:`.

    Raises:
        PipelineError: it is not such a name.

    >>> parse_timm_name("timm:test_vit@96+2+cls")
    TimmName(model='test_vit', input_size=96, taps=('2', 'cls'))
    """
    found = _PATTERN.fullmatch(name.removeprefix(PREFIX))
    if found is None:
        raise PipelineError(
            f"'{name}' must be {PREFIX}NAME, {PREFIX}NAME@SIZE or {PREFIX}NAME@SIZE+TAP+TAP, such as "
            f"{PREFIX}vit_tiny_patch16_224@112+5+11."
        )
    size = found["short"] or found["size"]
    return TimmName(found["model"], None if size is None else int(size), tuple(found["taps"].split("+")[1:]))


def full_name(backbone: str) -> str:
    """Return the name of a backbone as stores and results have it.

    Raises:
        PipelineError: a name of timm has another form.

    >>> full_name("timm:test_vit@96+2"), full_name("squeezenet")
    ('timm:test_vit+96px+2', 'squeezenet')
    """
    return str(parse_timm_name(backbone)) if backbone.startswith(PREFIX) else backbone


def with_taps(backbone: str, taps: Sequence[str]) -> str:
    """Return the name of a backbone with these taps; without taps, the name itself.

    Raises:
        PipelineError: the backbone is not one of timm, or its name has other taps.
    """
    if not taps:
        return backbone
    if not backbone.startswith(PREFIX):
        raise PipelineError(f"--taps selects layers of {PREFIX}NAME; the backbone {backbone} has only its last map.")
    name = parse_timm_name(backbone)
    if name.taps and name.taps != tuple(taps):
        raise PipelineError(f"--taps {','.join(taps)} differs from the taps in {backbone}. Give them only once.")
    return str(replace(name, taps=tuple(taps)))
