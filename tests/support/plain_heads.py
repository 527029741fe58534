"""Reference implementations of the heads by their definitions, without optimisations: slow and easy to check.

Each function takes the weights of a head of the project and computes its scores independently. The tests compare the
two; `benchmarks/heads.py` measures how much the optimisations save.
"""

from __future__ import annotations

import itertools
import math
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


def linear(head: nn.Module, features: Tensor) -> Tensor:
    segments = features.flatten(2).unbind(1)
    return head.projection(sum(segments) / len(segments))


def _vectors(head: nn.Module, features: Tensor) -> list[Tensor]:
    """Project the features of each segment."""
    return [head.projection(segment) for segment in features.flatten(2).unbind(1)]


def concat(head: nn.Module, features: Tensor) -> Tensor:
    return head.classifier(torch.cat(_vectors(head, features), dim=1))


def meanstd(head: nn.Module, features: Tensor) -> Tensor:
    vectors = _vectors(head, features)
    mean = sum(vectors) / len(vectors)
    variance = sum((vector - mean) ** 2 for vector in vectors) / len(vectors)
    return head.classifier(torch.cat((mean, (variance + 1e-6) ** 0.5), dim=1))


def diff(head: nn.Module, features: Tensor) -> Tensor:
    vectors = _vectors(head, features)
    steps = [after - before for before, after in itertools.pairwise(vectors)]
    absolute = sum(step.abs() for step in steps) / len(steps)
    return head.classifier(
        torch.cat((sum(vectors) / len(vectors), (vectors[-1] - vectors[0]) / len(steps), absolute), 1)
    )


def _norm(layer: nn.LayerNorm, values: Tensor) -> Tensor:
    centred = values - values.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def _mlp(mlp: nn.Sequential, values: Tensor) -> Tensor:
    first, _, second = mlp
    hidden = first(values)
    return second(hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5)))


def _attention(queries: Tensor, keys: Tensor, values: Tensor, num_heads: int) -> Tensor:
    """Attend head by head."""
    size = queries.shape[2] // num_heads
    found = []
    for q, k, v in zip(*(part.split(size, dim=2) for part in (queries, keys, values)), strict=True):
        found.append(torch.softmax(q @ k.transpose(1, 2) / size**0.5, dim=2) @ v)
    return torch.cat(found, dim=2)


def _self_attention(block: nn.Module, tokens: Tensor, num_heads: int) -> Tensor:
    normed = _norm(block.attention_norm, tokens)
    weights, biases = (getattr(block.queries_keys_values, name).split(256) for name in ("weight", "bias"))
    parts = [normed @ weight.T + bias for weight, bias in zip(weights, biases, strict=True)]
    tokens = tokens + block.output(_attention(*parts, num_heads))
    return tokens + _mlp(block.mlp, _norm(block.mlp_norm, tokens))


def _positions(head: nn.Module, num_positions: int) -> Tensor:
    kind = head.positions.kind
    if kind == "learned":
        return head.positions.table
    table = torch.zeros(num_positions, 256)
    if kind == "sincos":
        for position, feature in itertools.product(range(num_positions), range(256)):
            angle = position / 10_000 ** (2 * (feature // 2) / 256)
            table[position, feature] = math.sin(angle) if feature % 2 == 0 else math.cos(angle)
    return table


def _tokens(head: nn.Module, features: Tensor) -> Tensor:
    """Project each segment, or each place of its map, and add the position of the segment."""
    positions = _positions(head, features.shape[1])
    if head.reads == "pooled":
        return torch.stack(_vectors(head, features), dim=1) + positions
    weight, (height, width) = head.projection.weight[:, :, 0, 0], features.shape[3:]
    places = itertools.product(range(features.shape[1]), range(height), range(width))
    tokens = [features[:, t, :, y, x] @ weight.T + head.projection.bias + positions[t] for t, y, x in places]
    return torch.stack(tokens, dim=1)


def attn(head: nn.Module, features: Tensor) -> Tensor:
    """Compute the attentive probe, and that of four blocks, head of attention by head of attention."""
    tokens = _tokens(head, features)
    for block in getattr(head, "blocks", ()):
        tokens = _self_attention(block, tokens, 16)
    pooler = head.pooler
    normed = _norm(pooler.token_norm, tokens)
    weights, biases = (getattr(pooler.keys_values, name).split(256) for name in ("weight", "bias"))
    keys, values = (normed @ weight.T + bias for weight, bias in zip(weights, biases, strict=True))
    query = head.query.repeat(len(features), 1, 1)
    pooled = query + _attention(pooler.query(query), keys, values, 16)
    return head.classifier((pooled + _mlp(pooler.mlp, _norm(pooler.mlp_norm, pooled)))[:, 0])


def ep(head: nn.Module, features: Tensor) -> Tensor:
    tokens = _tokens(head, features)
    pooled = []
    for query, weight in zip(head.queries, head.values.weight.split(32), strict=True):
        shares = torch.softmax((tokens @ query[:, None])[..., 0] / 16, dim=1)  # (B, T)
        pooled.append((shares[:, None] @ (tokens @ weight.T))[:, 0])
    return head.classifier(torch.cat(pooled, dim=1))


def transformer(head: nn.Module, features: Tensor) -> Tensor:
    vectors = [head.class_token.repeat(len(features), 1), *_vectors(head, features)]
    tokens = torch.stack(vectors, dim=1) + head.positions.table
    for block in head.blocks:
        tokens = _self_attention(block, tokens, 8)
    return head.classifier(_norm(head.norm, tokens[:, 0]))


def tcn(head: nn.Module, features: Tensor) -> Tensor:
    """Sum the three taps of each convolution segment by segment; segments outside the clip are zeros."""
    vectors = _vectors(head, features)
    for layer, dilation in zip(head.layers, (1, 2, 4), strict=True):
        first, _, second = layer
        num, zero = len(vectors), torch.zeros_like(vectors[0])
        changed = []
        for at in range(num):
            taps = [vectors[place] if 0 <= place < num else zero for place in (at - dilation, at, at + dilation)]
            hidden = sum(tap @ first.weight[:, :, k].T for k, tap in enumerate(taps)) + first.bias
            changed.append(vectors[at] + hidden.clamp(min=0) @ second.weight[:, :, 0].T + second.bias)
        vectors = changed
    return head.classifier(sum(vectors) / len(vectors))


def shift(head: nn.Module, features: Tensor) -> Tensor:
    vectors = _vectors(head, features)
    for layer in head.layers:
        zero = torch.zeros_like(vectors[0])
        padded = [zero, *vectors, zero]
        mixed = [
            torch.cat((before[:, :32], after[:, 32:64], now[:, 64:]), dim=1)
            for before, now, after in zip(padded, vectors, padded[2:], strict=False)
        ]
        vectors = [vector + layer(parts).clamp(min=0) for vector, parts in zip(vectors, mixed, strict=True)]
    return head.classifier(sum(vectors) / len(vectors))


def mamba(head: nn.Module, features: Tensor) -> Tensor:
    """Compute the block segment by segment, with the last three inputs of the convolution and the state kept."""
    vectors = _vectors(head, features)
    kept = [torch.zeros(len(features), 512) for _ in range(3)]
    state = torch.zeros(len(features), 512, 16)
    for vector in vectors:
        channels, gate = (_norm(head.norm, vector) @ head.input.weight.T).split(512, dim=1)
        kept = [*kept[-3:], channels]
        weight = head.convolution.weight[:, 0]
        channels = sum(values * weight[:, k] for k, values in enumerate(kept)) + head.convolution.bias
        channels = channels * torch.sigmoid(channels)
        low, inputs, outputs = (channels @ head.selection.weight.T).split((16, 16, 16), dim=1)
        steps = torch.log1p(torch.exp(low @ head.steps.weight.T + head.steps.bias))
        new = torch.empty_like(state)
        for n in range(16):
            decay = torch.exp(-steps * torch.exp(head.log_rates[:, n]))
            new[:, :, n] = decay * state[:, :, n] + steps * inputs[:, n : n + 1] * channels
        state = new
        mixed = sum(state[:, :, n] * outputs[:, n : n + 1] for n in range(16)) + head.skip * channels
        last = vector + (mixed * gate * torch.sigmoid(gate)) @ head.output.weight.T
    return head.classifier(_norm(head.last_norm, last))


def knn(head: nn.Module, features: Tensor) -> Tensor:
    """Sort all training clips by similarity for each clip and add up the votes one by one."""
    scores = []
    for clip in features.flatten(2).mean(dim=1):
        similarities = [
            (float(F.cosine_similarity(clip, known, dim=0)), int(at)) for at, known in enumerate(head.neighbours)
        ]
        votes = torch.zeros(head.num_classes)
        for similarity, at in sorted(similarities, reverse=True)[:20]:
            votes[int(head.votes[at].argmax())] += math.exp(similarity / 0.07)
        scores.append((votes / votes.sum()).clamp(min=1e-4).log())
    return torch.stack(scores)


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
    "linear": linear,
    "knn": knn,
    "concat": concat,
    "meanstd": meanstd,
    "diff": diff,
    **{
        f"{base}{kind}": plain
        for base, plain in {"attn": attn, "attn_tokens": attn, "attn4": attn, "ep": ep, "ep_tokens": ep}.items()
        for kind in ("", "_sincos", "_learned")
    },
    "transformer": transformer,
    "tcn": tcn,
    "shift": shift,
    "mamba": mamba,
}
