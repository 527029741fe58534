"""Pretext task of the bundled weights: predict the position and the pose of a drawn hand.

All predictions are made by single linear layers, so the features must encode the answers: the pooled features, which
most heads read, and the maps, which the spatial heads read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.backbones.backbone import pooled
from pipeline.bundled.stills import ANGLE_RANGE, SIZE_RANGE, SPREAD_RANGE, TARGET_NAMES


@dataclass(frozen=True)
class Question:
    """One number to predict: its column in the targets, its range, and its number of bins."""

    name: str
    low: float
    high: float
    num_bins: int

    @property
    def column(self) -> int:
        return TARGET_NAMES.index(self.name)


QUESTIONS = (
    Question("x", -0.5, 0.5, 12),
    Question("y", -0.5, 0.5, 12),
    Question("log_size", math.log(SIZE_RANGE[0]), math.log(SIZE_RANGE[1]), 8),
    Question("angle", *ANGLE_RANGE, 16),
    Question("openness", 0.0, 1.0, 6),
    Question("spread", *SPREAD_RANGE, 5),
    Question("side", -1.0, 1.0, 2),
)
# Numbers that can be predicted at the hand, without its position.
LOCAL_QUESTIONS = QUESTIONS[2:]


class Pretext(nn.Module):
    """Linear read-outs of a backbone's maps, and the loss of each.

    Shape:
        maps:    (N, C, h, w), features of the images.
        targets: (N, 8), as `stills.TARGET_NAMES`.
        masks:   (N, 1, M, M), float, share of each cell that the hand covers; M at least h and w.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bins = nn.Linear(channels, sum(question.num_bins for question in QUESTIONS))
        self.values = nn.Linear(channels, len(QUESTIONS))
        self.presence = nn.Linear(channels, 1)
        self.local_bins = nn.Linear(channels, sum(question.num_bins for question in LOCAL_QUESTIONS))
        self.place = nn.Conv2d(channels, 1, kernel_size=1)
        self.cover = nn.Conv2d(channels, 1, kernel_size=1)

    def forward(self, maps: Tensor, targets: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Return the losses by name, each a mean over the images; training minimises their sum."""
        maps = maps.float()
        features = pooled(maps)  # (N, C)
        present = targets[:, 0]
        places = self.place(maps).flatten(1)  # (N, h * w)
        wanted = _place_weights(targets, maps.shape[-2], maps.shape[-1])
        at_hand = torch.einsum("np,ncp->nc", wanted, maps.flatten(2))
        cover = F.adaptive_avg_pool2d(masks, (maps.shape[2], maps.shape[3]))
        is_inside = present * (targets[:, 1:3].abs().amax(1) < 0.5)
        return {
            "bins": _bins_loss(self.bins(features), targets, QUESTIONS),
            "values": self._values_loss(features, targets),
            "presence": F.binary_cross_entropy_with_logits(self.presence(features).squeeze(1), present),
            "local": _bins_loss(self.local_bins(at_hand), targets, LOCAL_QUESTIONS),
            "place": _mean_over(-(wanted * places.log_softmax(1)).sum(1), is_inside) / math.log(places.shape[1]),
            "cover": F.binary_cross_entropy_with_logits(self.cover(maps), cover) * 4.0,
        }

    def read(self, maps: Tensor) -> Tensor:
        """Predict the numbers by the linear read-out of the pooled features, in the units of the targets.

        Shape:
            returns: (N, number of questions).
        """
        answers: Tensor = self.values(pooled(maps))
        lows = answers.new_tensor([question.low for question in QUESTIONS])
        highs = answers.new_tensor([question.high for question in QUESTIONS])
        return (lows + highs) / 2 + answers * (highs - lows) / 2

    def _values_loss(self, features: Tensor, targets: Tensor) -> Tensor:
        answers = self.values(features)
        losses = []
        for index, question in enumerate(QUESTIONS):
            wanted = (targets[:, question.column] - question.low) / (question.high - question.low) * 2 - 1
            loss = F.smooth_l1_loss(answers[:, index], wanted, reduction="none", beta=0.2)
            losses.append(_mean_over(loss, answerable(targets, question)))
        return torch.stack(losses).sum()


def answerable(targets: Tensor, question: Question) -> Tensor:
    """Return the weight of each image: 0 without a hand; for the spread, smaller for bent fingers.

    Shape:
        returns: (N,), 0 to 1.
    """
    weight = targets[:, 0]
    if question.name == "spread":
        weight = weight * targets[:, TARGET_NAMES.index("openness")]
    return weight


def _bins_loss(scores: Tensor, targets: Tensor, questions: tuple[Question, ...]) -> Tensor:
    """Return the mean cross-entropy over `questions`, each divided by that of guessing."""
    losses = []
    for part, question in zip(scores.split([q.num_bins for q in questions], dim=1), questions, strict=True):
        spacing = (question.high - question.low) / question.num_bins
        centres = question.low + spacing * (torch.arange(question.num_bins, device=scores.device) + 0.5)
        # The target is distributed over neighbouring bins, so that features vary smoothly with the number.
        distance = (targets[:, question.column, None] - centres) / spacing
        wanted = (-0.5 * (distance / 0.7) ** 2).softmax(1)
        loss = -(wanted * part.log_softmax(1)).sum(1) / math.log(question.num_bins)
        losses.append(_mean_over(loss, answerable(targets, question)))
    return torch.stack(losses).sum()


def _place_weights(targets: Tensor, height: int, width: int) -> Tensor:
    """Return a small spot at the palm's centre that sums to 1 over the cells of the map: (N, h * w)."""
    rows = (torch.arange(height, device=targets.device) + 0.5) / height - 0.5
    columns = (torch.arange(width, device=targets.device) + 0.5) / width - 0.5
    x = (columns - targets[:, 1, None]) * width  # (N, w), in cells
    y = (rows - targets[:, 2, None]) * height  # (N, h)
    spot = -0.5 * (y[:, :, None] ** 2 + x[:, None, :] ** 2) / 0.6**2
    return spot.flatten(1).softmax(1)


def _mean_over(losses: Tensor, weights: Tensor) -> Tensor:
    return (losses * weights).sum() / weights.sum().clamp(min=1.0)
