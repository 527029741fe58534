"""Run `pipeline` commands in forked processes that have already imported all packages: hundreds take minutes.

    with Commands() as commands:
        command = commands.start(["store", "info", "s.zarr"], folder)
        ended = command.wait()

A server process imports and forks; each command leads a new session, which identifies its descendants. It ends without
taking its modules apart, which costs a second with all packages imported.
"""

from __future__ import annotations

import atexit
import ctypes
import faulthandler
import gc
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import psutil

PRELOADED = (
    "stages.prepare", "stages.extract", "stages.fit_head", "stages.finetune", "stages.compare",
    "pipeline.cli", "pipeline.extract.cluster", "pipeline.store_command.command",
    "pipeline.fit_head.run", "pipeline.fit_head.workers", "pipeline.finetune.run", "pipeline.backbones.squeezenet",
    "pipeline.predict.command", "pipeline.predict.evaluate_command",
    "pipeline.compare.report", "pipeline.compare.plots",
    "av", "h5py", "PIL.Image", "distributed", "pandas", "matplotlib.figure", "rich.progress",
    "torch._dynamo",  # the first optimiser imports it
)  # fmt: skip
# Of capabilities(7) and prctl(2).
_CAP_DAC_OVERRIDE, _CAPABILITY_VERSION, _PR_CAPBSET_DROP = 1, 0x20080522, 24
# Variables of the environment that failing_disk.c and its server read.
IS_FAILING, FAILING_CALL = "DISK_CAN_FAIL", "FAILING_CALL"
OUTPUT, SCRATCH = "output.txt", "tmp"
START_SECONDS, TIMEOUT_SECONDS = 600.0, 600.0


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    code: exit code, or minus the number of the signal. num_calls: calls that write to files, if they can fail.
    """

    code: int
    output: str
    seconds: float
    num_calls: int = 0

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.output


class Commands:
    """Context manager of the server process.

    can_fail: whether the disk of a command can be made to fail, which takes a C compiler.
    """

    def __init__(self, can_fail: bool = False) -> None:
        self._can_fail = can_fail

    def __enter__(self) -> Commands:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        self._scratch = tempfile.TemporaryDirectory()
        if self._can_fail:
            environment |= {"LD_PRELOAD": build_failing_disk(Path(self._scratch.name)), IS_FAILING: "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment,
        )
        self._read(START_SECONDS)
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        try:
            self._server.wait(START_SECONDS / 10)
        except subprocess.TimeoutExpired:  # an overloaded machine; no command is left to wait for
            self._server.kill()
            self._server.wait()
        assert self._server.stdout is not None
        self._server.stdout.close()
        self._scratch.cleanup()

    def start(
        self,
        arguments: Sequence[str],
        folder: Path,
        limits: Mapping[int, int] = {},
        obeys_modes: bool = False,
        failing: tuple[int, int] | None = None,
    ) -> Command:
        """Start a command in a folder, which also gets its temporary files. Its output goes beside the folder.

        limits: by resource (`resource.RLIMIT_…`), the limit that the process gets; for `RLIMIT_AS`, the bytes beyond
            those that it has at its start.
        obeys_modes: whether the modes of files hold for the process although it runs as root.
        failing: a number and an error (`errno.E…`): of all calls that write, the one with this number fails; after
            `ENOSPC` all later ones fail, too.
        """
        (folder / SCRATCH).mkdir(exist_ok=True)
        assert self._server.stdin is not None
        request = {
            "arguments": list(arguments),
            "folder": str(folder),
            "limits": list(limits.items()),
            "obeys_modes": obeys_modes,
            "failing": failing,
        }
        self._server.stdin.write(json.dumps(request) + "\n")
        (pid,) = self._read(TIMEOUT_SECONDS)
        if pid <= 1:  # signals to these ids would reach other processes
            raise RuntimeError(f"the server answers {pid} instead of a process id")
        return Command(self, folder, pid)

    def run(
        self, arguments: Sequence[str], folder: Path, limits: Mapping[int, int] = {}, obeys_modes: bool = False
    ) -> Ended:
        """Run a command to its end."""
        return self.start(arguments, folder, limits, obeys_modes).wait()

    def _read(self, seconds: float) -> list[int]:
        assert self._server.stdout is not None
        if not select.select([self._server.stdout], [], [], seconds)[0]:
            raise TimeoutError
        return [int(word) for word in self._server.stdout.readline().split()]


class Command:
    """A running command."""

    def __init__(self, commands: Commands, folder: Path, pid: int) -> None:
        self._commands, self._folder, self.pid = commands, folder, pid
        self._started_at_seconds = time.monotonic()

    def kill(self) -> None:
        """Kill the command by SIGKILL, but not its child processes."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, seconds: float = TIMEOUT_SECONDS) -> Ended:
        """Wait for the end; a command that takes longer is killed."""
        num_calls = 0
        try:
            code, num_calls = self._commands._read(seconds)
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)  # prints where each thread is
            time.sleep(0.5)
            self.kill()
            self._commands._read(TIMEOUT_SECONDS)
            code = -signal.SIGALRM
        output = (self._folder.parent / OUTPUT).read_text(errors="replace")
        return Ended(code, output, time.monotonic() - self._started_at_seconds, num_calls)

    def processes_left(self, seconds: float = 20.0) -> list[str]:
        """Return the command lines of its processes that still run after some seconds, and end them."""
        end_seconds = time.monotonic() + seconds
        while (left := self._alive()) and time.monotonic() < end_seconds:
            time.sleep(0.05)
        lines = []
        for process in left:
            with suppress(psutil.Error):
                lines.append(" ".join(process.cmdline())[:200])
                process.kill()
        return lines

    def _alive(self) -> list[psutil.Process]:
        alive = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                is_own = process.pid != self.pid and os.getsid(process.pid) == self.pid
                if is_own and process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
        return alive


def build_failing_disk(folder: Path) -> str:
    """Compile `failing_disk.c` into a folder and return the path of the library."""
    library = folder / "failing_disk.so"
    source = Path(__file__).with_name("failing_disk.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return str(library)


def _serve() -> None:
    for name in PRELOADED:
        import_module(name)
    gc.collect()
    gc.freeze()  # the collector of a fork would copy the memory of all packages
    disk = ctypes.CDLL(None) if IS_FAILING in os.environ else None
    print(0, flush=True)
    for line in sys.stdin:
        if disk is not None:
            disk.let_fail(ctypes.c_long(0), 0)
        pid = os.fork()
        if pid == 0:
            _end(_become(json.loads(line), disk))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        num_calls = 0 if disk is None else disk.calls_made()
        print(os.waitstatus_to_exitcode(status), num_calls, flush=True)


def _become(request: dict[str, Any], disk: ctypes.CDLL | None) -> int:
    """Make the forked process look as if it had been started by a shell in the folder, and run the command."""
    os.setsid()
    folder = request["folder"]
    os.chdir(folder)
    os.environ |= {"TMPDIR": f"{folder}/{SCRATCH}", "XDG_CACHE_HOME": f"{folder}/{SCRATCH}/cache"}
    # Beside the folder: what the command says needs room although the disk of the folder is full.
    output = os.open(f"../{OUTPUT}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
    for stream, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(source, stream)
    os.closerange(3, 1024)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as in a new process
    faulthandler.register(signal.SIGUSR1)
    sys.argv = ["pipeline", *request["arguments"]]
    for kind, limit in request["limits"]:
        own = limit + psutil.Process().memory_info().vms if kind == resource.RLIMIT_AS else limit
        resource.setrlimit(kind, (own, own))
    if request["obeys_modes"] and os.geteuid() == 0:
        _obey_modes()
    if disk is not None:
        number, error = request["failing"] or (0, 0)
        os.environ[FAILING_CALL] = f"{number} {error}"  # for the processes that the command starts
        disk.let_fail(ctypes.c_long(number), error)
    try:
        import_module("pipeline.cli").main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _obey_modes() -> None:
    """Give up the right of root to write to any file, also for the programs that this process starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, capabilities = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    libc.prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)
    libc.capget(header, capabilities)
    for number in range(3):  # effective, permitted and inheritable
        capabilities[number] &= ~(1 << _CAP_DAC_OVERRIDE)
    if libc.capset(header, capabilities):
        raise OSError(ctypes.get_errno(), "capset failed")


def _end(code: int) -> NoReturn:
    """End a process as Python does at its end: it waits for its threads and runs what is registered."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
