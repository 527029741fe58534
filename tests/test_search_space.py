"""Search spaces of `fit-head`: lists, ranges and their errors, from Python, the command line and params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.errors import PipelineError
from pipeline.settings.fit_head import FitHeadSettings
from pipeline.settings.search import Range, Values, parse_space


def test_lists_ranges_and_log_ranges_get_the_types_of_their_settings() -> None:
    space = parse_space(
        {
            "lr": "log:1e-4:1e-2",
            "weight-decay": "0, 1e-2",
            "batch_size": "8:64",
            "optimiser": ["sgd", "adamw"],
            "dropout": [0, "0.5"],
            "fcn_score_relu": "true,false",
            "step-epochs": [[20, 30], [10, 20]],
        }
    )
    assert dict(space) == {
        "lr": Range(1e-4, 1e-2, is_log=True),
        "weight_decay": Values((0.0, 0.01)),
        "batch_size": Range(8, 64),
        "optimiser": Values(("sgd", "adamw")),
        "dropout": Values((0.0, 0.5)),
        "fcn_score_relu": Values((True, False)),
        "step_epochs": Values(((20, 30), (10, 20))),
    }
    assert [name for name, _ in space] == sorted(name for name, _ in space)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"leraning-rate": "0.1,0.2"}, "Unknown setting of a search"),
        ({"epoch": "1:3"}, "Did you mean 'epochs'"),
        ({"sampler": "covering,floor"}, "Unknown setting of a search 'sampler'"),
        ({"dev-share": "0.1,0.2"}, "dev-share cannot be searched.*which clips judge"),
        ({"backbone-lr": "0.1,0.2"}, "backbone-lr cannot be searched"),
        ({"lr": ""}, "must have several values"),
        ({"lr": []}, "must have several values"),
        ({"lr": 0.1}, "must have several values"),
        ({"patience-epochs": 70}, "in quotes in YAML"),  # what YAML makes of 1:10
        ({"lr": "0.1,0.1"}, "has a value twice"),
        ({"lr": "0.1,fast"}, "has 'fast', which is not a number"),
        ({"batch-size": "8:9.5"}, "has '9.5', which is not an integer"),
        ({"lr": "1e-2:1e-4"}, "lower end below its upper end"),
        ({"lr": "log:0.1:0.1"}, "lower end below its upper end"),
        ({"lr": "0:inf"}, "lower end below its upper end"),
        ({"weight-decay": "log:0:0.1"}, "0 has no logarithm"),
        ({"lr": "log:0.1"}, "must be LOW:HIGH or log:LOW:HIGH"),
        ({"lr": "1:2:3"}, "must be LOW:HIGH or log:LOW:HIGH"),
        ({"lr": "-1:1"}, "must be float and not negative"),
        ({"optimiser": "sgd:adamw"}, "needs a list: only numbers have ranges"),
        ({"optimiser": "sgd,adam"}, "must be one of 'sgd', 'adamw'"),
        ({"step-epochs": "20,30"}, "a list of lists"),
        ({"lr": "1:2", "l-r": "1:2"}, "Unknown setting"),
        ({"weight-decay": "0,1", "weight_decay": "0,1"}, "twice"),
    ],
)
def test_a_wrong_space_is_an_error_that_names_the_way_out(search: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        FitHeadSettings(store="s.zarr", out="o", trials=4, search=search)
    with pytest.raises(PipelineError, match=message):
        FitHeadSettings(store="s.zarr", out="o", trials=4, heads={"gru": {"search": search}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search": {"lr": "0.1,0.2"}}, "needs a number of trials"),
        ({"trials": 4}, "needs a search"),
        ({"search": {"lr": "0.1:0.2"}, "search_sampler": "grid"}, "lr has a range"),
        ({"search": {"lr": "0.1:0.2"}, "search_sampler": "tpe", "trials": 4, "halving": 3}, "halving"),
        ({"search": {"epochs": "5:20"}, "trials": 4, "halving": 3}, "`epochs` cannot be searched"),
        ({"search": {"lr": "0.1:0.2"}, "trials": 0}, "`trials`.*at least 1"),
        ({"search": {"lr": "0.1:0.2"}, "trials": 4, "search_sampler": "cma"}, "must be one of qmc"),
        ({"search": "lr", "trials": 4}, "must be a block of settings"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        FitHeadSettings(store="s.zarr", out="o", **values)


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the settings that a command line shows, by name, and its output."""
    monkeypatch.chdir(tmp_path)

    def show(*words: str) -> tuple[dict[str, str], str]:
        command = ["fit-head", "--store", "s.zarr", "--out", "o", *words]
        caught: list[FitHeadSettings] = []
        monkeypatch.setattr(cli.commands["fit-head"], "callback", caught.append)
        result = CliRunner().invoke(cli, command)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return (vars(caught[0]) if caught else {}), result.output

    return show


def test_search_is_typed_or_a_block_and_typed_wins(shown: Any) -> None:
    typed, _ = shown("--trials", "16", "--search", "lr=log:1e-4:1e-2", "--search", "weight-decay=0,1e-2")
    assert (typed["trials"], typed["search"]) == (16, {"lr": "log:1e-4:1e-2", "weight_decay": "0,1e-2"})
    block = {"trials": 8, "search": {"lr": "log:1e-4:1e-2", "weight-decay": [0, 0.01]}}
    heads = {"gru": {"search": {"lr": "log:1e-3:1e-1"}, "trials": 4}}
    Path("params.yaml").write_text(yaml.safe_dump({"fit_head": block, "heads": heads}))
    found, output = shown()
    assert found["search"] == {"lr": "log:1e-4:1e-2", "weight_decay": [0, 0.01]}
    assert found["heads"]["gru"] == {"search": {"lr": "log:1e-3:1e-1"}, "trials": 4}
    assert "search=lr=log:1e-4:1e-2 weight-decay=0,0.01" in output
    typed, _ = shown("--search", "dropout=0,0.3", "--trials", "2")
    assert (typed["search"], typed["heads"]["gru"]) == ({"dropout": "0,0.3"}, {})
    # A typed value of a setting that params.yaml searches fixes it.
    fixed, _ = shown("--lr", "0.003")
    assert fixed["search"] == {"weight_decay": [0, 0.01]}
    assert fixed["heads"]["gru"]["search"] == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--search", "lr"), "'lr' must be NAME=VALUES"),
        (("--search", "lr=1:2", "--search", "lr=1,2"), "lr is given twice"),
        (("--search", "lr=1:2", "--lr", "1", "--trials", "2"), "--lr fixes a setting"),
    ],
)
def test_a_wrong_option_is_a_usage_error(shown: Any, words: tuple[str, ...], message: str) -> None:
    found, output = shown(*words)
    assert not found
    assert message in output
