"""Evaluation gives the figures of the fit again, and averages views as it says."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.cli import cli
from pipeline.errors import PipelineError
from pipeline.evaluation.result_reader import read_run
from pipeline.evaluation.result_writer import SeedResult
from pipeline.heads import build_head
from pipeline.manifest import write_manifest
from pipeline.model_file import load_model, save_model
from pipeline.predict.evaluation import class_rows
from pipeline.predict.scorer import Scorer
from pipeline.predict.view_plan import view_plan_of
from pipeline.recipe import recipe_from_dict
from pipeline.video.clip_views import load_clip_views
from tests.support.fitted_models import HEADS, Fitted, fitted_in
from tests.support.run_stages import evaluate
from tests.support.small_clips import CLASSES


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fitted_in(tmp_path_factory.mktemp("fitted"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *map(str, arguments)])


def read_scores(folder: Path) -> dict[str, np.ndarray]:
    with open(folder / "predictions.csv", newline="") as file:
        return {
            row["clip_id"]: np.array([float(row[f"score:{label}"]) for label in CLASSES])
            for row in csv.DictReader(file)
        }


@pytest.mark.parametrize("head", HEADS)
def test_a_store_gives_the_figures_of_the_fit_again(fitted: Fitted, head: str, tmp_path: Path) -> None:
    metrics = evaluate(model=fitted.model(head), store=str(fitted.store), out=tmp_path)
    before = json.loads((fitted.result_folder(head) / "metrics.json").read_text())
    assert metrics["probes"] == pytest.approx(before["probes"])
    assert metrics["report"] == pytest.approx(before["report"], abs=1e-3)
    assert metrics["ece"] == pytest.approx(before["ece"], abs=1e-2)
    was, now = read_scores(fitted.result_folder(head)), read_scores(tmp_path)
    assert list(was) == list(now)
    np.testing.assert_allclose(np.stack(list(now.values())), np.stack(list(was.values())), atol=2e-4)


def test_the_split_is_that_of_the_model_where_none_is_named(fitted: Fitted, tmp_path: Path) -> None:
    """A model that was fitted with a test split is evaluated on it, not on the clips that selected its epoch."""
    model = load_model(fitted.model("lstm"))
    assert (model.spec.selected_on, model.spec.reported_on) == ("dev", "val")
    save_model(tmp_path / "m.safetensors", replace(model.spec, reported_on="train"), model.head, model.backbone)
    metrics = evaluate(model=tmp_path / "m.safetensors", store=str(fitted.store))
    assert (metrics["reported_on"], metrics["selected_on"], metrics["num_report"]) == ("train", "dev", 7)


def test_scores_of_the_selection_clips_are_marked(fitted: Fitted, tmp_path: Path) -> None:
    model = load_model(fitted.model("lstm"))
    save_model(tmp_path / "m.safetensors", replace(model.spec, selected_on="val"), model.head, model.backbone)
    outputs = [run(path, "--store", fitted.store).output for path in (tmp_path / "m.safetensors", fitted.model("lstm"))]
    assert ["Selected on the reported clips" in output for output in outputs] == [True, False]


@pytest.mark.parametrize("head", HEADS)
def test_decoded_clips_score_as_cached_ones(fitted: Fitted, head: str, tmp_path: Path) -> None:
    cached = evaluate(model=fitted.model(head), store=str(fitted.store), out=tmp_path / "store")
    decoded = evaluate(model=fitted.model(head), manifest=fitted.manifest.path, out=tmp_path / "manifest")
    assert decoded["probes"] == pytest.approx(cached["probes"])
    one, other = read_scores(tmp_path / "store"), read_scores(tmp_path / "manifest")
    np.testing.assert_allclose(np.stack(list(one.values())), np.stack(list(other.values())), atol=2e-4)
    # `compare` reads the folder, and finds the accuracy that it states.
    assert read_run(tmp_path / "manifest").predictions.clip_ids == tuple(sorted(other))


def test_views_are_averaged_before_softmax(fitted: Fitted, tmp_path: Path) -> None:
    metrics = evaluate(
        model=fitted.model("lstm"), manifest=fitted.manifest.path, crops="3", draws=2, seed=4, out=tmp_path
    )
    assert metrics["num_views"] == 5
    scorer = Scorer(load_model(fitted.model("lstm")))
    plan = view_plan_of(scorer.spec, 3, 2, 4)
    found = read_scores(tmp_path)
    for clip in fitted.manifest.in_split("val"):
        seen = load_clip_views(fitted.manifest.locate(clip), partial(plan.views, clip.clip_id), plan.input_size)
        assert [view.name for view in seen.views] == ["test", "crop-1", "crop-2", "draw-0", "draw-1"]
        one_by_one = np.mean([scorer.clip_scores([pixels]) for pixels in seen.pixels], axis=0)
        np.testing.assert_allclose(found[clip.clip_id], one_by_one, atol=1e-4)


def test_crops_lie_at_the_ends_of_the_long_side(fitted: Fitted) -> None:
    plan = view_plan_of(load_model(fitted.model("lstm")).spec, 3)
    wide = [view.crop for view in plan.views("c", 10, 100, 200)]
    tall = [view.crop for view in plan.views("c", 10, 200, 100)]
    assert [(crop.top, crop.left) for crop in wide] == [(6.25, 56.25), (6.25, 0), (6.25, 112.5)]
    assert [(crop.left, crop.top) for crop in tall] == [(6.25, 56.25), (6.25, 0), (6.25, 112.5)]
    five = [view.crop for view in replace(plan, num_crops=5).views("c", 10, 100, 200)]
    assert [(crop.top, crop.left) for crop in five[1:]] == [(0, 0), (0, 112.5), (12.5, 0), (12.5, 112.5)]


def test_a_bad_clip_is_counted_and_an_unlabelled_one_left_out(fitted: Fitted, tmp_path: Path) -> None:
    clips = list(fitted.manifest.in_split("val"))
    clips[0] = replace(clips[0], path="clips/absent")
    clips[1] = replace(clips[1], label="")
    write_manifest(tmp_path / "m.csv", clips, CLASSES)
    result = run(fitted.model("lstm"), "--manifest", tmp_path / "m.csv", "--root", fitted.folder, "--json")
    assert result.exit_code == 0, result.output
    metrics = json.loads(result.stdout)
    assert (metrics["num_report"], metrics["num_failed"], metrics["num_unlabelled"]) == (3, 1, 1)
    assert "clips/absent does not exist" in result.stderr


def test_intervals_are_over_groups_of_clips(fitted: Fitted, tmp_path: Path) -> None:
    def metrics_with(groups: str) -> dict[str, Any]:
        clips = fitted.manifest.in_split("val")
        grouped = [replace(clip, extra=(group,), group=group) for clip, group in zip(clips, groups, strict=True)]
        write_manifest(tmp_path / "m.csv", grouped, CLASSES, ("group",))
        out = tmp_path / "out"
        result = run(fitted.model("lstm"), "--manifest", tmp_path / "m.csv", "--root", fitted.folder, "--out", out)
        assert result.exit_code == 0, result.output
        num_groups = len(set(groups))
        assert f"5 clips in {num_groups} groups" in result.stdout
        assert read_run(out).predictions.num_groups == num_groups
        found: dict[str, Any] = json.loads((out / "metrics.json").read_text())["report"]
        return found

    without = evaluate(model=fitted.model("lstm"), store=str(fitted.store))["report"]
    # Groups use Student's t, so that even groups of one clip have the wider interval.
    single = metrics_with("abcde")
    assert single["top1_low"] < without["top1_low"] < without["top1_high"] < single["top1_high"]
    right = read_run(tmp_path / "out").predictions.correct[0].astype(int)
    # One group is right and the other is wrong: two groups tell nothing about a third.
    two = metrics_with("".join("ab"[value] for value in right))
    assert (two["top1_low"], two["top1_high"]) == (0.0, 100.0)


def test_the_text_has_every_figure_and_class(fitted: Fitted) -> None:
    result = run(fitted.model("lstm"), "--store", fitted.store, "--split", "train")
    assert result.exit_code == 0, result.output
    for word in ("top-1", "class mean", "calibration", "shuffled", "recall", "(random)", *CLASSES):
        assert word in result.stdout
    assert "on train: 7 clips" in result.stdout


def test_classes_with_their_confusions() -> None:
    labels = np.array([0, 0, 0, 1])
    scores = np.eye(3)[[0, 2, 2, 1]]
    result = SeedResult(
        seed=0,
        history=(),
        best_epoch=0,
        clip_ids=("a", "b", "c", "d"),
        labels=labels,
        scores=scores,
        order_tests={},
        seconds=0.0,
    )
    rows = class_rows(result, ("x", "y", "z"))
    assert rows[0] == {
        "label": "x", "clips": 3, "recall": 33.3, "precision": 100.0, "taken_for": "z", "taken_for_clips": 2,
    }  # fmt: skip
    assert (rows[2]["recall"], rows[2]["precision"]) == (None, 0.0)


def test_draws_of_frames_from_a_store_of_all_frames(tmp_path: Path) -> None:
    fitted = fitted_in(tmp_path, heads=("lstm",), frames="all")
    plain = evaluate(model=fitted.model("lstm"), store=str(fitted.store), out=tmp_path / "plain")
    drawn = evaluate(model=fitted.model("lstm"), store=str(fitted.store), draws=3, out=tmp_path / "drawn")
    assert (plain["num_views"], drawn["num_views"]) == (1, 4)
    assert plain["probes"] == drawn["probes"]
    one, other = read_scores(tmp_path / "plain"), read_scores(tmp_path / "drawn")
    assert list(one) == list(other)
    assert not np.array_equal(np.stack(list(one.values())), np.stack(list(other.values())))
    again = evaluate(model=fitted.model("lstm"), manifest=fitted.manifest.path, out=tmp_path / "decoded")
    assert again["report"]["loss"] == pytest.approx(plain["report"]["loss"], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Give either --store"),
        ({"store": "STORE", "manifest": "MANIFEST"}, "Give either --store"),
        ({"store": "STORE", "crops": "3"}, "needs pixels"),
        ({"store": "STORE", "draws": 2}, "needs more frames"),
        ({"store": "STORE", "split": "test"}, "no labelled clip in split 'test'"),
        ({"manifest": "MANIFEST", "split": "test"}, "has no clip in split 'test'"),
    ],
)
def test_what_cannot_be_evaluated_is_a_sentence(fitted: Fitted, options: dict[str, Any], words: str) -> None:
    places = {"STORE": str(fitted.store), "MANIFEST": fitted.manifest.path}
    given = {name: places.get(value, value) if isinstance(value, str) else value for name, value in options.items()}
    with pytest.raises(PipelineError, match=words):
        evaluate(model=fitted.model("lstm"), **given)


def test_a_store_of_other_frames_or_weights_or_a_finetuned_backbone_is_refused(fitted: Fitted, tmp_path: Path) -> None:
    model = load_model(fitted.model("lstm"))
    recipe = recipe_from_dict(dict(model.spec.recipe))
    for changes, words in (
        ({"recipe": recipe.with_overrides(short_clip="first").as_dict()}, "made with short_clip=formula"),
        ({"recipe": recipe.with_overrides(test_frames="float").as_dict()}, "made with test_frames=exact"),
        ({"stage": "finetune"}, "finetuned"),
        ({"weights": {"name": "w", "sha256": "0"}}, "made with weights="),
        ({"preprocessing": {**model.spec.preprocessing, "input_size": 112}}, "made with input_size=224"),
        ({"classes": ("swipe_left", "swipe_right", "other")}, "does not have 1 of the 3 classes"),
    ):
        spec = replace(model.spec, **changes)
        save_model(tmp_path / "m.safetensors", spec, model.head, model.backbone)
        with pytest.raises(PipelineError, match=words):
            evaluate(model=tmp_path / "m.safetensors", store=str(fitted.store))


def test_a_spatial_head_is_refused_for_maps_of_another_size(fitted: Fitted, tmp_path: Path) -> None:
    model = load_model(fitted.model("lstm"))
    recipe = recipe_from_dict(dict(model.spec.recipe)).with_overrides(input_scaling="none")
    spec = replace(model.spec, head="fcn3d", map_size=7, recipe=recipe.as_dict())
    head = build_head(
        "fcn3d", in_channels=spec.in_channels, num_segments=spec.num_segments, num_classes=spec.num_classes
    )
    save_model(tmp_path / "m.safetensors", spec, head, model.backbone)
    with pytest.raises(PipelineError, match="made with map_size=13, the model with map_size=7"):
        evaluate(model=tmp_path / "m.safetensors", store=str(fitted.store))
