"""Read `params.yaml`: each command takes its defaults from the block of its stage.

Keys are spelt like options (`num-segments`). A value may contain others in braces: ``{backbone}`` is replaced by the
option of that name, or by the value in the block `extract`, so that the path of a store names its settings.
"""

from __future__ import annotations

import contextlib
import os
import string
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError

PARAMS_FILE = Path("params.yaml")
# The version of this package that a study is for; `pipeline init` writes it, and the study's stages depend on it.
VERSION_KEY = "st-pipeline"


def read_params(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """Read the blocks of `params.yaml`; return an empty mapping if there is no such file.

    Raises:
        PipelineError: the file is not YAML, or not a mapping.
    """
    if not path.exists():
        return {}
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, if PyYAML includes libyaml
    try:
        with open(path, encoding="utf-8") as file:
            params = yaml.load(file, loader)
    except (OSError, yaml.YAMLError) as error:
        raise PipelineError(f"{path.absolute()} cannot be read as YAML: {error}") from error
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise PipelineError(
            f"{path.absolute()} must hold blocks such as `extract:`, but holds {type(params).__name__}."
        )
    return params


def version_note(params: Mapping[str, Any]) -> str | None:
    """Return a sentence if the study is for another version of this package than the one installed."""
    wanted = params.get(VERSION_KEY)
    if wanted is None:
        return None
    installed = version("st-pipeline")
    if str(wanted) == installed:
        return None
    return (
        f"This study is for st-pipeline {wanted}, and {installed} is installed. To run its stages again with "
        f"{installed}, set `{VERSION_KEY}: {installed}` in {PARAMS_FILE}; or install {wanted}."
    )


def command_params(params: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Return the settings of one command, by the names of its parameters (`num_segments`).

    Raises:
        PipelineError: the block is not a mapping.
    """
    return python_names(_mapping(params, command.replace("-", "_")))


def head_params(params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of single heads: `heads.lstm.lr` as ``{"lstm": {"lr": ...}}``."""
    heads = _mapping(params, "heads")
    return {name: python_names(_mapping(heads, name)) for name in heads}


def python_names(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with names of Python: `num-segments` becomes `num_segments`."""
    return {str(key).replace("-", "_"): value for key, value in block.items()}


def spelled(name: str) -> str:
    """Return a name of Python as options and `params.yaml` have it: `num_segments` becomes `num-segments`."""
    return name.replace("_", "-")


def expand_template(template: str, *sources: Mapping[str, Any]) -> str:
    """Replace each ``{name}`` of `template` by the value of that name in the first source that has it.

    A path, such as that of a weight file, is replaced by its stem, so that it is one part of the file name.

    Raises:
        PipelineError: no source has a name.

    >>> expand_template("cache/{backbone}-{num-segments}seg.zarr", {"backbone": "squeezenet", "num_segments": 8})
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
            raise PipelineError(f"'{template}' needs a value for {{{name}}}: give --{spelled(name)}.")
        pieces.append(_as_file_name(str(value)))
    return "".join(pieces)


def same_subject(typed: Any, in_block: Any, sources: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a typed value names the files or the data set of a block; a list may name further ones.

    typed, in_block: a name, path or URL, or a list of them; ``{name}`` is filled in from `sources`.
    """
    return _resolved(typed, sources) >= _resolved(in_block, sources)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings as they are spelt as options: ``num-segments=8, maps=pooled,spatial``."""
    return ", ".join(f"{spelled(name)}={value_text(value)}" for name, value in settings.items())


def value_text(value: Any) -> str:
    """Return one setting as typed on the command line: a list with commas, `true` for True, NAME=VALUE of a block."""
    if isinstance(value, Mapping):
        return " ".join(settings_text({name: part}) for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ",".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _resolved(value: Any, sources: Sequence[Mapping[str, Any]]) -> set[str]:
    paths = [str(part) for part in value] if isinstance(value, (list, tuple)) else [str(value)]
    return {_resolved_path(path, sources) for path in paths}


def _resolved_path(text: str, sources: Sequence[Mapping[str, Any]]) -> str:
    with contextlib.suppress(PipelineError, ValueError):
        text = expand_template(text, *sources)
    return text.rstrip("/") if "://" in text else os.path.realpath(text)


def _as_file_name(value: str) -> str:
    """Return a value as part of a file name; for a path, such as that of a weight file, its stem."""
    return Path(value).stem if "/" in value or os.sep in value else value


def _mapping(params: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    block = params.get(name)
    if block is None:
        return {}
    if not isinstance(block, Mapping):
        raise PipelineError(f"`{name}` in {PARAMS_FILE} must be a block of settings, but is {block!r}.")
    return block
