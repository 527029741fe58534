"""Manifests: what is read is what was written, and what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.manifest import Clip, read_manifest, write_manifest


def write(folder: Path, rows: str, classes: str = "class_id,label\n0,down\n1,up\n") -> Path:
    path = folder / "m.csv"
    path.write_text(rows, encoding="utf-8")
    (folder / "m.classes.csv").write_text(classes, encoding="utf-8")
    return path


def test_round_trip_keeps_order_text_and_extra_columns(tmp_path: Path) -> None:
    clips = [
        Clip("007", "b/x, y.webm", "up", "train", ("d2",)),
        Clip("7", 'a/"q".webm', "", "test", ("d1",)),
        Clip("e", "f.h5::k", "down", "val", ("",)),
    ]
    write_manifest(tmp_path / "m.csv", clips, ["up", "down"], ["source"])
    manifest = read_manifest(tmp_path / "m.csv")
    assert manifest.clips == tuple(clips)
    assert manifest.classes == ("up", "down")
    assert manifest.extra_columns == ("source",)
    assert manifest.name == "m"


def test_columns_in_any_order_bom_and_crlf(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufefflabel,clip_id,split,path\r\nup,1,train,x.webm\r\n\r\ndown,2,val,y.webm\r\n")
    manifest = read_manifest(path)
    assert [(c.clip_id, c.path, c.label, c.split) for c in manifest.clips] == [
        ("1", "x.webm", "up", "train"),
        ("2", "y.webm", "down", "val"),
    ]
    assert manifest.splits == ("train", "val")


def test_labels_index_by_the_class_file_and_unlabelled_is_minus_one(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, "clip_id,path,label,split\n1,x,up,train\n2,y,,test\n"))
    assert [manifest.class_index(clip.label) for clip in manifest.clips] == [1, -1]
    assert [clip.is_labelled for clip in manifest.clips] == [True, False]


def test_locate_is_absolute_and_keeps_the_member_of_a_packed_file(tmp_path: Path) -> None:
    path = write(tmp_path, "clip_id,path,label,split\n1,x.webm,up,train\n2,p.h5::a/b,up,train\n")
    manifest = read_manifest(path, root=tmp_path / "clips")
    assert manifest.locate(manifest.clips[0]) == str(tmp_path / "clips" / "x.webm")
    assert manifest.locate(manifest.clips[1]) == str(tmp_path / "clips" / "p.h5") + "::a/b"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("clip_id,path,label\n1,x,up\n", "lacks the column split"),
        ("clip_id,path,label,split\n1,x,up,train\n1,y,up,train\n", "line 3: the clip_id '1' is already used in line 2"),
        ("clip_id,path,label,split\n,x,up,train\n", "line 2: the clip_id is empty"),
        ("clip_id,path,label,split\n1,x,left,train\n", "the label 'left' of clip '1' is not in m.classes.csv"),
        ("clip_id,path,label,split\n1,../x,up,train\n", "'../x' of clip '1' leaves the root"),
        ("clip_id,path,label,split\n1,a/../../x,up,train\n", "leaves the root"),
        ("clip_id,path,label,split\n1,/etc/passwd,up,train\n", "leaves the root"),
        ("clip_id,path,label,split\n1,../p.h5::a,up,train\n", "leaves the root"),
        ("clip_id,path,label,split\n1,,up,train\n", "clip '1' has no path"),
        ("clip_id,path,label,split\n1,x,up,\n", "clip '1' has no split"),
        ("clip_id,path,label,split\n1,x,up\n", "line 2 has 3 fields, but the header names 4"),
        ("clip_id,path,label,split\n", "has no clips"),
        ("", "lacks the columns clip_id, path, label, split"),
    ],
)
def test_faults_are_named(tmp_path: Path, rows: str, words: str) -> None:
    with pytest.raises(PipelineError) as error:
        read_manifest(write(tmp_path, rows))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ("class_id,label\n1,up\n", "class_id must count up from 0"),
        ("class_id,label\n0,up\n1,up\n", "'up' occurs twice"),
        ("class_id,label\n0,\n", "the label is empty"),
        ("class_id,label\n", "has no classes"),
    ],
)
def test_faults_of_the_class_file_are_named(tmp_path: Path, classes: str, words: str) -> None:
    with pytest.raises(PipelineError) as error:
        read_manifest(write(tmp_path, "clip_id,path,label,split\n1,x,up,train\n", classes))
    assert words in str(error.value)


def test_a_path_that_stays_inside_may_go_up_and_down(tmp_path: Path) -> None:
    assert read_manifest(write(tmp_path, "clip_id,path,label,split\n1,a/../x,up,train\n")).clips[0].path == "a/../x"


def test_an_unknown_split_lists_the_known_ones(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, "clip_id,path,label,split\n1,x,up,train\n"))
    with pytest.raises(PipelineError, match=r"no clip in split 'val'. Its splits: train"):
        manifest.in_split("val")
