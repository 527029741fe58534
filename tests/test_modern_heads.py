"""Heads that are not in the paper: their sizes, their definitions, and how groups and positions choose them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.finetune.model import EndToEnd
from pipeline.fit_head.fit import fit_head, fit_trial
from pipeline.heads import HEADS, build_head
from pipeline.heads.mamba import selective_scan
from pipeline.heads.shift import shifted
from pipeline.model_file import load_model
from pipeline.registry import HEAD_GROUPS, MODERN_HEADS, choose_heads
from pipeline.settings.fit_head import FitHeadSettings
from pipeline.settings.init import InitSettings
from tests.support.plain_heads import PLAIN_HEADS
from tests.test_complexity import counted_macs, rows
from tests.test_fit_head import CPU, RECIPE, pooled_data
from tests.test_model import classifier, save

# At 256 features, 8 segments, 27 classes, without the learned projection.
PARAMETERS = {
    "linear": 0,
    "knn": 0,
    "concat": 55_323,
    "meanstd": 13_851,
    "diff": 20_763,
    "attn": 731_163,
    "attn_sincos": 731_163,
    "attn_learned": 731_163 + 2_048,
    "attn_tokens": 731_163,
    "attn_tokens_sincos": 731_163,
    "attn_tokens_learned": 731_163 + 2_048,
    "attn4": 3_100_443,
    "attn4_sincos": 3_100_443,
    "attn4_learned": 3_100_443 + 2_048,
    "ep": 74_523,
    "ep_sincos": 74_523,
    "ep_learned": 74_523 + 2_048,
    "ep_tokens": 74_523,
    "ep_tokens_sincos": 74_523,
    "ep_tokens_learned": 74_523 + 2_048,
    "transformer": 1_589_531,
    "tcn": 794_907,
    "shift": 138_523,
    "mamba": 445_723,
}
ATTENTION = ("attn", "attn4", "ep")


MAP_SIZE = 3  # of heads that read maps


def by_hand(num_segments: int, num_classes: int) -> dict[str, tuple[int, int]]:
    """Parameters and multiply-accumulates added up layer by layer."""
    n, k, d = num_segments, num_classes, 256
    scores, square, norm = d * k + k, d * d, 2 * d
    mlp = d * 4 * d + 4 * d + 4 * d * d + d
    block = norm + 3 * (square + d) + square + d + norm + mlp  # query, key, value, output
    pooler = norm + 3 * (square + d) + norm + mlp  # without output

    def block_macs(tokens: int) -> int:
        return tokens * (3 * square + square + 8 * square) + 2 * tokens * tokens * d

    def pooler_macs(tokens: int) -> int:
        return square + tokens * 2 * square + 2 * tokens * d + 8 * square

    inner, state, rank = 2 * d, 16, 16
    mamba = d * 2 * inner + inner * 4 + inner + inner * (rank + 2 * state) + rank * inner + inner
    mamba += inner * state + inner + inner * d + 2 * norm
    mamba_step = d * 2 * inner + inner * 4 + inner * (rank + 2 * state) + rank * inner + 3 * inner * state + inner * d
    attn, attn4 = d + pooler + scores, 3 * block + d + pooler + scores
    attn_macs, of_tokens = pooler_macs(n) + d * k, n * MAP_SIZE**2
    ep, ep_macs_of_token = 8 * d + square + scores, 8 * d + square + d
    found = {
        "linear": (0, 0),
        "knn": (0, 0),
        "concat": (n * d * k + k, n * d * k),
        "meanstd": (2 * d * k + k, 2 * d * k),
        "diff": (3 * d * k + k, 3 * d * k),
        "transformer": (d + (n + 1) * d + 2 * block + norm + scores, 2 * block_macs(n + 1) + d * k),
        "tcn": (3 * (3 * square + d + square + d) + scores, 3 * n * 4 * square + d * k),
        "shift": (2 * (square + d) + scores, 2 * n * square + d * k),
        "mamba": (mamba + scores, n * mamba_step + d * k),
    }
    for name, size, macs in (
        ("attn", attn, attn_macs),
        ("attn_tokens", attn, pooler_macs(of_tokens) + d * k),
        ("attn4", attn4, 3 * block_macs(n) + attn_macs),
        ("ep", ep, n * ep_macs_of_token + d * k),
        ("ep_tokens", ep, of_tokens * ep_macs_of_token + d * k),
    ):
        found |= {name: (size, macs), f"{name}_sincos": (size, macs), f"{name}_learned": (size + n * d, macs)}
    return found


def test_parameters_are_those_of_the_definition() -> None:
    table = rows()
    assert {name: table[name]["parameters"] for name in MODERN_HEADS} == PARAMETERS


@pytest.mark.parametrize(("num_segments", "num_classes"), [(8, 27), (3, 5), (16, 174)])
def test_parameters_and_macs_equal_those_added_up_by_hand(num_segments: int, num_classes: int) -> None:
    table = rows(num_segments=num_segments, num_classes=num_classes, map_size=MAP_SIZE)
    found = {name: (table[name]["parameters"], table[name]["macs"]) for name in MODERN_HEADS}
    assert found == by_hand(num_segments, num_classes)


@pytest.mark.parametrize("name", [name for name in MODERN_HEADS if name not in ("linear", "knn", "mamba")])
def test_macs_equal_an_independent_count(name: str) -> None:
    """Products of matrices in the plain definition, as torch counts them."""
    row = rows(num_segments=3, num_classes=5, map_size=MAP_SIZE)[name]
    assert row["macs"] == counted_macs(name, 3, 5, MAP_SIZE)


@pytest.mark.parametrize(
    "name", ["attn", "attn_learned", "attn_tokens_learned", "attn4", "ep", "ep_tokens_sincos", "transformer"]
)
def test_attention_equals_the_plain_definition(name: str) -> None:
    torch.manual_seed(0)
    head = build_head(name, in_channels=16, num_segments=8, num_classes=5).double().eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # attention far from the mean
    size = (1, 1) if head.reads == "pooled" else (2, 3)
    features = torch.randn(3, 8, 16, *size, dtype=torch.float64)
    torch.testing.assert_close(head(features), PLAIN_HEADS[name](head, features), rtol=0, atol=1e-6)


def test_the_scan_equals_a_loop_over_single_values() -> None:
    channels, steps, rates = torch.randn(2, 5, 3), torch.rand(2, 5, 3), -torch.rand(3, 4)
    inputs, outputs = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    found = selective_scan(channels, steps, rates, inputs, outputs)
    for clip in range(2):
        for channel in range(3):
            state = [0.0] * 4
            for t in range(5):
                u, step = float(channels[clip, t, channel]), float(steps[clip, t, channel])
                for n in range(4):
                    state[n] = np.exp(step * float(rates[channel, n])) * state[n] + step * float(inputs[clip, t, n]) * u
                expected = sum(state[n] * float(outputs[clip, t, n]) for n in range(4))
                assert float(found[clip, t, channel]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_shift_moves_an_eighth_each_way() -> None:
    vectors = torch.arange(1.0, 4).view(1, 3, 1).expand(1, 3, 256)
    found = shifted(vectors)
    for channels, values in ((slice(0, 32), [0, 1, 2]), (slice(32, 64), [2, 3, 0]), (slice(64, 256), [1, 2, 3])):
        assert found[0, :, channels].unique(dim=1)[:, 0].tolist() == values
        assert found[0, :, channels].unique(dim=1).shape[1] == 1


def test_the_linear_probe_scores_as_tsn_with_its_weights() -> None:
    linear, tsn = (build_head(name, in_channels=6, num_segments=4, num_classes=5).eval() for name in ("linear", "tsn"))
    linear.load_state_dict(tsn.state_dict())
    features = torch.randn(3, 4, 6, 1, 1)
    torch.testing.assert_close(linear(features), tsn(features))


def test_still_clips_have_a_gradient() -> None:
    head = build_head("meanstd", in_channels=6, num_segments=4, num_classes=5).eval()
    head(torch.ones(2, 4, 6, 1, 1)).logsumexp(1).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_differences_need_two_segments() -> None:
    with pytest.raises(PipelineError, match=r"`num_segments` \(=1\) must be at least 2 for the head 'diff'"):
        build_head("diff", in_channels=6, num_segments=1, num_classes=5)


# Nearest neighbours


def test_neighbours_vote_by_similarity(tmp_path: Path) -> None:
    data = pooled_data(tmp_path)
    result = fit_head(data, "knn", RECIPE, 0, CPU)
    assert (result.best_epoch, len(result.history)) == (0, 1)
    assert len(result.head.neighbours) == data.train.num_clips
    torch.testing.assert_close(result.head.neighbours.norm(dim=1), torch.ones(data.train.num_clips))
    again = fit_head(data, "knn", RECIPE, 1, CPU)
    np.testing.assert_array_equal(again.scores, result.scores)
    curve = fit_trial(data, "knn", RECIPE, 0, CPU)
    assert (curve.num_epochs, curve.is_over, curve.failure) == (1, True, "")


def test_neighbours_are_a_part_of_the_model_file(tmp_path: Path) -> None:
    model, path = classifier("knn"), tmp_path / "m.safetensors"
    save(path, model)
    frames = torch.randint(0, 256, (2, 8, 3, 64, 64), dtype=torch.uint8)
    loaded = load_model(path)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(frames), model(frames))
    with pytest.raises(PipelineError, match="no gradient, so it cannot be trained end to end"):
        EndToEnd(loaded, CPU)


def test_without_training_clips_there_are_no_votes() -> None:
    with pytest.raises(PipelineError, match="has no training clips"):
        build_head("knn", in_channels=6, num_segments=4, num_classes=5)(torch.randn(1, 4, 6, 1, 1))


# Choosing heads


def test_groups_stand_for_their_heads() -> None:
    assert len(HEAD_GROUPS["paper"]) == 11
    assert HEAD_GROUPS["all"] == (*HEAD_GROUPS["paper"], *HEAD_GROUPS["modern"]) == tuple(HEADS)
    assert choose_heads(["diff", "paper", "lstm"]) == ("diff", *HEAD_GROUPS["paper"])
    assert FitHeadSettings(store="s", out="o").head_names == HEAD_GROUPS["paper"]  # type: ignore[arg-type]
    for settings in (lambda: FitHeadSettings(store="s", out="o", head="papers"), lambda: InitSettings(head="papers")):  # type: ignore[arg-type]
        with pytest.raises(PipelineError, match=r"Unknown head 'papers'\. Did you mean 'paper'\?"):
            settings()


def test_positions_choose_the_variant_of_a_head() -> None:
    for kind, names in (("none", ATTENTION), ("learned", tuple(f"{name}_learned" for name in ATTENTION))):
        assert FitHeadSettings(store="s", out="o", head=ATTENTION, positions=kind).head_names == names  # type: ignore[arg-type]
    with pytest.raises(
        PipelineError,
        match="for the heads attn, attn_tokens, attn4, ep, ep_tokens; 'lstm' has no",
    ):
        FitHeadSettings(store="s", out="o", head="lstm", positions="sincos")  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match=r"must be one of none, sincos, learned"):
        FitHeadSettings(store="s", out="o", head="attn", positions="rotary")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ATTENTION)
def test_every_attention_has_each_kind_of_positions(name: str) -> None:
    kinds = {variant: HEADS[variant].positions_kind for variant in (name, f"{name}_sincos", f"{name}_learned")}
    assert kinds == {name: "none", f"{name}_sincos": "sincos", f"{name}_learned": "learned"}
