"""Nearest neighbours: votes of the most similar training clips, without training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import PipelineError
from pipeline.heads.head import Head

NUM_NEIGHBOURS = 20
TEMPERATURE = 0.07  # of the weight of a vote, exp(similarity / temperature)
SMALLEST_SHARE = 1e-4  # of the votes, so that the score of a class without votes is finite


class KNNHead(Head):
    """Classify a clip by the votes of its 20 most similar training clips; order has no effect.

    A clip is the mean of its segments' backbone features, and similarity is the cosine. A vote has the weight
    exp(similarity / 0.07); the scores are the logarithms of the shares of the votes. The features of the training
    clips are a part of the model file: 2 kB a clip at 512 channels. The head has no parameters and no dropout.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), logarithms of class probabilities.

    Raises:
        PipelineError: the head is used before it is fitted.

    Source: the weighted k-NN classifier of Wu et al., Unsupervised feature learning via non-parametric instance
        discrimination, 2018 (Sec. 3.4), with the k of Caron et al., Emerging properties in self-supervised vision
        transformers (DINO), 2021 (App. F); not in the paper.
    """

    reads = "pooled"
    section = "none"
    is_closed_form = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        del self.projection
        self.register_buffer("neighbours", torch.zeros(0, self.in_channels))  # (N, C), of length 1
        self.register_buffer("votes", torch.zeros(0, self.num_classes))  # (N, K), one-hot

    def fit_closed_form(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        found = [(self._directions(features), labels) for features, labels in batches]
        self.neighbours = torch.cat([directions for directions, _ in found])
        labels = torch.cat([labels for _, labels in found]).to(self.neighbours.device)
        self.votes = F.one_hot(labels, self.num_classes).to(self.neighbours.dtype)

    def macs(self, map_size: int) -> int:
        return len(self.neighbours) * self.in_channels

    def forward(self, features: Tensor) -> Tensor:
        if len(self.neighbours) == 0:
            raise PipelineError("The head 'knn' has no training clips: fit it with `pipeline fit-head --head knn`.")
        similarities = self._directions(features) @ self.neighbours.T  # (B, N)
        nearest = similarities.topk(min(NUM_NEIGHBOURS, len(self.neighbours)), dim=1)
        weights = torch.softmax(nearest.values / TEMPERATURE, dim=1)  # (B, 20), shares of all votes
        shares = (weights[..., None] * self.votes[nearest.indices]).sum(dim=1)  # (B, K)
        return shares.clamp(min=SMALLEST_SHARE).log()

    def prepare(self, features: Tensor) -> Tensor:
        self._check(features)
        return self._scaled(features.to(self.neighbours.dtype))

    def _directions(self, features: Tensor) -> Tensor:
        return F.normalize(self.prepare(features).flatten(2).mean(dim=1), dim=1)  # (B, C)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: Any) -> None:
        # The number of training clips is known only from the state.
        for name in ("neighbours", "votes"):
            stored = state_dict.get(prefix + name)
            if stored is not None and stored.shape[1:] == self.get_buffer(name).shape[1:]:
                setattr(self, name, self.get_buffer(name).new_zeros(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *others)
