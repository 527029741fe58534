"""The model file alone is enough to predict."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.backbones import build_backbone
from pipeline.backbones.backbone import Backbone
from pipeline.errors import PipelineError
from pipeline.heads import HEADS
from pipeline.model import Classifier, ModelSpec, head_of_spec
from pipeline.model_file import (
    HEADER_DIGEST,
    HEADER_KEY,
    TENSORS_DIGEST,
    header_values,
    load_model,
    load_spec,
    save_model,
)
from pipeline.recipe import named_recipe
from tests.support.random_fits import fit_to_random_clips

CLASSES = ("swipe left", "swipe right", "geöffnet")


def spec_of(head: str, seed: int = 0) -> ModelSpec:
    return classifier_parts(head, seed)[1]


def classifier(head: str, seed: int = 0) -> Classifier:
    backbone, spec = classifier_parts(head, seed)
    return Classifier(backbone, fit_to_random_clips(head_of_spec(spec)), spec).eval()


def classifier_parts(head: str, seed: int) -> tuple[Backbone, ModelSpec]:
    backbone, weights = build_backbone("squeezenet", weights="random", seed=seed)
    return backbone, ModelSpec(
        head=head,
        backbone="squeezenet",
        classes=CLASSES,
        num_segments=8,
        in_channels=backbone.channels,
        map_size=backbone.map_size,
        preprocessing=backbone.preprocessing.as_dict(),
        recipe=named_recipe("published-code").as_dict(),
        weights={"name": weights.name, "sha256": weights.sha256},
        seed=seed,
        stage="fit_head",
    )


def save(path: Path, model: Classifier) -> None:
    save_model(path, model.spec, model.head, model.backbone)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_saved_model_gives_the_same_scores(tmp_path: Path, head: str) -> None:
    model = classifier(head)
    save(tmp_path / "model.safetensors", model)
    loaded = load_model(tmp_path / "model.safetensors")
    frames = torch.randint(0, 256, (1, 8, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(model(frames), loaded(frames))
    assert not loaded.training
    assert loaded.spec == load_spec(tmp_path / "model.safetensors")
    assert loaded.spec.classes == CLASSES


def test_features_have_the_shape_that_the_head_reads() -> None:
    frames = torch.randint(0, 256, (2, 8, 3, 64, 64), dtype=torch.uint8)
    pooled, spatial = classifier("lstm").features(frames), classifier("fcn3d").features(frames)
    assert tuple(pooled.shape) == (2, 8, 512, 1, 1)
    assert spatial.shape[:3] == (2, 8, 512)
    torch.testing.assert_close(spatial.mean(dim=(3, 4), keepdim=True), pooled)


def test_loading_does_not_move_the_callers_random_numbers(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", classifier("tsn"))
    before = torch.get_rng_state()
    load_model(tmp_path / "model.safetensors")
    assert torch.equal(before, torch.get_rng_state())


def test_a_later_architecture_is_refused(tmp_path: Path) -> None:
    model = classifier("lstm")
    save(tmp_path / "model.safetensors", Classifier(model.backbone, classifier("gru").head, model.spec))
    with pytest.raises(PipelineError, match=r"does not have the tensors of its head: missing \['lstm"):
        load_model(tmp_path / "model.safetensors")


def test_another_preprocessing_is_refused(tmp_path: Path) -> None:
    model = classifier("tsn")
    model.spec = replace(model.spec, preprocessing={**model.spec.preprocessing, "channel_order": "BGR"})
    save(tmp_path / "model.safetensors", model)
    with pytest.raises(PipelineError, match="was trained with the preprocessing"):
        load_model(tmp_path / "model.safetensors")


def test_a_file_that_is_no_model_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="There is no model file"):
        load_model(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(PipelineError, match="is not a safetensors file"):
        load_spec(tmp_path / "text.safetensors")
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(PipelineError, match="does not say which head"):
        load_model(tmp_path / "weights.safetensors")


def test_a_header_of_another_version_is_a_sentence(tmp_path: Path) -> None:
    spec = header_values(classifier("tsn").spec)
    tensors = {"head.projection.weight": torch.zeros(1)}
    for change, message in (
        ({**spec, "format": 3}, "has the model format 3"),
        ({**spec, "colour": "blue"}, "lacks nothing and has the unknown fields colour"),
        ({name: spec[name] for name in spec if name != "stage"}, "lacks stage and has the unknown fields none"),
    ):
        save_file(tensors, tmp_path / "m.safetensors", metadata={HEADER_KEY: json.dumps(change)})
        with pytest.raises(PipelineError, match=message):
            load_spec(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format": 1}, "model format 1.*train it again"), ({"format": 99}, "newer version"),
     ({"transform_version": 1}, "transform version 1.*train it again")],
)  # fmt: skip
def test_a_model_that_saw_other_pixels_is_refused(tmp_path: Path, change: dict[str, int], message: str) -> None:
    """Version 0.1 rounded the test crop to whole pixels: its models would be shown frames they were not trained on."""
    save(tmp_path / "model.safetensors", classifier("tsn"))
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        header = json.loads(file.metadata()[HEADER_KEY])
    del header[HEADER_DIGEST], header[TENSORS_DIGEST]  # as the first models of format 2
    save_file(tensors, tmp_path / "other.safetensors", metadata={HEADER_KEY: json.dumps({**header, **change})})
    with pytest.raises(PipelineError, match=message):
        load_model(tmp_path / "other.safetensors")


STRANGE = (-1, 0, 1 << 40, 1e308, None, True, "", "../x", [], {}, [[]], [1 << 40], {"name": "../x"}, "tsn")


@pytest.mark.parametrize("field", [field.name for field in fields(ModelSpec)])
def test_a_strange_value_in_a_header_is_refused_or_without_harm(tmp_path: Path, field: str) -> None:
    """A number as the name of the head and a mapping as the backbone ended `evaluate` with a traceback."""
    spec, path = spec_of("tsn"), tmp_path / "model.safetensors"
    num_refused = 0
    for value in STRANGE:
        header = {**header_values(spec), field: value}
        save_file({"head.x": torch.zeros(1)}, path, metadata={HEADER_KEY: json.dumps(header)})
        try:
            head_of_spec(load_spec(path))
        except PipelineError:
            num_refused += 1
    assert num_refused >= 6
    nested = [("recipe", "name"), ("recipe", "head"), ("preprocessing", "input_size"), ("weights", "name")]
    for outer, inner in nested if field == "recipe" else ():
        for value in (*STRANGE[:5], [], [[]]):
            header = header_values(spec)
            header[outer] = {**header[outer], inner: value}
            save_file({"head.x": torch.zeros(1)}, path, metadata={HEADER_KEY: json.dumps(header)})
            with suppress(PipelineError):
                head_of_spec(load_spec(path))


def test_a_flipped_bit_of_a_model_is_named_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(path, classifier("tsn"))
    whole, loaded = path.read_bytes(), load_model(path)
    expected = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    header_bits = 8 * (8 + int.from_bytes(whole[:8], "little"))
    rng = np.random.default_rng(0)
    for bit in [*rng.integers(0, header_bits, 60), *rng.integers(0, 8 * len(whole), 5)]:
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << int(bit) % 8
        path.write_bytes(changed)
        try:
            model = load_model(path)
        except PipelineError as error:
            assert str(path) in str(error)  # noqa: PT017 - either the same model or this error
            continue
        assert model.spec == loaded.spec
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
