"""The stage `fit_head` on a store that `extract` filled."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import stages.fit_head
from pipeline.errors import PipelineError
from pipeline.extract.extract import extract_features
from pipeline.folder_lock import folder_lock
from pipeline.manifest import read_manifest
from tests.conftest import REPOSITORY
from tests.support.dask_clusters import dask_cluster
from tests.support.run_stages import extract_settings, fit_head
from tests.support.small_clips import T, write_clips

SHORT = {"epochs": 2, "batch_size": 4}
FILES = ("metrics.json", "history.csv", "predictions.csv", "confusion.csv", "model.safetensors")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit_head")
    request = extract_settings(
        weights="random",
        num_segments=T,
        views=2,
        compile="eager",
        dtype="float32",
        workers=0,
        maps=("pooled",),
    )
    extract_features(read_manifest(write_clips(folder)), str(folder / "s.zarr"), request)
    return folder / "s.zarr"


def test_a_store_of_another_backbone_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"`backbone` is bninception, but the store .* has features of squeezenet"):
        fit_head(store=store, head="tsn", out=tmp_path, backbone="bninception")
    assert not list(tmp_path.iterdir())
    for backbone in ("squeezenet", None):
        fit_head(store=store, head="tsn", out=tmp_path, backbone=backbone, overrides=SHORT)


def test_side_by_side_and_one_by_one_give_the_same_files(store: Path, tmp_path: Path) -> None:
    for jobs in (1, 2):
        fit_head(store=store, head="gru,tsn,mlp", out=tmp_path / str(jobs), overrides=SHORT, jobs=jobs)
    for head in ("gru", "tsn", "mlp"):
        for name in FILES:
            cells = [tmp_path / jobs / f"squeezenet-{head}" / name for jobs in ("1", "2")]
            assert cells[0].read_bytes() == cells[1].read_bytes()


def test_seeds_side_by_side_give_the_same_files(store: Path, tmp_path: Path) -> None:
    for jobs in (1, 2, 3, None):
        fit_head(store=store, head="lstm", out=tmp_path / str(jobs), overrides=SHORT, seeds=3, jobs=jobs)
    for name in FILES:
        contents = {(tmp_path / str(jobs) / "squeezenet-lstm" / name).read_bytes() for jobs in (1, 2, 3, None)}
        assert len(contents) == 1
    assert len({row[: row.index(",")] for row in (tmp_path / "2/squeezenet-lstm/history.csv").read_text().split()}) == 4
    assert not list(tmp_path.rglob("*.pt"))


def test_searches_in_one_process_and_in_two_give_the_same_files(store: Path, tmp_path: Path) -> None:
    search = {"search": {"lr": "log:1e-4:1e-2"}, "trials": 3, "heads": {"tsn": {"search": {}, "lr": 0.02}}}
    arguments = {"store": store, "head": "gru,tsn,fcn2d", "overrides": SHORT, "seeds": 2, **search}
    for jobs in (1, 2):
        fit_head(**arguments, out=tmp_path / str(jobs), jobs=jobs)
    for head in ("gru", "tsn", "fcn2d"):
        cells = [tmp_path / jobs / f"squeezenet-{head}" for jobs in ("1", "2")]
        for name in FILES if head == "tsn" else (*FILES, "trials.csv"):
            assert cells[0].joinpath(name).read_bytes() == cells[1].joinpath(name).read_bytes()
    with_search = {path.parent.name for path in tmp_path.rglob("trials.csv")}
    assert with_search == {"squeezenet-gru", "squeezenet-fcn2d"}
    # The same points, because the spaces are equal.
    rates = [
        [line.split(",")[1] for line in (tmp_path / "2" / cell / "trials.csv").read_text().splitlines()]
        for cell in sorted(with_search)
    ]
    assert rates[0] == rates[1]
    assert all(outcome.was_finished for outcome in fit_head(**arguments, out=tmp_path / "2"))


@pytest.mark.timeout(300)
def test_two_dask_workers_give_the_same_trials_as_this_process(store: Path, tmp_path: Path) -> None:
    arguments = {"store": store, "head": "tsn", "overrides": SHORT, "search": {"lr": "1e-3,1e-2"}, "trials": 3}
    fit_head(**arguments, out=tmp_path / "here", jobs=1)
    with dask_cluster(tmp_path, 2) as (address, _, _):
        fit_head(**arguments, out=tmp_path / "cluster", scheduler=address)
    for name in (*FILES, "trials.csv"):
        files = [tmp_path / where / "squeezenet-tsn" / name for where in ("here", "cluster")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_scheduler_that_does_not_answer_is_an_error(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.fit_head.cluster.SECONDS_TO_CONNECT", 0.5)
    with pytest.raises(PipelineError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9.*--jobs"):
        fit_head(store=store, head="tsn", out=tmp_path, overrides=SHORT, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(PipelineError, match="give only one of them"):
        fit_head(store=store, head="tsn", out=tmp_path, scheduler="tcp://127.0.0.1:9", jobs=2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_that_is_killed_ten_times_gives_the_same_files(store: Path, tmp_path: Path) -> None:
    words = ["fit-head", "--store", str(store), "--head", "mlp,gru", "--epochs", "30", "--batch-size", "4"]
    words += ["--trials", "4", "--search", "lr=log:1e-4:1e-2", "--seeds", "2", "--jobs", "2"]

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pipeline", *words, "--out", str(out), "--quiet"]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)

    started_at_seconds = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    seconds = time.monotonic() - started_at_seconds
    generator = random.Random(0)
    for _ in range(10):
        process = start(tmp_path / "killed")
        time.sleep(seconds * generator.uniform(0.2, 0.9))
        process.kill()
        process.wait()
    assert start(tmp_path / "killed").wait() == 0
    for head in ("mlp", "gru"):
        for name in (*FILES, "trials.csv"):
            files = [tmp_path / where / f"squeezenet-{head}" / name for where in ("whole", "killed")]
            assert files[0].read_bytes() == files[1].read_bytes()


def test_finished_cells_are_skipped_and_said(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {"store": store, "head": "tsn", "out": tmp_path, "overrides": SHORT}
    first, second, forced = fit_head(**arguments), fit_head(**arguments), fit_head(**arguments, force=True)
    assert [outcome[0].was_finished for outcome in (first, second, forced)] == [False, True, False]
    printed = capsys.readouterr()
    assert "was finished with these settings" in printed.err
    assert printed.out.count("squeezenet (random)  tsn") == 3


def test_a_command_that_finds_its_work_done_imports_no_torch(store: Path, tmp_path: Path) -> None:
    fit_head(store=store, head=["gru", "tsn"], out=tmp_path, overrides=SHORT)
    arguments = ["fit-head", "--store", str(store), "--head", "gru,tsn", "--out", str(tmp_path)]
    code = (
        "import sys; from pipeline.cli import cli; "
        f"cli({[*arguments, '--epochs', '2', '--batch-size', '4']}, standalone_mode=False); "
        "print(sorted({'torch', 'scipy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr.count("was finished with these settings") == 2
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_unfinished_fit_goes_on_with_the_number_type_it_began_with(store: Path, tmp_path: Path) -> None:
    begun = tmp_path / "squeezenet-fcn2d" / ".unfinished" / "compute.json"
    begun.parent.mkdir(parents=True)
    begun.write_text('{"precision": "bfloat16", "threads": 1}')
    arguments = {"store": store, "head": "fcn2d", "out": tmp_path, "overrides": {"epochs": 1, "batch_size": 4}}
    metrics = fit_head(**arguments)[0].metrics
    assert (metrics["precision"], metrics["threads"]) == ("bfloat16", 1)
    assert not begun.parent.exists()
    assert fit_head(**arguments)[0].was_finished  # and a finished one stays as it is
    named = fit_head(**arguments, precision="float32", threads=1)[0]
    assert (named.metrics["precision"], named.was_finished) == ("float32", False)


def test_settings_of_one_head_are_its_own(store: Path, tmp_path: Path) -> None:
    outcomes = fit_head(
        store=store,
        head=["tsn", "mlp"],
        out=tmp_path,
        seeds=2,
        overrides=SHORT,
        heads={"mlp": {"lr": 0.02, "seeds": 1}, "lstm": {"lr": 5.0}},
        jobs=1,
    )
    found = {each.metrics["head"]: (each.metrics["num_seeds"], each.metrics["recipe"]["training"]) for each in outcomes}
    assert found["tsn"][0] == 2
    assert found["mlp"][0] == 1
    assert (found["tsn"][1]["lr"], found["mlp"][1]["lr"]) == (0.001, 0.02)


def test_one_head_that_diverges_does_not_keep_the_others_from_being_fitted(store: Path, tmp_path: Path) -> None:
    diverging = {"optimiser": "sgd", "lr": 1e9, "clip_norm": 0, "epochs": 20}
    with pytest.raises(PipelineError, match=r"1 of 2 runs failed\. mlp, seed 0.*Lower lr"):
        fit_head(store=store, head="mlp,tsn", out=tmp_path, overrides=SHORT, heads={"mlp": diverging}, jobs=1)
    assert json.loads((tmp_path / "squeezenet-tsn" / "metrics.json").read_text())["head"] == "tsn"
    assert not (tmp_path / "squeezenet-mlp" / "metrics.json").exists()


def test_a_seed_that_diverges_fails_its_cell_alone(store: Path, tmp_path: Path) -> None:
    diverging = {"optimiser": "sgd", "lr": 1e9, "clip_norm": 0, "epochs": 20}
    with pytest.raises(PipelineError, match=r"1 of 2 runs failed\. mlp, seed 0.*Lower lr"):
        fit_head(store=store, head="mlp,tsn", out=tmp_path, overrides=SHORT, heads={"mlp": diverging}, seeds=2, jobs=2)
    assert json.loads((tmp_path / "squeezenet-tsn" / "metrics.json").read_text())["num_seeds"] == 2
    assert not (tmp_path / "squeezenet-mlp" / "metrics.json").exists()


def test_several_recipes_get_folders_of_their_own(store: Path, tmp_path: Path) -> None:
    fit_head(store=store, head="tsn", out=tmp_path, recipe=["cached", "paper"], overrides=SHORT, jobs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cached", "paper"]


def test_no_epochs_write_the_metrics_of_the_head_as_it_starts(store: Path, tmp_path: Path) -> None:
    outcome = fit_head(store=store, head="lstm", out=tmp_path, overrides={"epochs": 0})[0]
    assert outcome.metrics["best_epoch"] == 0


def test_what_cannot_be_fitted_is_refused_before_the_first_fit(store: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"fcn3d.*reads spatial maps.*--maps pooled,spatial"):
        fit_head(store=store, head="tsn,fcn3d", out=tmp_path, overrides=SHORT)
    with pytest.raises(PipelineError, match="sampler=floor"):
        fit_head(store=store, head="tsn", out=tmp_path, recipe="published-code", overrides=SHORT)
    with pytest.raises(PipelineError, match="Did you mean 'fcn3d'"):
        fit_head(store=store, head="fcn3", out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_all_heads_are_those_that_the_store_has_maps_for(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = fit_head(store=store, head="paper", out=tmp_path, overrides={"epochs": 0}, jobs=1)
    assert len(outcomes) == 9
    assert "does not have their maps: convlstm, fcn3d" in capsys.readouterr().err


def test_two_commands_do_not_fit_one_head_into_one_folder_at_once(store: Path, tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path / "squeezenet-mlp"),
        pytest.raises(PipelineError, match=r"Another command is writing results to .*squeezenet-mlp\. Wait for it"),
    ):
        fit_head(store=store, head="tsn,mlp", out=tmp_path, overrides=SHORT)
    assert {path.name for path in tmp_path.rglob("*")} == {"squeezenet-tsn", "squeezenet-mlp"}  # nothing was begun
    with folder_lock(tmp_path / "squeezenet-mlp"):  # other heads can be fitted
        fit_head(store=store, head="tsn", out=tmp_path, overrides=SHORT)
    fit_head(store=store, head="tsn,mlp", out=tmp_path, overrides=SHORT)


def test_ctrl_c_says_that_the_same_command_goes_on(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages.fit_head, "_results", interrupted)
    with pytest.raises(PipelineError, match=r"Stopped\. 0 of 1 heads are finished; the same command continues"):
        fit_head(store=store, head="tsn", out=tmp_path)


def test_ctrl_c_ends_fits_in_worker_processes_at_once(store: Path, tmp_path: Path) -> None:
    """The workers do not get the signal, and the pool waited until their fits were done."""
    command = [sys.executable, "-m", "pipeline", "fit-head", "--store", str(store), "--head", "gru", "--jobs", "2"]
    command += ["--seeds", "2", "--epochs", "1000000", "--batch-size", "4", "--out", str(tmp_path), "--verbose"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=store.parent, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, preexec_fn=with_interrupts,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        try:
            while "seed 1: head, all" not in process.stderr.readline():
                assert process.poll() is None
            children = psutil.Process(process.pid).children(recursive=True)
            assert len(children) >= 3  # two workers and their server
            os.killpg(process.pid, signal.SIGINT)
            told = process.communicate(timeout=60)[1]
        finally:
            process.kill()  # its workers end with it
    assert process.returncode == 1
    assert "Stopped. 0 of 1 heads are finished; the same command continues" in " ".join(told.split())
    assert "Traceback" not in told
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def with_interrupts() -> None:
    """Handle interrupts, which a shell sets to be ignored in a background job, such as a whole test run."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
