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
from pipeline.commands import PipelineCommand
from pipeline.errors import PipelineError
from pipeline.options import NameListOption, OverrideOption
from pipeline.settings.bundled import TrainBundledSettings
from pipeline.settings.check import CheckSettings
from pipeline.settings.compare import CompareSettings
from pipeline.settings.describe import DescribeSettings
from pipeline.settings.extract import ExtractSettings
from pipeline.settings.finetune import FinetuneSettings
from pipeline.settings.fit_head import FitHeadSettings
from pipeline.settings.init import InitSettings
from pipeline.settings.predict import EvaluateSettings, ExportSettings, PredictSettings
from pipeline.settings.prepare import PrepareSettings
from pipeline.settings.quantity import BYTES, PIXELS, parse_quantity, quantity_text
from pipeline.settings.report import ReportSettings
from pipeline.settings.settings import (
    Settings,
    hints_of,
    option_of,
    override_groups,
    required_names,
    without_none,
)
from pipeline.settings.store import (
    StoreExportSettings,
    StoreImportFeaturesSettings,
    StoreImportSettings,
    StoreInfoSettings,
    StoreVerifySettings,
)
from pipeline.settings.temporality import TemporalitySettings

COMMANDS: dict[str, type[Settings]] = {
    "init": InitSettings,
    "prepare": PrepareSettings,
    "extract": ExtractSettings,
    "fit-head": FitHeadSettings,
    "finetune": FinetuneSettings,
    "compare": CompareSettings,
    "check": CheckSettings,
    "predict": PredictSettings,
    "evaluate": EvaluateSettings,
    "export": ExportSettings,
    "describe": DescribeSettings,
    "report": ReportSettings,
    "train-bundled": TrainBundledSettings,
    "temporality": TemporalitySettings,
    "store info": StoreInfoSettings,
    "store verify": StoreVerifySettings,
    "store export": StoreExportSettings,
    "store import": StoreImportSettings,
    "store import-features": StoreImportFeaturesSettings,
}
REQUIRED: dict[str, dict[str, Any]] = {
    "init": {},
    "prepare": {"dataset": "csv", "out": "m.csv"},
    "extract": {"manifest": "m.csv", "store": "s.zarr"},
    "fit-head": {"store": "s.zarr", "out": "o"},
    "finetune": {"manifest": "m.csv", "init": "none", "out": "o"},
    "compare": {},
    "check": {"manifest": "m.csv"},
    "predict": {"model": "m", "videos": "v"},
    "evaluate": {"model": "m"},
    "export": {"model": "m", "out": "o"},
    "describe": {"what": "heads"},
    "report": {},
    "train-bundled": {},
    "temporality": {"store": "s.zarr"},
    "store info": {"store": "s.zarr"},
    "store verify": {"store": "s.zarr"},
    "store export": {"store": "s.zarr", "out": "o"},
    "store import": {"file": "f.h5", "store": "s.zarr"},
    "store import-features": {"features": Path("f"), "manifest": Path("m.csv"), "store": "s.zarr"},
}
every_command = pytest.mark.parametrize("name", COMMANDS)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def typed(name: str, values: dict[str, Any]) -> list[str]:
    """Values as a person types them."""
    words = name.split()
    for key, value in values.items():
        argument = option_of(COMMANDS[name], key).is_argument
        words += [str(value)] if argument else [f"--{key.replace('_', '-')}", str(value)]
    return words


def command_of(name: str) -> PipelineCommand:
    found: click.Command = cli
    for word in name.split():
        assert isinstance(found, click.Group)
        found = found.commands[word]
    assert isinstance(found, PipelineCommand)
    return found


def settings_from_shell(name: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The object that the command's callback gets."""
    command = command_of(name)
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
def test_a_list_may_be_typed_with_commas_or_in_several_options(name: str) -> None:
    """`--pairs a:b --pairs c:d` kept the last one."""
    command = command_of(name)
    lists = [param.name for param in command.params if isinstance(param, NameListOption) and param.name]
    assert lists or name not in ("compare", "extract", "fit-head", "init", "store import-features")
    for option in lists:
        flag = f"--{option.replace('_', '-')}"
        context = command.make_context(name, [flag, "a:b, c:d", flag, "e:f"])
        assert context.params[option] == ("a:b", "c:d", "e:f")


def test_params_may_name_one_text_or_a_list(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("a:b, c:d", ("a:b", "c:d")), (["a, b:c", "d:e"], ("a, b:c", "d:e"))):
        Path("params.yaml").write_text(yaml.safe_dump({"compare": {"pairs": value}}))
        settings = settings_from_shell("compare", {}, monkeypatch)
        assert isinstance(settings, CompareSettings)
        assert settings.pairs == expected


def test_every_command_takes_its_options_from_a_settings_class() -> None:
    groups = {name: command for name, command in cli.commands.items() if isinstance(command, click.Group)}
    nested = {f"{name} {sub}" for name, group in groups.items() for sub in group.commands}
    assert nested | (set(cli.commands) - set(groups)) == set(COMMANDS)


@every_command
def test_every_field_is_one_option_and_every_option_a_field(name: str) -> None:
    settings = COMMANDS[name]
    with_option = {item.name for item in dataclasses.fields(settings) if option_of(settings, item.name).has_option}
    choices = {item.name for group in override_groups(settings) for item in dataclasses.fields(group)}
    parameters = command_of(name).params
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
        # Without the first of two arguments, the second one takes its position and is the one that is missing.
        arguments = [key for key in required_names(COMMANDS[name]) if option_of(COMMANDS[name], key).is_argument]
        asked = arguments[-1] if missing in arguments else missing
        assert asked.replace("_", "-") in result.stderr.lower()
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
        ("extract", {"max_clip_bytes": "64MB"}, "'64MB' is not a number of bytes"),
        ("check", {"max_clip_pixels": "8192x"}, "'8192x' is not a number of pixels"),
        ("store verify", {"samples": -1}, "samples"),
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


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("500000", BYTES, 500_000),
        ("3 KiB", BYTES, 3 * 1024),
        ("64MiB", BYTES, 64 * 1024 * 1024),
        ("16gib", BYTES, 16 * 1024**3),
        ("12B", BYTES, 12),
        ("2000000", PIXELS, 2_000_000),
        ("1920x1080", PIXELS, 2_073_600),
    ],
)
def test_quantities_with_units(text: str, unit: str, value: int) -> None:
    assert parse_quantity(text, unit) == value
    assert parse_quantity(quantity_text(value, unit), unit) == value


@pytest.mark.parametrize(
    ("text", "unit"), [("64MB", BYTES), ("-1", BYTES), ("", BYTES), ("1.5GiB", BYTES), ("9x", PIXELS)]
)
def test_other_quantities_are_refused(text: str, unit: str) -> None:
    with pytest.raises(PipelineError, match="is not a number of"):
        parse_quantity(text, unit)


def test_a_block_of_a_store_command_gives_defaults_for_its_store(run: CliRunner) -> None:
    Path("params.yaml").write_text(yaml.safe_dump({"store": {"verify": {"samples": 7}}}))
    result = run.invoke(cli, ["store", "verify", "s.zarr", "--show-settings"])
    assert "samples   7" in result.stdout
    Path("params.yaml").write_text(yaml.safe_dump({"store": {"verify": {"smaples": 7}}}))
    result = run.invoke(cli, ["store", "verify", "s.zarr"])
    assert result.exit_code == 1
    assert "block `store.verify`" in result.stderr


def test_limits_of_clips_are_shown_and_read_with_units(run: CliRunner) -> None:
    text = " ".join(run.invoke(cli, ["extract", "--help"]).stdout.split())
    assert "default: 16GiB" in text
    assert "default: 8192x8192" in text
    Path("params.yaml").write_text(yaml.safe_dump({"check": {"max-clip-bytes": "2GiB"}}))
    rows = run.invoke(cli, ["check", "m.csv", "--show-settings"]).stdout.splitlines()
    assert ["max-clip-bytes", "2GiB", "params.yaml"] in [row.split() for row in rows]


def integer_settings() -> list[tuple[str, str]]:
    return [
        (name, item.name)
        for name, settings in COMMANDS.items()
        for item in dataclasses.fields(settings)
        if without_none(hints_of(settings)[item.name]) is int and option_of(settings, item.name).has_option
    ]


@pytest.mark.parametrize(("name", "key"), integer_settings())
def test_every_integer_is_refused_with_a_fraction(name: str, key: str) -> None:
    """click truncates the 2.9 of params.yaml to 2, and takes `true` for 1."""
    kind = next(parameter.type for parameter in command_of(name).params if parameter.name == key)
    assert kind.convert(3.0, None, None) == 3
    for value in (2.9, float("inf"), float("nan"), True):
        with pytest.raises(click.BadParameter, match="is not an integer"):
            kind.convert(value, None, None)
        with pytest.raises(PipelineError, match=f"`{key.replace('_', '-')}` .* must be an integer"):
            COMMANDS[name](**{**REQUIRED[name], key: value})


def test_a_fraction_in_params_is_refused_for_an_integer(run: CliRunner) -> None:
    Path("params.yaml").write_text("fit_head: {store: s.zarr, out: o, seeds: 2.9, seed: 3.5}\n")
    result = run.invoke(cli, ["fit-head", "--show-settings"])
    assert result.exit_code == 2
    assert "'--seeds': 2.9 is not an integer." in " ".join(result.stderr.split())
    result = run.invoke(cli, ["fit-head", "--seeds", "2", "--show-settings"])
    assert "'--seed': 3.5 is not an integer." in " ".join(result.stderr.split())


@pytest.mark.parametrize(("name", "value"), [("window", 64), ("stride", 4), ("fps", 3.0)])
def test_a_typed_option_without_its_partner_is_refused(name: str, value: float, run: CliRunner) -> None:
    result = run.invoke(cli, ["predict", "m", "v.mp4", f"--{name}", str(value)])
    assert result.exit_code == 2
    assert f"--{name} (={value}) has no effect without --timeline. Add --timeline FILE.png" in " ".join(
        result.stderr.split()
    )
    Path("params.yaml").write_text(yaml.safe_dump({"predict": {name: value}}))  # for the calls with a timeline
    result = run.invoke(cli, ["predict", "m", "v.mp4"])
    assert "has no effect" not in result.stderr


def test_an_option_that_needs_another_names_a_setting_without_a_default() -> None:
    for settings in COMMANDS.values():
        for item in dataclasses.fields(settings):
            partner = option_of(settings, item.name).only_with
            if partner is not None:
                assert getattr(settings, partner) is None
                assert option_of(settings, item.name).help.startswith(f"--{partner}: ")


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("{lrate: 0.1}", "Unknown setting in the block `heads.tsn` of params.yaml: 'lrate'. Did you mean 'lr'?"),
        ("{learning-rate: 0.1}", "'learning-rate'. Did you mean 'lr'?"),
        ("{weight-deacy: 0.1}", "'weight-deacy'. Did you mean 'weight-decay'?"),
        ("{lr: 0,001}", "write a decimal number with a point, as in 0.001"),
        ("{lr: fast}", "Block `heads.tsn` of params.yaml: `lr` (='fast') must be float"),
        ("{epochs: 2.5}", "Block `heads.tsn` of params.yaml: `epochs` (=2.5) must be int"),
        ("{seeds: }", "Block `heads.tsn` of params.yaml: `seeds` (=None) must be an integer"),
        ("{seeds: 2.9}", "Block `heads.tsn` of params.yaml: `seeds` (=2.9) must be an integer"),
        ("{precision: float8}", "Block `heads.tsn` of params.yaml: `precision` (='float8') must be one of"),
    ],
)
def test_a_fault_in_the_block_of_a_head_names_the_block(block: str, words: str, run: CliRunner) -> None:
    Path("params.yaml").write_text(f"fit_head: {{store: s.zarr, out: o}}\nheads: {{tsn: {block}}}\n")
    result = run.invoke(cli, ["fit-head", "--head", "tsn"])
    said = " ".join(result.stderr.split())
    assert result.exit_code == 1
    assert words in said
    assert "weight_decay" not in said  # names are as they are typed there


def test_an_unknown_head_in_the_blocks_of_heads_is_refused(run: CliRunner) -> None:
    Path("params.yaml").write_text("fit_head: {store: s.zarr, out: o}\nheads: {lstn: {lr: 0.1}}\n")
    result = run.invoke(cli, ["fit-head", "--head", "tsn"])
    assert result.exit_code == 1
    assert "Unknown head in the block `heads` of params.yaml: 'lstn'. Did you mean 'lstm'?" in " ".join(
        result.stderr.split()
    )


def test_the_block_of_a_head_takes_every_option_that_a_fit_reads() -> None:
    for name, value in (("lr", 0.1), ("batch_size", 4), ("partial_bn", False), ("threads", 2), ("search", {})):
        FitHeadSettings(**REQUIRED["fit-head"], heads={"tsn": {name: value}})
