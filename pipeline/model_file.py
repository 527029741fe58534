"""The model file, which is sufficient for prediction.

A model file is in the safetensors format: tensors named ``backbone.*`` and ``head.*``, and the `ModelSpec` as JSON in
the header under the key `HEADER_KEY`. Loading it executes no code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.backbones import build_backbone
from pipeline.backbones.preprocessing import stated_input_size
from pipeline.errors import PipelineError
from pipeline.files import atomic_path, parse_json
from pipeline.heads.head import Head
from pipeline.model import Classifier, ModelSpec, head_of_spec
from pipeline.recipe import recipe_from_dict
from pipeline.registry import VIDEO_ENCODER_PREFIXES
from pipeline.video.views import TRANSFORM_VERSION

HEADER_KEY = "st_pipeline"
HEADER_DIGEST, TENSORS_DIGEST = "sha256", "tensors_sha256"
# Increases when the fields of the header change. Format 1 (version 0.1) records neither the rendering of frames nor
# the clips that selected the epoch.
FORMAT_VERSION = 2
MAX_SIZE = 1 << 14  # of segments, channels and maps; far above the needs of any backbone


def save_model(path: Path | str, spec: ModelSpec, head: nn.Module, backbone: nn.Module | None) -> None:
    """Write a model file atomically; without a backbone for a head that was fitted on imported features."""
    tensors = {
        f"{part}.{name}": tensor.detach().to("cpu", copy=True).contiguous()
        for part, module in (("backbone", backbone), ("head", head))
        if module is not None
        for name, tensor in module.state_dict().items()
    }
    values = {**header_values(spec), TENSORS_DIGEST: _digest_of_tensors(tensors)}
    # One entry: safetensors does not keep the order of several, and the same model is to have the same bytes.
    header = json.dumps({**values, HEADER_DIGEST: _digest_of_header(values)}, sort_keys=True)
    with atomic_path(Path(path)) as aside:
        save_file(tensors, aside, metadata={HEADER_KEY: header})


def header_values(spec: ModelSpec) -> dict[str, Any]:
    """Return the entries of a header that describe the model."""
    return {"format": FORMAT_VERSION, **dataclasses.asdict(spec)}


def _digest_of_header(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_spec(path: Path | str) -> ModelSpec:
    """Read the spec of a model file, without its tensors.

    Raises:
        PipelineError: the file does not exist, is not a model file, or has another format version.
    """
    path = _existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
    except (SafetensorError, OSError) as error:
        raise PipelineError(f"{path} is not a safetensors file: {error}. Give a file that fit-head wrote.") from error
    if header is None:
        raise PipelineError(
            f"{path} contains tensors, but its header does not say which head and backbone they belong to. "
            "Give a model.safetensors that `pipeline fit-head` or `pipeline finetune` wrote."
        )
    values = _read_header(path, header)
    version = values.pop("format", None)
    if version != FORMAT_VERSION:
        raise PipelineError(
            f"{path} has the model format {version}; this version reads {FORMAT_VERSION}. Format 2 resamples frames "
            "differently, so the scores of older models would be wrong: train it again."
            if isinstance(version, int) and version < FORMAT_VERSION
            else f"{path} has the model format {version}; this version reads {FORMAT_VERSION}. Install a newer version."
        )
    values.pop(TENSORS_DIGEST, None)
    known = {field.name for field in dataclasses.fields(ModelSpec)}
    if values.keys() != known:
        missing, unknown = sorted(known - values.keys()), sorted(values.keys() - known)
        raise PipelineError(
            f"The header of {path} lacks {', '.join(missing) or 'nothing'} and has the unknown fields "
            f"{', '.join(unknown) or 'none'}. Write the file again with `pipeline fit-head` or `pipeline finetune`."
        )
    try:
        spec = ModelSpec(**{**values, "classes": tuple(values["classes"])})
        _check_values(spec)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise PipelineError(
            f"The header of {path} is invalid ({type(error).__name__}: {error}). Write the file again with `pipeline "
            "fit-head` or `pipeline finetune`."
        ) from error
    return spec


def _check_values(spec: ModelSpec) -> None:
    """Check the types of a spec that was read from a file, and its sizes before memory is allocated by them.

    Raises:
        TypeError, ValueError, KeyError, AttributeError: a value is none that this version writes.
    """
    hints = get_type_hints(ModelSpec)
    for name, value in vars(spec).items():
        is_right = isinstance(value, Mapping) if hints[name] not in (str, int) else type(value) is hints[name]
        if not is_right and name != "classes":
            raise TypeError(f"{name} is {str(value)[:80]!r}")
    if not all(type(label) is str for label in spec.classes):
        raise TypeError("classes are not strings")
    for name in ("num_segments", "in_channels", "map_size"):
        if not 1 <= getattr(spec, name) <= MAX_SIZE:
            raise ValueError(f"{name} is {getattr(spec, name)}")
    if not all(type(value) is str for value in spec.weights.values()):
        raise TypeError("weights are not described by strings")
    recipe_from_dict(dict(spec.recipe))
    stated_input_size(spec.preprocessing)


def _read_header(path: Path, header: str) -> dict[str, Any]:
    """Return the entries of a header without its digest, which must match; models of format 2 at first had none.

    Raises:
        PipelineError: the header is damaged.
    """
    try:
        values = dict(parse_json(header))
        stated = values.pop(HEADER_DIGEST, None)
        if stated is not None and stated != _digest_of_header(values):
            raise ValueError("it does not match its SHA-256")
        if stated is None and TENSORS_DIGEST in values:
            raise ValueError("its SHA-256 is missing")
    except (ValueError, TypeError) as error:
        raise PipelineError(
            f"The header of {path} is damaged ({error}). Put a copy of the file back, or fit the head again."
        ) from error
    return values


def load_model(path: Path | str) -> Classifier:
    """Build the classifier that a model file describes, in evaluation mode on the CPU.

    Raises:
        PipelineError: the file is not a model file, or its tensors or preprocessing differ from those of its head and
            backbone.
    """
    path = _existing(path)
    spec = load_spec(path)
    with torch.random.fork_rng(devices=[]):
        # All random parameters are replaced; drawing them must not change the caller's random state.
        size = stated_input_size(spec.preprocessing)
        if spec.backbone.startswith(VIDEO_ENCODER_PREFIXES):
            raise PipelineError(
                f"{path} has only the head for features of the video encoder {spec.backbone}. Video encoders cannot be "
                "finetuned, exported or used by predict: extract the features of the clips."
            )
        backbone, _ = build_backbone(spec.backbone, weights="random", input_size=size)
        head = head_of_spec(spec)
    if spec.transform_version != TRANSFORM_VERSION:
        raise PipelineError(
            f"{path} was trained on frames of transform version {spec.transform_version}, this version renders "
            f"{TRANSFORM_VERSION}. Its scores would be wrong; train it again."
        )
    declared = json.loads(json.dumps(backbone.preprocessing.as_dict()))
    if declared != spec.preprocessing:
        raise PipelineError(
            f"{path} was trained with the preprocessing {spec.preprocessing}, but backbone '{spec.backbone}' now has "
            f"{declared}. Its scores would be wrong; train it again."
        )
    tensors = _tensors(path)
    for part, module in (("backbone", backbone), ("head", head)):
        _load_strictly(path, part, module, tensors[part])
    return Classifier(backbone, head, spec).eval()


def load_head(path: Path | str) -> tuple[Head, ModelSpec]:
    """Build only the head of a model file, in evaluation mode on the CPU.

    Raises:
        PipelineError: the file is not a model file, or its tensors differ from those of its head.
    """
    path = _existing(path)
    spec = load_spec(path)
    with torch.random.fork_rng(devices=[]):
        head = head_of_spec(spec)
    _load_strictly(path, "head", head, _tensors(path)["head"])
    head.eval()
    return head, spec


def _tensors(path: Path) -> dict[str, dict[str, Tensor]]:
    """Read the tensors of backbone and head by their names, and compare them with their digest."""
    tensors: dict[str, dict[str, Tensor]] = {"backbone": {}, "head": {}}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            part, _, rest = name.partition(".")
            tensors.setdefault(part, {})[rest] = file.get_tensor(name)
    _check_tensors(path, tensors)
    return tensors


def _check_tensors(path: Path, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    with safe_open(path, framework="pt") as file:
        stated = json.loads(file.metadata()[HEADER_KEY]).get(TENSORS_DIGEST)
    flat = {f"{part}.{name}": tensor for part, those in tensors.items() for name, tensor in those.items()}
    if stated is not None and stated != _digest_of_tensors(flat):
        raise PipelineError(
            f"The tensors of {path} do not match their SHA-256: the file is damaged. Put a copy of it back, or fit the "
            "head again."
        )


def _load_strictly(path: Path, part: str, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        own = module.state_dict()
        missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        reshaped = sorted(name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape)
        raise PipelineError(
            f"{path} does not have the tensors of its {part}: missing {missing}, unexpected {unexpected}, wrong shape "
            f"{reshaped}. Another version of that {part} wrote it; train it again."
        ) from error


def _existing(path: Path | str) -> Path:
    if not Path(path).is_file():
        raise PipelineError(f"There is no model file {path}. `pipeline fit-head` writes one as model.safetensors.")
    return Path(path)
