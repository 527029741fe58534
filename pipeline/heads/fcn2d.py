"""2D fully convolutional network over the plane of segments and features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.heads.head import NUM_FEATURES, Head

WIDTHS = (64, 64, 128, 128, 256)


class FCN2DHead(Head):
    """Classify a clip by 2D convolutions over its segments (rows) and their features (columns).

    Five convolutions halve the columns and keep the rows, each with batch norm and ReLU; a 1×1 convolution gives
    class scores, which are averaged over the plane.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: paper, Sec. 3.4 (2D-FCN, Table 1). No batch norm or ReLU follows the 1×1 convolution; the published code's
        ReLU on the scores and on the input are the options `fcn_score_relu` and `fcn_input_relu`.
    """

    reads = "pooled"
    section = "3.4"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        layers: list[nn.Module] = [nn.ReLU()] if self.choices.fcn_input_relu else []
        for width_in, width_out in zip((1, *WIDTHS[:-1]), WIDTHS, strict=True):
            convolution = nn.Conv2d(width_in, width_out, kernel_size=3, stride=(1, 2), padding=1)
            layers += [convolution, nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)]
        layers.append(nn.Conv2d(WIDTHS[-1], self.num_classes, kernel_size=1))
        if self.choices.fcn_score_relu:
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)

    def macs(self, map_size: int) -> int:
        total, columns = 0, NUM_FEATURES
        for width_in, width_out in zip((1, *WIDTHS[:-1]), WIDTHS, strict=True):
            columns //= 2
            total += 3 * 3 * width_in * width_out * self.num_segments * columns
        return total + WIDTHS[-1] * self.num_classes * self.num_segments * columns

    def forward(self, features: Tensor) -> Tensor:
        plane = self.project(features).unsqueeze(1)  # (B, 1, T, 256)
        scores: Tensor = self.layers(plane.contiguous(memory_format=torch.channels_last))  # (B, K, T, 8)
        return scores.mean(dim=(2, 3))  # (B, K)
