"""Temporal Relation Network: relations between ordered tuples of segments, at several scales."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.errors import PipelineError
from pipeline.heads.head import NUM_FEATURES, Head

BOTTLENECK = 256
NUM_SAMPLED = 3  # number of sampled tuples of a scale
EVALUATION_SEED = 0  # seed of the fixed subset that `trn_eval_tuples=sampled` evaluates
MAX_TUPLES = 2048  # tuples of a scale processed at a time: bounds memory at 16 segments, with up to 12,870 per scale
MAX_TOTAL_TUPLES = 1 << 17  # 16 segments have 65,519; each further segment doubles the number


class TRNHead(Head):
    """Classify a clip by the sum, over scales d = 2 … T, of relations between ordered tuples of d segments.

    By definition each tuple's features are concatenated and go through two linear layers, which the tuples of a scale
    share. The first is linear in the concatenation, W·[f_1 … f_d] = Σ_j W_j f_j, and position j of a tuple can only be
    one of T - d + 1 segments. So we compute each W_j f_i once, sum those of each tuple by a product with a 0/1 matrix,
    and apply the second layer to the sum over tuples: 7.3 M multiply-accumulates instead of 66.6 M for the first layer
    at 8 segments. `macs` counts the definition.

    If training samples tuples and evaluation uses all (`trn_train_tuples`, `trn_eval_tuples`), each scale has the same
    weight in evaluation as in training: the mean over its tuples times the number that training sums.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Raises:
        PipelineError: there are fewer than two segments, which have no relation; or too many for `all` tuples (18 or
            more).

    Source: paper, Sec. 3.2 (TRN, Fig. 4). The bottleneck of 256, the ReLU on the input and the second layer on each
        tuple are from the published code; only this bottleneck gives the parameter count of Table 3.
    """

    reads = "pooled"
    section = "3.2"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.num_segments < 2:
            raise PipelineError(f"`num_segments` (={self.num_segments}) must be at least 2 for the head 'trn'.")
        self.scales = tuple(range(self.num_segments, 1, -1))
        self.relations = nn.ModuleList(nn.Linear(d * NUM_FEATURES, BOTTLENECK) for d in self.scales)
        self.classifiers = nn.ModuleList(nn.Linear(BOTTLENECK, self.num_classes) for _ in self.scales)
        train, evaluation = self.choices.trn_train_tuples, self.choices.trn_eval_tuples
        if "all" in (train, evaluation):
            self._refuse_too_many_tuples()
        for d in self.scales:
            if "all" in (train, evaluation):
                every = ordered_tuples(self.num_segments, d)
                self.register_buffer(f"all_{d}", selection_matrix(every, self.num_segments), persistent=False)
            if evaluation == "sampled":
                subset = selection_matrix(self.evaluation_tuples(d), self.num_segments)
                self.register_buffer(f"evaluation_{d}", subset, persistent=False)

    def num_tuples(self, scale: int, which: str) -> int:
        """Return the number of tuples of a scale in one forward pass; `which` is `all` or `sampled`."""
        every = math.comb(self.num_segments, scale)
        return every if which == "all" else min(NUM_SAMPLED, every)

    def evaluation_tuples(self, scale: int) -> list[tuple[int, ...]]:
        """Return the tuples of a scale that evaluation uses: all, or always the same seeded subset."""
        if self.choices.trn_eval_tuples == "all":
            return ordered_tuples(self.num_segments, scale)
        generator = torch.Generator(device="cpu").manual_seed(EVALUATION_SEED + scale)
        return drawn_tuples(self.num_segments, scale, self.num_tuples(scale, "sampled"), generator)

    def macs(self, map_size: int) -> int:
        return self._macs("all")

    def macs_sampled(self) -> int:
        """Count the multiply-accumulates of one clip with three sampled tuples per scale: 19 tuples at 8 segments."""
        return self._macs("sampled")

    def st_block(self, map_size: int) -> dict[str, Any]:
        return {**super().st_block(map_size), "macs": self._macs(self.choices.trn_eval_tuples)}

    def _macs(self, which: str) -> int:
        of_tuple = {d: (d * NUM_FEATURES + self.num_classes) * BOTTLENECK for d in self.scales}
        return sum(self.num_tuples(d, which) * of_tuple[d] for d in self.scales)

    def forward(self, features: Tensor) -> Tensor:
        vectors = torch.relu(self.project(features))  # (B, T, 256)
        scores = vectors.new_zeros(())
        for d, relation, classifier in zip(self.scales, self.relations, self.classifiers, strict=True):
            selection = self._selection(d)  # (P, d * (T - d + 1))
            # Weight of the mean over tuples: the number of tuples that a training pass sums, or one.
            weight = 1 if self.choices.trn_consensus == "mean" else self.num_tuples(d, self.choices.trn_train_tuples)
            assert isinstance(relation, nn.Linear)
            parts = self._parts(vectors, relation.weight)  # (B, d * (T - d + 1), 256)
            mean = _mean_relation(parts, selection, relation.bias)  # (B, 256)
            scores = scores + weight * classifier(mean)  # (B, K)
        return scores

    def _parts(self, vectors: Tensor, weight: Tensor) -> Tensor:
        """Compute W_j f_i for each position j of a tuple and each possible segment i, (B, d * (T - d + 1), 256)."""
        d = weight.shape[1] // NUM_FEATURES
        choices = self.num_segments - d + 1
        windows = vectors.unfold(1, choices, 1).permute(1, 0, 3, 2)  # (d, B, T - d + 1, 256)
        by_position = weight.view(BOTTLENECK, d, NUM_FEATURES).permute(1, 2, 0)  # (d, 256, 256)
        parts = torch.bmm(windows.flatten(1, 2), by_position)  # (d, B * (T - d + 1), 256)
        return parts.view(d, -1, choices, BOTTLENECK).transpose(0, 1).flatten(1, 2)

    def _selection(self, scale: int) -> Tensor:
        """Return the tuples of this forward pass, as rows of a `selection_matrix`."""
        which = self.choices.trn_train_tuples if self.training else self.choices.trn_eval_tuples
        if which == "sampled" and self.training:
            drawn = drawn_tuples(self.num_segments, scale, self.num_tuples(scale, "sampled"))
            return selection_matrix(drawn, self.num_segments).to(self.projection.weight.device)
        selection: Tensor = getattr(self, f"all_{scale}" if which == "all" else f"evaluation_{scale}")
        return selection

    def _refuse_too_many_tuples(self) -> None:
        total = sum(self.num_tuples(d, "all") for d in self.scales)
        if total > MAX_TOTAL_TUPLES:
            raise PipelineError(
                f"With `num_segments` (={self.num_segments}) the head 'trn' has {total:,} ordered tuples, more than "
                f"{MAX_TOTAL_TUPLES:,}. Set `trn_train_tuples` and `trn_eval_tuples` to 'sampled'."
            )


def ordered_tuples(num_segments: int, scale: int) -> list[tuple[int, ...]]:
    """Return all ordered tuples of `scale` segments, as increasing segment numbers."""
    return list(itertools.combinations(range(num_segments), scale))


def drawn_tuples(
    num_segments: int, scale: int, num_tuples: int, generator: torch.Generator | None = None
) -> list[tuple[int, ...]]:
    """Draw different ordered tuples of `scale` segments with equal probabilities from torch's random generator."""
    found: dict[tuple[int, ...], None] = {}
    while len(found) < num_tuples:
        keys = torch.rand(num_tuples, num_segments, generator=generator, device="cpu")
        rows = keys.argsort(dim=1)[:, :scale].sort(dim=1).values.tolist()
        found.update((tuple(row), None) for row in rows)
    return list(found)[:num_tuples]


def selection_matrix(tuples: list[tuple[int, ...]], num_segments: int) -> Tensor:
    """Return the (position, segment) pairs of each tuple of one scale d, as a 0/1 matrix.

    Shape:
        returns: (P, d * (T - d + 1)), the pair of position j and segment i in column j * (T - d + 1) + (i - j).
    """
    rows = np.array(tuples)  # (P, d)
    scale = rows.shape[1]
    choices = num_segments - scale + 1
    positions = np.arange(scale)
    columns = positions * choices + (rows - positions)
    matrix = np.zeros((len(tuples), scale * choices), dtype=np.float32)
    np.put_along_axis(matrix, columns, 1.0, axis=1)
    # On the default device, which `with torch.device(...)` can set.
    return torch.tensor(matrix)


def _mean_relation(parts: Tensor, selection: Tensor, bias: Tensor) -> Tensor:
    """Compute the mean over tuples of ReLU(sum of a tuple's parts + bias), (B, 256), in bounded memory."""
    if len(selection) <= MAX_TUPLES:
        return _sum_relation(parts, selection, bias) / len(selection)
    total = parts.new_zeros(())
    for rows in selection.split(MAX_TUPLES):
        # The backward pass recomputes the hidden features of a chunk instead of storing them.
        if torch.is_grad_enabled() and parts.requires_grad:
            total = total + checkpoint(_sum_relation, parts, rows, bias, use_reentrant=False)
        else:
            total = total + _sum_relation(parts, rows, bias)
    return total / len(selection)


def _sum_relation(parts: Tensor, selection: Tensor, bias: Tensor) -> Tensor:
    hidden = torch.matmul(selection.to(parts.dtype), parts)  # (B, P, 256)
    return torch.relu(hidden + bias.to(hidden.dtype)).sum(dim=1)
