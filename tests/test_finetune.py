"""Training end to end: the same model as the cache's, and steps that do not depend on how they are run."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.utils import counters

from pipeline.backbones import build_backbone
from pipeline.compare.running import running_fits
from pipeline.devices import has_compiler
from pipeline.errors import PipelineError
from pipeline.evaluation.result_reader import read_run
from pipeline.evaluation.selection import plan_splits
from pipeline.finetune import step as step_module
from pipeline.finetune import trainer as finetune_module
from pipeline.finetune.clip_loader import FIRST_FRESH_DRAW
from pipeline.finetune.model import (
    EndToEnd,
    check_recomputes,
    choose_runtime,
    default_parts,
    freeze_up_to,
    fresh_classifier,
    set_training_mode,
)
from pipeline.folder_lock import folder_lock
from pipeline.manifest import read_manifest, write_manifest
from pipeline.model_file import load_model, load_spec
from pipeline.recipe import SamplingConfig, named_recipe
from pipeline.runtime import Runtime
from pipeline.store import FeatureStore
from pipeline.training.optimiser import plan_parameters
from pipeline.video.render import render
from pipeline.video.views import drawn_view
from tests.support.killed_runs import kill_when
from tests.support.run_stages import extract, finetune, fit_head
from tests.support.small_clips import CLASSES, PLAIN, T, write_clips, write_model
from tests.support.training_fixtures import initial_model, small_manifest  # noqa: F401

CELL = "squeezenet-mlp"
# Three clips a batch: of seven, the last batch holds one, which no two processes can share.
QUICK: dict[str, Any] = {
    "precision": "float32",
    "threads": 1,
    "workers": 0,
    "epochs": 1,
    "accumulate": 1,
    "batch_size": 3,
    "overrides": {"lr": 0.01, "backbone_lr": 0.001, **PLAIN},
}


@pytest.fixture(scope="module")
def trained(manifest: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result folder of a plain run of two epochs, against which others are held."""
    out = tmp_path_factory.mktemp("trained")
    finetune(manifest=manifest, init=model, out=out, **{**QUICK, "epochs": 2})
    return out / CELL


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def largest_difference(one: Path, other: Path) -> float:
    found = weights(other)
    return max(float((value - found[name]).abs().max()) for name, value in weights(one).items())


def largest_change(model: Path, trained: Path) -> float:
    found, before = weights(trained), load_file(model)
    return max(float((value - found[name]).abs().max()) for name, value in before.items())


def test_it_starts_as_the_model_that_the_cache_was_fitted_for(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store.zarr"
    extract(
        manifest=manifest, store=store, weights="random", num_segments=T, views=1, maps="pooled", compile="eager",
        dtype="float32", workers=0,
    )  # fmt: skip
    fit_head(store=store, head="lstm", out=tmp_path / "fit_head", overrides={"epochs": 4}, seeds=2)
    init = tmp_path / "fit_head" / "squeezenet-lstm" / "model.safetensors"
    capsys.readouterr()
    metrics = finetune(manifest=manifest, init=init, out=tmp_path / "finetune", **{**QUICK, "epochs": 0})
    said = capsys.readouterr().err
    cached = read_run(init.parent).predictions
    now = read_run(tmp_path / "finetune" / "squeezenet-lstm").predictions
    # The store rounds features to float16, to 2^-11 of their size; the scores are a few times as sensitive.
    bound = 8 * 2**-11 * float(np.abs(cached.scores[0]).max())
    assert float(np.abs(cached.scores[0] - now.scores[0]).max()) <= bound
    assert metrics["start"]["largest_difference"] <= bound
    assert metrics["start"]["cached_top1"] == pytest.approx(metrics["start"]["top1"])
    assert metrics["report"]["top1"] == pytest.approx(metrics["start"]["top1"])
    assert "cached top-1" in said
    assert "cache against end-to-end: 5 clips" in said


def test_the_result_folder_is_that_of_a_cell(trained: Path) -> None:
    cell = read_run(trained)  # checks metrics.json against predictions.csv
    assert cell.is_finetuned
    for key in ("head", "backbone", "weights", "recipe", "num_segments", "num_seeds", "num_train", "num_report", "ece"):
        assert key in cell.metrics
    assert cell.metrics["num_failed"] == 0
    assert set(cell.metrics["probes"]) == {"shuffled", "reversed", "repeated"}
    assert (trained / "history.csv").read_text().count("\n") == 4  # header, start, two epochs
    spec = load_spec(trained / "model.safetensors")
    assert spec.stage == "finetune"
    assert spec.recipe["name"] == "paper"
    assert load_model(trained / "model.safetensors").spec.classes == CLASSES


def test_two_trainings_do_not_write_one_folder_at_once(manifest: Path, model: Path, tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path / "squeezenet-mlp"),
        pytest.raises(PipelineError, match=r"Another command is writing results to .*squeezenet-mlp\. Wait for it"),
    ):
        finetune(manifest=manifest, init=model, out=tmp_path, **QUICK)
    assert not list((tmp_path / "squeezenet-mlp").iterdir())


def test_training_moves_backbone_and_head(model: Path, trained: Path) -> None:
    before, after = load_file(model), weights(trained)
    assert all(not torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))


def test_the_weights_are_those_of_a_plain_loop(manifest: Path, model: Path, tmp_path: Path) -> None:
    """Against torch alone: SGD of two groups, the mean loss, one clipped norm, a warm-up under a cosine by hand."""
    lr, backbone_lr, clip_norm, epochs, batch_size = 0.05, 0.01, 2.2, 2, 3
    switches = {"lr": lr, "backbone_lr": backbone_lr, "clip_norm": clip_norm, "schedule": "cosine", **PLAIN}
    settings = {**QUICK, "epochs": epochs, "batch_size": batch_size, "overrides": {**switches, "warmup_epochs": 0.5}}
    finetune(manifest=manifest, init=model, out=tmp_path, keep_checkpoints=1, **settings)
    (last,) = (tmp_path / CELL / "checkpoints" / "seed-0").glob("step-*.pt")
    found = torch.load(last, weights_only=True)["state"]["training"]["model"]

    clips = [clip for clip in read_manifest(manifest).clips if clip.split == "train"]
    root = read_manifest(manifest).root
    choices, network = SamplingConfig(), load_model(model).train()
    groups = [
        {"params": network.backbone.parameters(), "lr": backbone_lr, "start": backbone_lr},
        {"params": network.head.parameters(), "lr": lr, "start": lr},
    ]
    optimiser = torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4)
    num_steps = math.ceil(len(clips) / batch_size)
    norms = []
    for epoch in range(epochs):
        order = np.random.default_rng([0, epoch]).permutation(len(clips))
        for step in range(num_steps):
            done_epochs = epoch + step / num_steps
            factor = min(1, done_epochs / 0.5) * (1 + math.cos(math.pi * done_epochs / epochs)) / 2
            for group in optimiser.param_groups:
                group["lr"] = factor * group["start"]
            batch = [clips[index] for index in order[step * batch_size : (step + 1) * batch_size]]
            pixels = []
            for clip in batch:
                paths = sorted((root / clip.path).iterdir())
                frames = np.stack([np.asarray(Image.open(path)) for path in paths])
                height, width = frames.shape[1:3]
                view = drawn_view(
                    FIRST_FRESH_DRAW + epoch, clip_id=clip.clip_id, seed=0, num_frames=len(frames), height=height,
                    width=width, num_segments=T, choices=choices,
                )  # fmt: skip
                pixels.append(render(frames[list(view.frame_indices)], view.crop, view.flip))
            labels = torch.tensor([CLASSES.index(clip.label) for clip in batch])
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(torch.stack(pixels)), labels).backward()
            norms.append(float(nn.utils.clip_grad_norm_(network.parameters(), clip_norm)))
            optimiser.step()
    assert max(norms) > clip_norm > min(norms)
    difference = max(float((value - found[name]).abs().max()) for name, value in network.state_dict().items())
    before = load_file(model)
    change = max(float((value - before[name]).abs().max()) for name, value in network.state_dict().items())
    assert difference < 1e-5 < 1e-3 < change


def test_a_second_run_gives_the_same_bytes(manifest: Path, model: Path, trained: Path, tmp_path: Path) -> None:
    finetune(manifest=manifest, init=model, out=tmp_path, **{**QUICK, "epochs": 2, "workers": 1})
    assert (tmp_path / CELL / "predictions.csv").read_bytes() == (trained / "predictions.csv").read_bytes()
    assert largest_difference(trained, tmp_path / CELL) == 0


def test_a_finished_training_is_not_done_twice(
    manifest: Path, model: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path / CELL)
    monkeypatch.setattr(finetune_module.Finetuner, "_run_epoch", None)
    metrics = finetune(manifest=manifest, init=model, out=tmp_path, **{**QUICK, "epochs": 2})
    assert json.loads(json.dumps(metrics)) == json.loads((trained / "metrics.json").read_text())


# Three steps an epoch: in the middle of the first and of the second one, and where one ends.
@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((4,), id="once"),
        pytest.param((2, 3, 5), id="three times", marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_goes_on_to_the_same_weights(
    manifest: Path, model: Path, trained: Path, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    settings = {
        **QUICK, "epochs": 2, "checkpoint_seconds": 0, "manifest": str(manifest), "init": str(model),
        "out": str(tmp_path),
    }  # fmt: skip
    checkpoints = tmp_path / CELL / "checkpoints" / "seed-0"
    for step in steps:
        kill_when((checkpoints / f"step-{step:08d}.pt").exists, settings)
    assert not (tmp_path / CELL / "metrics.json").exists()
    assert [fit.part for fit in running_fits(tmp_path)] == ["seed-0"]
    finetune(**{**settings, "checkpoint_seconds": 60})
    assert largest_difference(trained, tmp_path / CELL) == 0
    for name in ("predictions.csv", "history.csv", "metrics.json"):
        assert (tmp_path / CELL / name).read_bytes() == (trained / name).read_bytes()


def test_parts_of_a_batch_add_up_to_the_batch(manifest: Path, model: Path, trained: Path, tmp_path: Path) -> None:
    finetune(manifest=manifest, init=model, out=tmp_path, **{**QUICK, "epochs": 2, "accumulate": 3})
    assert largest_difference(trained, tmp_path / CELL) < 1e-5 < largest_change(model, trained)


def test_computing_activations_again_changes_nothing(
    manifest: Path, model: Path, trained: Path, tmp_path: Path
) -> None:
    finetune(manifest=manifest, init=model, out=tmp_path, **{**QUICK, "epochs": 2, "checkpointing": True})
    assert largest_difference(trained, tmp_path / CELL) < 1e-6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own, of what it imports
@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("switches", [{}, {"checkpointing": True}, {"freeze_until": "features.7"}])
def test_a_compiled_backbone_trains_alike(
    manifest: Path, model: Path, tmp_path: Path, switches: dict[str, Any]
) -> None:
    settings = {**QUICK, "epochs": 2, **switches}
    finetune(manifest=manifest, init=model, out=tmp_path / "plain", **settings)
    torch._dynamo.reset()
    counters.clear()
    finetune(manifest=manifest, init=model, out=tmp_path / "compiled", **settings, compile=True)
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]
    plain, compiled = tmp_path / "plain" / CELL, tmp_path / "compiled" / CELL
    assert largest_difference(plain, compiled) < 1e-5 < largest_change(model, plain)
    assert load_model(compiled / "model.safetensors").spec.classes == CLASSES


def test_augmentation_on_the_device_trains_alike(manifest: Path, model: Path, trained: Path, tmp_path: Path) -> None:
    finetune(manifest=manifest, init=model, out=tmp_path, **{**QUICK, "epochs": 2, "augment_on_device": True})
    assert largest_difference(trained, tmp_path / CELL) < 0.1 * largest_change(model, trained)


def test_frozen_layers_stay(manifest: Path, model: Path, tmp_path: Path) -> None:
    metrics = finetune(manifest=manifest, init=model, out=tmp_path, freeze_until="features.7", **QUICK)
    assert metrics["freeze_until"] == "features.7"
    before, after = load_file(model), weights(tmp_path / CELL)
    for name, value in before.items():
        is_frozen = name.startswith("backbone") and int(name.split(".")[2]) <= 7
        assert torch.equal(value, after[name]) == is_frozen, name


def test_an_unknown_layer_is_named_with_its_neighbour() -> None:
    backbone, _ = build_backbone("squeezenet", "random")
    with pytest.raises(PipelineError, match=r"Unknown layer of squeezenet.*'features.99'.*Known: .*features.12"):
        freeze_up_to(backbone, "features.99")


@pytest.mark.parametrize("name", ["paper", "published-code"])
def test_partial_batch_norm_freezes_all_but_the_first_of_the_backbone_and_none_of_the_head(name: str) -> None:
    recipe = named_recipe(name)
    classifier = fresh_classifier("fcn2d", "bninception", "random", CLASSES, T, recipe, seed=0)
    set_training_mode(classifier, recipe.training)

    def training(module: nn.Module) -> list[str]:
        norms = ((name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d))
        return [name for name, layer in norms if layer.training and layer.weight.requires_grad]

    assert training(classifier.backbone) == ["conv1_7x7_s2_bn"]
    assert len(training(classifier.head)) == 5


def test_backbone_and_head_have_rates_of_their_own() -> None:
    recipe = named_recipe("paper").with_overrides(lr=0.5, backbone_lr=0.125)
    classifier = fresh_classifier("mlp", "squeezenet", "random", CLASSES, T, recipe, seed=0)
    parts: dict[str, tuple[nn.Module, float]] = {
        "backbone": (classifier.backbone, recipe.training.backbone_lr),
        "head": (classifier.head, recipe.training.lr),
    }
    plan = plan_parameters(parts, recipe.training)
    assert {group.name.partition(",")[0]: group.lr for group in plan.groups} == {"backbone": 0.125, "head": 0.5}
    assert len(plan.trained) == len(list(classifier.parameters()))


def test_from_scratch_needs_no_model(manifest: Path, tmp_path: Path) -> None:
    metrics = finetune(
        manifest=manifest, init="none", head="tsn", weights="random", num_segments=T, out=tmp_path, **QUICK
    )
    assert metrics["weights"]["name"] == "random"
    assert metrics["init"] == "none"
    assert metrics["start"] is None
    assert (tmp_path / "squeezenet-tsn" / "model.safetensors").is_file()


def test_a_model_can_be_trained_on_other_clips_of_its_classes(
    manifest: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read_manifest(manifest)
    others = [dataclasses.replace(clip, clip_id=f"other-{clip.clip_id}") for clip in found.clips]
    write_manifest(tmp_path / "others.csv", others, CLASSES)
    metrics = finetune(
        manifest=tmp_path / "others.csv", root=found.root, init=trained / "model.safetensors", out=tmp_path,
        **{**QUICK, "epochs": 0},
    )  # fmt: skip
    assert metrics["start"] is None
    assert "was not validated on any of them" in capsys.readouterr().err


def test_from_scratch_needs_a_head(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"name it with --head \(mlp, "):
        finetune(manifest=manifest, weights="random", out=tmp_path, **QUICK)
    with pytest.raises(PipelineError, match=r"Unknown head 'ltsm'. Did you mean 'lstm'"):
        finetune(manifest=manifest, head="ltsm", weights="random", out=tmp_path, **QUICK)


@pytest.mark.parametrize("head", ["trn", "fcn2d", "fcn3d"])
def test_other_heads_train_in_the_short_type(manifest: Path, tmp_path: Path, head: str) -> None:
    short = {**QUICK, "precision": "bfloat16", "batch_size": 4}
    metrics = finetune(manifest=manifest, head=head, weights="random", num_segments=T, out=tmp_path, **short)
    assert metrics["precision"] == "bfloat16"
    assert np.isfinite(metrics["report"]["loss"])


def bad_manifest(folder: Path) -> Path:
    """The clips with one of the training and one of the validation clips taken away."""
    path = write_clips(folder)
    for name in ("clip02", "clip09"):
        shutil.rmtree(folder / "clips" / name)
    return path


def test_missing_clips_are_recorded_and_not_replaced(model: Path, tmp_path: Path) -> None:
    metrics = finetune(manifest=bad_manifest(tmp_path), init=model, out=tmp_path / "out", **{**QUICK, "epochs": 2})
    assert metrics["num_failed"] == 2
    assert (metrics["num_train"], metrics["num_report"]) == (6, 4)
    predictions = (tmp_path / "out" / CELL / "predictions.csv").read_text()
    assert "clip08" in predictions
    assert "clip09" not in predictions
    failed = json.loads((tmp_path / "out" / CELL / "failed.json").read_text())
    assert failed["clip02"][:2] == ["train", "missing"]
    assert failed["clip09"][:2] == ["val", "missing"]


def test_too_many_missing_clips_stop_it(model: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"2 clips could not be used, more than --max-failed 1.*'clip02', missing"):
        finetune(manifest=bad_manifest(tmp_path), init=model, out=tmp_path / "out", max_failed=1, **QUICK)


def test_a_model_of_other_classes_is_refused(manifest: Path, tmp_path: Path) -> None:
    other = write_clips(tmp_path / "other")
    classes = tmp_path / "other" / "small.classes.csv"
    for text, message in (
        ("class_id,label\n0,swipe_right\n1,swipe_left\n2,still\n", r"another order \(class 0 is 'swipe_left' there"),
        (
            "class_id,label\n0,swipe_left\n1,swipe_right\n2,still\n3,wave\n",
            r"3 classes.*has 4: the model lacks 'wave'",
        ),
    ):
        classes.write_text(text)
        with pytest.raises(PipelineError, match=message):
            finetune(manifest=other, init=write_model(tmp_path / "m.safetensors"), out=tmp_path / "out", **QUICK)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_without_a_gpu_the_way_out_is_named(manifest: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"there is no GPU .*--device cpu"):
        finetune(manifest=manifest, init=model, out=tmp_path, device="cuda", **QUICK)


def test_too_little_memory_names_what_to_lower(
    manifest: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    monkeypatch.setattr(step_module, "collate", full)
    with pytest.raises(PipelineError, match=r"3 clips of 2 segments.*Raise --accumulate \(=1\).*--checkpointing"):
        finetune(manifest=manifest, init=model, out=tmp_path, **QUICK)


def test_float16_refuses_gradients_that_pile_up(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = Runtime(torch.device("cpu"), "float16")
    monkeypatch.setattr("pipeline.finetune.run.choose_runtime", lambda *_: half)
    with pytest.raises(PipelineError, match="--precision float32, or --clip-scope trained"):
        finetune(
            manifest=manifest, head="lstm", weights="random", num_segments=T, out=tmp_path, recipe="published-code",
            **QUICK,
        )  # fmt: skip


def test_a_loss_that_diverges_is_a_sentence(manifest: Path, model: Path, tmp_path: Path) -> None:
    wild = {**QUICK, "epochs": 3, "overrides": {"lr": 1e30, "backbone_lr": 1e30, "clip_norm": 0, **PLAIN}}
    with pytest.raises(PipelineError, match=r"Lower lr"):
        finetune(manifest=manifest, init=model, out=tmp_path, **wild)


@pytest.mark.parametrize(("head", "backbone", "parts"), [("mlp", "squeezenet", 8), ("fcn3d", "squeezenet", 1)])
def test_on_the_cpu_a_batch_is_divided_where_that_changes_nothing(head: str, backbone: str, parts: int) -> None:
    recipe = named_recipe("paper")
    classifier = fresh_classifier(head, backbone, "random", CLASSES, 8, recipe, seed=0)
    assert default_parts(classifier, recipe.training, torch.device("cpu"), 32) == parts
    assert default_parts(classifier, recipe.training, torch.device("cuda"), 32) == 1


def test_more_parts_than_clips_in_a_batch_are_refused(manifest: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"`accumulate` \(=4\) must lie between 1 and batch_size \(=3\)"):
        finetune(manifest=manifest, init=model, out=tmp_path, **{**QUICK, "accumulate": 4})


def test_checkpointing_refuses_what_it_cannot_do() -> None:
    norms, _ = build_backbone("bninception", "random")
    with pytest.raises(PipelineError, match="count each batch twice"):
        check_recomputes(norms, named_recipe("paper").with_overrides(partial_bn="off").training)
    check_recomputes(norms, named_recipe("paper").training)


def test_checkpointing_keeps_the_statistics_of_batch_norm() -> None:
    recipe = named_recipe("paper").with_overrides(**PLAIN)
    frames = torch.randint(0, 256, (1, T, 3, 224, 224), dtype=torch.uint8)
    found = []
    for recompute in (False, True):
        classifier = fresh_classifier("mlp", "bninception", "random", CLASSES, T, recipe, seed=0)
        classifier.backbone.recompute = recompute
        set_training_mode(classifier, recipe.training)
        EndToEnd(classifier, choose_runtime("cpu", "float32"))(frames).square().mean().backward()
        gradients = {name: p.grad for name, p in classifier.named_parameters() if p.grad is not None}
        found.append({**classifier.state_dict(), **gradients})
    assert all(torch.allclose(value, found[1][name], atol=1e-6) for name, value in found[0].items())


@pytest.mark.parametrize("name", ["none", "half"])
def test_an_unknown_precision_is_refused(name: str) -> None:
    with pytest.raises(PipelineError, match="must be one of auto, float32, bfloat16, float16"):
        choose_runtime("cpu", name)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_gpu_trains_like_the_cpu(manifest: Path, model: Path, trained: Path, tmp_path: Path, precision: str) -> None:
    settings = {**QUICK, "epochs": 2, "precision": precision, "workers": 2}
    finetune(manifest=manifest, init=model, out=tmp_path, device="cuda", **settings)
    tolerance = {"float32": 0.02, "bfloat16": 0.5, "float16": 0.5}[precision] * largest_change(model, trained)
    assert largest_difference(trained, tmp_path / CELL) < tolerance


@pytest.mark.cuda
def test_a_gpu_of_this_process_is_chosen() -> None:
    assert choose_runtime("cuda", local_rank=0).device == torch.device("cuda:0")
    assert os.environ.get("WORLD_SIZE", "1") == "1"


def with_splits(manifest: Path, folder: Path, **split_of: str) -> Path:
    """The clips of a manifest under other splits."""
    read = read_manifest(manifest)
    clips = [dataclasses.replace(clip, split=split_of.get(clip.clip_id, clip.split)) for clip in read.clips]
    path = folder / "splits.csv"
    write_manifest(path, clips, read.classes)
    return path


def reported_clips(folder: Path) -> set[str]:
    with open(folder / "predictions.csv", newline="") as file:
        return {row["clip_id"] for row in csv.DictReader(file)}


def select_top1(folder: Path) -> list[float]:
    with open(folder / "history.csv", newline="") as file:
        return [float(row["select_top1"]) for row in csv.DictReader(file)]


def test_a_labelled_test_split_is_reported_and_val_selects(manifest: Path, model: Path, tmp_path: Path) -> None:
    tested = with_splits(manifest, manifest.parent, clip10="test", clip11="test")
    metrics = finetune(manifest=tested, init=model, out=tmp_path, **{**QUICK, "epochs": 2})
    assert (metrics["selected_on"], metrics["reported_on"]) == ("val", "test")
    assert (metrics["num_train"], metrics["num_select"], metrics["num_report"]) == (7, 3, 2)
    assert reported_clips(tmp_path / CELL) == {"clip10", "clip11"}
    of_epochs = select_top1(tmp_path / CELL)
    assert metrics["select"]["top1"] == pytest.approx(of_epochs[metrics["best_epoch"]], abs=1e-3)
    spec = load_spec(tmp_path / CELL / "model.safetensors")
    assert (spec.selected_on, spec.reported_on, spec.best_epoch) == ("val", "test", metrics["best_epoch"])


def test_held_out_training_clips_select_and_val_is_reported(manifest: Path, model: Path, tmp_path: Path) -> None:
    switches = {**QUICK["overrides"], "select_on": "dev", "dev_share": 0.3}
    metrics = finetune(manifest=manifest, init=model, out=tmp_path, **{**QUICK, "epochs": 2, "overrides": switches})
    assert (metrics["selected_on"], metrics["reported_on"]) == ("dev", "val")
    assert metrics["num_train"] + metrics["num_select"] == 7
    assert metrics["num_select"] == 3  # at least one clip of each of three classes
    assert reported_clips(tmp_path / CELL) == {f"clip{number:02d}" for number in range(7, 12)}


def test_the_same_clips_are_held_out_as_by_fit_head(manifest: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.zarr"
    extract(
        manifest=manifest, store=store, weights="random", num_segments=T, views=1, maps="pooled", compile="eager",
        dtype="float32", workers=0,
    )  # fmt: skip
    training = named_recipe("cached").training
    in_store = plan_splits(FeatureStore.open(store).table(), training, "store")
    assert in_store == plan_splits(read_manifest(manifest).clips, training, "manifest")
    assert in_store.dev_ids


def test_without_epochs_the_selection_is_that_of_the_fitted_head(manifest: Path, tmp_path: Path) -> None:
    """Such a row is as clean as its head: a head that was selected on the reported clips marks it."""
    for selected_on, is_marked_row in (("dev", False), ("val", True)):
        init = write_model(tmp_path / f"{selected_on}.safetensors", selected_on=selected_on)
        metrics = finetune(manifest=manifest, init=init, out=tmp_path / selected_on, **{**QUICK, "epochs": 0})
        assert metrics["selected_on"] == metrics["init_selected_on"] == selected_on
        assert read_run(tmp_path / selected_on / CELL).is_selected_on_reported == is_marked_row
