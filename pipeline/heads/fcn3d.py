"""3D fully convolutional network over time, height and width."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipeline.heads.head import NUM_FEATURES, Head

WIDTHS = (64, 128, 256)


class FCN3DHead(Head):
    """Classify a clip by 3D convolutions over its segments' feature maps.

    Three convolutions halve time and keep the map, each with batch norm and ReLU; a 1×1×1 convolution gives class
    scores, which are averaged over the remaining time steps and the map.

    Shape:
        features: (B, T, C, H, W), backbone feature maps of T segments.
        returns:  (B, K), class scores before softmax.

    Source: paper, Sec. 3.4 (3D-FCN, Table 2). No batch norm or ReLU follows the 1×1×1 convolution; the published
        code's ReLU on the scores and on the input are the options `fcn_score_relu` and `fcn_input_relu`.
    """

    reads = "spatial"
    section = "3.4"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        layers: list[nn.Module] = [nn.ReLU()] if self.choices.fcn_input_relu else []
        for width_in, width_out in zip((NUM_FEATURES, *WIDTHS[:-1]), WIDTHS, strict=True):
            convolution = nn.Conv3d(width_in, width_out, kernel_size=3, stride=(2, 1, 1), padding=1)
            layers += [convolution, nn.BatchNorm3d(width_out), nn.ReLU(inplace=True)]
        layers.append(nn.Conv3d(WIDTHS[-1], self.num_classes, kernel_size=1))
        if self.choices.fcn_score_relu:
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)

    def macs(self, map_size: int) -> int:
        total, depth = 0, self.num_segments
        for width_in, width_out in zip((NUM_FEATURES, *WIDTHS[:-1]), WIDTHS, strict=True):
            depth = (depth + 1) // 2
            total += 3 * 3 * 3 * width_in * width_out * depth * map_size**2
        return total + WIDTHS[-1] * self.num_classes * depth * map_size**2

    def forward(self, features: Tensor) -> Tensor:
        # Channels-last memory (B, T, H, W, 256) is torch's channels_last_3d after T moves behind the channels.
        volume = self.project(features).transpose(1, 2)  # (B, 256, T, H, W)
        scores: Tensor = self.layers(volume)  # (B, K, T/8, H, W)
        return scores.mean(dim=(2, 3, 4))  # (B, K)
