"""The metric gate on real Git repositories: drops, vanished and new cells, and revisions that are not there."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.compare.gate import GateError, GateReport, UnknownRevisionError, compare_with_revision
from pipeline.errors import PipelineError
from pipeline.evaluation.result_reader import find_runs, read_run
from tests.support.result_folders import write_cell
from tests.support.run_stages import compare


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.email=a@example.org", "-c", "user.name=A", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository whose branch `main` has two cells committed."""
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    write_cell(tmp_path / "results/fit_head/squeezenet-lstm", head="lstm", accuracy=0.9, num_clips=200)
    write_cell(tmp_path / "results/fit_head/squeezenet-tsn", head="tsn", accuracy=0.4, num_clips=200)
    git(tmp_path, "add", "results")
    git(tmp_path, "commit", "--quiet", "-m", "results")
    return tmp_path


def gate(project: Path, max_drop: float | None = 1.0, revision: str = "main", equal_budget: bool = False) -> GateReport:
    place = project / "results/fit_head"
    cells = [read_run(folder) for folder in find_runs([place])] if any(place.glob("*/metrics.json")) else []
    return compare_with_revision(cells, [place], revision, max_drop, equal_budget)


def test_unchanged_results_pass(project: Path) -> None:
    report = gate(project)
    report.check()
    assert [change.verdict for change in report.changes] == ["same", "same"]
    assert all(change.interval.low == change.interval.high == 0 for change in report.changes if change.interval)


def test_equal_results_of_several_seeds_have_no_interval_either(project: Path) -> None:
    write_cell(project / "results/fit_head/squeezenet-gru", head="gru", num_seeds=3)
    git(project, "add", "results")
    git(project, "commit", "--quiet", "-m", "three seeds")
    (change,) = [change for change in gate(project).changes if change.name.endswith("gru")]
    assert change.interval is not None
    assert (change.interval.low, change.interval.high) == (0, 0)


def test_passing_is_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare([project / "results/fit_head"], against="main", max_drop=1.0, latency=False)
    wanted = "The gate against main passes: no drop of top-1 beyond the tolerance (1), and no cell has vanished."
    assert wanted in capsys.readouterr().out


@pytest.mark.parametrize(
    ("against", "max_drop", "message"),
    [(None, 1.0, "needs a revision"), ("main", -1.0, "zero or more"), ("main", float("nan"), "zero or more")],
)
def test_a_gate_that_could_not_judge_is_refused(
    project: Path, against: str | None, max_drop: float, message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        compare([project / "results/fit_head"], against=against, max_drop=max_drop, latency=False)


def test_a_drop_fails_and_names_cell_drop_and_interval(project: Path) -> None:
    before = read_run(project / "results/fit_head/squeezenet-lstm").metrics_from_predictions()["top1"]
    write_cell(project / "results/fit_head/squeezenet-lstm", head="lstm", accuracy=0.8, num_clips=200)
    after = read_run(project / "results/fit_head/squeezenet-lstm").metrics_from_predictions()["top1"]
    report = gate(project)
    with pytest.raises(GateError) as caught:
        report.check()
    message = str(caught.value)
    assert "results/fit_head/squeezenet-lstm" in message
    assert f"lost {before - after:.2f} points" in message
    assert "95 % interval of the change -" in message
    assert "more than the 1 allowed" in message
    assert "squeezenet-tsn" not in message
    assert caught.value.exit_code == 1
    assert "| **drop** |" in report.markdown()


def test_a_drop_within_the_tolerance_passes(project: Path) -> None:
    before = read_run(project / "results/fit_head/squeezenet-lstm").metrics_from_predictions()["top1"]
    write_cell(project / "results/fit_head/squeezenet-lstm", head="lstm", accuracy=0.88, num_clips=200)
    drop = before - read_run(project / "results/fit_head/squeezenet-lstm").metrics_from_predictions()["top1"]
    assert drop > 0
    gate(project, max_drop=drop).check()
    with pytest.raises(GateError):
        gate(project, max_drop=drop - 0.1).check()


def test_results_of_another_split_are_neither_a_drop_nor_a_gain(project: Path) -> None:
    """A study that gets a test split reports other clips: the two figures cannot be compared."""
    write_cell(
        project / "results/fit_head/squeezenet-lstm",
        head="lstm", accuracy=0.5, num_clips=150, selected_on="val", reported_on="test",
    )  # fmt: skip
    report = gate(project)
    report.check()
    (change,) = [change for change in report.changes if change.name.endswith("lstm")]
    assert (change.verdict, change.drop, change.interval) == ("other split", None, None)
    (line,) = [line for line in report.markdown().splitlines() if "squeezenet-lstm" in line]
    assert "other split" in line
    assert not re.search(r"[+-]\d", line)


def test_metrics_of_version_0_1_can_be_the_revision(project: Path) -> None:
    place = project / "results/fit_head/squeezenet-lstm/metrics.json"
    metrics = json.loads(place.read_text())
    present = json.dumps(metrics)
    old = {key: value for key, value in metrics.items() if key not in ("selected_on", "reported_on", "report")}
    place.write_text(json.dumps({**old, "val": metrics["report"]}))
    git(project, "commit", "--quiet", "-am", "as version 0.1 wrote it")
    place.write_text(present)
    assert [change.verdict for change in gate(project).changes] == ["same", "same"]


def test_without_a_tolerance_only_a_vanished_cell_fails(project: Path) -> None:
    write_cell(project / "results/fit_head/squeezenet-lstm", head="lstm", accuracy=0.1, num_clips=200)
    gate(project, max_drop=None).check()


def test_a_vanished_cell_fails_even_when_its_folder_is_gone(project: Path, tmp_path: Path) -> None:
    cell = project / "results/fit_head/squeezenet-lstm"
    for file in cell.iterdir():
        file.unlink()
    cell.rmdir()
    with pytest.raises(GateError, match="results/fit_head/squeezenet-lstm has vanished"):
        gate(project).check()
    cell.parent.rename(tmp_path / "elsewhere")
    with pytest.raises(GateError, match=r"(?s)squeezenet-lstm has vanished.*squeezenet-tsn has vanished"):
        compare([project / "results/fit_head"], against="main", latency=False)


def test_new_cells_are_listed_and_pass(project: Path) -> None:
    write_cell(project / "results/fit_head/squeezenet-gru", head="gru")
    report = gate(project)
    report.check()
    assert {change.name.rsplit("-")[-1]: change.verdict for change in report.changes}["gru"] == "new"
    assert "| new |" in report.markdown()


def test_a_revision_without_metrics_says_so(project: Path) -> None:
    git(project, "checkout", "--quiet", "--orphan", "empty")
    git(project, "rm", "--quiet", "-r", "--cached", ".")
    (project / "README").write_text("nothing yet")
    git(project, "add", "README")
    git(project, "commit", "--quiet", "-m", "empty")
    report = gate(project, revision="empty")
    report.check()
    assert "`empty` has no metrics" in report.markdown()
    assert "results/fit_head/squeezenet-lstm: top-1" in report.markdown()


def test_an_unknown_revision_is_a_sentence_with_exit_code_2(project: Path) -> None:
    with pytest.raises(UnknownRevisionError, match="Git knows no revision 'nowhere'") as caught:
        gate(project, revision="nowhere")
    assert caught.value.exit_code == 2


def test_a_revision_with_a_linked_dvc_file_is_a_sentence(project: Path) -> None:
    git(project, "init", "--quiet")
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text("")
    (project / "dvc.yaml").write_text("stages: {a: {cmd: echo a}}\n")
    (project / "ci").mkdir()
    (project / "ci" / "dvc.yaml").symlink_to("../dvc.yaml")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "-m", "linked")
    with pytest.raises(PipelineError, match="DVC cannot read its own files at revision 'main'"):
        gate(project)


def test_other_clips_give_no_interval(project: Path) -> None:
    write_cell(project / "results/fit_head/squeezenet-lstm", head="lstm", accuracy=0.5, num_clips=100)
    with pytest.raises(GateError, match="no paired interval"):
        gate(project).check()


def test_a_place_outside_of_git_is_named(tmp_path: Path) -> None:
    folder = write_cell(tmp_path / "results/squeezenet-lstm")
    with pytest.raises(PipelineError, match="is not in a Git repository"):
        compare_with_revision([read_run(folder)], [tmp_path / "results"], "main")


def test_a_project_below_the_root_of_the_repository_is_found(project: Path) -> None:
    write_cell(project / "sub/results/fit_head/squeezenet-lstm")
    git(project, "add", "sub")
    git(project, "commit", "--quiet", "-m", "below")
    place = project / "sub/results"
    report = compare_with_revision([read_run(folder) for folder in find_runs([place])], [place], "HEAD", 1.0)
    assert [change.name for change in report.changes] == ["sub/results/fit_head/squeezenet-lstm"]


def test_compare_prints_table_and_diff_then_fails(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cell(project / "results/fit_head/squeezenet-tsn", head="tsn", accuracy=0.2, num_clips=200)
    with pytest.raises(GateError, match="squeezenet-tsn lost"):
        compare([project / "results/fit_head"], against="main", max_drop=1.0, latency=False, width=80)
    printed = capsys.readouterr().out
    assert "top-1 [95 %]" in printed
    assert "| results/fit_head/squeezenet-tsn |" in printed


def searched(project: Path, trials: int, epochs: int = 20) -> None:
    """Write a better result that was chosen among `trials` trials."""
    write_cell(
        project / "results/fit_head/squeezenet-lstm",
        head="lstm",
        accuracy=0.95,
        num_clips=200,
        recipe={"name": "cached", "training": {"epochs": epochs}},  # type: ignore[arg-type]
        search={"trials": trials, "epochs": trials * epochs, "chosen": {"lr": 0.001}},
    )


def test_a_better_result_of_a_larger_search_fails_at_equal_budget(project: Path) -> None:
    searched(project, trials=4)
    git(project, "commit", "--quiet", "--all", "-m", "four trials")
    assert "equal budgets, and no cell has vanished" in gate(project, equal_budget=True).check()
    searched(project, trials=16)
    assert "passes" in gate(project).check()
    with pytest.raises(GateError, match=r"20 epochs, chosen among 4 trials \(80 epochs\); here .* 16 trials") as caught:
        gate(project, equal_budget=True).check()
    assert "squeezenet-lstm" in str(caught.value)
    assert "tsn" not in str(caught.value)


def test_a_better_result_of_more_epochs_fails_at_equal_budget(project: Path) -> None:
    searched(project, trials=4)
    git(project, "commit", "--quiet", "--all", "-m", "four trials")
    searched(project, trials=4, epochs=30)
    report = gate(project, equal_budget=True)
    (change,) = [change for change in report.changes if change.name.endswith("lstm")]
    assert change.verdict == "**budget**"
    with pytest.raises(GateError, match="another budget"):
        report.check()


def test_an_equal_budget_needs_a_revision(project: Path) -> None:
    with pytest.raises(PipelineError, match="`--equal-budget` needs a revision"):
        compare([project / "results/fit_head"], equal_budget=True, latency=False)
