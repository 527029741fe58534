"""Load weights into a backbone: published, bundled, random or from a file, with a record of name and SHA-256."""

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
from pipeline.errors import PipelineError, first_line
from pipeline.files import sha256_of_file
from pipeline.registry import WEIGHTS_NAMES, unknown_name

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
FILE_SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class WeightsRecord:
    """Record of loaded weights: `name` is imagenet, bundled, random or a file name; `sha256` is that of the file.

    For random weights `sha256` is computed over the tensors (`digest_of_tensors`). `note` has further information for
    readers of results, `license` the licence of published weights if it is known.
    """

    name: str
    sha256: str
    note: str = ""
    license: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return what stores, models and metrics record: name, SHA-256, and the licence if it is known."""
        licence = {"license": self.license} if self.license else {}
        return {"name": self.name, "sha256": self.sha256, **licence}


def load_weights(
    backbone: Backbone, weights: str, seed: int = 0, allow_other_architecture: bool = False
) -> WeightsRecord:
    """Load `weights` into `backbone` and return their record.

    `weights` is `imagenet` (downloaded and checked), `bundled`, `random` (from `seed`), or the path of a file. A file
    must have every key of the backbone with its shape and no other key, except those of a classifier.
    `allow_other_architecture` allows the weights of another backbone with the same layers.

    Raises:
        PipelineError: the weights do not exist, the file cannot be read, or keys or shapes do not fit.
    """
    if weights == "random":
        backbone.initialise(seed)
        return WeightsRecord("random", digest_of_tensors(backbone.weight_tensors()), note=f"seed {seed}")
    if backbone.has_own_weights and weights == "imagenet":
        return WeightsRecord("imagenet", digest_of_tensors(backbone.weight_tensors()), "weights of the factory")
    path, sha256 = _find_file(backbone, weights)
    tensors, made_for = read_weight_file(path)
    if weights in ("imagenet", "bundled"):
        made_for = backbone.weights_come_from or backbone.name
    note = _check_architecture(backbone, made_for, path, allow_other_architecture)
    assign_tensors(backbone, backbone.convert_tensors(tensors), path)
    name = weights if weights in WEIGHTS_NAMES else path.name
    return WeightsRecord(name, sha256, note, backbone.license if weights == "imagenet" else "")


def check_weights(weights: str) -> None:
    """Check that `weights` is a known name or an existing file.

    Raises:
        PipelineError: it is neither; the message lists the known names.
    """
    path = Path(weights)
    if weights in WEIGHTS_NAMES or path.is_file():
        return
    if path.suffix not in FILE_SUFFIXES and len(path.parts) == 1:
        raise unknown_name("weights", weights, (*WEIGHTS_NAMES, "or the path of a .pth, .pt or .safetensors file"))
    raise PipelineError(
        f"There is no weight file {weights}. Give the path of an existing file, or one of {', '.join(WEIGHTS_NAMES)}."
    )


def read_weight_file(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read the tensors of a weight file by name, and the backbone in its header (empty if there is none).

    Raises:
        PipelineError: the file is not a weight file, or is damaged.
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
        raise PipelineError(
            f"The weight file {path} cannot be read: {first_line(error)} It must contain only tensors (a state dict)."
        ) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise PipelineError(f"The weight file {path} must contain only a state dict (names and tensors).")
    return {str(name): value for name, value in loaded.items()}, ""


def assign_tensors(backbone: Backbone, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy `tensors` into those of the backbone, in its types.

    Raises:
        PipelineError: keys are missing or unexpected, shapes differ, or values are not finite; each is named.
    """
    wanted = backbone.weight_tensors()
    given = {name: value for name, value in tensors.items() if not name.startswith(backbone.ignored_prefixes)}
    # `num_batches_tracked` is optional: files from before 2018 do not have it, and nothing here reads it.
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
    """Return the SHA-256 over names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _find_file(backbone: Backbone, weights: str) -> tuple[Path, str]:
    if weights == "imagenet":
        return backbone.published_file()
    if weights == "bundled":
        path = BUNDLED_FOLDER / f"{backbone.weights_come_from or backbone.name}.safetensors"
        if not path.is_file():
            there = ", ".join(sorted(file.stem for file in BUNDLED_FOLDER.glob("*.safetensors"))) or "none"
            raise PipelineError(
                f"No weights are bundled for {backbone.name} ({path} is missing; there are: {there}). "
                f"Use imagenet, random or the path of a weight file."
            )
        return path, sha256_of_file(path)
    check_weights(weights)
    return Path(weights), sha256_of_file(Path(weights))


def _check_architecture(backbone: Backbone, made_for: str, path: Path, allow_other: bool) -> str:
    """Refuse weights of another architecture unless they were requested; return the note for the record.

    If the header of a file names no backbone, its keys decide, except for `squeezenet_bypass`: its keys equal those of
    `squeezenet`, of which alone weights were published.
    """
    other = made_for or backbone.weights_come_from
    if not other or other == backbone.name:
        return ""
    if not allow_other or other != backbone.weights_come_from:
        asked = (
            " Set allow_squeezenet_weights to load them anyway; the record of the weights then states it."
            if other == backbone.weights_come_from
            else ""
        )
        raise PipelineError(f"The weights {path} were made for {other}, not for {backbone.name}.{asked}")
    return f"weights of {other}, loaded into {backbone.name} on request"
