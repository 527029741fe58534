"""One HDF5 file of features: its arrays are listed by groups or by a CSV, and `init` writes a study of them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.cli import cli
from pipeline.manifest import Manifest, read_manifest


def write_arrays(path: Path, names: list[str]) -> Path:
    with h5py.File(path, "w") as file:
        for number, name in enumerate(names):
            file[name] = np.full((4, 6), number, np.float32)
    return path


def prepare(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["prepare", "features", *map(str, arguments), "--out", "m.csv"])


def listed(*arguments: object) -> Manifest:
    result = prepare(*arguments)
    assert result.exit_code == 0, result.output
    return read_manifest(Path("m.csv"))


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_groups_are_classes_and_names_are_ids(tmp_path: Path) -> None:
    names = [f"{label}/p{n}/clip.{n}.npy" for label in ("wave", "nod") for n in range(3)]
    manifest = listed(write_arrays(tmp_path / "f.h5", names), "--group-by", r"p\d")
    assert manifest.classes == ("nod", "wave")
    assert [clip.clip_id for clip in manifest.clips] == sorted(names)
    assert all(clip.path == f"f.h5::{clip.clip_id}" for clip in manifest.clips)
    assert {clip.group for clip in manifest.clips} == {"p0", "p1", "p2"}
    assert {clip.label for clip in manifest.clips if clip.clip_id.startswith("wave")} == {"wave"}


def test_groups_of_splits_are_kept(tmp_path: Path) -> None:
    names = ["train/wave/1", "train/nod/1", "val/wave/2", "val/nod/2"]
    manifest = listed(write_arrays(tmp_path / "f.h5", names))
    assert {(clip.clip_id, clip.split) for clip in manifest.clips} == {(name, name.split("/")[0]) for name in names}


def test_a_group_with_one_array_is_a_clip(tmp_path: Path) -> None:
    manifest = listed(write_arrays(tmp_path / "f.h5", [f"{label}/{n}/vit" for label in "ab" for n in range(3)]))
    assert [clip.clip_id for clip in manifest.clips] == [f"{label}/{n}" for label in "ab" for n in range(3)]


@pytest.mark.parametrize("names", [["one", "two"], ["one/vit", "two/vit"], ["one/vit", "one/flow", "two/vit"]])
def test_a_csv_gives_the_labels(tmp_path: Path, names: list[str]) -> None:
    Path("labels.csv").write_text("clip_id,label\none,a\ntwo,b\nthree,b\n")
    file = write_arrays(tmp_path / "f.h5", names)
    result = prepare(file, "labels.csv")
    assert result.exit_code == 0, result.output
    assert "1 of 3 clips cannot be used" in result.stderr
    assert f"three: missing: {file} has no array three" in result.stderr
    found = {clip.clip_id: (clip.path, clip.label) for clip in read_manifest(Path("m.csv")).clips}
    assert found == {"one": ("f.h5::one", "a"), "two": ("f.h5::two", "b"), "three": ("f.h5::three", "b")}


def test_what_is_no_list_of_clips_is_a_sentence(tmp_path: Path) -> None:
    for names in (["one", "two"], ["one/vit", "two/vit"]):
        result = prepare(write_arrays(tmp_path / "f.h5", names))
        assert result.exit_code == 1
        assert "no arrays in groups of classes" in result.stderr
    assert "has no array." in prepare(write_arrays(tmp_path / "empty.h5", [])).stderr
    (tmp_path / "text.h5").write_text("no HDF5")
    assert "is not an HDF5 file that can be read" in prepare(tmp_path / "text.h5").stderr
    result = CliRunner().invoke(cli, ["prepare", "folders", "f.h5", "--out", "m.csv"])
    assert "f.h5 is not a folder" in result.stderr
    assert not Path("m.csv").exists()
