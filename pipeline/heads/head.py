"""What every head shares: the check at its door, dropout, and the learned projection of backbone features."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError, ShapeError
from pipeline.heads.dropout import ElementDropout
from pipeline.recipe import HeadConfig
from pipeline.shapes import check_shape

NUM_FEATURES = 256  # what the learned projection makes of a backbone's channels (Sec. 3.1)
DEFAULT_CHOICES = HeadConfig()
# Of all channels together under `input_scaling=centre`. Recurrent heads learn worse from larger inputs, the others as
# well from these.
CENTRED_DEVIATION = 0.25


class Head(nn.Module):
    """Scores of the classes from backbone features of the segments of a clip: the base of every head.

    A head is dropout, a learned projection to 256 features, and an ST block. A subclass names the maps that it reads
    and its section of the paper, builds the ST block in its constructor, counts that block's multiply-accumulates in
    `macs`, and starts its `forward` with `self.project(features)`. `docs/adding-a-head.md` is a worked example.

    Shape:
        features: (B, T, C, H, W); (B, T, C, 1, 1) for heads that read pooled features. Both the contiguous layout
            and a permuted view of channels-last storage (B, T, H, W, C) are fast, and give the same scores.
        returns:  (B, K), class scores before softmax.

    Raises:
        ShapeError: features of another number of segments or channels, pooled ones where maps are read, or maps
            where pooled ones are read.

    Source: paper, Sec. 3.1; dropout 0.3 from Sec. 3.5, on single elements of the map for spatial heads, as in the
        published code.
    """

    reads: ClassVar[Literal["pooled", "spatial"]]
    section: ClassVar[str]

    def __init__(
        self,
        *,
        in_channels: int,
        num_segments: int,
        num_classes: int,
        choices: HeadConfig = DEFAULT_CHOICES,
        num_projected: int = NUM_FEATURES,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("num_segments", num_segments), ("num_classes", num_classes)):
            if value < 1:
                raise PipelineError(f"`{name}` (={value}) must be at least 1.")
        self.in_channels = in_channels
        self.num_segments = num_segments
        self.num_classes = num_classes
        self.choices = choices
        if choices.input_scaling != "none":
            # Of the training features; part of the state, so that a model file has them, and never trained.
            self.register_buffer("input_mean", torch.zeros(in_channels))
            self.register_buffer("input_scale", torch.ones(in_channels))
        self.dropout = ElementDropout(choices.dropout)
        self.projection = (
            nn.Linear(in_channels, num_projected)
            if self.reads == "pooled"
            else nn.Conv2d(in_channels, num_projected, kernel_size=1)
        )
        if choices.projection_init == "normal_0.001":
            assert self.projection.bias is not None
            # Drawn aside: the ST block, built after this, starts from the same weights under either choice.
            with torch.random.fork_rng(devices=[]):
                nn.init.normal_(self.projection.weight, std=0.001)
            nn.init.zeros_(self.projection.bias)

    def macs(self, map_size: int) -> int:
        """Multiply-accumulates of the ST block for one clip, from the layer shapes of its definition.

        Activations, batch norm, additions and pooling are not counted, nor is the projection. `map_size` is the
        height and width of the maps; heads of pooled features ignore it.
        """
        raise NotImplementedError

    def st_block_parameters(self) -> list[nn.Parameter]:
        """The parameters of the ST block alone, without the learned projection: what Table 3 counts."""
        return [value for name, value in self.named_parameters() if not name.startswith("projection.")]

    def set_input_scaling(self, mean: Tensor, deviation: Tensor) -> None:
        """Take over mean and standard deviation of the training features' channels, for `input_scaling`.

        The projection could absorb both without a change of the scores, so the head remains the paper's; they only
        make it learnable in fewer epochs where a channel varies little about a large mean.

        Shape:
            mean, deviation: (C,).
        """
        self.get_buffer("input_mean").copy_(mean)
        if self.choices.input_scaling == "centre":
            together = float(deviation.square().mean().sqrt())
            self.get_buffer("input_scale").fill_(CENTRED_DEVIATION / (together or 1.0))
            return
        # A channel that hardly ever varies in training must not blow up what it does later.
        floor = 0.1 * deviation.mean()
        self.get_buffer("input_scale").copy_(1.0 / deviation.clamp(min=float(floor) or 1.0))

    def _scaled(self, features: Tensor) -> Tensor:
        if self.choices.input_scaling == "none":
            return features
        mean, scale = (
            self.get_buffer(name).to(features.dtype)[:, None, None] for name in ("input_mean", "input_scale")
        )
        return (features - mean) * scale

    def project(self, features: Tensor) -> Tensor:
        """Features at the head's door, checked, scaled, dropped out and projected.

        Shape:
            features: (B, T, C, H, W).
            returns:  (B, T, 256) for pooled heads; (B, T, 256, H, W) in channels-last storage for spatial ones.
        """
        self._check(features)
        if not torch.is_autocast_enabled(features.device.type):
            features = features.to(self.projection.weight.dtype)
        features = self._scaled(features)
        if self.reads == "pooled":
            vectors: Tensor = self.projection(self.dropout(features.flatten(2)))
            return vectors
        # Without a copy where the storage is (B, T, H, W, C), as the feature store keeps it.
        frames = features.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        projected: Tensor = self.projection(self.dropout(frames))
        maps: Tensor = projected.contiguous(memory_format=torch.channels_last).unflatten(0, (-1, self.num_segments))
        return maps

    def _check(self, features: Tensor) -> None:
        axes = "B T C 1 1" if self.reads == "pooled" else "B T C H W"
        shape = features.shape
        fits = len(shape) == 5 and shape[1] == self.num_segments and shape[2] == self.in_channels
        if not fits or (self.reads == "pooled" and (shape[3], shape[4]) != (1, 1)):
            # Only a misfit is checked axis by axis, so that a symbolic batch size survives torch.export.
            check_shape("features", features, axes, T=self.num_segments, C=self.in_channels)
        if self.reads == "spatial" and (shape[3], shape[4]) == (1, 1):
            raise ShapeError(
                f"`features` must have the axes ({', '.join(axes.split())}) with feature maps, but has pooled features "
                f"in its shape {tuple(shape)}: {type(self).__name__} reads maps='spatial'."
            )
