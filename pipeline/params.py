"""`params.yaml` as the one place of settings: each command takes its defaults from the block of its stage.

Keys are spelt as the options (`num-segments`). A value may name others in braces: ``{backbone}`` takes the option of
that name, or the value of the `extract` block, so that a store's path carries the settings that make it another store.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import PipelineError

PARAMS_FILE = Path("params.yaml")


def read_params(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """The blocks of `params.yaml`; empty when there is no such file.

    Raises:
        PipelineError: the file is not YAML, or not a mapping.
    """
    try:
        with open(path, encoding="utf-8") as file:
            params = yaml.safe_load(file)
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError) as error:
        raise PipelineError(f"{path.absolute()} cannot be read as YAML: {error}") from error
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise PipelineError(
            f"{path.absolute()} must hold blocks such as `extract:`, but holds {type(params).__name__}."
        )
    return params


def block_of(params: Mapping[str, Any], command: str) -> dict[str, Any]:
    """The settings of one command, by the names of its parameters (`num_segments`).

    Raises:
        PipelineError: the block is there but is not a mapping.
    """
    return python_names(_mapping(params, command.replace("-", "_")))


def head_blocks(params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of single heads: `heads.lstm.lr` as ``{"lstm": {"lr": ...}}``."""
    heads = _mapping(params, "heads")
    return {name: python_names(_mapping(heads, name)) for name in heads}


def python_names(block: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings with `num-segments` spelt as `num_segments`."""
    return {str(key).replace("-", "_"): value for key, value in block.items()}


def filled_in(template: str, *sources: Mapping[str, Any]) -> str:
    """`template` with each ``{name}`` replaced by the value of that name in the first source that has one.

    Raises:
        PipelineError: a name that no source has.

    >>> filled_in("cache/{backbone}-{num-segments}seg.zarr", {"backbone": "squeezenet", "num_segments": 8})
    'cache/squeezenet-8seg.zarr'
    """
    pieces: list[str] = []
    for text, name, _, _ in string.Formatter().parse(template):
        pieces.append(text)
        if name is None:
            continue
        key = name.replace("-", "_")
        value = next((source[key] for source in sources if source.get(key) is not None), None)
        if value is None:
            raise PipelineError(f"'{template}' needs a value for {{{name}}}: give --{name.replace('_', '-')}.")
        pieces.append(str(value))
    return "".join(pieces)


def _mapping(params: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    block = params.get(name)
    if block is None:
        return {}
    if not isinstance(block, Mapping):
        raise PipelineError(f"`{name}` in {PARAMS_FILE} must be a block of settings, but is {block!r}.")
    return block
