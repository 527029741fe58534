"""No worker process outlives the process that started it."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from pipeline.processes import without_interrupts

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


SLOW_MODULE = """
import os, time
open(f"importing-{os.getpid()}", "w").close()
time.sleep(600)
"""
PARENT_OF_IMPORTING = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pipeline.processes import forking_context, start_worker

if __name__ == "__main__":
    context = forking_context(["slow"]) if sys.argv[1] == "forkserver" else get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=start_worker, initargs=("slow:start",)) as pool:
        pool.submit(int)
        pool.submit(int).result()
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_that_still_import_end_with_their_parent(method: str, number: int, tmp_path: Path) -> None:
    """An import of torch takes seconds, in which nothing looked for the parent."""
    (tmp_path / "slow.py").write_text(SLOW_MODULE)
    (tmp_path / "parent.py").write_text(PARENT_OF_IMPORTING)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])}
    with subprocess.Popen([sys.executable, "parent.py", method], cwd=tmp_path, env=environment) as parent:
        while len(list(tmp_path.glob("importing-*"))) < (2 if method == "spawn" else 1):
            assert parent.poll() is None
            time.sleep(0.01)
        children = psutil.Process(parent.pid).children(recursive=True)
        parent.send_signal(number)
        parent.wait(20)
    assert len(children) >= 2
    _, alive = psutil.wait_procs(children, timeout=20)
    for process in alive:
        process.kill()
    assert not alive


def test_every_pool_of_processes_ends_with_its_parent() -> None:
    """Its initializer is in a module that imports nothing large, because a new process imports that first."""
    pools = {}
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "pipeline.processes"
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ProcessPoolExecutor":
                initializers = {getattr(word.value, "id", "") for word in node.keywords if word.arg == "initializer"}
                pools[path.name] = initializers & imported & {"end_with_parent", "start_worker"}
    assert len(pools) >= 5
    assert all(pools.values()), pools


EARLY_SERVER = """
import gc, sys
from concurrent.futures import ProcessPoolExecutor
import psutil
from pipeline.processes import forking_context, start_forking_server, start_worker

def state(_):
    return "slow" in sys.modules, gc.isenabled(), gc.get_freeze_count() > 0

if __name__ == "__main__":
    start_forking_server(["slow"])
    servers = psutil.Process().children()
    context = forking_context(["slow"])
    with ProcessPoolExecutor(1, context, initializer=start_worker, initargs=("slow:start",)) as pool:
        found = pool.submit(state, 0).result()
        print(*found, psutil.Process().children() == servers)
"""


def test_a_server_that_is_started_early_serves_the_pool(tmp_path: Path) -> None:
    """Its workers have the imported module, and collect garbage except for the objects of the imports."""
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(0.5)\ndef start(): pass\n")
    (tmp_path / "early.py").write_text(EARLY_SERVER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])}
    command = [sys.executable, "early.py"]
    printed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.split() == ["True"] * 4


@pytest.fixture
def interrupts() -> Iterator[None]:
    """A background job of a shell ignores interrupts."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_does_not_reach_processes_and_is_handled_afterwards() -> None:
    program = "import time; print('started', flush=True); time.sleep(0.2); print('done')"
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(KeyboardInterrupt))
        stack.enter_context(without_interrupts())
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "started\n"
        child.send_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert child.communicate(timeout=30)[0] == "done\n"
    assert child.returncode == 0


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_that_another_thread_takes_is_handled_after_the_block_too() -> None:
    """Only the main thread blocks the signal. A process that was half started printed a traceback."""
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()
    done = []
    with ExitStack() as stack:
        stack.callback(other.join)
        stack.callback(end.set)
        stack.enter_context(pytest.raises(KeyboardInterrupt))
        stack.enter_context(without_interrupts())
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        done.append("the block")
    assert done == ["the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with without_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)


def test_control_c_while_workers_start_prints_no_traceback_of_theirs(tmp_path: Path) -> None:
    program = """
import signal
from distributed import LocalCluster
from pipeline.processes import without_interrupts

signal.signal(signal.SIGINT, signal.default_int_handler)
if __name__ == "__main__":
    with without_interrupts():
        print("starting", flush=True)
        cluster = LocalCluster(1, threads_per_worker=1, dashboard_address=":0")
    cluster.close()
"""
    (tmp_path / "program.py").write_text(program)
    with subprocess.Popen(
        [sys.executable, tmp_path / "program.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=tmp_path,
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        while not any("spawn_main" in " ".join(each.cmdline()) for each in psutil.Process(parent.pid).children()):
            assert parent.poll() is None
        os.killpg(parent.pid, signal.SIGINT)
        messages = parent.communicate(timeout=100)[1]
    assert messages.count("KeyboardInterrupt") == 1  # of the main process
