"""One contract over the registry of heads, and what is particular to single heads.

A head that is added to the registry is held to the contract by that alone. Those of the paper are compared with
their definitions written out in `plain_heads.py`.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.errors import PipelineError, ShapeError
from pipeline.fit_head.compute import has_convolutions
from pipeline.heads import HEADS, Head, build_head, trn
from pipeline.heads.convlstm import convolve
from pipeline.heads.dropout import ElementDropout
from pipeline.recipe import RECIPES, HeadConfig
from pipeline.registry import BLIND_HEADS, CONVOLUTIONAL_HEADS, HEAD_NAMES, PAPER_HEADS, SPATIAL_HEADS
from tests.support import plain_heads
from tests.support.random_fits import fit_to_random_clips

T, C, K = 4, 6, 5
every_head = pytest.mark.parametrize("name", HEADS)
every_trained_head = pytest.mark.parametrize("name", [name for name in HEADS if not HEADS[name].is_closed_form])
NO_DROPOUT = HeadConfig(dropout=0.0, mlp_dropout=0.0)


def make(name: str, choices: HeadConfig = HeadConfig(), seed: int = 0, **sizes: int) -> Head:  # noqa: B008
    torch.manual_seed(seed)
    sizes = {"in_channels": C, "num_segments": T, "num_classes": K, **sizes}
    return fit_to_random_clips(build_head(name, **sizes, choices=choices), seed)


def draw(name: str, batch: int = 3, seed: int = 1, num_segments: int = T, in_channels: int = C) -> Tensor:
    size = (1, 1) if HEADS[name].reads == "pooled" else (3, 2)
    return torch.randn(batch, num_segments, in_channels, *size, generator=torch.Generator().manual_seed(seed))


def settled(head: Head, name: str) -> Head:
    """In eval mode, with batch norm statistics and affine parameters that are not the identity."""
    head.train()
    head(draw(name, batch=4, seed=9, num_segments=head.num_segments, in_channels=head.in_channels))
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return head.eval()


# The contract


def test_registry_agrees_with_the_names_known_without_torch() -> None:
    assert tuple(HEADS) == HEAD_NAMES
    assert {name for name, head in HEADS.items() if head.reads == "spatial"} == SPATIAL_HEADS
    assert {name for name in HEADS if has_convolutions(name)} == CONVOLUTIONAL_HEADS


def test_unknown_head_is_refused_with_a_suggestion() -> None:
    with pytest.raises(PipelineError, match="Did you mean 'fcn3d'"):
        build_head("fcn3", in_channels=C, num_segments=T, num_classes=K)


@every_head
def test_states_maps_section_and_documentation(name: str) -> None:
    head = HEADS[name]
    assert head.reads in ("pooled", "spatial")
    assert head.section in ("3.2", "3.3", "3.4") or name not in PAPER_HEADS
    assert head.__doc__
    assert "Shape:" in head.__doc__
    assert "Source:" in head.__doc__


@every_head
@pytest.mark.parametrize("batch", [1, 2])
def test_scores_have_a_row_for_each_clip(name: str, batch: int) -> None:
    scores = make(name)(draw(name, batch))
    assert scores.shape == (batch, K)
    assert scores.isfinite().all()


@every_head
@pytest.mark.parametrize("num_segments", [2, 4, 8, 16])
def test_works_with_other_numbers_of_segments_and_channels(name: str, num_segments: int) -> None:
    for in_channels in (512, 1024):
        head = make(name, num_segments=num_segments, in_channels=in_channels).eval()
        scores = head(draw(name, 2, num_segments=num_segments, in_channels=in_channels))
        assert scores.shape == (2, K)
        assert scores.isfinite().all()


@every_trained_head
def test_a_gradient_reaches_every_parameter(name: str) -> None:
    # In eval mode: a bias before a batch norm in training has a gradient of zero by definition.
    head = settled(make(name), name)
    head.zero_grad()
    nn.functional.cross_entropy(head(draw(name)), torch.tensor([0, 1, 2])).backward()
    for parameter_name, parameter in head.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@every_head
def test_evaluation_gives_the_same_scores_twice(name: str) -> None:
    head = settled(make(name), name)
    assert torch.equal(head(draw(name)), head(draw(name)))


@every_head
def test_one_clip_never_changes_anothers_score(name: str) -> None:
    head = settled(make(name), name)
    clips = draw(name, 3)
    others = clips.clone()
    others[1:] = 100 * draw(name, 2, seed=5)
    together = head(clips)
    assert torch.equal(together[0], head(others)[0])
    torch.testing.assert_close(together[:1], head(clips[:1]))


@every_head
def test_permuting_segments_changes_ordered_heads_alone(name: str) -> None:
    head = settled(make(name), name)
    clips = draw(name)
    scores, permuted = head(clips), head(clips[:, [2, 0, 3, 1]])
    if name in BLIND_HEADS:
        torch.testing.assert_close(scores, permuted)
    else:
        assert (scores - permuted).abs().amax() > 1e-6


@every_head
def test_wrong_features_are_refused(name: str) -> None:
    head = make(name)
    right = draw(name)
    refused = [
        (right[:, 1:], rf"T={T}.*but has T={T - 1}"),
        (right[:, :, 1:], rf"C={C}.*but has C={C - 1}"),
        (right[0], r"axes \(B, T=4, C=6"),
        (right.flatten(2), r"axes \(B, T=4, C=6"),
        (draw("fcn3d") if head.reads == "pooled" else draw("mlp"), "features"),
    ]
    for features, message in refused:
        with pytest.raises(ShapeError, match=message):
            head(features)


@every_head
def test_construction_is_by_keyword_and_checked(name: str) -> None:
    with pytest.raises(TypeError):
        HEADS[name](C, T, K)  # type: ignore[misc]
    for axis in ("in_channels", "num_segments", "num_classes"):
        with pytest.raises(PipelineError, match=rf"`{axis}` \(=0\) must be at least 1"):
            make(name, **{axis: 0})


@every_head
def test_channels_last_storage_gives_the_same_scores(name: str) -> None:
    head = settled(make(name), name)
    contiguous = draw(name)
    stored = contiguous.permute(0, 1, 3, 4, 2).contiguous()  # (B, T, H, W, C)
    assert torch.equal(head(stored.permute(0, 1, 4, 2, 3)), head(contiguous))


@every_trained_head
def test_the_same_seed_gives_the_same_initial_weights(name: str) -> None:
    first, second, other = make(name), make(name), make(name, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.projection.weight, other.projection.weight)


@every_head
def test_scores_survive_the_way_through_a_state_dict(name: str) -> None:
    head, other = settled(make(name), name), make(name, seed=1).eval()
    other.load_state_dict(head.state_dict())
    assert torch.equal(head(draw(name)), other(draw(name)))


@every_trained_head
def test_st_block_is_all_but_the_projection(name: str) -> None:
    head = make(name)
    ids = {id(parameter) for parameter in head.st_block_parameters()}
    projection = {id(parameter) for parameter in head.projection.parameters()}
    assert ids | projection == {id(parameter) for parameter in head.parameters()}
    assert not ids & projection
    assert head.projection.out_channels == 256 if head.reads == "spatial" else head.projection.out_features in (256, K)


@every_trained_head
def test_bf16_autocast_trains_and_stays_near_fp32(name: str) -> None:
    head = make(name, NO_DROPOUT).train()
    scores = head(draw(name))
    with torch.autocast("cpu", torch.bfloat16):
        low = head(draw(name))
        loss = nn.functional.cross_entropy(low, torch.tensor([0, 1, 2]))
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())
    assert (low.float() - scores).norm() < 0.05 * scores.norm()


@every_head
def test_takes_features_as_the_store_keeps_them(name: str) -> None:
    head = settled(make(name), name)
    stored = draw(name).half()
    assert torch.equal(head(stored), head(stored.float()))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name.endswith(("_sincos", "_learned")) else ()) for name in HEADS],
)
def test_torch_export_leaves_the_batch_free(name: str) -> None:
    head = settled(make(name), name)
    batch = torch.export.Dim("batch", min=1, max=64)
    with (
        pytest.warns(UserWarning, match="_flat_weights")
        if name in ("lstm", "gru", "blstm", "rnn_tanh", "rnn_relu")
        else nullcontext()
    ):
        program = torch.export.export(head, (draw(name, 2),), dynamic_shapes={"features": {0: batch}})
    torch.testing.assert_close(program.module()(draw(name, 5)), head(draw(name, 5)))


@every_trained_head
@pytest.mark.cuda
def test_runs_on_a_gpu_as_on_the_cpu(name: str) -> None:
    head = settled(make(name), name)
    scores = head(draw(name))
    torch.testing.assert_close(head.cuda()(draw(name).cuda()).cpu(), scores, rtol=1e-3, atol=1e-3)
    head.train()(draw(name).cuda()).sum().backward()


# Against the definitions


@pytest.mark.parametrize("name", plain_heads.PLAIN_HEADS)
@settings(deadline=None, max_examples=5, derandomize=True)
@given(batch=st.integers(1, 3), num_segments=st.integers(2, 8), in_channels=st.sampled_from([3, 16]))
def test_scores_equal_the_plain_definition(name: str, batch: int, num_segments: int, in_channels: int) -> None:
    head = settled(make(name, num_segments=num_segments, in_channels=in_channels), name)
    features = draw(name, batch, num_segments=num_segments, in_channels=in_channels)
    torch.testing.assert_close(head(features), plain_heads.PLAIN_HEADS[name](head, features), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["trn", "convlstm"])
def test_gradients_equal_those_of_the_plain_definition(name: str) -> None:
    head = make(name, num_segments=8).double().eval()
    features = draw(name, num_segments=8).double()
    gradients = []
    for scores in (head(features), plain_heads.PLAIN_HEADS[name](head, features)):
        head.zero_grad()
        nn.functional.cross_entropy(scores, torch.tensor([0, 1, 2])).backward()
        gradients.append({key: parameter.grad.clone() for key, parameter in head.named_parameters()})
    for key in gradients[0]:
        torch.testing.assert_close(gradients[0][key], gradients[1][key], msg=key)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 3), (2, 5), (5, 6), (13, 13)])
def test_a_convolution_of_convlstm_is_that_of_torch(height: int, width: int) -> None:
    maps = torch.randn(2, 6, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, 6, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(8, dtype=torch.float64, requires_grad=True)
    found, expected = convolve(maps, weight, bias), nn.functional.conv2d(maps, weight, bias, padding=1)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(expected)
    gradients = [torch.autograd.grad(scores, (maps, weight, bias), upstream) for scores in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("name", "kind", "sizes"),
    [
        # (channels, segments, features) after each layer of Table 1, and (channels, D, H, W) of Table 2, for N = 8.
        ("fcn2d", nn.Conv2d, [(64, 8, 128), (64, 8, 64), (128, 8, 32), (128, 8, 16), (256, 8, 8), (K, 8, 8)]),
        ("fcn3d", nn.Conv3d, [(64, 4, 3, 2), (128, 2, 3, 2), (256, 1, 3, 2), (K, 1, 3, 2)]),
    ],
)
def test_fcn_layers_have_the_sizes_of_the_papers_tables(name: str, kind: type, sizes: list[tuple[int, ...]]) -> None:
    head = make(name, num_segments=8)
    seen: list[tuple[int, ...]] = []
    for module in head.layers.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(tuple(output.shape[1:])))
    head(draw(name, num_segments=8))
    assert seen == sizes


def test_fcn3d_reads_stored_maps_without_copying_the_volume() -> None:
    head = make("fcn3d")
    inputs: list[Tensor] = []
    head.layers.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
    head(draw("fcn3d"))
    assert inputs[0].is_contiguous(memory_format=torch.channels_last_3d)


# Switches


def with_identity_projection(name: str, choices: HeadConfig) -> Head:
    head = make(name, choices, in_channels=256)
    with torch.no_grad():
        head.projection.weight.copy_(torch.eye(256).view_as(head.projection.weight))
        head.projection.bias.zero_()
    return head.eval()


@pytest.mark.parametrize(
    ("name", "switches", "has_relu"),
    [
        ("mlp", {}, True),
        ("trn", {}, True),
        ("lstm", {}, False),
        ("fcn2d", {}, False),
        ("fcn3d", {}, False),
        ("fcn2d", {"fcn_input_relu": True}, True),
        ("fcn3d", {"fcn_input_relu": True}, True),
    ],
)
def test_relu_on_the_input(name: str, switches: dict[str, Any], has_relu: bool) -> None:
    head = with_identity_projection(name, HeadConfig(**switches))
    features = draw(name, in_channels=256)
    assert torch.equal(head(features), head(features.relu())) == has_relu


@pytest.mark.parametrize("name", ["fcn2d", "fcn3d"])
def test_relu_on_the_scores_is_a_switch(name: str) -> None:
    plain, clamped = settled(make(name), name), settled(make(name, HeadConfig(fcn_score_relu=True)), name)
    assert plain(draw(name)).min() < 0
    assert clamped(draw(name)).min() >= 0


@every_trained_head
def test_dropout_acts_in_training_on_single_elements(name: str) -> None:
    head = make(name, HeadConfig(dropout=0.5)).train()
    seen: list[Tensor] = []
    head.projection.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0]))
    ones = torch.ones_like(draw(name, 64))
    head(ones)
    assert set(seen[0].unique().tolist()) == {0.0, 2.0}
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    if head.reads == "spatial":
        of_channel = (seen[0] == 0).flatten(2).float().mean(2)
        assert ((of_channel > 0) & (of_channel < 1)).any()


@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
def test_dropped_elements_are_independent_and_as_many_as_asked(p: float) -> None:
    values = torch.rand(50, 40, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.manual_seed(0)
    dropped = ElementDropout(p)(values)
    assert dropped.is_contiguous(memory_format=torch.channels_last)
    zero = (dropped == 0).double()
    tolerance = 5 * math.sqrt(p * (1 - p) / values.numel())
    assert zero.mean().item() == pytest.approx(p, abs=tolerance + 1 / 65536)
    flat = zero.permute(0, 2, 3, 1).flatten() - p
    for shift in (1, 2, 3, 4):  # Four elements share a random number: they must not know of one another.
        assert (flat[shift:] * flat[:-shift]).mean().abs() < 5 * p * (1 - p) / math.sqrt(len(flat))
    torch.testing.assert_close(dropped[dropped != 0], (values / (1 - p))[dropped != 0])
    dropped.sum().backward()
    torch.testing.assert_close(values.grad, (dropped != 0).float() / (1 - p))
    torch.manual_seed(0)
    assert torch.equal(ElementDropout(p)(values), dropped)


def test_dropout_of_odd_sizes_keeps_views_apart() -> None:
    values = torch.ones(5, 6)[:, ::2]
    assert set(ElementDropout(0.5)(values).unique().tolist()) <= {0.0, 2.0}
    assert values.eq(1).all()
    assert ElementDropout(0.5)(torch.ones(0, 3)).shape == (0, 3)


def test_dropout_must_leave_something() -> None:
    with pytest.raises(PipelineError, match=r"dropout \(=1.0\) must be at least 0 and below 1"):
        make("mlp", HeadConfig(dropout=1.0))


@every_head
def test_without_dropout_training_is_deterministic(name: str) -> None:
    head = make(name, NO_DROPOUT).train()
    assert torch.equal(head(draw(name)), head(draw(name)))


def test_mlp_has_its_own_dropout() -> None:
    head = make("mlp", HeadConfig(dropout=0.0)).train()
    assert not torch.equal(head(draw("mlp")), head(draw("mlp")))


@every_trained_head
def test_projection_starts_as_its_switch_says(name: str) -> None:
    sizes = {"in_channels": 512, "num_classes": 27}
    small = make(name, HeadConfig(projection_init="normal_0.001"), **sizes).projection
    assert small.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert small.bias.abs().sum() == 0
    assert make(name, **sizes).projection.weight.std().item() == pytest.approx(1 / math.sqrt(3 * 512), rel=0.05)


@every_head
def test_the_st_block_starts_alike_whatever_the_projection_starts_from(name: str) -> None:
    plain, small = make(name), make(name, HeadConfig(projection_init="normal_0.001"))
    for one, other in zip(plain.st_block_parameters(), small.st_block_parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("recipe", RECIPES)
@every_head
def test_every_recipe_builds_every_head(name: str, recipe: str) -> None:
    assert make(name, RECIPES[recipe].head)(draw(name)).shape == (3, K)


# Temporal relations

SAMPLED = HeadConfig(dropout=0.0, trn_train_tuples="sampled", trn_eval_tuples="sampled")


def test_trn_takes_all_247_tuples_of_eight_segments_or_19() -> None:
    head = make("trn", num_segments=8)
    assert sum(head.num_tuples(d, "all") for d in head.scales) == 247
    assert sum(head.num_tuples(d, "sampled") for d in head.scales) == 19
    assert sum(len(head.evaluation_tuples(d)) for d in head.scales) == 247


def test_trn_draws_new_tuples_in_each_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    head = make("trn", SAMPLED, num_segments=8).train()
    features = draw("trn", num_segments=8)
    drawn: list[list[tuple[int, ...]]] = []

    def recording(*arguments: Any) -> list[tuple[int, ...]]:
        drawn.append(draw_tuples(*arguments))
        return drawn[-1]

    draw_tuples = trn.drawn_tuples
    monkeypatch.setattr(trn, "drawn_tuples", recording)
    for _ in range(2):
        scores = head(features)
        tuples = {len(of_scale[0]): of_scale for of_scale in drawn[-7:]}
        assert {d: len(of_scale) for d, of_scale in tuples.items()} == {8: 1, **dict.fromkeys(range(2, 8), 3)}
        torch.testing.assert_close(scores, plain_heads.trn(head, features, tuples), rtol=1e-4, atol=1e-4)
    assert drawn[:7] != drawn[7:]
    torch.manual_seed(3)
    again = head(features)
    torch.manual_seed(3)
    assert torch.equal(again, head(features))


def test_trn_evaluates_one_fixed_subset_whatever_the_seed() -> None:
    first, second = (make("trn", SAMPLED, seed=seed, num_segments=8).eval() for seed in (0, 1))
    assert [first.evaluation_tuples(d) for d in first.scales] == [second.evaluation_tuples(d) for d in second.scales]
    features = draw("trn", num_segments=8)
    tuples = {d: first.evaluation_tuples(d) for d in first.scales}
    torch.testing.assert_close(first(features), plain_heads.trn(first, features, tuples), rtol=1e-4, atol=1e-4)


def test_trn_trained_on_samples_weighs_scales_alike_in_evaluation() -> None:
    head = make("trn", HeadConfig(dropout=0.0, trn_train_tuples="sampled"), num_segments=8).eval()
    features = draw("trn", num_segments=8)
    expected = torch.zeros(3, K)
    for d, of_scale in plain_heads.all_tuples(8).items():
        expected += plain_heads.trn(head, features, {d: of_scale}) / len(of_scale) * min(3, len(of_scale))
    torch.testing.assert_close(head(features), expected, rtol=1e-4, atol=1e-4)


def test_trn_consensus_can_be_the_mean_of_each_scale() -> None:
    head = make("trn", HeadConfig(trn_consensus="mean"), num_segments=8).eval()
    features = draw("trn", num_segments=8)
    scales = plain_heads.all_tuples(8).items()
    expected = sum(plain_heads.trn(head, features, {d: of_scale}) / len(of_scale) for d, of_scale in scales)
    torch.testing.assert_close(head(features), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("num_segments", "scale"), [(4, 2), (5, 3), (3, 2)])
def test_drawn_tuples_are_ordered_distinct_and_equally_likely(num_segments: int, scale: int) -> None:
    torch.manual_seed(0)
    num_draws, size = 2000, 2
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(num_draws):
        drawn = trn.drawn_tuples(num_segments, scale, size)
        assert len(set(drawn)) == size
        counts.update(drawn)
    every = list(itertools.combinations(range(num_segments), scale))
    expected = num_draws * size / len(every)
    assert set(counts) == set(every)
    assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in counts.values())


def test_trn_in_chunks_has_the_same_scores_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    head = make("trn", num_segments=6).double().eval()
    features = draw("trn", num_segments=6).double()
    results = []
    for limit in (trn.MAX_TUPLES, 4):
        monkeypatch.setattr(trn, "MAX_TUPLES", limit)
        head.zero_grad()
        scores = head(features)
        scores.square().sum().backward()
        with torch.no_grad():
            torch.testing.assert_close(head(features), scores)
        results.append((scores.detach(), [parameter.grad.clone() for parameter in head.parameters()]))
    torch.testing.assert_close(results[0], results[1])


def test_trn_refuses_what_no_machine_would_finish() -> None:
    with pytest.raises(PipelineError, match="at least 2"):
        make("trn", num_segments=1)
    with pytest.raises(PipelineError, match=r"4,294,967,263 ordered tuples.*'sampled'"):
        make("trn", num_segments=32)
    head = make("trn", SAMPLED, num_segments=32)
    assert head(draw("trn", 1, num_segments=32)).shape == (1, K)
