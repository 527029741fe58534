"""The stage: files that it writes, the same each time, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.compare import head_costs
from pipeline.errors import PipelineError
from tests.support.result_folders import CLASSES, write_cell
from tests.support.run_stages import compare


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for seed, (head, accuracy) in enumerate({"lstm": 0.8, "tsn": 0.4}.items()):
        write_cell(tmp_path / f"results/fit_head/squeezenet-{head}", head=head, accuracy=accuracy, seed=seed)
    return tmp_path / "results"


def test_the_table_is_printed_and_everything_is_written(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = results / "compare"
    compare([results / "fit_head"], out=out, pairs=[f"{CLASSES[0]}:{CLASSES[1]}"], width=80)
    printed = capsys.readouterr()
    assert printed.out.startswith("squeezenet, weights bundled, 8 segments: 60 clips of val, 3 classes\n")
    sentence = "Table 3 (Jester, 8 segments, SqueezeNet), 2 heads, recipe cached: needs 4 heads"
    assert sentence in " ".join(printed.out.split())
    assert "pairs: percent of clips" in printed.err
    assert "ms/clip, memory: of the head only" not in printed.err, "80 characters do not show them"
    assert "80 characters leave out:" in printed.out
    assert max(map(len, (printed.out + printed.err.partition("\n\n")[2]).split("\n")[:-2])) <= 80
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"table.csv", "table.md", "comparison.json", "timing.json", "report.html"} <= names
    assert {"plots/accuracy-macs.svg", "plots/order-probes.png", "plots/paper.svg"} <= names
    timing = json.loads((out / "timing.json").read_text())
    assert timing["cells"]["fit_head/squeezenet-lstm"]["latency_ms"] > 0
    assert timing["cells"]["fit_head/squeezenet-lstm"]["time_share_percent"] == 50


def test_heads_are_measured_in_a_process_that_alone_imports_torch(results: Path) -> None:
    """The command reads the results meanwhile. Equal heads are measured once; the machine is described."""
    code = (
        "import sys; from pathlib import Path\n"
        "from pipeline.compare.head_costs import measure_in_process, start_server_early\n"
        "if __name__ == '__main__':\n"
        "    start_server_early()\n"
        "    from pipeline.evaluation.result_reader import find_runs, read_run\n"
        "    runs = [read_run(folder) for folder in find_runs([Path('fit_head')])]\n"
        "    costs, machine = measure_in_process([*runs, *runs])\n"
        "    print(sorted(costs), min(cost.latency_ms for cost in costs.values()) > 0)\n"
        "    print(machine, 'torch' in sys.modules, sep='; ')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=results, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    costs, machine = done.stdout.splitlines()
    assert costs == "['fit_head/squeezenet-lstm', 'fit_head/squeezenet-tsn'] True"
    assert machine.endswith("one thread; False")


def killed_while_measuring(runs: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_measurement_is_a_sentence(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_costs, "_measure_here", killed_while_measuring)
    with pytest.raises(PipelineError, match=r"measured the heads was killed.*--no-latency"):
        compare([results / "fit_head"])


def test_what_stands_in_git_is_the_same_each_time(results: Path) -> None:
    written = []
    for name in ("once", "again"):
        compare([results / "fit_head"], out=results / name, latency=False, report=False)
        files = [path for path in sorted((results / name).rglob("*")) if path.is_file()]
        written.append({path.name: path.read_bytes() for path in files})
    assert written[0] == written[1]


def test_without_out_nothing_is_written(results: Path) -> None:
    before = sorted(results.rglob("*"))
    compare([results / "fit_head"], latency=False)
    assert sorted(results.rglob("*")) == before


def test_missing_results_are_a_sentence(results: Path) -> None:
    with pytest.raises(PipelineError, match=r"There is no folder .*finetune"):
        compare([results / "fit_head", results / "finetune"])


def test_pairs_of_other_classes_are_left_out_by_name(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = compare([results / "fit_head"], pairs=["up:down"], latency=False)
    assert comparison.rows
    assert "1 of 1 pairs are ignored, because the results have no class 'down', 'up'." in capsys.readouterr().err


def test_a_closed_pipe_loses_no_file_and_no_torch_is_imported_without_latency(results: Path) -> None:
    for folder in (results / "fit_head").iterdir():
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics["st_block"] = {"maps": "pooled", "parameters": 1_000, "macs": 2_000}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    out = results / "compare"
    code = (
        "import sys; from pipeline.cli import cli\n"
        "try: cli(sys.argv[1:])\n"
        "finally: sys.stderr.write(f\"torch: {'torch' in sys.modules}\\n\")"
    )
    command = [sys.executable, "-c", code, "compare", "--no-latency", str(results / "fit_head"), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=results) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        told = process.stderr.read().decode()
    assert "torch: False" in told
    assert "Traceback" not in told
    assert {"table.csv", "table.md", "comparison.json", "report.html"} <= {path.name for path in out.iterdir()}
    assert ",1000,2000," in (out / "table.csv").read_text()
