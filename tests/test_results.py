"""Result folders: every figure again from predictions.csv, runs that are finished, and the model beside them."""

from __future__ import annotations

import csv
import json
import logging
import math
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.backbones import build_backbone
from pipeline.errors import PipelineError
from pipeline.evaluation.result_reader import read_run
from pipeline.evaluation.result_writer import cell_name, read_finished
from pipeline.fit_head import finished
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.outcome import RunOutcome
from pipeline.fit_head.run import HeadRun, backbone_of_store
from pipeline.imports import import_closure
from pipeline.model_file import load_model, load_spec
from pipeline.recipe import named_recipe
from pipeline.runtime import Runtime
from tests.support.head_runs import run_head
from tests.support.memory_source import CLASSES, MemorySource, make_source, settings

CPU = Runtime(torch.device("cpu"), "float32", threads=1)
RECIPE = named_recipe("cached").with_overrides(epochs=3, lr=3e-3, batch_size=16)
RESULT_FILES = ("metrics.json", "history.csv", "predictions.csv", "confusion.csv", "SHA256SUMS")
FILES = (*RESULT_FILES, "model.safetensors")


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    return build_backbone("squeezenet", "random")[0]


def fitted(
    out: Path,
    backbone: nn.Module,
    source: MemorySource | None = None,
    head: str = "lstm",
    seeds: Sequence[int] = (0, 1),
    **switches: Any,
) -> RunOutcome:
    source = make_source() if source is None else source
    run = HeadRun(head, RECIPE.with_overrides(**switches), tuple(seeds), CPU)
    return run_head(run, CachedData(source, out), backbone, out)


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_figure_comes_again_from_the_predictions(tmp_path: Path, backbone: nn.Module) -> None:
    outcome = fitted(tmp_path, backbone)
    rows = read_rows(outcome.folder / "predictions.csv")
    assert list(rows[0]) == ["clip_id", "label", "predicted", "seed", *(f"score:{label}" for label in CLASSES)]
    accuracies, losses, of_class = [], [], []
    for seed in ("0", "1"):
        of_seed = [row for row in rows if row["seed"] == seed]
        scores = [[float(row[f"score:{label}"]) for label in CLASSES] for row in of_seed]
        assert [row["predicted"] for row in of_seed] == [CLASSES[values.index(max(values))] for values in scores]
        right = [row["label"] == row["predicted"] for row in of_seed]
        accuracies.append(100 * sum(right) / len(right))
        each = [[hit for hit, row in zip(right, of_seed, strict=True) if row["label"] == label] for label in CLASSES]
        of_class.append(100 * sum(sum(hits) / len(hits) for hits in each) / len(each))
        losses.append(
            sum(
                math.log(sum(math.exp(value) for value in values)) - values[CLASSES.index(row["label"])]
                for values, row in zip(scores, of_seed, strict=True)
            )
            / len(of_seed)
        )
    val = outcome.metrics["report"]
    assert val["top1"] == pytest.approx(sum(accuracies) / 2, abs=1e-4)
    assert val["top1_std"] == pytest.approx(np.std(accuracies, ddof=1), abs=1e-4)
    assert val["mean_class_accuracy"] == pytest.approx(sum(of_class) / 2, abs=1e-4)
    assert val["loss"] == pytest.approx(sum(losses) / 2, abs=1e-4)
    assert val["top5"] == 100
    assert val["top1_low"] <= val["top1"] <= val["top1_high"]


def test_the_code_of_metrics_decides_whether_a_cell_is_fitted_again(
    tmp_path: Path, backbone: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def noted(modules: Iterable[str]) -> str:
        hashed.extend(modules)
        return ""

    monkeypatch.setattr(finished, "code_digest", noted)
    fitted(tmp_path, backbone)
    assert "pipeline.heads.lstm" in hashed
    assert {"pipeline.evaluation.metrics", "pipeline.heads.head", "pipeline.training.optimiser"} <= set(
        import_closure(hashed)
    )


def test_metrics_have_the_keys_of_the_contract(tmp_path: Path, backbone: nn.Module) -> None:
    outcome = fitted(tmp_path, backbone)
    written = json.loads((outcome.folder / "metrics.json").read_text())
    assert written == json.loads(json.dumps(outcome.metrics))
    assert outcome.folder == tmp_path / "squeezenet-lstm"
    for key in ("head", "backbone", "weights", "recipe", "num_segments", "num_seeds", "ece", "report", "probes"):
        assert key in written
    assert set(written["probes"]) == {"shuffled", "reversed", "repeated"}
    assert written["weights"] == {"name": "random", "sha256": ""}
    assert written["recipe"]["name"] == "cached"
    assert (written["num_report"], written["num_failed"], written["num_seeds"]) == (30, 2, 2)
    assert (written["selected_on"], written["reported_on"]) == ("dev", "val")
    assert (written["num_train"], written["num_select"]) == (54, 6)  # a tenth of the 20 clips of each of three classes
    assert not any("second" in key for key in written)


def test_unlabelled_clips_are_neither_trained_on_nor_scored(tmp_path: Path, backbone: nn.Module) -> None:
    source = make_source(num_unlabelled=4)
    outcome = fitted(tmp_path, backbone, source)
    unlabelled = {row.clip_id for row in source.rows if row.class_index < 0}
    assert unlabelled
    assert not unlabelled & {row["clip_id"] for row in read_rows(outcome.folder / "predictions.csv")}
    assert outcome.metrics["num_train"] + outcome.metrics["num_select"] == 60


def test_confusion_counts_the_clips_of_all_seeds(tmp_path: Path, backbone: nn.Module) -> None:
    folder = fitted(tmp_path, backbone).folder
    predictions, confusion = read_rows(folder / "predictions.csv"), read_rows(folder / "confusion.csv")
    for row in confusion:
        for predicted in CLASSES:
            pairs = [(each["label"], each["predicted"]) for each in predictions]
            assert int(row[predicted]) == pairs.count((row["label"], predicted))


def test_files_hold_no_times_and_are_the_same_again(tmp_path: Path, backbone: nn.Module) -> None:
    folders = [fitted(tmp_path / name, backbone).folder for name in ("one", "two")]
    for name in FILES:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    timing = json.loads((folders[0] / "timing.json").read_text())
    assert timing["total_seconds"] > 0


def test_one_cell_alone_equals_the_same_cell_among_others(tmp_path: Path, backbone: nn.Module) -> None:
    source = make_source()
    data = CachedData(source, tmp_path)
    for head in ("gru", "fcn3d", "lstm"):
        run_head(HeadRun(head, RECIPE, (0,), CPU), data, backbone, tmp_path / "many")
    alone = fitted(tmp_path / "alone", backbone, seeds=(0,)).folder
    for name in FILES:
        assert (alone / name).read_bytes() == (tmp_path / "many" / alone.name / name).read_bytes()


def test_a_finished_cell_is_skipped_until_something_changes(tmp_path: Path, backbone: nn.Module) -> None:
    assert not fitted(tmp_path, backbone, seeds=(0,)).was_finished
    assert fitted(tmp_path, backbone, seeds=(0,)).was_finished
    assert not fitted(tmp_path, backbone, seeds=(0,), lr=1e-3).was_finished
    assert not fitted(tmp_path, backbone, seeds=(0,), lr=1e-3, source=make_source(num_train=57)).was_finished
    assert not fitted(tmp_path, backbone, seeds=(0, 1), lr=1e-3, source=make_source(num_train=57)).was_finished
    (tmp_path / "squeezenet-lstm" / "predictions.csv").unlink()
    assert not fitted(tmp_path, backbone, seeds=(0, 1), lr=1e-3, source=make_source(num_train=57)).was_finished


def test_the_model_file_is_the_first_seeds(tmp_path: Path, backbone: nn.Module) -> None:
    outcome = fitted(tmp_path, backbone, seeds=(3, 4))
    path = outcome.folder / "model.safetensors"
    spec = load_spec(path)
    assert (spec.head, spec.seed, spec.stage, spec.classes) == ("lstm", 3, "fit_head", CLASSES)
    # Its head scores a cached clip as predictions.csv says.
    source = make_source()
    clip = next(row for row in source.rows if row.split == "val")
    features = torch.from_numpy(source.read_pooled("test", [clip.row])).float()[..., None, None]
    with torch.inference_mode():
        scores = load_head(path)(features)[0]
    row = next(row for row in read_rows(outcome.folder / "predictions.csv") if row["clip_id"] == clip.clip_id)
    np.testing.assert_allclose(scores, [float(row[f"score:{label}"]) for label in CLASSES], atol=6e-5)


def load_head(path: Path) -> nn.Module:
    # The source has no real preprocessing, which loading the whole model would check.
    from safetensors.torch import load_file

    from pipeline.model import head_of_spec

    head = head_of_spec(load_spec(path))
    tensors = load_file(path)
    head.load_state_dict({key[5:]: value for key, value in tensors.items() if key.startswith("head.")})
    return head.eval()


def test_verbose_names_the_parameters_that_are_not_trained(
    tmp_path: Path, backbone: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "pipeline"):
        fitted(tmp_path, backbone, seeds=(0,), recurrent_parameters="weight_ih_l0")
    assert sum("NOT trained" in line and "weight_hh_l0" in line for line in caplog.messages) == 1


def test_nothing_unfinished_is_left_behind(tmp_path: Path, backbone: nn.Module) -> None:
    data = CachedData(make_source(), tmp_path)
    outcome = run_head(HeadRun("lstm", RECIPE, (0,), CPU), data, backbone, tmp_path, checkpoint_seconds=0)
    assert sorted(file.name for file in outcome.folder.iterdir()) == sorted([*FILES, "timing.json"])


def test_a_recipe_of_other_frames_is_refused_by_the_field(tmp_path: Path) -> None:
    data = CachedData(make_source(), tmp_path)
    with pytest.raises(PipelineError, match=r"sampler=floor, but the store's frames were drawn with sampler=covering"):
        data.check_recipe(named_recipe("published-code"))


def test_maps_that_the_store_lacks_are_refused_with_the_way_out(tmp_path: Path) -> None:
    data = CachedData(make_source(maps=("pooled",)), tmp_path)
    with pytest.raises(PipelineError, match=r"has only pooled.*--maps pooled,spatial"):
        data.check_maps("spatial")


def test_more_views_than_the_store_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"has 2 training views, fewer than `views` \(=5\)"):
        CachedData(make_source(), tmp_path, num_views=5)


def test_another_number_of_segments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"has 8 segments of each clip, not 16"):
        CachedData(make_source(), tmp_path, num_segments=16)


def test_other_weights_than_the_stores_are_refused() -> None:
    with pytest.raises(PipelineError, match=r"was made with the weights random \(sha256 abcd…\)"):
        backbone_of_store(settings(weights={"name": "random", "sha256": "abcd"}))
    with pytest.raises(PipelineError, match=r"which is missing.*--weights PATH"):
        backbone_of_store(settings(weights={"name": "mine.pth", "sha256": "abcd"}))


def test_cell_names_are_those_of_the_matrix() -> None:
    assert cell_name("squeezenet", "trn") == "squeezenet-trn"
    assert cell_name("torchvision:resnet18", "tsn") == "torchvision:resnet18-tsn"


@pytest.mark.cuda
def test_a_cell_is_fitted_on_a_gpu(tmp_path: Path, backbone: nn.Module) -> None:
    compute = Runtime(torch.device("cuda"), "bfloat16", threads=1)
    data = CachedData(make_source(), tmp_path)
    outcome = run_head(HeadRun("fcn3d", RECIPE, (0,), compute), data, backbone, tmp_path)
    assert load_spec(outcome.folder / "model.safetensors").head == "fcn3d"


def test_load_model_reads_what_a_cell_of_real_settings_wrote(tmp_path: Path, backbone: Any) -> None:
    source = make_source(preprocessing=backbone.preprocessing.as_dict())
    outcome = fitted(tmp_path, backbone, source, seeds=(0,), epochs=1)
    assert load_model(outcome.folder / "model.safetensors").spec.in_channels == 12


def test_any_flipped_bit_of_a_result_is_named(tmp_path: Path, backbone: nn.Module) -> None:
    folder = fitted(tmp_path, backbone).folder
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    assert read_run(folder).metrics["head"] == "lstm"
    rng = np.random.default_rng(0)
    for name in RESULT_FILES:
        whole = (folder / name).read_bytes()
        for bit in rng.choice(8 * len(whole), 60, replace=False):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            (folder / name).write_bytes(changed)
            with pytest.raises(PipelineError, match=r"does not match its SHA-256|SHA256SUMS is damaged"):
                read_run(folder)
        digest = json.loads((folder / "timing.json").read_text())["settings_digest"]
        assert read_finished(folder, digest) is None
        (folder / name).write_bytes(whole)
    assert read_finished(folder, digest) is not None
    # Results of older versions have no checksums.
    (folder / "SHA256SUMS").unlink()
    assert read_run(folder).metrics["head"] == "lstm"
