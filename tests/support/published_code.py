"""Temporal blocks and training step of the published code in plain torch.

The project's heads and loops are compared with these: initial weights with `Network`, training with `train_steps`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_FEATURES = 256
MOMENTUM = 0.9


class MLP(nn.Module):
    def __init__(self, num_segments: int, num_classes: int) -> None:
        super().__init__()
        hidden = nn.Linear(num_segments * NUM_FEATURES, 512)
        # Same indices as in the project's head; its dropout has the ratio 0 in these tests.
        self.layers = nn.Sequential(nn.ReLU(), hidden, nn.ReLU(), nn.Identity(), nn.Linear(512, num_classes))

    def forward(self, vectors: Tensor) -> Tensor:
        return self.layers(vectors.flatten(1))


class TSN(nn.Module):
    def __init__(self, num_segments: int, num_classes: int) -> None:
        super().__init__()

    def forward(self, scores: Tensor) -> Tensor:
        return scores.mean(1)


class TRN(nn.Module):
    """`tuples` lists, for each training step, the tuples of each scale; empty means all tuples."""

    def __init__(self, num_segments: int, num_classes: int) -> None:
        super().__init__()
        self.scales = range(num_segments, 1, -1)
        self.relations = nn.ModuleList(nn.Linear(d * NUM_FEATURES, 256) for d in self.scales)
        self.classifiers = nn.ModuleList(nn.Linear(256, num_classes) for _ in self.scales)
        self.tuples: list[list[tuple[int, ...]]] = []

    def forward(self, vectors: Tensor) -> Tensor:
        scores = []
        for d, relation, classifier in zip(self.scales, self.relations, self.classifiers, strict=True):
            of_scale = self.tuples.pop(0) if self.tuples else list(combinations(range(vectors.shape[1]), d))
            for segments in of_scale:
                joined = vectors[:, list(segments)].flatten(1)
                scores.append(classifier(relation(joined.relu()).relu()))
        return torch.stack(scores).sum(0)


class LastState(nn.Module):
    """Recurrent layer, and a linear layer on its last state."""

    def __init__(self, name: str, layer: nn.RNNBase, num_classes: int) -> None:
        super().__init__()
        self.add_module(name, layer)
        self.recurrent = [layer]  # in a list, so that it is registered once
        self.classifier = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, vectors: Tensor) -> Tensor:
        states, _ = self.recurrent[0](vectors)
        if self.recurrent[0].bidirectional:
            half = NUM_FEATURES // 2
            return self.classifier(torch.cat((states[:, -1, :half], states[:, 0, half:]), dim=1))
        return self.classifier(states[:, -1])


class ConvLSTM(nn.Module):
    """ConvLSTM with one convolution of concatenated input and hidden state for all four gates."""

    def __init__(self, num_segments: int, num_classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2 * NUM_FEATURES, 4 * NUM_FEATURES, 3, padding=1)
        self.classifier = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        hidden = cell = torch.zeros_like(maps[:, 0])
        for x in maps.unbind(1):
            i, f, g, o = self.convolution(torch.cat((x, hidden), dim=1)).chunk(4, dim=1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
        return self.classifier(hidden.mean((2, 3)))


class FCN2D(nn.Module):
    def __init__(self, num_segments: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReLU()]
        for before, width in ((1, 64), (64, 64), (64, 128), (128, 128), (128, 256)):
            layers += [nn.Conv2d(before, width, 3, stride=(1, 2), padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(256, num_classes, 1), nn.ReLU())

    def forward(self, vectors: Tensor) -> Tensor:
        return self.layers(vectors[:, None]).mean((2, 3))


class FCN3D(nn.Module):
    def __init__(self, num_segments: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReLU()]
        for before, width in ((256, 64), (64, 128), (128, 256)):
            layers += [nn.Conv3d(before, width, 3, stride=(2, 1, 1), padding=1), nn.BatchNorm3d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv3d(256, num_classes, 1), nn.ReLU())

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers(maps.transpose(1, 2)).mean((2, 3, 4))


def _last_state(name: str, build: Callable[[], nn.RNNBase]) -> Callable[[int, int], nn.Module]:
    return lambda num_segments, num_classes: LastState(name, build(), num_classes)


BLOCKS: dict[str, Callable[[int, int], nn.Module]] = {
    "mlp": MLP,
    "tsn": TSN,
    "trn": TRN,
    "rnn_tanh": _last_state("rnn", lambda: nn.RNN(256, 256, nonlinearity="tanh", batch_first=True)),
    "rnn_relu": _last_state("rnn", lambda: nn.RNN(256, 256, nonlinearity="relu", batch_first=True)),
    "lstm": _last_state("lstm", lambda: nn.LSTM(256, 256, batch_first=True)),
    "gru": _last_state("gru", lambda: nn.GRU(256, 256, batch_first=True)),
    "blstm": _last_state("lstm", lambda: nn.LSTM(256, 128, batch_first=True, bidirectional=True)),
    "convlstm": ConvLSTM,
    "fcn2d": FCN2D,
    "fcn3d": FCN3D,
}
SPATIAL = ("convlstm", "fcn3d")


class Network(nn.Module):
    """Backbone (none for cached features), projection and temporal block, registered in the published order."""

    def __init__(
        self, name: str, in_channels: int, num_segments: int, num_classes: int, backbone: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.is_spatial = name in SPATIAL
        width = num_classes if name == "tsn" else NUM_FEATURES
        self.projection = nn.Conv2d(in_channels, width, 1) if self.is_spatial else nn.Linear(in_channels, width)
        nn.init.normal_(self.projection.weight, std=0.001)
        nn.init.zeros_(self.projection.bias)
        self.block = BLOCKS[name](num_segments, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Score cached features (B, T, C, h, w), or frames (B, T, 3, S, S) if there is a backbone."""
        features = inputs.flatten(0, 1)
        if self.backbone is not None:
            features = self.backbone(features)
            if not self.is_spatial:
                features = features.mean((2, 3), keepdim=True)
        features = features.to(self.projection.weight.dtype)
        if not self.is_spatial:
            features = features[..., 0, 0]
        return self.block(self.projection(features).unflatten(0, inputs.shape[:2]))

    def train_as_published(self) -> None:
        """Set training mode; in the backbone, only the first 2D batch norm updates its running statistics."""
        self.train()
        if self.backbone is not None:
            norms = [layer for layer in self.backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
            for layer in norms[1:]:
                layer.eval()
                layer.requires_grad_(False)

    def load_head(self, state: dict[str, Tensor]) -> None:
        """Load the tensors of a head of the project."""
        tensors = dict(state)
        if isinstance(self.block, ConvLSTM):
            parts = [tensors.pop(f"{part}_convolution.weight") for part in ("input", "hidden")]
            tensors["convolution.weight"] = torch.cat(parts, dim=1)
            tensors["convolution.bias"] = tensors.pop("input_convolution.bias")
        prefixed = {key if key.startswith("projection.") else f"block.{key}": value for key, value in tensors.items()}
        missing, unexpected = self.load_state_dict(prefixed, strict=False)
        assert not unexpected
        assert all(key.startswith("backbone.") for key in missing)

    def head_state(self) -> dict[str, Tensor]:
        """Return the tensors under the names of the project's head."""
        state = {key: value for key, value in self.state_dict().items() if not key.startswith("backbone.")}
        tensors = {key.removeprefix("block."): value for key, value in state.items()}
        if isinstance(self.block, ConvLSTM):
            weight = tensors.pop("convolution.weight")
            tensors["input_convolution.weight"], tensors["hidden_convolution.weight"] = weight.split(256, dim=1)
            tensors["input_convolution.bias"] = tensors.pop("convolution.bias")
        return tensors


class Trained(NamedTuple):
    """A parameter of the optimiser, with factors on the recipe's learning rate and weight decay."""

    parameter: nn.Parameter
    lr_factor: float
    decay_factor: float


def trained_parameters(network: Network, num_norms: int = 0) -> list[Trained]:
    """List the parameters of the published optimiser. `num_norms`: number of 2D batch norms before the network."""
    trained: list[Trained] = []
    for layer in network.modules():
        own = list(layer.parameters(recurse=False))
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            trained += [Trained(layer.weight, 1, 1), *(Trained(bias, 2, 0) for bias in own[1:])]
        elif isinstance(layer, nn.Linear):
            trained += [Trained(parameter, 1, 1) for parameter in own]
        elif isinstance(layer, nn.RNNBase):
            trained += [Trained(own[0], 1, 1)]
        elif isinstance(layer, nn.BatchNorm3d):
            trained += [Trained(parameter, 1, 0) for parameter in own]
        elif isinstance(layer, nn.BatchNorm2d):
            num_norms += 1
            if num_norms == 1:
                trained += [Trained(parameter, 1, 0) for parameter in own]
        else:
            assert not own, type(layer)
    return trained


def train_steps(
    network: Network,
    trained: Sequence[Trained],
    epochs: Iterable[tuple[float, Iterable[tuple[Tensor, Tensor]]]],
    *,
    weight_decay: float,
    clip_norm: float,
) -> list[float]:
    """Train by SGD with momentum on `epochs`, each a learning rate and batches; return the gradient norm of each step.

    Only the gradients of trained parameters are cleared before a step; the norm includes all gradients.
    """
    velocities = [torch.zeros_like(one.parameter) for one in trained]
    norms = []
    for lr, batches in epochs:
        network.train_as_published()
        for inputs, labels in batches:
            for one in trained:
                one.parameter.grad = None
            F.cross_entropy(network(inputs), labels).backward()
            with torch.no_grad():
                gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
                norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
                for gradient in gradients:
                    gradient *= min(1.0, clip_norm / (norm + 1e-6))
                for one, velocity in zip(trained, velocities, strict=True):
                    assert one.parameter.grad is not None
                    velocity *= MOMENTUM
                    velocity += one.parameter.grad + weight_decay * one.decay_factor * one.parameter
                    one.parameter.sub_(lr * one.lr_factor * velocity)
            norms.append(norm)
    return norms
