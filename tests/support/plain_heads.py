"""Reference implementations of the heads by their definitions, without optimisations: slow and easy to check.

Each function takes the weights of a head of the project and computes its scores independently. The tests compare the
two; `benchmarks/heads.py` measures how much the optimisations save.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Tuples = Mapping[int, Sequence[tuple[int, ...]]]


def all_tuples(num_segments: int) -> Tuples:
    return {d: list(itertools.combinations(range(num_segments), d)) for d in range(2, num_segments + 1)}


def trn(head: nn.Module, features: Tensor, tuples: Tuples | None = None) -> Tensor:
    """Sum MLP(concatenated features) over scales and tuples, tuple by tuple."""
    vectors = head.projection(head.dropout(features.flatten(2)))
    tuples = all_tuples(features.shape[1]) if tuples is None else tuples
    layers = {d: (a, b) for d, a, b in zip(head.scales, head.relations, head.classifiers, strict=True)}
    scores = torch.zeros(())
    for d, of_scale in tuples.items():
        first, second = layers[d]
        for segments in of_scale:
            concatenated = torch.cat([vectors[:, segment] for segment in segments], dim=1)
            scores = scores + second(torch.relu(first(torch.relu(concatenated))))
    return scores


def convlstm(head: nn.Module, features: Tensor) -> Tensor:
    """Compute ConvLSTM step by step, with one convolution of input and hidden state, from a zero state."""
    weight = torch.cat((head.input_convolution.weight, head.hidden_convolution.weight), dim=1)
    batch, num_segments, _, height, width = features.shape
    hidden = cell = features.new_zeros(batch, 256, height, width)
    for segment in range(num_segments):
        projected = head.projection(head.dropout(features[:, segment].contiguous()))
        gates = F.conv2d(torch.cat((projected, hidden), dim=1), weight, head.input_convolution.bias, padding=1)
        i, f, g, o = gates.split(256, dim=1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
    return head.classifier(hidden.mean((2, 3)))


def _layer(module: nn.RNNBase, suffix: str = "") -> list[Tensor]:
    return [getattr(module, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def _rnn(activation: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
    def scores(head: nn.Module, features: Tensor) -> Tensor:
        w_x, w_h, b_x, b_h = _layer(head.rnn)
        state = torch.zeros(len(features), 256)
        for x in head.projection(features.flatten(2)).unbind(1):
            state = activation(x @ w_x.T + b_x + state @ w_h.T + b_h)
        return head.classifier(state)

    return scores


def _lstm_states(weights: list[Tensor], inputs: Sequence[Tensor]) -> Tensor:
    w_x, w_h, b_x, b_h = weights
    size = w_h.shape[1]
    state = cell = torch.zeros(len(inputs[0]), size)
    for x in inputs:
        i, f, g, o = (x @ w_x.T + b_x + state @ w_h.T + b_h).split(size, dim=1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        state = o.sigmoid() * cell.tanh()
    return state


def lstm(head: nn.Module, features: Tensor) -> Tensor:
    return head.classifier(_lstm_states(_layer(head.lstm), head.projection(features.flatten(2)).unbind(1)))


def blstm(head: nn.Module, features: Tensor) -> Tensor:
    """Compute BLSTM from the forward state after the last segment and the backward state after the first."""
    inputs = head.projection(features.flatten(2)).unbind(1)
    forwards = _lstm_states(_layer(head.lstm), inputs)
    backwards = _lstm_states(_layer(head.lstm, "_reverse"), inputs[::-1])
    return head.classifier(torch.cat((forwards, backwards), dim=1))


def gru(head: nn.Module, features: Tensor) -> Tensor:
    w_x, w_h, b_x, b_h = _layer(head.gru)
    state = torch.zeros(len(features), 256)
    for x in head.projection(features.flatten(2)).unbind(1):
        r_x, z_x, n_x = (x @ w_x.T + b_x).split(256, dim=1)
        r_h, z_h, n_h = (state @ w_h.T + b_h).split(256, dim=1)
        reset, update = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        state = update * state + (1 - update) * torch.tanh(n_x + reset * n_h)
    return head.classifier(state)


def tsn(head: nn.Module, features: Tensor) -> Tensor:
    segments = features.flatten(2).unbind(1)
    return sum(head.projection(segment) for segment in segments) / len(segments)


def mlp(head: nn.Module, features: Tensor) -> Tensor:
    projected = [head.projection(segment).clamp(min=0) for segment in features.flatten(2).unbind(1)]
    first, second = (layer for layer in head.layers if isinstance(layer, nn.Linear))
    return second(first(torch.cat(projected, dim=1)).clamp(min=0))


def _fcn_block(
    plane: Tensor, layers: nn.Sequential, convolve: Callable[..., Tensor], stride: tuple[int, ...]
) -> Tensor:
    """Compute convolution, batch norm with running statistics and ReLU, then the scores."""
    rest = [layer for layer in layers if hasattr(layer, "weight")]
    spread = (1, -1, *(1 for _ in stride))
    while len(rest) > 1:
        convolution, norm, *rest = rest
        plane = convolve(plane, convolution.weight, convolution.bias, stride=stride, padding=1)
        centred = (plane - norm.running_mean.view(spread)) / (norm.running_var.view(spread) + norm.eps).sqrt()
        plane = (centred * norm.weight.view(spread) + norm.bias.view(spread)).clamp(min=0)
    return convolve(plane, rest[0].weight, rest[0].bias).flatten(2).mean(2)


def fcn2d(head: nn.Module, features: Tensor) -> Tensor:
    plane = head.projection(features.flatten(2))[:, None]
    return _fcn_block(plane, head.layers, F.conv2d, (1, 2))


def fcn3d(head: nn.Module, features: Tensor) -> Tensor:
    projected = [head.projection(segment.contiguous()) for segment in features.unbind(1)]
    return _fcn_block(torch.stack(projected, dim=2), head.layers, F.conv3d, (2, 1, 1))


PLAIN_HEADS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "mlp": mlp,
    "tsn": tsn,
    "trn": trn,
    "rnn_tanh": _rnn(torch.tanh),
    "rnn_relu": _rnn(torch.relu),
    "lstm": lstm,
    "gru": gru,
    "blstm": blstm,
    "convlstm": convlstm,
    "fcn2d": fcn2d,
    "fcn3d": fcn3d,
}
