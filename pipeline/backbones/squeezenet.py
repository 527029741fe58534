"""SqueezeNet 1.1, plain and with simple bypass, with torchvision's key names.

Paper: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size",
https://arxiv.org/abs/1602.07360; version 1.1 as published by its authors: https://github.com/forresti/SqueezeNet.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.backbones.backbone import Backbone, BackbonePart
from pipeline.backbones.download import PublishedWeights
from pipeline.backbones.preprocessing import IMAGENET_RGB


class Fire(nn.Module):
    """A 1x1 convolution to few channels (squeeze), followed by parallel 1x1 and 3x3 convolutions (expand).

    With `bypass`, the input is added to the output, so that the module learns a residual.

    Shape:
        inputs:  (N, in_channels, H, W).
        returns: (N, 2 * expand_channels, H, W).

    Source: SqueezeNet paper, Sec. 3.2; the bypass, Sec. 6: "the input to Fire4 [is] output of Fire2 + output of Fire3".
    """

    def __init__(self, in_channels: int, squeeze_channels: int, expand_channels: int, bypass: bool = False) -> None:
        super().__init__()
        if bypass and in_channels != 2 * expand_channels:
            raise ValueError(f"a bypass needs as many channels in ({in_channels}) as out ({2 * expand_channels})")
        self.bypass = bypass
        self.squeeze = nn.Conv2d(in_channels, squeeze_channels, kernel_size=1)
        self.expand1x1 = nn.Conv2d(squeeze_channels, expand_channels, kernel_size=1)
        self.expand3x3 = nn.Conv2d(squeeze_channels, expand_channels, kernel_size=3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        squeezed = torch.relu(self.squeeze(inputs))
        outputs = torch.relu(torch.cat((self.expand1x1(squeezed), self.expand3x3(squeezed)), dim=1))
        return outputs + inputs if self.bypass else outputs


# Blocks of layers; each of the first ones ends with a layer that halves the maps.
BLOCKS = ((0, 3), (3, 6), (6, 9), (9, 13))


def _halve() -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)


class SqueezeNet(Backbone):
    """SqueezeNet 1.1: 722,496 parameters without its classifier, 512 maps of 13×13.

    Shape:
        frames:  (N, 3, 224, 224) uint8.
        returns: (N, 512, 13, 13).

    Source: paper, Sec. 3.2. Its text says "with simple bypass", its published code has none; see `SqueezeNetBypass`.
    """

    name = "squeezenet"
    channels = 512
    map_size = 13
    preprocessing = IMAGENET_RGB
    ignored_prefixes = ("classifier.",)
    imagenet = PublishedWeights.named_by_checksum("https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth")
    has_bypass = False
    has_blocks = True

    def __init__(self) -> None:
        super().__init__()
        bypass = self.has_bypass
        # The positions in this list are the numbers in the key names: fire2 is `features.3`, fire9 `features.12`.
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=3, stride=2),  # 224 -> 111
            nn.ReLU(),
            _halve(),  # 55
            Fire(64, 16, 64),
            Fire(128, 16, 64, bypass),
            _halve(),  # 27
            Fire(128, 32, 128),
            Fire(256, 32, 128, bypass),
            _halve(),  # 13
            Fire(256, 48, 192),
            Fire(384, 48, 192, bypass),
            Fire(384, 64, 256),
            Fire(512, 64, 256, bypass),
        )
        self.initialise(seed=0)

    def parts(self) -> list[BackbonePart]:
        return [BackbonePart(layer, f"features.{number}.") for number, layer in enumerate(self.features)]

    def block_of_parameters(self) -> dict[str, int]:
        return {
            name: number
            for number, (start, stop) in enumerate(BLOCKS)
            for name, _ in self.features[start:stop].named_parameters(prefix="features")
        }

    def forward_features(self, inputs: Tensor) -> Tensor:
        if not self.recompute:
            outputs: Tensor = self.features(inputs)  # (N, 512, 13, 13)
            return outputs
        for start, stop in BLOCKS:
            inputs = self.run_block(self.features[start:stop], inputs)
        return inputs


class SqueezeNetBypass(SqueezeNet):
    """SqueezeNet 1.1 with identity shortcuts around fire modules 3, 5, 7 and 9; the same parameters.

    Source: paper, Sec. 3.2 ("SqueezeNet with simple bypass"). No trained weights of it were published.
    """

    name = "squeezenet_bypass"
    weights_come_from = "squeezenet"
    has_bypass = True
