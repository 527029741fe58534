"""Weights for a backbone: published, bundled, random or from a file; recorded by name and SHA-256."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.download import fetch
from pipeline.errors import PipelineError
from pipeline.files import sha256_of_file
from pipeline.registry import WEIGHTS_NAMES, unknown_name

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
FILE_SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class WeightsRecord:
    """What was loaded: `name` is imagenet, bundled, random or a file's name; `sha256` that of the file.

    For random weights `sha256` is over the names and values of the tensors (`digest_of_tensors`). `note` says what a
    reader of results must know besides.
    """

    name: str
    sha256: str
    note: str = ""


def load_weights(
    backbone: Backbone, weights: str, seed: int = 0, allow_other_architecture: bool = False
) -> WeightsRecord:
    """Load `weights` into `backbone` and say what they were.

    `weights` is `imagenet` (downloaded and checked), `bundled`, `random` (from `seed`), or the path of a file. A file
    must have every key of the backbone with its shape and no other key, those of a classifier apart.
    `allow_other_architecture` lets a backbone take the weights of another one that has the same layers.

    Raises:
        PipelineError: no such weights, a file that cannot be read, keys or shapes that do not fit.
    """
    if weights == "random":
        backbone.initialise(seed)
        return WeightsRecord("random", digest_of_tensors(backbone.weight_tensors()), note=f"seed {seed}")
    path, sha256 = _find_file(backbone, weights)
    tensors, made_for = read_weight_file(path)
    if weights in ("imagenet", "bundled"):
        made_for = backbone.weights_come_from or backbone.name
    note = _check_architecture(backbone, made_for, path, allow_other_architecture)
    assign_tensors(backbone, tensors, path)
    return WeightsRecord(weights if weights in WEIGHTS_NAMES else path.name, sha256, note)


def read_weight_file(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a weight file by name, and the backbone that its header names (empty where it names none).

    Raises:
        PipelineError: not a weight file, or a damaged one.
    """
    if path.suffix not in FILE_SUFFIXES:
        raise PipelineError(f"A weight file must end in {', '.join(FILE_SUFFIXES)}; {path} does not.")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                made_for = (file.metadata() or {}).get("backbone", "")
                return {name: file.get_tensor(name) for name in file.keys()}, made_for  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise PipelineError(f"The weight file {path} cannot be read: {error}") from error
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PipelineError(
            f"The weight file {path} cannot be read: {first_line} It must hold tensors alone (a state dict)."
        ) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise PipelineError(f"The weight file {path} must hold a state dict, names to tensors, and nothing else.")
    return {str(name): value for name, value in loaded.items()}, ""


def assign_tensors(backbone: Backbone, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy `tensors` into the backbone's, in its own types.

    Raises:
        PipelineError: missing or unexpected keys, other shapes, or values that are not finite; each is named.
    """
    wanted = backbone.weight_tensors()
    given = {name: value for name, value in tensors.items() if not name.startswith(backbone.ignored_prefixes)}
    # How often a batch norm was trained is no weight: files of before 2018 do not have it, and nothing here reads it.
    missing = [name for name in wanted if name not in given and not name.endswith(".num_batches_tracked")]
    unexpected = [name for name in given if name not in wanted]
    shapes = [
        f"{name} has {tuple(value.shape)}, must have {tuple(wanted[name].shape)}"
        for name, value in given.items()
        if name in wanted and value.shape != wanted[name].shape
    ]
    infinite = [
        name for name, value in given.items() if name in wanted and not bool(torch.isfinite(value.float()).all())
    ]
    faults = {
        "missing keys": missing,
        "unexpected keys": unexpected,
        "wrong shapes": shapes,
        "values that are not finite": infinite,
    }
    found = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in faults.items() if names)
    if found:
        raise PipelineError(f"The weight file {path} does not fit the backbone {backbone.name}: {found}.")
    with torch.no_grad():
        for name, value in given.items():
            wanted[name].copy_(value)


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _find_file(backbone: Backbone, weights: str) -> tuple[Path, str]:
    if weights == "imagenet":
        if backbone.imagenet is None:
            raise PipelineError(
                f"No ImageNet weights of {backbone.name} are known; pass the path of a weight file, or 'random'."
            )
        return fetch(backbone.imagenet)
    if weights == "bundled":
        path = BUNDLED_FOLDER / f"{backbone.weights_come_from or backbone.name}.safetensors"
        if not path.is_file():
            there = ", ".join(sorted(file.stem for file in BUNDLED_FOLDER.glob("*.safetensors"))) or "none"
            raise PipelineError(
                f"No weights are bundled for {backbone.name} ({path} is missing; there are: {there}). "
                f"Use imagenet, random or the path of a weight file."
            )
        return path, sha256_of_file(path)
    path = Path(weights)
    if not path.is_file():
        if path.suffix not in FILE_SUFFIXES and len(path.parts) == 1:
            raise unknown_name("weights", weights, (*WEIGHTS_NAMES, "or the path of a .pth, .pt or .safetensors file"))
        raise PipelineError(f"There is no weight file {weights}.")
    return path, sha256_of_file(path)


def _check_architecture(backbone: Backbone, made_for: str, path: Path, allow_other: bool) -> str:
    """Refuse weights of another architecture unless asked for; the note for the record otherwise.

    A file that does not say what it was made for is taken at its key names, except where they cannot tell: those of
    `squeezenet_bypass` are those of `squeezenet`, which are the only ones that were ever published.
    """
    other = made_for or backbone.weights_come_from
    if not other or other == backbone.name:
        return ""
    if not allow_other or other != backbone.weights_come_from:
        asked = (
            " Ask for it explicitly (allow_squeezenet_weights) to load them all the same; it is then recorded."
            if other == backbone.weights_come_from
            else ""
        )
        raise PipelineError(f"The weights {path} were made for {other}, not for {backbone.name}.{asked}")
    return f"weights of {other}, loaded into {backbone.name} on request"
