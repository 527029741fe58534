"""Mamba: a selective state-space block over the segments."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.heads.head import NUM_FEATURES, Head

INNER = 2 * NUM_FEATURES  # channels of the block
STATE = 16  # states of each channel
RANK = NUM_FEATURES // 16  # of the projection to the step sizes
KERNEL = 4
STEP_RANGE = (1e-3, 1e-1)  # step sizes at the start


class MambaHead(Head):
    """Classify a clip from the last output of one selective state-space block over its segments, with a residual.

    Norm, projection to channels and gate, causal convolution of four segments, then a linear recurrence of 16 states
    for each channel, whose step size, input and output depend on the segment; gate, projection, residual and norm.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: Gu and Dao, Mamba: linear-time sequence modeling with selective state spaces, 2023 (Alg. 2, Sec. 3.4), with
        the initial values of its published code; not in the paper.
    """

    reads = "pooled"
    section = "none"
    free_parameters = ("log_rates", "skip")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.norm = nn.LayerNorm(NUM_FEATURES)
        self.input = nn.Linear(NUM_FEATURES, 2 * INNER, bias=False)
        self.convolution = nn.Conv1d(INNER, INNER, KERNEL, groups=INNER, padding=KERNEL - 1)
        self.selection = nn.Linear(INNER, RANK + 2 * STATE, bias=False)
        self.steps = nn.Linear(RANK, INNER)
        self.log_rates = nn.Parameter(torch.arange(1.0, STATE + 1).log().repeat(INNER, 1))
        self.skip = nn.Parameter(torch.ones(INNER))
        self.output = nn.Linear(INNER, NUM_FEATURES, bias=False)
        self.last_norm = nn.LayerNorm(NUM_FEATURES)
        self.classifier = nn.Linear(NUM_FEATURES, self.num_classes)
        with torch.no_grad():
            nn.init.uniform_(self.steps.weight, -(RANK**-0.5), RANK**-0.5)
            low, high = (math.log(end) for end in STEP_RANGE)
            sizes = torch.empty(INNER).uniform_(low, high).exp()
            self.steps.bias.copy_(sizes + torch.log(-torch.expm1(-sizes)))  # inverse of softplus

    def macs(self, map_size: int) -> int:
        projections = NUM_FEATURES * 2 * INNER + INNER * (RANK + 2 * STATE) + RANK * INNER + INNER * NUM_FEATURES
        recurrence = 3 * INNER * STATE  # decay of the state, its input, and its output
        step = projections + INNER * KERNEL + recurrence
        return self.num_segments * step + NUM_FEATURES * self.num_classes

    def forward(self, features: Tensor) -> Tensor:
        vectors = self.project(features)  # (B, T, 256)
        channels, gate = self.input(self.norm(vectors)).chunk(2, dim=2)  # (B, T, 512) each
        convolved = self.convolution(channels.transpose(1, 2))[..., : self.num_segments]
        channels = F.silu(convolved).transpose(1, 2)
        step, inputs, outputs = self.selection(channels).split((RANK, STATE, STATE), dim=2)
        mixed = selective_scan(channels, F.softplus(self.steps(step)), -self.log_rates.exp(), inputs, outputs)
        mixed = mixed + channels * self.skip
        vectors = vectors + self.output(mixed * F.silu(gate))
        scores: Tensor = self.classifier(self.last_norm(vectors[:, -1]))  # (B, K)
        return scores


def selective_scan(channels: Tensor, steps: Tensor, rates: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Run the recurrence h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t, y_t = C_t h_t over the segments, from a zero state.

    Under autocast the state, which sums over time, stays in fp32.

    Shape:
        channels u, steps Δ: (B, T, D); rates A: (D, N); inputs B, outputs C: (B, T, N).
        returns y: (B, T, D).
    """
    dtype = torch.promote_types(channels.dtype, torch.float32)
    steps, inputs, outputs = steps.to(dtype), inputs.to(dtype), outputs.to(dtype)
    decays = torch.exp(steps[..., None] * rates.to(dtype))  # (B, T, D, N)
    added = (steps * channels)[..., None] * inputs[:, :, None]  # (B, T, D, N)
    # Unbound: the backward pass of an index would allocate and add a tensor of all steps for each step.
    decay_of, added_of = decays.unbind(1), added.unbind(1)
    state = added_of[0]
    states = [state]
    for decay, new in zip(decay_of[1:], added_of[1:], strict=True):
        state = decay * state + new
        states.append(state)
    return torch.einsum("btdn,btn->btd", torch.stack(states, dim=1), outputs)
