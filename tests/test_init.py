"""`pipeline init`: a study from a folder of clips, in every kind of folder, and what it chooses."""

from __future__ import annotations

import contextlib
import csv
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click.testing
import h5py
import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.cli import cli
from pipeline.errors import PipelineError
from pipeline.files import write_text
from pipeline.init import command as init_command
from pipeline.init import folder as folder_module
from pipeline.init import plan as planning
from pipeline.init.folder import UNFINISHED, set_up_tools
from pipeline.init.plan import estimate, make_plan
from pipeline.init.rates import BackboneRate, Machine, measure_machine
from pipeline.init.render import yaml_text
from pipeline.init.survey import Survey
from pipeline.registry import DATASET_NAMES, HEAD_GROUPS, HEAD_NAMES
from pipeline.settings.init import InitSettings
from pipeline.store.feature_store import FeatureStore
from tests.conftest import REPOSITORY
from tests.test_pages import write_class_folders

# Names of the stages as DVC resolves them.
LIST_STAGES = "from dvc.repo import Repo; print(*(stage.name for stage in Repo(uninitialized=True).index.stages))"

# Seconds of one training clip in one epoch on one core.
CLIP_SECONDS = dict.fromkeys(HEAD_NAMES, 0.0005) | {"trn": 0.0025, "fcn2d": 0.007, "fcn3d": 0.08, "convlstm": 1.0}


def machine(*backbones: str) -> Machine:
    """Return a machine of two cores on which each backbone runs 100 frames per second."""
    rate = BackboneRate(frames_per_second=100.0, pooled_bytes=1_000, spatial_bytes=60_000, channels=500, map_size=13)
    return Machine(dict.fromkeys(backbones, rate), CLIP_SECONDS, cores=2, fit_cores=2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with 3 × 6 clips, with a space in their path."""
    folder = tmp_path_factory.mktemp("data") / "my clips"
    write_class_folders(folder)
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure no backbone, and run neither Git nor DVC, except in the tests that take `tools`."""
    monkeypatch.setattr(init_command, "measure_machine", lambda names, *others: machine(*names))
    monkeypatch.setattr(init_command, "set_up_tools", lambda folder, new: [])


@pytest.fixture
def tools(_quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run Git and DVC."""
    monkeypatch.setattr(init_command, "set_up_tools", set_up_tools)


def type_in(*arguments: object, cwd: Path, exit_code: int = 0) -> str:
    """Run `pipeline` in a folder and return what it prints."""
    with contextlib.chdir(cwd):
        result = click.testing.CliRunner().invoke(cli, [*map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result.output


def init(*arguments: object, cwd: Path, exit_code: int = 0) -> str:
    return type_in("init", *arguments, cwd=cwd, exit_code=exit_code)


def params_of(folder: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8")))


def stages_of(folder: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.usefixtures("tools")
def test_an_empty_folder_becomes_a_study(clips: Path, tmp_path: Path) -> None:
    said = init(clips, "--weights", "bundled", cwd=tmp_path)
    assert "18 clips (15 for training) of 3 classes" in said
    params = params_of(tmp_path)
    for command in cli.commands.values():
        options = {parameter.name for parameter in command.params}
        block = params.get((command.name or "").replace("-", "_"), {})
        assert {key.replace("-", "_") for key in block} <= options, command.name
    assert list(stages_of(tmp_path)) == ["prepare", "extract", "fit_head", "compare"]
    # The manifest is the one that `pipeline prepare` writes with the same settings.
    with open(tmp_path / "data_manifests" / "my-clips.csv", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    before = (tmp_path / "data_manifests" / "my-clips.csv").read_bytes()
    type_in("prepare", cwd=tmp_path)
    assert (tmp_path / "data_manifests" / "my-clips.csv").read_bytes() == before
    assert len(written) == 18
    assert git(tmp_path, "rev-parse", "--show-toplevel").strip() == str(tmp_path.resolve())
    assert (tmp_path / ".dvc" / "plots" / "seeds.json").read_bytes() == (
        REPOSITORY / ".dvc" / "plots" / "seeds.json"
    ).read_bytes()


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml", "data_manifests/my-clips.csv"])
def test_nothing_is_overwritten(clips: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("# mine\n")
    said = init(clips, cwd=tmp_path, exit_code=1)
    assert "overwrites nothing" in said
    assert name in said
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "# mine\n"


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("is_relative", [False, True])
@pytest.mark.parametrize("failing", ["write", "git", "dvc", "config", "template"])
def test_after_a_failure_the_same_command_completes(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, is_relative: bool
) -> None:
    whole, study = tmp_path / "whole", tmp_path / "study"
    init(clips, "--out", whole, cwd=tmp_path)
    out = "study" if is_relative else study
    study.mkdir()
    (study / "mine.txt").write_text("mine")

    def fails(path: Any, *texts: Any) -> None:
        if failing == "template" and path.name != "seeds.json":
            write_text(path, *texts)
            return
        if failing == "dvc":
            (study / ".dvc" / "tmp").mkdir(parents=True)  # `dvc init` refuses an existing folder
        raise PipelineError("The disk is full.")

    names = {"git": "_run", "dvc": "_dvc_root", "config": "_add_settings", "template": "write_text"}
    with monkeypatch.context() as patch:
        if failing == "write":
            patch.setattr(init_command, "write_files", fails)
        else:
            patch.setattr(folder_module, names[failing], fails)
        assert "The disk is full." in init(clips, "--out", out, cwd=tmp_path, exit_code=1)
    init(clips, "--out", out, cwd=tmp_path)
    files = sorted(
        str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file() and ".git/" not in str(path)
    )
    assert {".dvc/config", ".dvc/plots/seeds.json", "params.yaml", "dvc.yaml", "README.md"} <= set(files)
    for name in files:
        if name != ".dvc/tmp/btime":
            assert (study / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (study / UNFINISHED).exists()
    assert (study / "mine.txt").read_text() == "mine"
    # Now that it has ended, nothing is overwritten.
    assert "overwrites nothing" in init(clips, "--out", out, cwd=tmp_path, exit_code=1)


@pytest.mark.usefixtures("tools")
def test_a_folder_of_dvc_without_settings_is_not_replaced(clips: Path, tmp_path: Path) -> None:
    (tmp_path / ".dvc" / "cache").mkdir(parents=True)
    (tmp_path / ".dvc" / "cache" / "mine").write_text("mine")
    for _ in range(2):
        assert "dvc init" in init(clips, cwd=tmp_path, exit_code=1)
        assert (tmp_path / ".dvc" / "cache" / "mine").read_text() == "mine"


def test_files_of_the_folder_stay(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Mine\n")
    (tmp_path / ".gitignore").write_text("/cache/\n*.log")
    said = init(clips, cwd=tmp_path)
    assert "README.md exists and stays as it is" in said
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    ignored = (tmp_path / ".gitignore").read_text().splitlines()
    assert ignored[:2] == ["/cache/", "*.log"]
    assert ignored.count("/cache/") == 1
    assert "/results/**/timing.json" in ignored


@pytest.mark.usefixtures("tools")
def test_a_folder_of_somebodys_repository(clips: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    init(clips, "--out", "studies/one", cwd=tmp_path)
    study = tmp_path / "studies" / "one"
    assert not (study / ".git").exists()
    assert (study / ".dvc" / "config").is_file()
    # Beside it, a second one has its own; below a folder that DVC manages, none is needed.
    init(clips, "--out", "studies/one/deeper", cwd=tmp_path)
    assert not (study / "deeper" / ".dvc").exists()
    assert (study / "deeper" / "params.yaml").is_file()


def test_the_folder_of_the_clips_is_refused(clips: Path, tmp_path: Path) -> None:
    for folder in (clips, clips / "study"):
        said = init(clips, "--out", folder, cwd=tmp_path, exit_code=1)
        assert "into the folder of the clips" in said
    assert sorted(path.name for path in clips.iterdir()) == ["lift", "push", "wave"]


def test_without_clips_the_way_out_is_said(tmp_path: Path) -> None:
    assert "as in `pipeline init ~/clips`, or --demo" in init(cwd=tmp_path, exit_code=1)
    (tmp_path / "empty").mkdir()
    assert "has no clips in folders of classes" in init("empty", "--out", "s", cwd=tmp_path, exit_code=1)
    assert "--demo draws its own clips" in init("empty", "--demo", cwd=tmp_path, exit_code=1)


def test_paths_and_names_of_any_kind(clips: Path, tmp_path: Path) -> None:
    weights = tmp_path / "my weights (v2).safetensors"
    weights.touch()
    arguments = ("--weights", weights, "--backbone", "squeezenet,torchvision:resnet18", "--head", "fcn3d,tsn")
    init(clips, *arguments, "--out", "s", "--name", "été/№ 1", cwd=tmp_path)
    params = params_of(tmp_path / "s")
    assert params["backbones"] == ["squeezenet", "torchvision:resnet18"]
    assert params["extract"]["weights"] == str(weights)
    assert params["extract"]["store"] == "cache/my-weights-v2/{backbone}-{num-segments}seg.zarr"
    assert params["cache"] == "cache/my-weights-v2"
    assert params["prepare"]["out"] == "data_manifests/été-1.csv"
    assert params["heads-compared"] == ["tsn", "fcn3d"]
    assert params["extract"]["maps"] == ["pooled", "spatial"]
    assert params["prepare"]["root"] == str(clips)


@pytest.mark.parametrize("name", HEAD_GROUPS)
def test_a_study_compares_a_list_of_heads_by_its_name(clips: Path, tmp_path: Path, name: str) -> None:
    init(clips, "--head", "tsn", "--out", "s", cwd=tmp_path)
    path = tmp_path / "s" / "params.yaml"
    path.write_text(path.read_text().replace("heads-compared: [tsn]", f"heads-compared: *{name}"))
    stages = subprocess.run(
        [sys.executable, "-c", LIST_STAGES], cwd=tmp_path / "s", capture_output=True, text=True, check=True
    ).stdout.split()
    assert [stage for stage in stages if stage.startswith("fit_head@")] == [
        f"fit_head@squeezenet-{head}" for head in HEAD_GROUPS[name]
    ]


def test_clips_within_the_study_are_named_relative_to_it(clips: Path, tmp_path: Path) -> None:
    write_class_folders(tmp_path / "data" / "clips")
    init("data/clips", cwd=tmp_path)
    assert params_of(tmp_path)["prepare"]["root"] == "data/clips"


def test_a_csv_with_its_columns(clips: Path, tmp_path: Path) -> None:
    rows = [f"{path.relative_to(clips)},{path.parent.name},train" for path in sorted(clips.rglob("*.mp4"))]
    (tmp_path / "list.csv").write_text("\n".join(["file,gesture,part", *rows]) + "\n")
    columns = "path=file,label=gesture,split=part"
    init(clips, tmp_path / "list.csv", "--data", "csv", "--columns", columns, "--out", "s", cwd=tmp_path)
    prepare = params_of(tmp_path / "s")["prepare"]
    assert (prepare["dataset"], prepare["columns"]) == ("csv", columns)
    assert prepare["lists"] == [str(tmp_path / "list.csv")]


def test_every_data_set_of_prepare_can_be_named() -> None:
    choices = next(p.type.choices for p in cli.commands["init"].params if p.name == "data")  # type: ignore[attr-defined]
    assert set(choices) == set(DATASET_NAMES) - {"gestures"}


def test_finetuning_is_a_stage_on_request(clips: Path, tmp_path: Path) -> None:
    init(clips, "--finetune", "gru", cwd=tmp_path)
    assert list(stages_of(tmp_path)) == ["prepare", "extract", "fit_head", "compare", "finetune", "compare_finetuned"]
    finetune = params_of(tmp_path)["finetune"]
    assert (finetune["head"], finetune["recipe"], finetune["epochs"]) == ("gru", "finetune", 4)
    assert "${results}/finetune" in stages_of(tmp_path)["compare_finetuned"]["deps"]


def test_the_demo_is_that_of_the_repository(tmp_path: Path) -> None:
    init("--demo", "--out", "demo", cwd=tmp_path)
    ours, its = params_of(REPOSITORY), params_of(tmp_path / "demo")
    del ours["repository"], its["st-pipeline"]
    assert its == ours
    ours, its = stages_of(REPOSITORY), stages_of(tmp_path / "demo")
    for name, stage in ours.items():
        stage["deps"] = [dep for dep in stage["deps"] if not dep.startswith("${repository}")]
        stage["params"] = ["st-pipeline", *stage["params"]]
        if not stage["deps"]:
            del stage["deps"]
        assert its[name] == stage


def test_another_version_of_the_package_is_said(clips: Path, tmp_path: Path) -> None:
    init(clips, cwd=tmp_path)
    assert "is for st-pipeline" not in type_in("prepare", cwd=tmp_path)
    text = (tmp_path / "params.yaml").read_text(encoding="utf-8")
    installed = yaml.safe_load(text)["st-pipeline"]
    (tmp_path / "params.yaml").write_text(text.replace(f"st-pipeline: {installed}", 'st-pipeline: "0.0.9"'))
    said = type_in("prepare", cwd=tmp_path)
    assert f"This study is for st-pipeline 0.0.9, and {installed} is installed." in said


@settings(max_examples=50, deadline=None)
@example("\x85")
@given(st.one_of(st.text(), st.integers(), st.lists(st.text())))
def test_values_survive_yaml(value: object) -> None:
    assert yaml.safe_load(f"key: {yaml_text(value)}\nnext: 1\n") == {"key": value, "next": 1}


def chosen(num_train: int, **given_settings: Any) -> planning.Plan:
    found = Survey(num_train=num_train, num_clips=num_train * 5 // 4, num_classes=4, decode_seconds=0.01)
    return make_plan(InitSettings(root=Path("c"), **given_settings), found, machine("squeezenet"))


def test_the_plan_follows_the_number_of_clips() -> None:
    small, large = (chosen(count) for count in (100, 100_000))
    assert (small.seeds, small.epochs, small.batch_size, small.views) == (3, 30, 16, 4)
    assert (large.epochs, large.batch_size, large.views) == (15, 64, 1)
    assert {*planning.LEAST_HEADS} <= {*small.heads}
    assert "convlstm" in small.left_out
    assert small.maps == ("pooled",)
    assert {*small.heads, *small.left_out} == {*HEAD_GROUPS["paper"]}
    assert chosen(100, minutes=100_000).heads == HEAD_GROUPS["paper"]
    assert chosen(100, head=("modern",)).heads == HEAD_GROUPS["modern"]
    assert chosen(100, head=("all",)).heads == HEAD_NAMES
    short = chosen(100, minutes=0)
    assert (short.seeds, set(short.heads)) == (1, set(planning.LEAST_HEADS))
    named = chosen(100, head=("convlstm",), seeds=2, epochs=7, views=0, batch_size=3)
    assert (named.heads, named.seeds, named.epochs, named.views, named.batch_size) == (("convlstm",), 2, 7, 0, 3)


def test_named_heads_need_no_measurement_of_others() -> None:
    # `pipeline init --head mlp,diff` measures these two heads alone.
    whole = machine("squeezenet")
    measured = replace(whole, clip_seconds={head: whole.clip_seconds[head] for head in ("mlp", "diff")})
    found = Survey(num_train=100, num_clips=125, num_classes=4, decode_seconds=0.01)
    for minutes, seeds in ((100, 3), (0, 1)):
        plan = make_plan(InitSettings(root=Path("c"), head=("mlp", "diff"), minutes=minutes), found, measured)
        assert (plan.heads, plan.seeds, plan.left_out) == (("mlp", "diff"), seeds, {})


def test_the_estimate_is_that_of_a_calculation_by_hand() -> None:
    plan = chosen(100, head=("mlp", "fcn3d"), epochs=10, seeds=3, views=1)
    found = Survey(num_train=100, num_clips=125, num_classes=4, decode_seconds=0.02)
    taken = estimate(plan, found, machine("squeezenet"), 8)
    # 125 test views and 100 training views of 8 frames; 2 starts of 6 s, 2.5 core-seconds of decoding on two cores.
    assert taken.extract_seconds == pytest.approx(12 + 1.25 + 1_800 / 100)
    assert taken.store_bytes == 1_800 * 61_000
    # 3 seeds x 10 epochs x 100 clips on two cores; each head with a start.
    assert taken.fit_seconds == pytest.approx(12 + 3_000 / 2 * (0.0005 + 0.08))
    # A single seed of a small head uses one core, that of a head with convolutions all.
    assert machine().head_seconds("mlp", 1_000, 1) == pytest.approx(6 + 0.5)
    assert machine().head_seconds("fcn3d", 1_000, 1) == pytest.approx(6 + 40)


def test_the_machine_is_measured() -> None:
    heads = ("fcn3d", "mlp", "knn")
    whole, averaged = (measure_machine(["squeezenet"], heads, "cpu", size, 8, 4) for size in (0, 4))
    for found, size, share in ((whole, 13, 0.35), (averaged, 4, 0.85)):
        rate = found.backbones["squeezenet"]
        # 512 channels, two bytes each.
        assert rate.pooled_bytes == 1_024
        assert rate.spatial_bytes == pytest.approx(1_024 * size**2 * share, abs=1)
        assert 1 < rate.frames_per_second < 100_000
        assert (rate.channels, rate.map_size) == (512, size)
        assert tuple(found.clip_seconds) == heads
        # k-NN is not trained; 3D-FCN computes hundreds of times as much as Simple-MLP.
        assert found.clip_seconds["fcn3d"] > found.clip_seconds["mlp"] > found.clip_seconds["knn"] == 0
    # Ten times as many cells.
    assert whole.clip_seconds["fcn3d"] > averaged.clip_seconds["fcn3d"]


def test_a_study_of_features_imports_them(tmp_path: Path) -> None:
    arrays = tmp_path / "vit features"
    for number in range(12):
        path = arrays / ("wave", "nod")[number % 2] / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((4, 6), number % 2, dtype=np.float32))
    said = init(arrays, "--data", "features", "--out", "s", cwd=tmp_path)
    assert "12 clips" in said
    study = tmp_path / "s"
    stages, params = stages_of(study), params_of(study)
    assert list(stages) == ["prepare", "import_features", "fit_head", "compare"]
    assert params["backbones"] == ["imported:vit-features"]
    assert "extract" not in params
    assert not {"convlstm", "fcn3d"} & set(params["heads-compared"])
    # What DVC makes of `"${prepare.root}" ${import_features}`; the root has a space.
    options = params["import_features"]
    typed = [text for key, value in options.items() if value is not False for text in (f"--{key}", value)]
    command = stages["import_features"]["cmd"].replace("${prepare.root}", params["prepare"]["root"])
    assert command.endswith(" ${import_features}")
    type_in(*shlex.split(command)[1:-1], *typed, cwd=study)
    type_in("fit-head", "--head", "tsn", "--epochs", "1", "--seeds", "1", cwd=study)
    assert (study / "results" / "fit_head" / "imported:vit-features-tsn" / "metrics.json").is_file()
    said = init(arrays, "--data", "features", "--finetune", "gru", "--out", "t", cwd=tmp_path, exit_code=1)
    assert "--finetune needs the clips" in said


def test_a_study_of_one_hdf5_file_imports_it(tmp_path: Path) -> None:
    file = tmp_path / "vit features.h5"
    with h5py.File(file, "w") as opened:
        for number in range(12):
            opened[f"{('wave', 'nod')[number % 2]}/{number:02d}"] = np.full((4, 6), number, np.float32)
    init(file, "--data", "features", "--out", "s", cwd=tmp_path)
    study = tmp_path / "s"
    params = params_of(study)
    assert params["prepare"]["root"] == str(file)
    assert params["backbones"] == ["imported:vit-features"]
    assert "${prepare.root}" in stages_of(study)["import_features"]["deps"]
    readme = (study / "README.md").read_text(encoding="utf-8")
    assert f"pipeline check data_manifests/vit-features.csv --root {shlex.quote(str(tmp_path))}" in readme
    options = params["import_features"]
    typed = [text for key, value in options.items() if value is not False for text in (f"--{key}", value)]
    type_in("prepare", cwd=study)
    type_in("store", "import-features", params["prepare"]["root"], *typed, cwd=study)
    store = FeatureStore.open(str(study / options["store"]))
    clips = store.clips()
    means = store.read_pooled("test", [clip.row for clip in clips]).mean(axis=(1, 2))
    assert [float(mean) for mean in means] == [int(clip.clip_id.split("/")[1]) for clip in clips]
    assert {clip.clip_id.split("/")[0] for clip in clips} == {"wave", "nod"}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("imagnet", "Unknown weights 'imagnet'. Did you mean 'imagenet'? Known: bundled, imagenet, or the path"),
        ("/nowhere.pth", "There is no weight file /nowhere.pth. Give the path of an existing file, or one of imagenet"),
        ("nowhere.safetensors", "There is no weight file nowhere.safetensors."),
    ],
)
def test_weights_that_do_not_exist_are_refused(clips: Path, tmp_path: Path, weights: str, words: str) -> None:
    said = init(clips, "--weights", weights, "--out", "s", cwd=tmp_path, exit_code=1)
    assert words in " ".join(said.split())
    assert not (tmp_path / "s").exists()


def test_a_csv_that_does_not_exist_is_named(clips: Path, tmp_path: Path) -> None:
    said = init(clips, "nope.csv", "--data", "csv", "--out", "s", cwd=tmp_path, exit_code=1)
    assert "There is no file nope.csv." in said
    assert "UTF-8" not in said
