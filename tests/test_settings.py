"""One declaration makes option, help, default, check and params key; Python and shell agree."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.errors import PipelineError
from pipeline.options import OverrideOption, PipelineCommand
from pipeline.settings.compare import CompareSettings
from pipeline.settings.extract import ExtractSettings
from pipeline.settings.finetune import FinetuneSettings
from pipeline.settings.fit_head import FitHeadSettings
from pipeline.settings.prepare import PrepareSettings
from pipeline.settings.settings import Settings, option_of, override_groups, required_names

COMMANDS: dict[str, type[Settings]] = {
    "prepare": PrepareSettings,
    "extract": ExtractSettings,
    "fit-head": FitHeadSettings,
    "finetune": FinetuneSettings,
    "compare": CompareSettings,
}
REQUIRED: dict[str, dict[str, Any]] = {
    "prepare": {"dataset": "csv", "out": "m.csv"},
    "extract": {"manifest": "m.csv", "store": "s.zarr"},
    "fit-head": {"store": "s.zarr", "out": "o"},
    "finetune": {"manifest": "m.csv", "init": "none", "out": "o"},
    "compare": {},
}
every_command = pytest.mark.parametrize("name", COMMANDS)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def typed(name: str, values: dict[str, Any]) -> list[str]:
    """Values as a person types them."""
    words = [name]
    for key, value in values.items():
        argument = option_of(COMMANDS[name], key).is_argument
        words += [str(value)] if argument else [f"--{key.replace('_', '-')}", str(value)]
    return words


def settings_from_shell(name: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The object that the command's callback gets."""
    command = cli.commands[name]
    assert isinstance(command, PipelineCommand)
    caught: list[Settings] = []
    monkeypatch.setattr(command, "callback", caught.append)
    result = CliRunner().invoke(cli, typed(name, values))
    assert result.exit_code == 0, result.output
    return caught[0]


@every_command
def test_shell_and_python_have_the_same_defaults(name: str, run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """`weights` was `imagenet` in one and `bundled` in the other."""
    assert settings_from_shell(name, REQUIRED[name], monkeypatch) == COMMANDS[name](**REQUIRED[name])


@every_command
def test_every_field_is_one_option_and_every_option_a_field(name: str) -> None:
    settings = COMMANDS[name]
    with_option = {item.name for item in dataclasses.fields(settings) if option_of(settings, item.name).has_option}
    choices = {item.name for group in override_groups(settings) for item in dataclasses.fields(group)}
    parameters = cli.commands[name].params
    assert {p.name for p in parameters} == with_option | choices | {"show_settings", "quiet", "verbose"}
    assert {p.name for p in parameters if isinstance(p, OverrideOption)} == choices
    for parameter in parameters:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name} has no help"


@every_command
def test_what_is_required_is_asked_for(name: str, run: CliRunner) -> None:
    for missing in required_names(COMMANDS[name]):
        values = {key: value for key, value in REQUIRED[name].items() if key != missing}
        result = run.invoke(cli, typed(name, values))
        assert result.exit_code == 2
        assert missing.replace("_", "-") in result.stderr.lower()
        with pytest.raises(PipelineError, match=f"`{missing}` is required"):
            COMMANDS[name](**values)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("extract", {"num_segments": 0}, "num-segments"),
        ("extract", {"views": -1}, "views"),
        ("extract", {"maps": "pool"}, "maps"),
        ("extract", {"dtype": "float8"}, "dtype"),
        ("prepare", {"val_share": 1.0}, "val-share"),
        ("prepare", {"fold": 4}, "fold"),
        ("prepare", {"dataset": "gesture"}, "gesture"),
        ("fit-head", {"seeds": 0}, "seeds"),
        ("fit-head", {"head": "lsmt"}, "Did you mean 'lstm'"),
        ("fit-head", {"recipe": "cahced"}, "Did you mean 'cached'"),
        ("finetune", {"checkpoint_seconds": -1}, "checkpoint-seconds"),
    ],
)
def test_one_check_serves_shell_and_python(name: str, change: dict[str, Any], message: str, run: CliRunner) -> None:
    values = {**REQUIRED[name], **change}
    result = run.invoke(cli, typed(name, values))
    assert result.exit_code != 0
    assert message in result.stderr
    with pytest.raises(PipelineError, match=message):
        COMMANDS[name](**values)


def test_values_get_their_types() -> None:
    settings = CompareSettings(dirs=["a", Path("b")], pairs="left:right, up:down", out="o")
    assert settings.dirs == (Path("a"), Path("b"))
    assert settings.pairs == ("left:right", "up:down")
    assert settings.out == Path("o")


def test_show_settings_says_where_each_value_came_from(run: CliRunner) -> None:
    block = {"store": "cache/mine.zarr", "out": "r", "seeds": 3}
    Path("params.yaml").write_text(yaml.safe_dump({"fit_head": block, "heads": {"lstm": {"lr": 0.01}}}))
    result = run.invoke(cli, ["fit-head", "--head", "lstm", "--epochs", "7", "--show-settings"])
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert rows["store"] == ["cache/mine.zarr", "params.yaml"]
    assert rows["seeds"] == ["3", "params.yaml"]
    assert rows["head"] == ["lstm", "typed"]
    assert rows["epochs"] == ["7", "typed"]
    assert rows["batch-size"] == ["16", "recipe", "cached"]
    assert rows["seed"] == ["0", "default"]
    assert rows["heads.lstm.lr"] == ["0.01", "params.yaml"]
    assert not Path("r").exists()


def test_show_settings_says_what_was_passed_over(run: CliRunner) -> None:
    Path("params.yaml").write_text(yaml.safe_dump({"extract": {"manifest": "m.csv", "views": 9, "store": "s.zarr"}}))
    result = run.invoke(cli, ["extract", "--manifest", "n.csv", "--store", "t.zarr", "--show-settings"])
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert rows["views"] == ["4", "default"]
    assert "params.yaml not used: the block `extract` is for manifest=m.csv" in result.stdout
