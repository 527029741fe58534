"""Choose weights on the line from the initial model to the trained one, by the selection clips.

The initial weights are one end of the line, so the chosen model is never worse on the selection clips than before the
training.

Source: Wortsman et al., Robust fine-tuning of zero-shot models, 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.finetune.scoring import ScoredClips

# Share of the trained weights; 0 is the initial model, 1 the trained one.
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Interpolation:
    """Scores of the selection clips along the line: top-1 in percent and loss in nats by alpha, and the chosen one.

    scored_start: the scores of the initial weights.
    """

    alpha: float
    curve: Mapping[float, tuple[float, float]]
    scored_start: ScoredClips

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for `metrics.json`."""
        points = [
            {"alpha": alpha, "top1": round(top1, 4), "loss": round(loss, 4)}
            for alpha, (top1, loss) in self.curve.items()
        ]
        return {"alpha": self.alpha, "curve": points}


def mixed(start: Weights, end: Weights, alpha: float) -> dict[str, Tensor]:
    """Return `(1 - alpha) * start + alpha * end`; counters and other integers are those of `end`.

    At alpha 0 and 1 the floating-point values are exactly those of the ends.
    """
    return {
        name: torch.lerp(start[name].to(value.device), value, alpha) if value.is_floating_point() else value
        for name, value in end.items()
    }


def interpolate(
    start: Weights,
    end: Weights,
    scored_end: ScoredClips,
    score: Callable[[Weights], ScoredClips],
    scored_start: ScoredClips | None = None,
) -> tuple[Interpolation, dict[str, Tensor], ScoredClips]:
    """Score the weights for every alpha; return the scores, and the best weights with their scored clips.

    The best has the highest top-1; in a tie, the lowest loss; in a further tie, the smallest alpha.

    scored_end: scores of `end`, which are known. score: loads weights and scores the selection clips. scored_start:
    scores of `start`, if they are known.
    """
    known = {1.0: scored_end} if scored_start is None else {0.0: scored_start, 1.0: scored_end}
    found = {}
    for alpha in ALPHAS:
        weights = mixed(start, end, alpha)
        found[alpha] = weights, known[alpha] if alpha in known else score(weights)
    curve = {alpha: (scored.metrics()["top1"], scored.metrics()["loss"]) for alpha, (_, scored) in found.items()}
    best = max(ALPHAS, key=lambda alpha: (curve[alpha][0], -curve[alpha][1], -alpha))
    weights, scored = found[best]
    return Interpolation(best, curve, found[0.0][1]), weights, scored
