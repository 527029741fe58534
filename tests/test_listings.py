"""Folders and lists of users: other files are left out and counted, and every path leads to its file."""

from __future__ import annotations

import os
from pathlib import Path
from unicodedata import normalize

import av
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pipeline.cli import cli
from pipeline.manifest import read_manifest
from pipeline.prepare.findings import find
from pipeline.prepare.inspection import Inspected
from pipeline.video.suffixes import VIDEO_SUFFIXES, without_suffix
from pipeline.video.video_decoder import FORMATS
from tests.test_datasets import classes_of, manifest_of, prepare, write


@pytest.fixture(autouse=True)
def without_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        write(root / path, b"x")
    return root


def rows(tmp_path: Path) -> list[list[str]]:
    return [line.split(",") for line in manifest_of(tmp_path).splitlines()[1:]]


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 1, result.output
    for word in words:
        assert word in result.stderr
    assert not Path("manifests/m.csv").exists()


# Folders -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "beside",
    [
        *("__MACOSX/train/up/._1.mp4", "@eaDir/x.mp4", ".DS_Store", "README", "#recycle/up/9.mp4"),
        *("annotations/labels.csv", "lost+found/1.mp4", ".Trash/up/1.mp4", "System Volume Information/1.mp4"),
    ],
)
def test_what_lies_beside_folders_of_splits_makes_no_class(tmp_path: Path, beside: str) -> None:
    root = make(tmp_path / "data", "train/up/1.mp4", "train/down/1.mp4", "val/up/1.mp4", beside)
    result = prepare(tmp_path, "folders", root)
    assert result.exit_code == 0, result.output
    assert classes_of(tmp_path) == "class_id,label\n0,down\n1,up\n"
    assert [row[3] for row in rows(tmp_path)] == ["train", "train", "val"]
    assert beside.split("/")[0] in result.stderr


def test_system_folders_are_left_out_at_every_depth_and_counted(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "up/1.mp4", "up/@eaDir/1.mp4", "down/1.mp4", "down/@eaDir/1.mp4", "up/notes.txt")
    make(root, "down/a.srt", "down/b.srt", "down/cover.jpg", "up/._1.mp4", "stray.mp4")
    result = prepare(tmp_path, "folders", root, "--val-share", "0")
    assert [row[1] for row in rows(tmp_path)] == ["down/1.mp4", "up/1.mp4"]
    assert "Ignored because their suffix is not that of a clip or frame: 2 .srt, 1 .jpg, 1 .txt." in result.stderr
    assert "Ignored folders of operating systems and drives: 2 @eaDir." in result.stderr
    assert "1 videos in ROOT itself, without a class, such as stray.mp4" in result.stderr


def test_clips_in_folders_within_the_classes_are_found(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "wave/anna/1.mp4", "wave/ben/day 1/1.mp4", "clap/2.mp4", "clap/anna/f/00001.jpg")
    result = prepare(tmp_path, "folders", root, "--val-share", "0")
    assert [(row[0], row[2]) for row in rows(tmp_path)] == [
        ("clap/2", "clap"),
        ("clap/anna/f", "clap"),
        ("wave/anna/1", "wave"),
        ("wave/ben/day 1/1", "wave"),
    ]
    assert "Clips in subfolders of the classes are included: anna, ben" in result.stderr
    make(tmp_path / "splits", "train/wave/anna/1.mp4", "val/wave/ben/2.mp4")
    prepare(tmp_path, "folders", tmp_path / "splits")
    assert [row[2:] for row in rows(tmp_path)] == [["wave", "train"], ["wave", "val"]]


def test_a_class_called_train_is_a_class_and_splits_beside_classes_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "vehicles", "train/1.mp4", "bus/1.mp4")
    prepare(tmp_path, "folders", tmp_path / "vehicles", "--val-share", "0")
    assert classes_of(tmp_path) == "class_id,label\n0,bus\n1,train\n"
    Path("manifests/m.csv").unlink()
    make(tmp_path / "mixed", "train/up/1.mp4", "val/up/1.mp4", "extra/1.mp4")
    refused(prepare(tmp_path, "folders", tmp_path / "mixed"), "splits (train, val)", "extra")


def test_a_link_back_to_its_own_folder_is_not_followed(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "up/1.mp4", "down/1.mp4")
    (root / "up" / "again").symlink_to(root)
    (root / "up" / "loop.mp4").symlink_to(root / "up" / "loop.mp4")
    result = prepare(tmp_path, "folders", root, "--val-share", "0")
    assert [row[0] for row in rows(tmp_path)] == ["down/1", "up/1", "up/loop"]
    assert "1 again" in result.stderr


def test_links_between_folders_are_not_followed_in_a_circle(tmp_path: Path) -> None:
    make(tmp_path / "data", "up/1.mp4", "down/2.mp4")
    (tmp_path / "data/up/other").symlink_to(tmp_path / "data/down")
    (tmp_path / "data/down/other").symlink_to(tmp_path / "data/up")
    result = prepare(tmp_path, "folders", tmp_path / "data")
    assert result.exit_code == 0, result.output
    assert [row[1] for row in rows(tmp_path)] == [
        "down/2.mp4",
        "down/other/1.mp4",
        "up/1.mp4",
        "up/other/2.mp4",
    ]
    assert "2 other" in result.stderr


def test_no_folder_is_taken_for_a_clip_because_its_clips_are_deep_within(tmp_path: Path) -> None:
    deep = "up/" + "/".join("abcdefghijklm")
    make(tmp_path / "data", f"{deep}/1.mp4", "down/2.mp4")
    assert prepare(tmp_path, "folders", tmp_path / "data").exit_code == 0
    assert [row[1] for row in rows(tmp_path)] == ["down/2.mp4", f"{deep}/1.mp4"]
    Path("manifests/m.csv").unlink()
    make(tmp_path / "data", "up/" + 40 * "x/" + "1.mp4")
    refused(prepare(tmp_path, "folders", tmp_path / "data"), "more than 32 folders below")


def test_a_class_whose_name_is_composed_in_two_ways_is_not_called_empty(tmp_path: Path) -> None:
    make(tmp_path / "data", f"{normalize('NFC', 'é')}/1.mp4", f"{normalize('NFD', 'é')}/2.mp4", "x/1.mp4")
    result = prepare(tmp_path, "folders", tmp_path / "data")
    assert "are not classes" not in result.stderr
    assert classes_of(tmp_path) == "class_id,label\n0,x\n1,é\n"


def test_moving_images_in_a_class_are_clips(tmp_path: Path) -> None:
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    (tmp_path / "data" / "up").mkdir(parents=True)
    images[0].save(tmp_path / "data" / "up" / "1.webp", save_all=True, append_images=images[1:], lossless=True)
    images[0].save(tmp_path / "data" / "up" / "2.png", save_all=True, append_images=images[1:])
    images[0].save(tmp_path / "data" / "up" / "poster.png")
    result = prepare(tmp_path, "folders", tmp_path / "data", "--val-share", "0")
    assert [row[1] for row in rows(tmp_path)] == ["up/1.webp", "up/2.png"]
    assert "1 .png" in result.stderr


@pytest.mark.parametrize("path", [b"wave/pr\xe9nom.mp4", b"pr\xe9nom/1.mp4"])
def test_a_name_that_is_no_utf8_is_named(tmp_path: Path, path: bytes) -> None:
    make(tmp_path / "data", "wave/1.mp4", os.fsdecode(path))
    refused(prepare(tmp_path, "folders", tmp_path / "data"), "pr\\xe9nom", "not UTF-8")


def test_a_name_with_the_mark_of_hdf5_clips_is_named(tmp_path: Path) -> None:
    make(tmp_path / "data", "wave/1.mp4", "wave/a::b.mp4")
    refused(prepare(tmp_path, "folders", tmp_path / "data"), "a::b.mp4", "'::'")


def test_every_suffix_of_a_format_that_is_read_counts_as_a_clip() -> None:
    sound_or_stills = {"m4a", "m4b", "isma", "mka", "mks", "avif", "heic", "heif", "mpo"}
    formats = [name for name in FORMATS.split(",") if name not in ("mp3", "flac", "wav", "aac", "ac3")]
    suffixes = {suffix for name in formats for suffix in av.ContainerFormat(name, "r").extensions}
    assert {f".{suffix}" for suffix in suffixes - sound_or_stills} <= VIDEO_SUFFIXES
    assert {".mpg", ".vob", ".mts", ".m2ts", ".ogv", ".wmv", ".asf", ".ivf", ".apng", ".gif", ".3gp"} <= VIDEO_SUFFIXES


# CSVs ----------------------------------------------------------------------------------------------------------------


def csv(tmp_path: Path, *lines: str, header: str = "path,label,split", encoding: str = "utf-8") -> Result:
    Path("list.csv").write_text("\n".join((header, *lines)) + "\n", encoding=encoding)
    return prepare(tmp_path, "csv", tmp_path / "data", "list.csv")


def test_absolute_paths_below_the_root_are_taken_and_others_named(tmp_path: Path) -> None:
    make(tmp_path / "data", "up/1.mp4", "up/2.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    result = csv(tmp_path, f"{tmp_path}/data/up/1.mp4,up,train", f"{tmp_path}/data/./up//2.mp4,up,val")
    assert result.exit_code == 0, result.output
    assert [row[:2] for row in rows(tmp_path)] == [["up/1", "up/1.mp4"], ["up/2", "up/2.mp4"]]
    result = prepare(tmp_path, "csv", tmp_path / "link", "list.csv")
    assert result.exit_code == 0, result.output
    Path("manifests/m.csv").unlink()
    for path in ("/elsewhere/1.mp4", "../1.mp4", "up/../../1.mp4", "C:\\data\\1.mp4"):
        refused(csv(tmp_path, f"{path},up,train"), "list.csv, line 2", "is not below")


def test_full_stops_in_names_are_no_suffix(tmp_path: Path) -> None:
    make(tmp_path / "data", "v1.2/00001.jpg", "v1.3/00001.jpg", "a.b/x.y.mp4")
    csv(tmp_path, "v1.2,up,train", "v1.3,up,train", "a.b/x.y.mp4,up,val")
    assert [row[0] for row in rows(tmp_path)] == ["v1.2", "v1.3", "a.b/x.y"]
    assert without_suffix("a.b/v1.2") == "a.b/v1.2"


def test_files_that_differ_in_their_suffix_alone_are_two_clips(tmp_path: Path) -> None:
    make(tmp_path / "data", "a.mp4", "a.gif", "b.mp4")
    csv(tmp_path, "a.mp4,up,train", "a.gif,up,val", "b.mp4,up,val")
    assert [row[0] for row in rows(tmp_path)] == ["a.mp4", "a.gif", "b"]
    Path("manifests/m.csv").unlink()
    refused(csv(tmp_path, "a.mp4,up,train", "a.mp4,up,val"), "line 3", "line 2", "clip_id")


def test_ids_without_suffix_find_their_files(tmp_path: Path) -> None:
    make(tmp_path / "data", "007.mp4", "x/8.webm", "9.mp4", "9.avi", "10/00001.jpg")
    result = csv(tmp_path, "007,up,train", "x/8,up,train", "9,up,val", "10,up,val", header="id,label,split")
    assert [row[:2] for row in rows(tmp_path)] == [["007", "007.mp4"], ["x/8", "x/8.webm"], ["9", "9"], ["10", "10"]]
    assert "9: missing" in result.stderr
    assert "could be any of 9.avi, 9.mp4" in result.stderr
    assert "2 without the suffix" in result.stderr


def test_backslashes_are_slashes_unless_a_file_is_called_so(tmp_path: Path) -> None:
    make(tmp_path / "data", "up/1.mp4", "odd\\2.mp4")
    result = csv(tmp_path, "up\\1.mp4,up,train", "odd\\2.mp4,up,val")
    assert [row[1] for row in rows(tmp_path)] == ["up/1.mp4", "odd\\2.mp4"]
    assert [row[0] for row in rows(tmp_path)] == ["up/1", "odd/2"]
    assert "1 with backslashes" in result.stderr


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_list_of_a_spreadsheet_is_read(tmp_path: Path, encoding: str) -> None:
    make(tmp_path / "data", "é.mp4")
    assert csv(tmp_path, "é.mp4,up,train", encoding=encoding).exit_code == 0
    assert rows(tmp_path) == [["é", "é.mp4", "up", "train"]]


def test_a_list_in_another_encoding_is_named(tmp_path: Path) -> None:
    make(tmp_path / "data", "é.mp4")
    refused(csv(tmp_path, "é.mp4,up,train", encoding="latin-1"), "list.csv", "UTF-8")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_may_stand_in_the_first_line(tmp_path: Path, delimiter: str) -> None:
    make(tmp_path / "data", "1.mp4", "2.mp4")
    lines = [delimiter.join(fields) for fields in (("1.mp4", "a,b", "train"), ("2.mp4", "a,b", "val"))]
    lines = [line.replace("a,b", '"a,b"') for line in lines]
    header = f"sep={delimiter}\n" + delimiter.join(("path", "label", "split"))
    assert csv(tmp_path, *lines, header=header).exit_code == 0
    assert rows(tmp_path)[0][:2] == ["1", "1.mp4"]
    Path("manifests/m.csv").unlink()
    refused(csv(tmp_path, lines[0], "2.mp4", header=header), "list.csv, line 4")


def test_a_column_that_occurs_twice_and_a_list_without_rows_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "data", "1.mp4")
    refused(csv(tmp_path, "1.mp4,up,train,x", header="path,label,split,label"), "'label' more than once")
    refused(csv(tmp_path, header="path,label,split"), "list.csv has a header, but no rows")


@pytest.mark.parametrize(("on_disk", "in_list"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_composed_otherwise_than_on_disk(tmp_path: Path, on_disk: str, in_list: str) -> None:
    make(tmp_path / "data", normalize(on_disk, "fé/é.mp4"), normalize(on_disk, "fé/à.mp4"))
    result = csv(tmp_path, *(normalize(in_list, f"fé/{name},é,train") for name in ("é.mp4", "à")))
    assert result.exit_code == 0, result.output
    assert [row[1] for row in rows(tmp_path)] == [normalize(on_disk, f"fé/{name}.mp4") for name in "éà"]
    assert "cannot be used" not in result.stderr
    assert "2 with accents" in result.stderr


def test_labels_that_look_the_same_are_one_class(tmp_path: Path) -> None:
    make(tmp_path / "data", "1.mp4", "2.mp4")
    csv(tmp_path, normalize("NFC", "1.mp4,é,train"), normalize("NFD", "2.mp4,é,val"))
    assert classes_of(tmp_path) == "class_id,label\n0,é\n"
    make(tmp_path / "f", normalize("NFC", "train/é/1.mp4"), normalize("NFD", "val/é/1.mp4"))
    prepare(tmp_path, "folders", tmp_path / "f")
    assert classes_of(tmp_path) == "class_id,label\n0,é\n"


def test_capitals_are_named_where_they_differ(tmp_path: Path) -> None:
    make(tmp_path / "data", "Up/1.MP4", "Up/2.mp4")
    result = csv(tmp_path, "Up/1.mp4,up,train", "Up/2.mp4,up,val")
    assert "There is 1.MP4: paths are case-sensitive" in result.stderr


def test_a_folder_is_no_hdf5_file(tmp_path: Path) -> None:
    make(tmp_path / "data", "a/1.mp4", "a::b.mp4")
    refused(csv(tmp_path, "a::b.mp4,up,train"), "a::b.mp4", "'::'")
    Path("m.csv").write_text("clip_id,path,label,split\n1,a::c,up,train\n")
    Path("m.classes.csv").write_text("class_id,label\n0,up\n")
    result = CliRunner().invoke(cli, ["check", "m.csv", "--root", "data"])
    assert "unreadable: 1" in result.stdout
    assert "is a folder, not an HDF5 file" in result.stdout


def test_a_csv_names_a_file_with_the_mark_of_hdf5_clips(tmp_path: Path) -> None:
    make(tmp_path / "data", "a::b.mp4")
    refused(csv(tmp_path, "a::b.mp4,up,train"), "'::'", "Rename it")


@pytest.mark.parametrize("line", ["1.mp4,up,", ",up,train", "1.mp4,up,train\n1.mp4,up,train", "x\0.mp4,up,train"])
def test_prepare_writes_nothing_that_is_not_valid(tmp_path: Path, line: str) -> None:
    make(tmp_path / "data", "1.mp4")
    Path("list.csv").write_text(f"path,label,split\n{line}\n2.mp4,down,val\n", encoding="utf-8")
    result = prepare(tmp_path, "csv", tmp_path / "data", "list.csv")
    if "\0" in line:  # a clip like any other that is missing
        assert "missing" in result.stderr
    else:
        refused(result)


# Lists of the TSN family ---------------------------------------------------------------------------------------------


def test_mmaction2_lists_of_videos_give_classes(tmp_path: Path) -> None:
    names = ["drinking (31).mp4", "lecture 2 3.mp4", "a.b.MKV", "x/c.gif"]
    make(tmp_path / "data", *names)
    Path("category.txt").write_text("drinking\nlecture\n")
    Path("train_list.txt").write_text(f"{names[0]} 0\n{names[1]} 1\n{names[2]}\t1\n")
    Path("val_list.txt").write_text(f"{tmp_path}/data/{names[3]} 0\n")
    result = prepare(tmp_path, "frame-lists", tmp_path / "data", "train_list.txt", "val_list.txt")
    assert result.exit_code == 0, result.output
    assert manifest_of(tmp_path) == (
        "clip_id,path,label,split\n"
        + "".join(
            f"{name},{name},{label},train\n"
            for name, label in zip(names[:3], ["drinking", "lecture", "lecture"], strict=True)
        )
        + f"{names[3]},{names[3]},drinking,val\n"
    )
    assert "lists of videos" in result.stderr
    assert "cannot be used" not in result.stderr


def test_a_video_with_two_numbers_is_refused_and_a_missing_one_named(tmp_path: Path) -> None:
    make(tmp_path / "data", "a.mp4", "b.mp4")
    Path("category.txt").write_text("up\ndown\n")
    Path("train.txt").write_text("a.mp4 0 1\n")
    refused(prepare(tmp_path, "frame-lists", tmp_path / "data", "train.txt"), "two numbers", "path class_index")
    Path("train.txt").write_text("a.mp4 0\nc.mp4 1\n")
    result = prepare(tmp_path, "frame-lists", tmp_path / "data", "train.txt")
    assert "c.mp4: missing" in result.stderr
    Path("train.txt").write_text("a.mp4 0\nb.mp4 2\n")
    assert "class index 2" in prepare(tmp_path, "frame-lists", tmp_path / "data", "train.txt").stderr


def test_files_in_a_list_of_two_fields_have_a_class_whatever_their_names(tmp_path: Path) -> None:
    make(tmp_path / "data", "v1.mp4", "v2.webm", "x/3.webp", "4.png", "with space.mp4")
    Path("category.txt").write_text("up\ndown\n")
    Path("train.txt").write_text("v1 0\nx/3.webp 1\n4.png 1\nwith space.mp4\t0\n")
    Path("val.txt").write_text("v2 1\n")
    result = prepare(tmp_path, "frame-lists", tmp_path / "data", "train.txt", "val.txt")
    assert result.exit_code == 0, result.output
    assert "cannot be used" not in result.stderr
    assert manifest_of(tmp_path) == (
        "clip_id,path,label,split\n"
        "v1.mp4,v1.mp4,up,train\n"
        "x/3.webp,x/3.webp,down,train\n"
        "4.png,4.png,down,train\n"
        "with space.mp4,with space.mp4,up,train\n"
        "v2.webm,v2.webm,down,val\n"
    )


def test_a_file_without_suffix_in_the_list_has_one_number_too(tmp_path: Path) -> None:
    make(tmp_path / "data", "v1.mp4", "v2.mp4")
    Path("category.txt").write_text("up\ndown\n")
    Path("train.txt").write_text("v1 0\nv2 30 1\n")
    refused(prepare(tmp_path, "frame-lists", tmp_path / "data", "train.txt"), "line 2", "two numbers", "v2.mp4")
    Path("train.txt").write_text("v1 0\nv2 2\n")
    refused(prepare(tmp_path, "frame-lists", tmp_path / "data", "train.txt"), "class index 2 is out of range")


# check ---------------------------------------------------------------------------------------------------------------


def test_both_faults_of_one_pair_are_found(tmp_path: Path) -> None:
    Path("m.csv").write_text("clip_id,path,label,split\n1,a,up,train\n2,b,down,val\n3,c,up,val\n4,d,down,val\n")
    Path("m.classes.csv").write_text("class_id,label\n0,up\n1,down\n")
    manifest = read_manifest("m.csv")
    digests = {"1": "x", "2": "x", "3": "y", "4": "y"}
    seen = {clip_id: Inspected(clip_id, num_frames=1, digest=digest) for clip_id, digest in digests.items()}
    found = [(finding.kind, finding.clip_id) for finding in find(manifest, seen) if finding.clip_id]
    assert found == [("two-splits", "2"), ("two-labels", "2"), ("two-labels", "4")]


def test_check_counts_frames_of_moving_images(tmp_path: Path) -> None:
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    (tmp_path / "up").mkdir()
    for suffix in ("webp", "png"):
        images[0].save(tmp_path / "up" / f"1.{suffix}", save_all=True, append_images=images[1:])
    assert prepare(tmp_path, "folders", tmp_path, "--val-share", "0").exit_code == 0
    result = CliRunner().invoke(cli, ["check", "manifests/m.csv", "--root", ".", "--decode", "--workers", "0"])
    assert "Decoded 2 clips, 6 frames." in result.output
