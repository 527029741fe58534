"""The command line as a stranger meets it: help, defaults from params.yaml, errors as sentences."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.options import explained_fields
from pipeline.recipe import HeadConfig, SamplingConfig, TrainConfig
from tests.conftest import REPOSITORY


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """A runner in an empty folder, so that no params.yaml is near."""
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def test_describe_heads_gives_the_papers_parameters(run: CliRunner) -> None:
    result = run.invoke(cli, ["describe", "heads", "--json", "--num-segments", "8", "--num-classes", "27"])
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    # The paper's Table 3, in millions to two decimals.
    paper = {
        "mlp": 1.06, "tsn": 0.00, "trn": 2.34, "rnn_tanh": 0.14, "rnn_relu": 0.14, "lstm": 0.53, "gru": 0.40,
        "blstm": 0.40, "convlstm": 4.73, "fcn2d": 0.56, "fcn3d": 1.56,
    }  # fmt: skip
    assert {name: round(rows[name]["parameters"] / 1e6, 2) for name in paper} == paper
    assert set(rows["lstm"]) == {"name", "maps", "parameters", "macs", "section", "order"}


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_each_command_explains_itself_with_an_example(run: CliRunner, command: str) -> None:
    result = run.invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    group = cli.commands[command]
    subcommands = getattr(group, "commands", {"": group})
    for name, sub in subcommands.items():
        text = run.invoke(cli, [command, *([name] if name else []), "--help"]).output
        assert "Example" in text, f"{command} {name} shows no example"
        assert sub.help


@pytest.mark.parametrize("group", [SamplingConfig, HeadConfig, TrainConfig])
def test_each_switch_of_a_recipe_is_explained(group: type) -> None:
    assert set(explained_fields(group)) == {field.name for field in dataclasses.fields(group)}


def test_a_missing_option_names_both_ways_to_give_it(run: CliRunner) -> None:
    result = run.invoke(cli, ["fit-head"])
    assert result.exit_code == 2
    assert "Missing option --store" in result.stderr
    assert "`fit_head` block of ./params.yaml" in result.stderr


def test_defaults_come_from_params_yaml(run: CliRunner) -> None:
    Path("params.yaml").write_text("fit_head: {store: cache/mine.zarr, out: results/mine, head: lstm}\n")
    assert "[default: cache/mine.zarr]" in run.invoke(cli, ["fit-head", "--help"]).output
    result = run.invoke(cli, ["fit-head"])
    assert result.exit_code == 1
    assert "cache/mine.zarr" in result.stderr


def test_the_command_line_wins_over_params_yaml(run: CliRunner) -> None:
    Path("params.yaml").write_text(
        "fit_head: {store: 'cache/{backbone}.zarr', out: results/mine, backbone: squeezenet}\n"
    )
    result = run.invoke(cli, ["fit-head", "--backbone", "bninception"])
    assert result.exit_code == 1
    assert "cache/bninception.zarr" in result.stderr
    assert "From params.yaml, block `fit_head`: store=cache/{backbone}.zarr, out=results/mine." in result.stderr


def test_a_block_is_not_taken_for_another_manifest(run: CliRunner) -> None:
    Path("params.yaml").write_text("extract: {manifest: other.csv, root: elsewhere, store: other.zarr, views: 99}\n")
    Path("m.csv").write_text("clip_id,path,label,split\na,a.webm,x,train\n")
    Path("m.classes.csv").write_text("class_id,label\n0,x\n")
    Path("a.webm").write_bytes(b"")
    arguments = ["extract", "--manifest", "m.csv", "--weights", "random", "--workers", "0"]
    result = run.invoke(cli, [*arguments, "--store", "s.zarr"])
    assert "a.webm is empty" in result.output  # found beside the manifest, not in `elsewhere`
    assert "the block `extract` is for manifest=other.csv; nothing is taken from it." in result.stderr
    # Neither is the store: features of these clips do not belong beside those of the others.
    result = run.invoke(cli, [*arguments, "--quiet"])
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert "Missing option --store. Give it; in params.yaml, the block `extract` is for manifest=other.csv" in said


SUBJECTS = [
    ("extract", {"manifest": "m.csv", "store": "s.zarr"}, ["--manifest", "./x/../m.csv"], ["--manifest", "n.csv"]),
    ("finetune", {"manifest": "m.csv", "init": "i", "out": "o"}, ["--manifest", "m.csv"], ["--manifest", "n.csv"]),
    (
        "fit-head",
        {"store": "c/{backbone}-{num-segments}.zarr", "out": "o"},
        ["--store", "c/bninception-4.zarr", "--backbone", "bninception", "--num-segments", "4"],
        ["--store", "c/squeezenet-8.zarr", "--num-segments", "4"],
    ),
    ("compare", {"dirs": ["a", "b"], "out": "o"}, ["b", "a/"], ["a"]),
    ("compare", {"dirs": ["a"], "out": "o"}, ["a", "b"], ["b"]),  # further results beside those of the block
    ("prepare", {"dataset": "csv", "root": "r", "out": "m.csv"}, ["csv", "--out", "m.csv"], ["folders"]),
    ("prepare", {"dataset": "csv", "root": "r", "out": "m.csv"}, ["csv"], ["csv", "--out", "n.csv"]),
]


@pytest.mark.parametrize(("command", "block", "same", "other"), SUBJECTS)
def test_a_block_applies_to_the_subject_that_it_names(
    run: CliRunner, command: str, block: dict[str, object], same: list[str], other: list[str]
) -> None:
    Path("params.yaml").write_text(yaml.safe_dump({command.replace("-", "_"): block}))
    for typed, applies in ((same, True), ([], True), (other, False)):
        said = run.invoke(cli, [command, *typed]).stderr
        assert ("From params.yaml, block" in said) is applies, (typed, said)
        assert ("nothing is taken from it" in said) is not applies, (typed, said)


def test_an_option_shows_one_default(run: CliRunner) -> None:
    Path("params.yaml").write_text("extract: {manifest: m.csv, root: clips, views: 7, workers: 3, recipe: paper}\n")
    text = " ".join(run.invoke(cli, ["extract", "--help"]).output.split())
    options = re.split(r" (?=--[a-z])", text)
    assert all(option.count("default:") <= 1 for option in options), options
    for name, shown in {"root": "clips", "views": "7", "workers": "3", "recipe": "paper"}.items():
        assert any(option.startswith(f"--{name} ") and f"default: {shown}" in option for option in options), name
    assert "They apply only to manifest=m.csv" in text


def test_a_misspelt_setting_is_named(run: CliRunner) -> None:
    Path("params.yaml").write_text("extract: {manifest: m.csv, num-segmets: 8}\n")
    result = run.invoke(cli, ["extract"])
    assert result.exit_code == 1
    assert "num-segmets" in result.stderr
    assert "num-segments" in result.stderr


def test_a_broken_params_yaml_is_a_sentence(run: CliRunner) -> None:
    Path("params.yaml").write_text("fit_head: [unclosed\n")
    result = run.invoke(cli, ["describe", "heads"])
    assert result.exit_code == 1
    assert "params.yaml cannot be read as YAML" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["extract", "--manifest", "absent.csv", "--store", "s.zarr"], "absent.csv does not exist"),
        (["fit-head", "--store", "absent.zarr", "--out", "r", "--head", "fcn3"], "Did you mean 'fcn3d'?"),
        (["fit-head", "--store", "absent.zarr", "--out", "r"], "absent.zarr"),
        (
            ["extract", "--manifest", "m.csv", "--store", "s.zarr", "--backbone", "sqeezenet"],
            "Did you mean 'squeezenet'?",
        ),
        (["extract", "--manifest", "m.csv", "--store", "s.zarr", "--weights", "w.pth"], "w.pth"),
    ],
)
def test_errors_are_sentences_and_exit_1(run: CliRunner, arguments: list[str], words: str) -> None:
    Path("m.csv").write_text("clip_id,path,label,split\na,a.webm,x,train\n")
    Path("m.classes.csv").write_text("class_id,label\n0,x\n")
    result = run.invoke(cli, arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: ")
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_python_m_pipeline_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "--version"], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout.startswith("pipeline, version ")
