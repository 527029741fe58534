"""Miniature data sets in every layout, oddities included: their manifests equal ones written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.cli import cli
from pipeline.errors import ClipError
from pipeline.manifest import read_manifest
from pipeline.prepare.directory_scan import find_clips
from pipeline.prepare.gestures.encode import write_frame_folder
from pipeline.splitting import LabelledId, stratified_split
from pipeline.video.decode import open_clip
from tests.conftest import REPOSITORY

JESTER_CLASSES = 'class_id,label\n0,Zooming In; Slowly\n1,"Drawing a ""V"""\n2,Swiping Left\n3,Swiping Right\n'
# BOM, CRLF, an empty last line; a semicolon and quotes in labels.
JESTER_LABELS = '\ufeffZooming In; Slowly\r\nDrawing a "V"\r\nSwiping Left\r\nSwiping Right\r\n\r\n'
JESTER_TRAIN = '\ufeff007;Drawing a "V"\r\n7;Zooming In; Slowly\r\n34;Swiping Left\r\n'
JESTER_VALIDATION = '12;"Drawing a ""V"""\n13;Swiping Right\n'
JESTER_MANIFEST = """clip_id,path,label,split,num_frames
007,20bn-jester-v1/007,"Drawing a ""V""\",train,3
7,20bn-jester-v1/7,Zooming In; Slowly,train,2
34,20bn-jester-v1/34,Swiping Left,train,
12,20bn-jester-v1/12,"Drawing a ""V""\",val,
13,20bn-jester-v1/13,Swiping Right,val,1
90,20bn-jester-v1/90,{answer},test,2
"""


def write(path: Path, text: str | bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def write_jester_frames(folder: Path) -> None:
    """34 is missing; 12 has a gap in its frame numbers; 7 has suffixes in capitals and begins with 0."""
    names = {
        "007": ["00001.jpg", "00002.jpg", "00003.jpg"],
        "7": ["00000.JPG", "00001.JPG"],
        "12": ["00001.jpg", "00003.jpg"],
        "13": ["00001.jpg", "Thumbs.db"],
        "90": ["00001.jpg", "00002.jpg"],
        "555": ["00001.jpg"],
    }
    for clip_id, frames in names.items():
        for name in frames:
            write(folder / clip_id / name)


def prepare(tmp_path: Path, *arguments: str | Path) -> Result:
    out = tmp_path / "manifests" / "m.csv"
    return CliRunner().invoke(cli, ["prepare", *map(str, arguments), "--out", str(out)], catch_exceptions=False)


def manifest_of(tmp_path: Path) -> str:
    return (tmp_path / "manifests" / "m.csv").read_text(encoding="utf-8")


def classes_of(tmp_path: Path) -> str:
    return (tmp_path / "manifests" / "m.classes.csv").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def without_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("named", ["jester-v1-{}.csv", "labels/{}.csv"])
def test_jester_in_both_layouts_without_a_header(tmp_path: Path, named: str) -> None:
    root = tmp_path / "data"
    write_jester_frames(root / "20bn-jester-v1")
    write(root / named.format("labels"), JESTER_LABELS)
    write(root / named.format("train"), JESTER_TRAIN)
    write(root / named.format("validation"), JESTER_VALIDATION)
    write(root / named.format("test"), "90\r\n")
    result = prepare(tmp_path, "jester", root)
    assert result.exit_code == 0, result.output
    assert manifest_of(tmp_path) == JESTER_MANIFEST.format(answer="")
    assert classes_of(tmp_path) == JESTER_CLASSES
    assert f"Layout: {'newer' if '/' in named else 'original'}" in result.stderr
    assert "train has 3 clips, but 118,562 were published" in result.stderr
    assert "there are 4 classes, but 27 were published" in result.stderr
    assert "2 of 6 clips cannot be used" in result.stderr
    assert "34: missing: 20bn-jester-v1/34 does not exist" in result.stderr
    assert "12: frame-gap:" in result.stderr
    assert "6 clips (train 3, val 2, test 1, 1 without a label)" in result.stdout
    assert "Classes in the order of the data set's own files." in result.stderr
    assert "2 Swiping Left <-> 3 Swiping Right" in result.stdout


def test_jesters_test_answers_are_used_if_they_exist(tmp_path: Path) -> None:
    root = tmp_path / "data"
    # Archives are often unpacked into a folder with the same name.
    write_jester_frames(root / "20bn-jester-v1" / "20bn-jester-v1")
    for name, text in [("labels", JESTER_LABELS), ("train", JESTER_TRAIN), ("validation", JESTER_VALIDATION)]:
        write(root / "labels" / f"{name}.csv", text)
    write(root / "labels" / "test.csv", "90\n")
    write(root / "labels" / "test-answers.csv", "90;Zooming In; Slowly\n")
    result = prepare(tmp_path, "jester", root, "--class-order", "sorted")
    expected = JESTER_MANIFEST.format(answer="Zooming In; Slowly")
    assert manifest_of(tmp_path) == expected.replace("20bn-jester-v1/", "20bn-jester-v1/20bn-jester-v1/")
    assert classes_of(tmp_path).splitlines()[1:] == [
        '0,"Drawing a ""V"""',
        "1,Swiping Left",
        "2,Swiping Right",
        "3,Zooming In; Slowly",
    ]
    assert "test labels from test-answers.csv" in result.stderr
    assert "Classes in sorted order" in result.stderr


def test_jester_as_csvs_with_a_header_in_folders_of_splits(tmp_path: Path) -> None:
    root = tmp_path / "data"
    header = "video_id,label,frames,label_id,shape,format\n"
    write(root / "Train.csv", header + '007,"Drawing a ""V""",3,1,"(100, 176)",jpg\n7,Zooming In; Slowly,2,0,x,jpg\n')
    write(root / "Validation.csv", header + "13,Swiping Right,1,3,x,jpg\n12,Swiping Left,2,2,x,jpg\n")
    write(root / "Test.csv", "id,frames,shape,format\n90,2,x,jpg\n")
    for clip in ("Train/007", "Train/7", "Validation/13", "Test/90"):
        write(root / clip / "00001.jpg")
    result = prepare(tmp_path, "jester", root)
    assert result.exit_code == 0, result.output
    assert classes_of(tmp_path) == JESTER_CLASSES
    assert manifest_of(tmp_path) == (
        'clip_id,path,label,split,num_frames\n007,Train/007,"Drawing a ""V""",train,1\n'
        "7,Train/7,Zooming In; Slowly,train,1\n13,Validation/13,Swiping Right,val,1\n"
        "12,Train/12,Swiping Left,val,\n90,Test/90,,test,1\n"
    )


def test_a_label_that_is_no_class_is_refused_with_its_line(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_jester_frames(root)
    write(root / "jester-v1-labels.csv", JESTER_LABELS)
    write(root / "jester-v1-train.csv", "7;Swiping Left\n13;Swiping Leftish\n")
    result = prepare(tmp_path, "jester", root)
    assert result.exit_code == 1
    assert "jester-v1-train.csv, line 2: the label 'Swiping Leftish' is not among the 4" in result.stderr


def test_a_clip_in_two_splits_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_jester_frames(root)
    write(root / "jester-v1-labels.csv", JESTER_LABELS)
    write(root / "jester-v1-train.csv", "7;Swiping Left\n")
    write(root / "jester-v1-validation.csv", "7;Swiping Left\n")
    result = prepare(tmp_path, "jester", root)
    assert result.exit_code == 1
    assert "the clip '7' is also in" in result.stderr


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("jester", "no training list of Jester"),
        ("something-v2", "no training list of Something-Something"),
        ("ucf101", "lacks split files of UCF101"),
        ("hmdb51", "no split files of HMDB51"),
        ("folders", "no clips in folders of classes"),
        ("frame-lists", "needs the lists"),
        ("csv", "needs the CSV"),
    ],
)
def test_an_empty_folder_is_a_sentence(tmp_path: Path, dataset: str, words: str) -> None:
    (tmp_path / "data").mkdir()
    result = prepare(tmp_path, dataset, tmp_path / "data")
    assert result.exit_code == 1
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_a_root_without_any_of_the_clips_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root / "jester-v1-labels.csv", JESTER_LABELS)
    write(root / "jester-v1-train.csv", JESTER_TRAIN)
    result = prepare(tmp_path, "jester", root)
    assert result.exit_code == 1
    assert "None of the 3 clips" in result.stderr


SOMETHING_CLASSES = {
    "Putting something on something": "0",
    "Pulling something from left to right": "2",
    'A "b"; c': "3",
}
SOMETHING_CLASSES["Pulling something from right to left"] = "1"
SOMETHING_MANIFEST = """clip_id,path,label,split
0042,20bn-something-something-v2/0042.webm,Putting something on something,train
42,20bn-something-something-v2/42.WEBM,"A ""b""; c",train
9,20bn-something-something-v2/9.webm,Pulling something from left to right,val
100,20bn-something-something-v2/100.webm,{answer},test
"""


def something_files() -> dict[str, str]:
    train = [
        {"id": "0042", "label": "putting cup on [table]", "template": "Putting [something] on [something]"},
        {"id": 42, "label": "x", "template": 'A "b"; c', "placeholders": []},
    ]
    validation = [{"id": "9", "label": "y", "template": "Pulling [something] from left to right"}]
    return {
        "labels": "\ufeff" + json.dumps(SOMETHING_CLASSES),
        "train": json.dumps(train).replace(",", ",\r\n"),
        "validation": json.dumps(validation),
        "test": json.dumps([{"id": "100"}]),
    }


@pytest.mark.parametrize("named", ["something-something-v2-{}.json", "labels/{}.json"])
@pytest.mark.parametrize("answers", [False, True])
def test_something_something_in_both_layouts(tmp_path: Path, named: str, answers: bool) -> None:
    root = tmp_path / "data"
    for name, text in something_files().items():
        write(root / named.format(name), text)
    if answers:
        write(root / "labels" / "test-answers.csv", '100;A "b"; c\r\n')
    for name in ("0042.webm", "42.WEBM", "100.webm", "._9.webm"):  # 9 is missing, but for what macOS leaves
        write(root / "20bn-something-something-v2" / name, b"x")
    result = prepare(tmp_path, "something-v2", root)
    assert result.exit_code == 0, result.output
    assert manifest_of(tmp_path) == SOMETHING_MANIFEST.format(answer='"A ""b""; c"' if answers else "")
    assert classes_of(tmp_path).splitlines()[1:] == [
        "0,Putting something on something",
        "1,Pulling something from right to left",
        "2,Pulling something from left to right",
        '3,"A ""b""; c"',
    ]
    assert "9: missing: 20bn-something-something-v2/9.webm does not exist" in result.stderr
    assert "1 Pulling something from right to left <-> 2 Pulling something from left to right" in result.stdout


@pytest.mark.parametrize("template", ["{:05d}.jpg", "{:06d}.png", "img_{:05d}.JPG"])
@pytest.mark.parametrize("first", [0, 1])
def test_frame_lists_with_any_template(tmp_path: Path, template: str, first: int) -> None:
    root = tmp_path / "frames"
    for clip, num_frames in {"0001": 3, "a b/2": 2, "3": 2}.items():
        for number in range(first, first + num_frames):
            write(root / clip / template.format(number))
    write(tmp_path / "lists" / "category.txt", "up\r\ndown\r\n")
    write(tmp_path / "lists" / "train_videofolder.txt", f"0001 3 1\r\n{root}/a b/2 2 0\r\n")
    write(tmp_path / "lists" / "val_videofolder.txt", "3 4 0\nabsent 9 1\n")
    lists = [tmp_path / "lists" / f"{split}_videofolder.txt" for split in ("train", "val")]
    result = prepare(tmp_path, "frame-lists", root, *lists)
    assert result.exit_code == 0, result.output
    assert manifest_of(tmp_path) == (
        "clip_id,path,label,split,num_frames\n0001,0001,down,train,3\na b/2,a b/2,up,train,2\n"
        "3,3,up,val,4\nabsent,absent,down,val,9\n"
    )
    assert "3: frame-count: 3 has 2 frames, but 4 in" in result.stderr
    assert f"absent: missing: {root}/absent does not exist" in result.stderr
    assert "2 of 4 clips cannot be used" in result.stderr


def test_frame_lists_without_a_clip_on_disk_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "frames"
    root.mkdir()
    write(tmp_path / "category.txt", "up\ndown\n")
    write(tmp_path / "train_videofolder.txt", "a 3 1\nb 2 0\n")
    result = prepare(tmp_path, "frame-lists", root, tmp_path / "train_videofolder.txt")
    assert result.exit_code == 1, result.output
    assert f"None of the 2 clips in the lists is below {root}" in result.stderr
    assert not (tmp_path / "out.csv").exists()


def test_missing_clips_of_frame_lists_are_named_as_check_and_extract_name_them(tmp_path: Path) -> None:
    root = tmp_path / "frames"
    write(root / "b" / "1.jpg")
    write(root / "b" / "2.jpg")
    write(tmp_path / "category.txt", "up\ndown\n")
    write(tmp_path / "train_videofolder.txt", "a 3 1\nb 2 0\n")
    result = prepare(tmp_path, "frame-lists", root, tmp_path / "train_videofolder.txt")
    assert result.exit_code == 0, result.output
    assert manifest_of(tmp_path) == "clip_id,path,label,split,num_frames\na,a,down,train,3\nb,b,up,train,2\n"
    assert "1 of 2 clips cannot be used" in result.stderr
    with pytest.raises(ClipError) as opened:
        open_clip(root / "a")
    assert opened.value.kind == "missing"
    assert f"a: {opened.value.kind}: {opened.value}" in result.stderr


def test_frame_lists_count_classes_from_one_where_the_last_index_says_so(tmp_path: Path) -> None:
    for clip in "abc":
        write(tmp_path / "f" / clip / "1.jpg")
    write(tmp_path / "f" / "category.txt", "up\ndown\n")
    write(tmp_path / "train.txt", "a 1 1\nb 1 2\nc 1 2\n")
    result = prepare(tmp_path, "frame-lists", tmp_path / "f", tmp_path / "train.txt")
    assert "a,a,up,train,1\nb,b,down,train,1\n" in manifest_of(tmp_path)
    assert "start at 1" in result.stderr
    write(tmp_path / "train.txt", "a 1 1\nb 1 3\n")
    result = prepare(tmp_path, "frame-lists", tmp_path / "f", tmp_path / "train.txt")
    assert result.exit_code == 1
    assert "class index 3 is out of range for the 2" in result.stderr


def test_a_test_list_of_class_zero_only_is_unlabelled(tmp_path: Path) -> None:
    for clip in "abcd":
        write(tmp_path / "f" / clip / "1.jpg")
    write(tmp_path / "f" / "category.txt", "up\ndown\n")
    write(tmp_path / "train_videofolder.txt", "a 1 0\nb 1 1\n")
    write(tmp_path / "test_videofolder.txt", "c 1 0\nd 1 0\n")
    lists = [tmp_path / f"{split}_videofolder.txt" for split in ("train", "test")]
    result = prepare(tmp_path, "frame-lists", tmp_path / "f", *lists)
    assert manifest_of(tmp_path).endswith("c,c,,test,1\nd,d,,test,1\n")
    assert "treated as unlabelled" in result.stderr


def test_folders_of_classes_get_a_stratified_seeded_split(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number in range(10):
        write(root / "wave" / f"{number:02d}.mp4", b"x")
    for number in range(5):
        write(root / "nod" / f"{number}" / "00001.jpg")
    write(root / "nod" / "4.MP4", b"x")  # beside the folder of the same name
    write(root / "wave" / "notes.txt")
    (root / "empty").mkdir()
    result = prepare(tmp_path, "folders", root, "--val-share", "0.3", "--seed", "5")
    assert result.exit_code == 0, result.output
    assert classes_of(tmp_path) == "class_id,label\n0,nod\n1,wave\n"
    lines = manifest_of(tmp_path).splitlines()[1:]
    assert len(lines) == 16
    assert sum(line.endswith(",wave,val") for line in lines) == 3
    assert sum(line.endswith(",nod,val") for line in lines) == 2
    assert [line.split(",")[0] for line in lines[:6]] == ["nod/0", "nod/1", "nod/2", "nod/3", "nod/4", "nod/4.MP4"]
    assert "Folders without a clip are not classes: empty" in result.stderr
    assert prepare(tmp_path, "folders", root, "--val-share", "0.3", "--seed", "5").exit_code == 0
    assert manifest_of(tmp_path).splitlines()[1:] == lines


def test_folders_of_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for path in ("Train/up/1.mp4", "Train/down/1.mp4", "validation/up/1.mp4", "test/9.mp4"):
        write(root / path, b"x")
    result = prepare(tmp_path, "folders", root)
    assert result.exit_code == 0, result.output
    assert manifest_of(tmp_path) == (
        "clip_id,path,label,split\nTrain/down/1,Train/down/1.mp4,down,train\nTrain/up/1,Train/up/1.mp4,up,train\n"
        "validation/up/1,validation/up/1.mp4,up,val\ntest/9,test/9.mp4,,test\n"
    )


def test_a_drawn_split_changes_with_its_seed_and_hardly_with_new_clips() -> None:
    clips = [LabelledId(f"{label}{number}", label) for label in "ab" for number in range(100)]
    split = stratified_split(clips, 0.2, 0)
    assert sum(value == "val" for value in split.values()) == 40
    assert split != stratified_split(clips, 0.2, 1)
    wider = stratified_split([*clips, LabelledId("a100", "a")], 0.2, 0)
    assert sum(wider[clip] != split[clip] for clip in split) <= 1
    assert set(stratified_split([LabelledId("x", "c"), LabelledId("y", "c")], 0.1, 0).values()) == {"train", "val"}
    assert stratified_split([LabelledId("x", "c")], 0.5, 0) == {"x": "train"}
    assert set(stratified_split(clips, 0.0, 0).values()) == {"train"}


def test_a_csv_with_recognised_columns(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.mp4", b"x")
    write(
        tmp_path / "mine.csv",
        '\ufeffFile;Gesture;Subset;Person\r\na.mp4;"up; quickly";training;Ann\r\nb.mp4;;TEST;\r\n',
    )
    result = prepare(tmp_path, "csv", tmp_path / "data", tmp_path / "mine.csv")
    assert result.exit_code == 0, result.output
    assert manifest_of(tmp_path) == ("clip_id,path,label,split,Person\na,a.mp4,up; quickly,train,Ann\nb,b.mp4,,test,\n")
    assert "label in 'Gesture'" in result.stderr
    assert "b: missing" in result.stderr


def test_a_csv_with_columns_named_and_classes_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "data" / "classes.txt", "up\ndown\n")
    for name in "ab":
        write(tmp_path / "data" / f"{name}.mp4", b"x")
    write(tmp_path / "data" / "mine.csv", "where,what,label\na.mp4,down,1\nb.mp4,up,2\n")
    arguments = ("csv", tmp_path / "data", tmp_path / "data" / "mine.csv", "--columns", "path=where,label=what")
    result = prepare(tmp_path, *arguments)
    assert result.exit_code == 0, result.output
    assert classes_of(tmp_path) == "class_id,label\n0,up\n1,down\n"
    result = prepare(tmp_path, *arguments[:-1], "path=wher,label=what")
    assert result.exit_code == 1
    assert "Did you mean 'where'?" in result.stderr


def test_several_csvs_have_their_splits_in_their_names(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("validation", "b")):
        write(tmp_path / f"{split}.csv", f"path,label\n{name}.mp4,up\n")
        write(tmp_path / "data" / f"{name}.mp4", b"x")
    result = prepare(tmp_path, "csv", tmp_path / "data", tmp_path / "train.csv", tmp_path / "validation.csv")
    assert result.exit_code == 0, result.output
    assert manifest_of(tmp_path) == "clip_id,path,label,split\na,a.mp4,up,train\nb,b.mp4,up,val\n"


def test_ucf101_reads_one_fold(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root / "ucfTrainTestlist" / "classInd.txt", "1 YoYo\r\n2 Archery\r\n")
    write(
        root / "ucfTrainTestlist" / "trainlist02.txt",
        "YoYo/v_YoYo_g01_c01.avi 1\r\nArchery/v_Archery_g01_c02.avi 2\r\n",
    )
    write(root / "ucfTrainTestlist" / "testlist02.txt", "YoYo/v_YoYo_g02_c01.avi\n")
    for path in ("YoYo/v_YoYo_g01_c01.avi", "YoYo/v_YoYo_g02_c01.mp4"):
        write(root / "UCF-101" / path, b"x")
    result = prepare(tmp_path, "ucf101", root, "--fold", "2")
    assert result.exit_code == 0, result.output
    assert manifest_of(tmp_path) == (
        "clip_id,path,label,split\nYoYo/v_YoYo_g01_c01,UCF-101/YoYo/v_YoYo_g01_c01.avi,YoYo,train\n"
        "Archery/v_Archery_g01_c02,UCF-101/Archery/v_Archery_g01_c02.avi,Archery,train\n"
        "YoYo/v_YoYo_g02_c01,UCF-101/YoYo/v_YoYo_g02_c01.mp4,YoYo,val\n"
    )
    assert classes_of(tmp_path) == "class_id,label\n0,YoYo\n1,Archery\n"
    assert "Archery/v_Archery_g01_c02: missing" in result.stderr
    assert "train has 2 clips, but 9,586 were published" in result.stderr


def test_hmdb51_reads_one_fold_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    root = tmp_path / "data"
    splits = root / "testTrainMulti_7030_splits"
    write(splits / "wave_test_split1.txt", "a_#1.avi 1 \r\nb.avi 2 \r\nc.avi 0 \r\n")
    write(splits / "brush_hair_test_split1.txt", "a_#1.avi 1\n")
    write(splits / "wave_test_split2.txt", "c.avi 1\n")
    for path in ("wave/a_#1.avi", "wave/b.avi", "wave/c.avi", "brush_hair/a_#1.avi"):
        write(root / path, b"x")
    result = prepare(tmp_path, "hmdb51", root)
    assert result.exit_code == 0, result.output
    assert manifest_of(tmp_path) == (
        "clip_id,path,label,split\nbrush_hair/a_#1,brush_hair/a_#1.avi,brush_hair,train\n"
        "wave/a_#1,wave/a_#1.avi,wave,train\nwave/b,wave/b.avi,wave,val\n"
    )
    assert "1 clips have the mark 0" in result.stderr


def test_where_clips_lie_twice_the_fuller_folder_counts(tmp_path: Path) -> None:
    for path in ("videos/1.webm", "videos/2.webm", "sample/1.webm", "other/deep/er/still/3.webm"):
        write(tmp_path / path, b"x")
    found = find_clips(tmp_path, {"1", "2", "3"})
    assert found.path_of == {"1": "videos/1.webm", "2": "videos/2.webm"}  # 3 lies deeper than is looked
    assert found.doubled == {"sample": 1}


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("jester", [(0, 1), (6, 7), (14, 15)]),
        ("something_v2", [(86, 87), (93, 94), (166, 167)]),
    ],
)
def test_prepare_prints_the_pairs_that_a_flip_swaps(name: str, pairs: list[tuple[int, int]]) -> None:
    from pipeline.prepare.flip_policy import flip_policy

    path = REPOSITORY / "pipeline" / "prepare" / "labels" / f"{name}.txt"
    labels = path.read_text(encoding="utf-8").splitlines()
    first, *lines = flip_policy(labels).splitlines()
    assert first.startswith("Flip: --flip swap swaps 3 pairs")
    assert lines == [f"  {a} {labels[a]} <-> {b} {labels[b]}" for a, b in pairs]


def test_a_side_without_a_partner_leaves_only_flip_off() -> None:
    from pipeline.prepare.flip_policy import flip_policy

    text = flip_policy(["Swiping Left", "still"])
    assert text.startswith("Flip: only --flip off is correct.")
    assert "'Swiping Left'" in text
    assert "changes no label" in flip_policy(["up", "down"])


def test_packing_writes_one_file_goes_on_and_keeps_faulty_rows(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for clip, seed in (("wave/1", 1), ("wave/2", 2), ("nod/1", 3)):
        write_frame_folder(root / clip, np.random.default_rng(seed).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8))
    (root / "wave" / "2" / "00002.jpg").unlink()
    write(root / "nod" / "2" / "notes.txt")
    result = prepare(tmp_path, "folders", root, "--pack", tmp_path / "packs" / "frames.h5", "--val-share", "0")
    assert result.exit_code == 0, result.output
    assert manifest_of(tmp_path) == (
        "clip_id,path,label,split\nnod/1,frames.h5::nod/1,nod,train\nnod/2,frames.h5::nod/2,nod,train\n"
        "wave/1,frames.h5::wave/1,wave,train\nwave/2,frames.h5::wave/2,wave,train\n"
    )
    assert "2 clips packed, 0 already present, 2 failed" in result.stderr
    assert "wave/2: frame-gap" in result.stderr
    assert f"root {tmp_path / 'packs'}" in result.stdout
    manifest = read_manifest(tmp_path / "manifests" / "m.csv", tmp_path / "packs")
    with open_clip(manifest.locate(manifest.clips[2])) as packed, open_clip(root / "wave" / "1") as folder:
        assert (packed.read(range(3)) == folder.read(range(3))).all()
    with pytest.raises(ClipError, match="has no clip 'wave/2'"):
        open_clip(manifest.locate(manifest.clips[3]))
    (root / "wave" / "2" / "00003.jpg").rename(root / "wave" / "2" / "00002.jpg")
    result = prepare(tmp_path, "folders", root, "--pack", tmp_path / "packs" / "frames.h5", "--val-share", "0")
    assert "1 clips packed, 2 already present, 1 failed" in result.stderr


def test_video_files_are_not_packed(tmp_path: Path) -> None:
    write(tmp_path / "data" / "wave" / "1.mp4", b"x")
    result = prepare(tmp_path, "folders", tmp_path / "data", "--pack", tmp_path / "frames.h5")
    assert result.exit_code == 1
    assert "wave/1.mp4" in result.stderr
    assert not (tmp_path / "frames.h5").exists()


@pytest.mark.parametrize(("named", "words"), [("nope.csv", "There is no file"), ("folder.csv", "cannot be read")])
def test_a_list_that_cannot_be_read_is_not_told_to_be_utf8(tmp_path: Path, named: str, words: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "folder.csv").mkdir()
    result = prepare(tmp_path, "csv", tmp_path / "data", tmp_path / named)
    assert result.exit_code == 1
    assert f"{named}" in result.stderr
    assert words in result.stderr
    assert "UTF-8" not in result.stderr
    assert "Errno" not in result.stderr


def test_a_list_in_another_encoding_is_told_to_be_utf8(tmp_path: Path) -> None:
    write(tmp_path / "data" / "list.csv", "path,label\n1.mp4,\xe9t\xe9\n".encode("latin-1"))
    result = prepare(tmp_path, "csv", tmp_path / "data", tmp_path / "data" / "list.csv")
    assert result.exit_code == 1
    assert "Save it as UTF-8" in result.stderr


@pytest.mark.parametrize(("dataset", "suffix"), [("folders", "mp4"), ("features", "npy")])
def test_the_order_of_classes_that_no_file_lists_is_sorted(tmp_path: Path, dataset: str, suffix: str) -> None:
    for label in ("wave", "nod"):
        for number in range(3):
            write(tmp_path / "data" / label / f"{number}.{suffix}", b"x")
    result = prepare(tmp_path, dataset, tmp_path / "data")
    assert result.exit_code == 0, result.output
    assert "Classes in sorted order." in result.stderr
