"""Data sets in their published form: a miniature of each goes through `prepare` and `check` and to a table."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.errors import PipelineError
from pipeline.manifest import Manifest, read_manifest
from pipeline.prepare.check import check
from pipeline.registry import DATASET_NAMES
from pipeline.settings.check import CheckSettings
from pipeline.settings.prepare import PrepareSettings
from stages import prepare
from tests.support.long_videos import decoded, write_long_video, write_lossless

NUM_FRAMES, RATE = 50, 25
Writer = Callable[[Path, Callable[[str], None]], None]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_long_video(tmp_path_factory.mktemp("video") / "v.mp4", NUM_FRAMES)


@pytest.fixture(scope="module")
def avi(tmp_path_factory: pytest.TempPathFactory, video: Path) -> Path:
    return write_lossless(tmp_path_factory.mktemp("avi") / "v.avi", list(decoded(video)))


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_vjepa(root: Path, put: Callable[[str], None]) -> None:
    for split, labels in (("train", "01"), ("val", "01")):
        text(root / f"{split}.csv", *(f'"{root}/{split} {n}.mp4" {n}' for n in labels))
        for n in labels:
            put(f"{split} {n}.mp4")


def write_kinetics(root: Path, put: Callable[[str], None]) -> None:
    rows = {"train": [("abseiling", "-3B32lodo2M", 59), ("air drumming", "abc", 5)],
            "validate": [("air drumming", "xyz_12", 104), ("abseiling", "klm", 0)]}  # fmt: skip
    for split, entries in rows.items():
        lines = [f'"{label}",{name},{start},{start + 10},{split},0' for label, name, start in entries]
        text(root / "annotations" / f"{split}.csv", "label,youtube_id,time_start,time_end,split,is_cc", *lines)
        for label, name, start in entries:
            put(f"{split}/{label}/{name}_{start:06d}_{start + 10:06d}.mp4")


def write_diving48(root: Path, put: Callable[[str], None]) -> None:
    vocabulary = [["Back", "15som", "05Twis", "FREE"], ["Forward", "Dive", "NoTwis", "PIKE"]]
    (root / "Diving48_vocab.json").write_text(json.dumps(vocabulary))
    for number, split in enumerate(("train", "test")):
        clips = [
            {"vid_name": f"-mmq0PT-u8k{number}_0015{n}", "label": n, "start_frame": 0, "end_frame": 49} for n in (0, 1)
        ]
        (root / f"Diving48_V2_{split}.json").write_text(json.dumps(clips))
        for clip in clips:
            put(f"rgb/{clip['vid_name']}.mp4")


def write_epic(root: Path, put: Callable[[str], None]) -> None:
    text(root / "EPIC_100_verb_classes.csv", "id,key,instances,category",
         "0,take,\"['take', 'grab']\",retrieve", "1,put,\"['put']\",leave")  # fmt: skip
    text(root / "EPIC_100_noun_classes.csv", "id,key,instances,category", "4,knife,\"['knife']\",cutlery",
         "9,plate,\"['plate']\",crockery")  # fmt: skip
    header = ("narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
              "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes")  # fmt: skip
    for split, name in (("train", "P01_102"), ("validation", "P02_01")):
        text(root / f"EPIC_100_{split}.csv", header,
             f"{name}_0,{name[:3]},{name},00:00:01.100,00:00:00.52,00:00:01.23,14,31,take knife,take,0,knife,4,"
             "\"['knife', 'plate']\",\"[4, 2]\"",
             f"{name}_1,{name[:3]},{name},00:00:01.500,00:00:01.2,00:00:02.00,31,51,put plate,put,1,plate,9,"
             "\"['plate']\",[9]")  # fmt: skip
        put(f"{name[:3]}/videos/{name}.mp4")


def write_ipn(root: Path, put: Callable[[str], None]) -> None:
    text(root / "annotations" / "classIdx.txt", "id,label", "1,D0X", "8,G05")
    for split, name in (("Train", "1CM1_4_R_#229"), ("Test", "4CM11_1_L_#17")):
        text(root / "annotations" / f"Annot_{split}List.txt", f"{name},D0X,1,1,17,17", f"{name},G05,8,18,50,33")
        put(f"videos/{name}.avi")


def write_nvgesture(root: Path, put: Callable[[str], None]) -> None:
    for split, subject in (("train", 13), ("test", 4)):
        lines = []
        for label in (1, 2):
            folder = f"./Video_data/class_{label:02d}/subject{subject}_r0"
            lines.append(
                f"path:{folder} depth:sk_depth:9:40 color:sk_color:8:{48} duo_left:duo_left:1:9 label:{label} "
            )
            put(f"{folder}/sk_color.avi")
        text(root / f"nvgesture_{split}_correct_cvpr2016_v2.lst", *lines)


def write_egogesture(root: Path, put: Callable[[str], None]) -> None:
    for subject in (1, 2, 3):
        lines = [f"{n},{1 + 4 * n},{4 + 4 * n}" for n in (1, 2)]
        text(root / "labels-final-revised1" / f"subject{subject:02d}" / "Scene1" / "Group2.csv", *lines)
        put(f"images_320-240_1/Subject{subject:02d}/Scene1/Color/rgb2.avi")


def write_finegym(root: Path, put: Callable[[str], None]) -> None:
    text(root / "gym99_categories.txt",
         "Clabel: 0; set: 1; Glabel: 1; (VT) round-off, flic-flac with 0.5 turn on, stretched salto",
         "Clabel: 1; set: 11; Glabel: 74; (FX) switch leap")  # fmt: skip
    times = {}
    for name, split in (("A0xAXXysHUo", "train_element_v1.1"), ("b_1", "val_element")):
        text(
            root / f"gym99_{split}.txt",
            f"{name}_E_000000_000002_A_0000_0001 0",
            f"{name}_E_000000_000002_A_0001_0002 1",
        )
        segments = {"A_0000_0001": {"stages": 2, "timestamps": [[0.1, 0.3], [0.3, 0.8]]},
                    "A_0001_0002": {"stages": 1, "timestamps": [[1.0, 1.4]]}}  # fmt: skip
        times[name] = {"E_000000_000002": {"event": 1, "segments": segments, "timestamps": [[0.2, 2.0]]}}
        put(f"videos/{name}.mp4")
    (root / "finegym_annotation_info_v1.1.json").write_text(json.dumps(times))


WRITERS: dict[str, Writer] = {
    "vjepa-csv": write_vjepa,
    "kinetics": write_kinetics,
    "diving48": write_diving48,
    "epic-kitchens-100": write_epic,
    "ipn-hand": write_ipn,
    "nvgesture": write_nvgesture,
    "egogesture": write_egogesture,
    "finegym": write_finegym,
}
# Of a clip of each: its id, label, split, group and location behind the root.
EXPECTED = {
    "vjepa-csv": ("val 1", "1", "val", "", "val 1.mp4"),
    "kinetics": (
        "xyz_12_000104_000114", "air drumming", "val", "xyz_12",
        "validate/air drumming/xyz_12_000104_000114.mp4",
    ),
    "diving48": ("-mmq0PT-u8k0_00150", "Back 15som 05Twis FREE", "train", "-mmq0PT-u8k0", "rgb/-mmq0PT-u8k0_00150.mp4"),
    "epic-kitchens-100": ("P01_102_0", "take", "train", "P01_102", "P01/videos/P01_102.mp4#t=0.520,1.230"),
    "ipn-hand": ("4CM11_1_L_#17/000018", "G05", "val", "4CM11", "videos/4CM11_1_L_#17.avi#frames=17,50"),
    "nvgesture": (
        "class_02/subject13_r0", "class_02", "train", "subject13",
        "Video_data/class_02/subject13_r0/sk_color.avi#frames=8,48",
    ),
    "egogesture": (
        "Subject02/Scene1/Color/rgb2/000005", "1", "test", "subject02",
        "images_320-240_1/Subject02/Scene1/Color/rgb2.avi#frames=4,8",
    ),
    "finegym": (
        "b_1_E_000000_000002_A_0000_0001",
        "(VT) round-off, flic-flac with 0.5 turn on, stretched salto", "val", "b_1", "videos/b_1.mp4#t=0.300,1.000",
    ),
}  # fmt: skip


@pytest.fixture
def write(tmp_path: Path, video: Path, avi: Path) -> Callable[[str], Path]:
    def written(name: str) -> Path:
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)

        def put(path: str) -> None:
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(avi if path.endswith(".avi") else video, target)

        WRITERS[name](root, put)
        return root

    return written


def prepared(name: str, root: Path, **options: object) -> Manifest:
    out = root.parent / "m.csv"
    prepare.run(PrepareSettings(dataset=name, root=root, out=out, **options))  # type: ignore[arg-type]
    return read_manifest(out, root)


@pytest.mark.parametrize("name", WRITERS)
def test_a_miniature_in_its_published_form_passes_the_check(name: str, write: Callable[[str], Path]) -> None:
    root = write(name)
    manifest = prepared(name, root)
    clip_id, label, split, group, location = EXPECTED[name]
    (clip,) = [clip for clip in manifest.clips if clip.clip_id == clip_id]
    assert (clip.label, clip.split, clip.group) == (label, split, group)
    assert manifest.locate(clip) == f"{root}/{location}"
    if name == "egogesture":
        assert len(manifest.classes) == 83  # the miniature has two of them
        return
    findings = check(CheckSettings(manifest=manifest.path, root=root)) if name in ("kinetics",) else None
    assert not findings
    # Copies of one video are duplicates by content, which only the decoded bytes tell; intervals are not compared.
    if any(clip.interval for clip in manifest.clips):
        assert check(CheckSettings(manifest=manifest.path, root=root, decode=True, workers=0)) == []


def test_nouns_and_frames_of_epic_kitchens(write: Callable[[str], Path], video: Path) -> None:
    root = write("epic-kitchens-100")
    frames = list(decoded(video))
    for path in root.glob("P*/videos/*.mp4"):
        folder = path.parent.parent / "rgb_frames" / path.stem
        folder.mkdir(parents=True)
        for number, frame in enumerate(frames, 1):
            frame.to_image().save(folder / f"frame_{number:010d}.jpg")
        path.unlink()
    manifest = prepared("epic-kitchens-100", root, labels="noun")
    assert manifest.classes == ("knife", "plate")
    assert manifest.locate(manifest.clips[0]) == f"{root}/P01/rgb_frames/P01_102#frames=13,30"


@pytest.mark.parametrize(("lines", "kept"), [("take\n", 2), ("P01_102_0\nP02_01_1\n", 2)])
def test_a_subset_names_classes_or_clips(write: Callable[[str], Path], lines: str, kept: int) -> None:
    root = write("epic-kitchens-100")
    (root / "subset.txt").write_text(lines)
    manifest = prepared("epic-kitchens-100", root, subset=root / "subset.txt")
    assert len(manifest.clips) == kept


@pytest.mark.parametrize(
    ("lines", "match"), [("take\nthrow\n", "line 2: 'throw' is neither"), ("take\nP01_102_0\n", "classes and clips")]
)
def test_a_subset_of_other_names_is_refused(write: Callable[[str], Path], lines: str, match: str) -> None:
    root = write("epic-kitchens-100")
    (root / "subset.txt").write_text(lines)
    with pytest.raises(PipelineError, match=match):
        prepared("epic-kitchens-100", root, subset=root / "subset.txt")


@pytest.mark.parametrize(
    ("name", "file", "line", "match"),
    [
        ("vjepa-csv", "train.csv", "a.mp4 wave", r"train\.csv, line 1 must be `path label`"),
        ("kinetics", "annotations/train.csv", "label,id", "must have the columns youtube_id"),
        ("diving48", "Diving48_V2_train.json", '[{"vid_name": "a", "label": 48}]', "entry 1 must have a vid_name"),
        ("ipn-hand", "annotations/Annot_TrainList.txt", "a,G99,8,1,2,2", "the label 'G99' is not among the 2"),
        ("nvgesture", "nvgesture_test_correct_cvpr2016_v2.lst", "path:./a label:1", "line 1 must have path, color"),
        ("egogesture", "labels-final-revised1/subject01/Scene1/Group2.csv", "84,1,2", "a class from 1 to 83"),
        ("finegym", "gym99_val_element.txt", "a_E_1_2_A_1_2 7", "with one of 2 labels"),
    ],
)
def test_lines_of_another_form_are_named(
    name: str, file: str, line: str, match: str, write: Callable[[str], Path]
) -> None:
    root = write(name)
    (root / file).write_text(line + "\n")
    with pytest.raises(PipelineError, match=match):
        prepared(name, root)


def test_missing_videos_are_counted_and_missing_lists_named(write: Callable[[str], Path], tmp_path: Path) -> None:
    root = write("ipn-hand")
    (root / "videos" / "4CM11_1_L_#17.avi").unlink()
    assert len(prepared("ipn-hand", root).clips) == 4
    shutil.rmtree(root / "videos")
    with pytest.raises(PipelineError, match="None of the 2 videos of IPN Hand is below"):
        prepared("ipn-hand", root)
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in WRITERS:
        with pytest.raises(PipelineError, match="ROOT"):
            prepared(name, empty)


def test_prepare_alone_lists_the_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["prepare"])
    assert result.exit_code == 0
    lines = result.output.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(DATASET_NAMES)
    assert all(len(line.split()) > 4 for line in lines)


@pytest.mark.parametrize("name", WRITERS)
def test_clips_go_from_annotations_to_a_table(name: str, write: Callable[[str], Path], tmp_path: Path) -> None:
    root = write(name)
    out = tmp_path / "m.csv"
    runner = CliRunner()
    for command in (
        f"prepare {name} {root} --out {out}",
        f"extract --manifest {out} --root {root} --store {tmp_path}/s.zarr --weights random --num-segments 2 --views 1 "
        "--maps pooled --workers 0 --dtype float32 --compile eager",
        f"fit-head --store {tmp_path}/s.zarr --head tsn --out {tmp_path}/r --epochs 1 --jobs 1 --select-on val",
        f"compare {tmp_path}/r --out {tmp_path}/c",
    ):
        result = runner.invoke(cli, command.split())
        assert result.exit_code == 0, result.output
    assert "tsn" in (tmp_path / "c" / "table.md").read_text()
    # The clips are copies of one video, and egogesture has two of its classes; nothing else is found.
    checked = runner.invoke(cli, ["check", str(out), "--root", str(root), "--decode", "--workers", "0"]).output
    kinds = set(re.findall(r"^([a-z-]+): [\d,]+$", checked, re.MULTILINE))
    assert "Decoded " in checked
    assert kinds <= {"two-labels", "two-splits", "class-missing"}, checked
    assert bool(kinds) != ("No problem was found." in checked)
