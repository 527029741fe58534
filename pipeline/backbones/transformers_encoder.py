"""Video encoders of the library transformers: `transformers:REPOSITORY`, or a folder with its files.

VideoMAE (https://arxiv.org/abs/2203.12602) and V-JEPA 2 (https://arxiv.org/abs/2506.09985), without predictor and
decoder.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backbones import torchvision_import  # noqa: F401 - transformers imports torchvision
from pipeline.backbones.hub import hub_file
from pipeline.backbones.preprocessing import IMAGENET_RGB, Preprocessing
from pipeline.backbones.video_encoder import VideoEncoder
from pipeline.errors import PipelineError
from pipeline.files import sha256_of_file

try:
    transformers = importlib.import_module("transformers")
except ModuleNotFoundError as error:
    raise PipelineError(
        f"transformers:REPOSITORY needs the package {error.name}. Install it: pip install 'st-pipeline[transformers]'."
    ) from error

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


@dataclass(frozen=True)
class Family:
    """What differs between the encoders.

    network: the encoder of a new model. frames, size: fields of the configuration. argument: name of the clips.
    prefixes: of the encoder's keys in weight files, the longest first. crop_fraction: of the published preprocessing.
    renamed: ends of keys in weight files, with their names in the library.
    """

    network: Callable[[nn.Module], nn.Module]
    frames: str
    size: str
    argument: str
    prefixes: tuple[str, ...]
    crop_fraction: float
    renamed: Mapping[str, str] = field(default_factory=dict)


BIASES = {".q_bias": ".query.bias", ".v_bias": ".value.bias"}
FAMILIES = {
    "videomae": Family(lambda model: model, "num_frames", "image_size", "pixel_values", ("videomae.",), 1.0, BIASES),
    "vjepa2": Family(
        lambda model: model.get_submodule("encoder"),
        "frames_per_clip",
        "crop_size",
        "pixel_values_videos",
        ("vjepa2.encoder.", "encoder."),
        256 / 292,
    ),
}


class TransformersEncoder(VideoEncoder):
    """A video encoder of transformers; mean and deviation of its frames are those of ImageNet.

    A `/` in the name of the repository is written as `--` in the name of the backbone, which names folders.

    Raises:
        PipelineError: the configuration cannot be read, or is that of another kind of model.
    """

    def __init__(self, name: str) -> None:
        self._source = name if Path(name).is_dir() else name.replace("--", "/", 1)
        full_name = f"transformers:{name.replace('/', '--')}"
        self._config = transformers.AutoConfig.from_pretrained(str(self._file(CONFIG_FILE).parent))
        kind = self._config.model_type
        if kind not in FAMILIES:
            raise PipelineError(f"{full_name} is a '{kind}'; the known video encoders are {', '.join(FAMILIES)}.")
        self._family = FAMILIES[kind]
        num_frames, size = (getattr(self._config, name) for name in (self._family.frames, self._family.size))
        side = size // self._config.patch_size
        grid = (num_frames // self._config.tubelet_size, side, side)
        preprocessing = Preprocessing.from_dict(
            {**IMAGENET_RGB.as_dict(), "input_size": size, "crop_fraction": self._family.crop_fraction}
        )
        super().__init__(full_name, self._built(0), num_frames, grid, preprocessing)

    def tokens(self, clips: Tensor) -> Tensor:
        found: Tensor = self.encoder(**{self._family.argument: clips}, return_dict=True).last_hidden_state
        return found

    def initialise(self, seed: int) -> None:
        """Use the initialisation of transformers; it is equal on machines with the same torch and processor."""
        self.encoder.load_state_dict(self._built(seed).state_dict())

    def published_file(self) -> tuple[Path, str]:
        """Return the path of the weights of the repository and their SHA-256."""
        path = self._file(WEIGHTS_FILE)
        return path, sha256_of_file(path)

    def convert_tensors(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Select the tensors of the encoder from those of a whole model, and remove their prefix."""
        known, family = self.weight_tensors().keys(), self._family
        for prefix in family.prefixes:
            if any(name.startswith(prefix) for name in tensors) and not tensors.keys() <= known:
                tensors = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
        ends = {name: end for name in tensors for end in family.renamed if name.endswith(end)}
        return {
            name.removesuffix(ends[name]) + family.renamed[ends[name]] if name in ends else name: tensor
            for name, tensor in tensors.items()
        }

    def _built(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model: Any = transformers.AutoModel.from_config(self._config)
        return self._family.network(model).eval()

    def _file(self, name: str) -> Path:
        folder = Path(self._source)
        if not folder.is_dir():
            return hub_file(self._source, name)
        if not (folder / name).is_file():
            raise PipelineError(f"The folder {folder} has no {name}.")
        return folder / name
