"""Fits of heads on cached features, made in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import top1
from pipeline.fit_head.compute import choose_compute
from pipeline.fit_head.features import load_pooled
from pipeline.fit_head.fit import FitResult, HeadDataset, fit_head
from pipeline.fit_head.spatial_features import MapCache, open_spatial
from pipeline.fit_head.stored_clips import labelled_rows
from pipeline.heads import build_head
from pipeline.recipe import Recipe, named_recipe
from pipeline.runtime import Runtime
from pipeline.training.loss import balanced_weights
from tests.support.memory_source import C, T, make_source

CPU = Runtime(torch.device("cpu"), "float32", threads=1)
RECIPE = named_recipe("cached").with_overrides(epochs=8, lr=3e-3, batch_size=16)


def pooled_data(tmp_path: Path, **sizes: int) -> HeadDataset:
    source = make_source(**sizes)
    views = [view for view in source.maps if view != "test"]
    train = load_pooled(source, labelled_rows(source, "train", views), tmp_path)
    val = load_pooled(source, labelled_rows(source, "val", ["test"]), tmp_path)
    return HeadDataset(train, val, val, len(source.classes), T, C, source.settings.backbone)


def spatial_data(cache_bytes: int = 0) -> HeadDataset:
    source = make_source(num_train=24, num_val=12)
    cache = MapCache(cache_bytes)
    train = open_spatial(source, labelled_rows(source, "train", ["train-0", "train-1"]), cache)
    val = open_spatial(source, labelled_rows(source, "val", ["test"]), cache)
    return HeadDataset(train, val, val, len(source.classes), T, C, source.settings.backbone)


def same(one: FitResult, other: FitResult) -> bool:
    weights = zip(one.head.state_dict().values(), other.head.state_dict().values(), strict=True)
    return (
        one.history == other.history
        and one.best_epoch == other.best_epoch
        and np.array_equal(one.scores, other.scores)
        and all(np.array_equal(one.order_tests[name], other.order_tests[name]) for name in one.order_tests)
        and all(torch.equal(a, b) for a, b in weights)
    )


def test_an_ordered_head_learns_what_the_mean_of_segments_cannot_tell(tmp_path: Path) -> None:
    data = pooled_data(tmp_path)
    accuracies = {head: fit_head(data, head, RECIPE, 0, CPU) for head in ("lstm", "mlp", "tsn")}
    found = {head: top1(result.scores, result.labels) for head, result in accuracies.items()}
    assert found["lstm"] > 90
    assert found["mlp"] > 90
    assert found["tsn"] < 65  # three classes; only noise tells them apart


def test_the_order_tests_show_which_head_reads_the_order(tmp_path: Path) -> None:
    data = pooled_data(tmp_path)
    ordered, unordered = fit_head(data, "lstm", RECIPE, 0, CPU), fit_head(data, "tsn", RECIPE, 0, CPU)
    reversed_top1 = top1(ordered.order_tests["reversed"], ordered.labels)
    assert reversed_top1 < 50  # forwards and backwards change places; still ones may stay
    for order_test in ("shuffled", "reversed"):
        np.testing.assert_allclose(unordered.order_tests[order_test], unordered.scores, atol=2e-4)


def test_the_same_seed_gives_the_same_fit_whatever_was_fitted_before(tmp_path: Path) -> None:
    data = pooled_data(tmp_path)
    recipe = RECIPE.with_overrides(epochs=2)
    first = fit_head(data, "trn", recipe, 1, CPU)
    fit_head(data, "gru", recipe, 5, CPU)
    torch.rand(3)
    second = fit_head(data, "trn", recipe, 1, CPU)
    assert same(first, second)
    assert not same(first, fit_head(data, "trn", recipe, 2, CPU))


def test_a_fit_leaves_the_callers_random_numbers_and_threads_alone(tmp_path: Path) -> None:
    data = pooled_data(tmp_path)
    before = torch.get_rng_state()
    fit_head(data, "rnn_tanh", RECIPE.with_overrides(epochs=1), 1, replace(CPU, threads=2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == 1


def test_the_number_of_loaders_and_the_cache_change_nothing() -> None:
    recipe = RECIPE.with_overrides(epochs=2, batch_size=8)
    first = fit_head(spatial_data(), "fcn3d", recipe, 0, CPU)
    others = [
        fit_head(spatial_data(), "fcn3d", recipe, 0, replace(CPU, num_loaders=3)),
        fit_head(spatial_data(cache_bytes=1 << 30), "fcn3d", recipe, 0, CPU),
    ]
    assert all(same(first, other) for other in others)


@pytest.mark.parametrize("head", ["convlstm", "fcn3d"])
def test_spatial_heads_fit_in_bfloat16(head: str) -> None:
    compute = Runtime(torch.device("cpu"), "bfloat16", threads=1)
    recipe = RECIPE.with_overrides(epochs=1, batch_size=8)
    result = fit_head(spatial_data(), head, recipe, 0, compute)
    assert result.scores.shape == (12, 3)
    assert all(parameter.dtype == torch.float32 for parameter in result.head.parameters())


class KilledError(Exception):
    """Stands for a kill in the middle of a fit."""


def killed_after(epochs: int, data: HeadDataset, head: str, recipe: Recipe, checkpoint: Path) -> None:
    """Fit until a checkpoint behind `epochs` is there, and die in the epoch that follows."""
    seen = 0

    def clips(count: int, note: str | None) -> None:
        nonlocal seen
        seen += count
        if seen > epochs * data.train.num_clips:
            raise KilledError

    with pytest.raises(KilledError):
        fit_head(
            data,
            head,
            recipe,
            0,
            CPU,
            checkpoint=checkpoint,
            checkpoint_seconds=0,
            digest="a",
            on_batch=clips,
        )


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ("lstm", "paper"),
        ("lstm", "published-code"),
        ("mlp", "cached"),
        ("fcn2d", "cached"),
        ("fcn2d", "published-code"),
        ("trn", "published-code"),
    ],
)
def test_a_killed_fit_goes_on_to_the_same_result(tmp_path: Path, head: str, name: str) -> None:
    data = pooled_data(tmp_path, num_train=24, num_val=9)
    recipe = named_recipe(name).with_overrides(epochs=5, lr=1e-2, batch_size=16, patience_epochs=1)
    whole = fit_head(data, head, recipe, 0, CPU)
    killed_after(2, data, head, recipe, tmp_path / "last.pt")
    resumed = fit_head(data, head, recipe, 0, CPU, checkpoint=tmp_path / "last.pt", digest="a")
    assert resumed.num_resumed_epochs == 2
    assert same(whole, resumed)


def test_a_checkpoint_of_other_settings_is_not_taken_up(tmp_path: Path) -> None:
    data = pooled_data(tmp_path)
    killed_after(2, data, "rnn_tanh", RECIPE, tmp_path / "last.pt")
    again = fit_head(data, "rnn_tanh", RECIPE, 0, CPU, checkpoint=tmp_path / "last.pt", digest="b")
    assert again.num_resumed_epochs == 0


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    result = fit_head(pooled_data(tmp_path), "rnn_relu", RECIPE.with_overrides(lr=1e-2), 0, CPU)
    ranks = [(record.select_top1, -record.select_loss, -record.epoch) for record in result.history]
    assert result.best_epoch == result.history[ranks.index(max(ranks))].epoch
    assert top1(result.scores, result.labels) == max(record.select_top1 for record in result.history)


def test_plateau_stops_early(tmp_path: Path) -> None:
    recipe = RECIPE.with_overrides(schedule="plateau", patience_epochs=1, epochs=200, optimiser="sgd", lr=0.3)
    result = fit_head(pooled_data(tmp_path), "tsn", recipe, 0, CPU)
    assert len(result.history) < 200
    assert sorted({round(record.lr, 6) for record in result.history}) == [0.003, 0.03, 0.3]


def test_no_epochs_give_the_figures_of_the_head_as_it_starts(tmp_path: Path) -> None:
    result = fit_head(pooled_data(tmp_path), "lstm", RECIPE.with_overrides(epochs=0), 3, CPU)
    assert result.best_epoch == 0
    assert len(result.history) == 1
    assert result.history[0].train_loss is None


def test_a_loss_that_is_not_finite_stops_with_a_word(tmp_path: Path) -> None:
    data = pooled_data(tmp_path)
    data.train.table[7] = torch.inf
    with pytest.raises(PipelineError, match=r"lstm, seed 0: the training loss of epoch 1, step \d+ is nan"):
        fit_head(data, "lstm", RECIPE, 0, CPU)


def test_a_diverging_loss_stops_with_a_word(tmp_path: Path) -> None:
    # Weight decay beyond 2 / lr flips and grows the weights at each step.
    recipe = RECIPE.with_overrides(
        optimiser="sgd", momentum=0, lr=1.0, weight_decay=2.05, schedule="steps", step_epochs=(), epochs=60
    )
    with pytest.raises(PipelineError, match=r"training diverges: the loss of epoch \d+ is .* Lower lr \(=1\)"):
        fit_head(pooled_data(tmp_path), "tsn", recipe, 0, CPU)


def test_balanced_weights_by_hand() -> None:
    weights = balanced_weights(np.array([0, 0, 0, 1]), 3)
    # Each class with clips has the same total weight: 3 · 4/9 = 1 · 4/3 = N / K.
    assert weights.tolist() == pytest.approx([4 / 9, 4 / 3, 0.0])


def test_heads_without_convolutions_run_in_float32_on_one_thread() -> None:
    assert choose_compute("lstm").precision == "float32"
    assert choose_compute("trn").threads == 1
    assert choose_compute("fcn3d", precision="float32").precision == "float32"
    with pytest.raises(PipelineError, match="`precision`"):
        choose_compute("lstm", precision="half")


@pytest.mark.parametrize("scaling", ["centre", "standardise"])
def test_scaled_inputs_are_the_same_function_with_another_projection(tmp_path: Path, scaling: str) -> None:
    data = pooled_data(tmp_path)
    head = fit_head(data, "lstm", RECIPE.with_overrides(epochs=1, input_scaling=scaling), 0, CPU).head
    plain = build_head("lstm", in_channels=C, num_segments=T, num_classes=3)
    state = head.state_dict()
    mean, scale = state.pop("input_mean"), state.pop("input_scale")
    assert not torch.equal(scale, torch.ones(C))
    state["projection.bias"] = state["projection.bias"] - (state["projection.weight"] * scale) @ mean
    state["projection.weight"] = state["projection.weight"] * scale
    plain.load_state_dict(state)
    features = data.select.gather(data.select.sequential_order()).float()
    with torch.inference_mode():
        torch.testing.assert_close(head(features), plain.eval()(features), atol=1e-5, rtol=1e-4)


def test_centred_inputs_keep_the_proportions_of_the_channels_and_standardised_ones_do_not(tmp_path: Path) -> None:
    data = pooled_data(tmp_path)
    features = data.train.gather(data.train.sequential_order()).double().flatten(0, 1)[..., 0, 0]  # (N T, C)
    scaled = {}
    for scaling in ("centre", "standardise"):
        state = fit_head(data, "mlp", RECIPE.with_overrides(epochs=0, input_scaling=scaling), 0, CPU).head.state_dict()
        scaled[scaling] = (features - state["input_mean"]) * state["input_scale"]
        assert scaled[scaling].mean(dim=0).abs().max() < 1e-3
    assert scaled["centre"].square().mean().sqrt().item() == pytest.approx(0.25, rel=1e-3)
    assert scaled["standardise"].std(dim=0, correction=0).allclose(torch.ones((), dtype=torch.float64), rtol=1e-3)
    deviations = features.std(dim=0)
    assert (scaled["centre"].std(dim=0) / deviations).std() < 1e-4
