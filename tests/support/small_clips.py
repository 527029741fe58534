"""A tiny data set of frame folders and initial models, for the tests of training end to end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.finetune.clip_loader import LabelledClip
from pipeline.finetune.model import fresh_classifier
from pipeline.manifest import Clip, read_manifest, write_manifest
from pipeline.model_file import save_model
from pipeline.prepare.gestures.encode import write_frame_folder
from pipeline.recipe import named_recipe

CLASSES = ("swipe_left", "swipe_right", "still")
T = 2
# Without dropout, the gradient of a batch does not depend on how it is split.
PLAIN: dict[str, Any] = {"dropout": 0.0, "mlp_dropout": 0.0}


def write_clips(folder: Path, num_train: int = 7, num_val: int = 5) -> Path:
    """Write clips of noise frames of different lengths whose brightness is the class; return their manifest."""
    generator = np.random.default_rng(5)
    clips = []
    for number in range(num_train + num_val):
        label = number % len(CLASSES)
        length = 3 + number % 4
        frames = generator.integers(0, 90, (length, 40, 56, 3)) + 80 * label
        name = f"clip{number:02d}"
        write_frame_folder(folder / "clips" / name, frames.astype(np.uint8))
        clips.append(Clip(name, f"clips/{name}", CLASSES[label], "train" if number < num_train else "val"))
    path = folder / "small.csv"
    write_manifest(path, clips, CLASSES)
    return path


def labelled_clips(path: Path, split: str | None = None) -> tuple[LabelledClip, ...]:
    """Return the clips of a manifest, or of one split, as the loader of `finetune` takes them."""
    manifest = read_manifest(path)
    clips = manifest.clips if split is None else manifest.in_split(split)
    return tuple(LabelledClip(clip.clip_id, manifest.locate(clip), manifest.class_index(clip.label)) for clip in clips)


def write_model(
    path: Path,
    head: str = "mlp",
    backbone: str = "squeezenet",
    selected_on: str = "none",
    input_size: int | None = None,
    **switches: Any,
) -> Path:
    """Write a model file with random weights."""
    recipe = named_recipe("paper").with_overrides(**{**PLAIN, **switches})
    classifier = fresh_classifier(head, backbone, "random", CLASSES, T, recipe, seed=3, input_size=input_size)
    spec = dataclasses.replace(classifier.spec, selected_on=selected_on)
    save_model(path, spec, classifier.head, classifier.backbone)
    return path
