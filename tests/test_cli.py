"""The command line as a stranger meets it: help, defaults from params.yaml, errors as sentences."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.cli_options import _explained_fields
from pipeline.recipe import FrameChoices, HeadChoices, TrainingChoices
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
    assert set(rows["lstm"]) == {"name", "maps", "parameters", "macs", "section"}


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


@pytest.mark.parametrize("group", [FrameChoices, HeadChoices, TrainingChoices])
def test_each_switch_of_a_recipe_is_explained(group: type) -> None:
    assert set(_explained_fields(group)) == {field.name for field in dataclasses.fields(group)}


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
    Path("params.yaml").write_text("fit_head: {store: cache/mine.zarr, out: results/mine, head: lstm}\n")
    result = run.invoke(cli, ["fit-head", "--store", "cache/{backbone}-other.zarr", "--backbone", "bninception"])
    assert result.exit_code == 1
    assert "cache/bninception-other.zarr" in result.stderr


def test_the_root_of_params_yaml_does_not_belong_to_a_typed_manifest(run: CliRunner) -> None:
    Path("params.yaml").write_text("extract: {manifest: other.csv, root: elsewhere, store: s.zarr}\n")
    Path("m.csv").write_text("clip_id,path,label,split\na,a.webm,x,train\n")
    Path("m.classes.csv").write_text("class_id,label\n0,x\n")
    Path("a.webm").write_bytes(b"")
    result = run.invoke(cli, ["extract", "--manifest", "m.csv", "--weights", "random", "--workers", "0"])
    assert "a.webm is empty" in result.output  # found beside the manifest, not in `elsewhere`


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
