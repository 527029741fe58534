"""Base class of the heads: check of the input, dropout, and the learned projection of backbone features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError, ShapeError
from pipeline.heads.dropout import ElementDropout
from pipeline.recipe import HeadConfig
from pipeline.shapes import check_shape

NUM_FEATURES = 256  # number of features after the learned projection (Sec. 3.1)
DEFAULT_CHOICES = HeadConfig()
# Deviation of all channels together with `input_scaling=centre`. Recurrent heads learn worse from larger inputs, the
# other heads equally well.
CENTRED_DEVIATION = 0.25


class Head(nn.Module):
    """Base class of the heads: class scores from the backbone features of a clip's segments.

    A head is dropout, a learned projection to 256 features, and an ST block. A subclass declares which maps it reads
    and its section of the paper, builds the ST block in its constructor, counts the block's multiply-accumulates in
    `macs`, and starts its `forward` with `self.project(features)`. `docs/adding-a-head.md` has a complete example.

    Shape:
        features: (B, T, C, H, W); (B, T, C, 1, 1) for heads that read pooled features. Both the contiguous layout
            and a permuted view of channels-last memory (B, T, H, W, C) are fast, and give the same scores.
        returns:  (B, K), class scores before softmax.

    Raises:
        ShapeError: the number of segments or channels is wrong, or pooled features are given instead of maps or
            vice versa.

    Source: paper, Sec. 3.1; dropout 0.3 from Sec. 3.5, on single elements of the map for spatial heads, as in the
        published code.
    """

    reads: ClassVar[Literal["pooled", "spatial"]]
    section: ClassVar[str]
    # Names of the parameters that the module itself owns, such as a query; weight decay is for the weights of layers.
    free_parameters: ClassVar[tuple[str, ...]] = ()
    # Whether `fit_closed_form` fits the head, instead of epochs of training.
    is_closed_form: ClassVar[bool] = False

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
            # Statistics of the training features: never trained, but part of the state, so model files contain them.
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
            # Drawn with a forked generator: the ST block gets the same initial weights with both options.
            with torch.random.fork_rng(devices=[]):
                nn.init.normal_(self.projection.weight, std=0.001)
            nn.init.zeros_(self.projection.bias)

    def fit_closed_form(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fit the head to the training clips without gradients; for heads with `is_closed_form`.

        Shape:
            batches: (B, T, C, H, W) features and (B,) labels of each batch.
        """
        raise NotImplementedError

    def macs(self, map_size: int) -> int:
        """Count the multiply-accumulates of the ST block for one clip, from the layer shapes of its definition.

        Activations, batch norm, additions, pooling and the projection are not counted. `map_size` is the height and
        width of the maps; heads of pooled features ignore it.
        """
        raise NotImplementedError

    def st_block(self, map_size: int) -> dict[str, Any]:
        """Return input, number of parameters and multiply-accumulates of the ST block, as in metrics.json."""
        num_parameters = sum(parameter.numel() for parameter in self.st_block_parameters())
        return {"maps": self.reads, "parameters": num_parameters, "macs": self.macs(map_size)}

    def st_block_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the ST block, without the learned projection, as counted in Table 3."""
        return [value for name, value in self.named_parameters() if not name.startswith("projection.")]

    def set_input_scaling(self, mean: Tensor, deviation: Tensor) -> None:
        """Set mean and standard deviation of the training features' channels, for `input_scaling`.

        The projection could absorb both without a change of the scores, so the head is equivalent to the paper's. If a
        channel varies little around a large mean, scaling makes the training faster.

        Shape:
            mean, deviation: (C,).
        """
        self.get_buffer("input_mean").copy_(mean)
        if self.choices.input_scaling == "centre":
            together = float(deviation.square().mean().sqrt())
            self.get_buffer("input_scale").fill_(CENTRED_DEVIATION / (together or 1.0))
            return
        # A channel with almost no variance in training must not be amplified later.
        floor = 0.1 * deviation.mean()
        self.get_buffer("input_scale").copy_(1.0 / deviation.clamp(min=float(floor) or 1.0))

    def _scaled(self, features: Tensor) -> Tensor:
        if self.choices.input_scaling == "none":
            return features
        mean, scale = (
            self.get_buffer(name).to(features.dtype)[:, None, None] for name in ("input_mean", "input_scale")
        )
        return (features - mean).mul_(scale)  # in place: a second tensor of maps would cost page faults

    def prepare(self, features: Tensor) -> Tensor:
        """Check and scale the input features. Shape: features, returns: (B, T, C, H, W)."""
        self._check(features)
        if not torch.is_autocast_enabled(features.device.type):
            features = features.to(self.projection.weight.dtype)
        return self._scaled(features)

    def project(self, features: Tensor) -> Tensor:
        """Check, scale, drop out and project the input features.

        Shape:
            features: (B, T, C, H, W).
            returns:  (B, T, 256) for pooled heads; (B, T, 256, H, W) in channels-last memory for spatial ones.
        """
        features = self.prepare(features)
        if self.reads == "pooled":
            vectors: Tensor = self.projection(self.dropout(features.flatten(2)))
            return vectors
        # No copy if the memory layout is (B, T, H, W, C), as in the feature store.
        frames = features.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        projected: Tensor = self.projection(self.dropout(frames))
        maps: Tensor = projected.contiguous(memory_format=torch.channels_last).unflatten(0, (-1, self.num_segments))
        return maps

    def _check(self, features: Tensor) -> None:
        axes = "B T C 1 1" if self.reads == "pooled" else "B T C H W"
        shape = features.shape
        fits = len(shape) == 5 and shape[1] == self.num_segments and shape[2] == self.in_channels
        if not fits or (self.reads == "pooled" and (shape[3], shape[4]) != (1, 1)):
            # Axes are checked one by one only after a mismatch, so that torch.export keeps a symbolic batch size.
            check_shape("features", features, axes, T=self.num_segments, C=self.in_channels)
        if self.reads == "spatial" and (shape[3], shape[4]) == (1, 1):
            raise ShapeError(
                f"`features` must have the axes ({', '.join(axes.split())}) with feature maps, but has pooled features "
                f"in its shape {tuple(shape)}: {type(self).__name__} reads maps='spatial'."
            )
