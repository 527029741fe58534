"""No worker process outlives the process that started it."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

PACKAGE = Path(__file__).parents[1] / "pipeline"
PARENT = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pipeline.processes import end_with_parent

if __name__ == "__main__":
    with ProcessPoolExecutor(2, get_context(sys.argv[1]), initializer=end_with_parent) as pool:
        for future in [pool.submit(time.sleep, 0.1) for _ in range(2)]:
            future.result()
        waiting = [pool.submit(time.sleep, seconds) for seconds in (600, 600, 600)]
        print("started", flush=True)
        waiting[0].result()
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_a_parent_that_is_killed(method: str, number: int, tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    with subprocess.Popen([sys.executable, tmp_path / "parent.py", method], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        parent.send_signal(number)
        parent.wait(20)
    assert len(children) >= 3  # two workers, and multiprocessing's own
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_every_pool_of_processes_ends_with_its_parent() -> None:
    pools = {}
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ProcessPoolExecutor":
                has_initializer = any(keyword.arg == "initializer" for keyword in node.keywords)
                pools[path.name] = has_initializer and "end_with_parent" in source
    assert len(pools) >= 5
    assert all(pools.values()), pools
