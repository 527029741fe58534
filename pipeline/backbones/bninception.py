"""BNInception as ported from Caffe, with the layer names of the port in the PyPI package `pretrainedmodels`.

Paper: Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
Shift", https://arxiv.org/abs/1502.03167, Fig. 5. The port: https://github.com/Cadene/pretrained-models.pytorch.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.backbones.backbone import Backbone, BackbonePart
from pipeline.backbones.download import PublishedWeights
from pipeline.backbones.initialisation import initialise_he
from pipeline.backbones.preprocessing import CAFFE_BGR

# Approximate standard deviation of the pixels of photographs, on the scale of 0 to 255.
PIXEL_SPREAD = 64.0


class Block(NamedTuple):
    """Widths of one inception module; `one_by_one` and `pool_proj` are 0 if the module halves its maps.

    A module has four branches: a 1×1 convolution; a 3×3 after a 1×1; two 3×3 after a 1×1 ("double"); a 1×1 after a
    pooling. A module that halves its maps has no first branch, and its pooling has no convolution.
    """

    name: str
    one_by_one: int
    reduce: int
    three: int
    double_reduce: int
    double: int
    pool_proj: int
    max_pool: bool = False

    @property
    def halves(self) -> bool:
        return self.pool_proj == 0

    def out_channels(self, in_channels: int) -> int:
        return self.one_by_one + self.three + self.double + (in_channels if self.halves else self.pool_proj)


BLOCKS = (
    Block("3a", 64, 64, 64, 64, 96, 32),
    Block("3b", 64, 64, 96, 64, 96, 64),
    Block("3c", 0, 128, 160, 64, 96, 0, max_pool=True),  # 28 -> 14
    Block("4a", 224, 64, 96, 96, 128, 128),
    Block("4b", 192, 96, 128, 96, 128, 128),
    Block("4c", 160, 128, 160, 128, 160, 128),
    Block("4d", 96, 128, 192, 160, 192, 128),
    Block("4e", 0, 128, 192, 192, 256, 0, max_pool=True),  # 14 -> 7
    Block("5a", 352, 192, 320, 160, 224, 128),
    Block("5b", 352, 192, 320, 192, 224, 128, max_pool=True),
)


class BNInception(Backbone):
    """BNInception: 10,270,240 parameters without its classifier, 1024 maps of 7×7.

    All layers are direct children with the port's names (`inception_3a_3x3_reduce`, `inception_3a_3x3_reduce_bn`).
    Each convolution has a bias before its batch norm, as in the weight files.

    Shape:
        frames:  (N, 3, 224, 224) uint8, RGB; converted to BGR inside.
        returns: (N, 1024, 7, 7).

    Source: paper, Sec. 3.2.
    """

    name = "bninception"
    channels = 1024
    map_size = 7
    preprocessing = CAFFE_BGR
    has_blocks = True
    ignored_prefixes = ("last_linear.", "fc.")
    imagenet = PublishedWeights.named_by_checksum(
        "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"
    )

    def __init__(self) -> None:
        super().__init__()
        self._add("conv1_7x7_s2", 3, 64, kernel_size=7, stride=2)
        self._add("conv2_3x3_reduce", 64, 64)
        self._add("conv2_3x3", 64, 192, kernel_size=3)
        channels = 192
        for block in BLOCKS:
            prefix, stride = f"inception_{block.name}", 2 if block.halves else 1
            if not block.halves:
                self._add(f"{prefix}_1x1", channels, block.one_by_one)
                self._add(f"{prefix}_pool_proj", channels, block.pool_proj)
            self._add(f"{prefix}_3x3_reduce", channels, block.reduce)
            self._add(f"{prefix}_3x3", block.reduce, block.three, kernel_size=3, stride=stride)
            self._add(f"{prefix}_double_3x3_reduce", channels, block.double_reduce)
            self._add(f"{prefix}_double_3x3_1", block.double_reduce, block.double, kernel_size=3)
            self._add(f"{prefix}_double_3x3_2", block.double, block.double, kernel_size=3, stride=stride)
            channels = block.out_channels(channels)
        self.initialise(seed=0)

    def initialise(self, seed: int) -> None:
        """Set He's weights; the first layer's are divided by the spread of pixels, so features are of order one."""
        initialise_he(self, seed, input_spread=PIXEL_SPREAD)

    def block_of_parameters(self) -> dict[str, int]:
        """Return the block of each parameter: 0 before the first inception module, then one for each module."""
        number_of = {f"inception_{block.name}": number for number, block in enumerate(BLOCKS, start=1)}
        return {name: number_of.get("_".join(name.split("_")[:2]), 0) for name, _ in self.named_parameters()}

    def parts(self) -> list[BackbonePart]:
        return [
            BackbonePart(lambda inputs: _halve(self._run("conv1_7x7_s2", inputs)), "conv1_7x7_s2"),
            BackbonePart(partial(self._run, "conv2_3x3_reduce"), "conv2_3x3_reduce"),
            BackbonePart(lambda inputs: _halve(self._run("conv2_3x3", inputs)), "conv2_3x3"),
            *(BackbonePart(partial(self._run_block, block), f"inception_{block.name}_") for block in BLOCKS),
        ]

    def forward_features(self, inputs: Tensor) -> Tensor:
        outputs = _halve(self._run("conv1_7x7_s2", inputs))  # (N, 64, 56, 56)
        outputs = self._run("conv2_3x3", self._run("conv2_3x3_reduce", outputs))
        outputs = _halve(outputs)  # (N, 192, 28, 28)
        for block in BLOCKS:
            outputs = self.run_block(partial(self._run_block, block), outputs)
        return outputs  # (N, 1024, 7, 7)

    def _run_block(self, block: Block, inputs: Tensor) -> Tensor:
        prefix = f"inception_{block.name}"
        branches = [] if block.halves else [self._run(f"{prefix}_1x1", inputs)]
        branches.append(self._run(f"{prefix}_3x3", self._run(f"{prefix}_3x3_reduce", inputs)))
        double = self._run(f"{prefix}_double_3x3_1", self._run(f"{prefix}_double_3x3_reduce", inputs))
        branches.append(self._run(f"{prefix}_double_3x3_2", double))
        if block.halves:
            branches.append(_halve(inputs))
        elif block.max_pool:
            branches.append(self._run(f"{prefix}_pool_proj", F.max_pool2d(inputs, 3, stride=1, padding=1)))
        else:
            # The zeros of the padding are counted, as in Caffe.
            branches.append(self._run(f"{prefix}_pool_proj", F.avg_pool2d(inputs, 3, stride=1, padding=1)))
        return torch.cat(branches, dim=1)

    def _add(self, name: str, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1) -> None:
        padding = kernel_size // 2
        self.add_module(name, nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(out_channels))

    def _run(self, name: str, inputs: Tensor) -> Tensor:
        return torch.relu(getattr(self, f"{name}_bn")(getattr(self, name)(inputs)))


def _halve(inputs: Tensor) -> Tensor:
    return F.max_pool2d(inputs, 3, stride=2, ceil_mode=True)
