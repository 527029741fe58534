"""A supervised command looks like one process: signals, exit code, input and output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SUPERVISED = """
import os, signal, sys, time
from pipeline import supervised, supervisor
from pipeline.video import fatal_clips

fatal_clips.SECONDS_TO_START = 0.0
supervisor.allow_supervision()
"""


def test_the_time_in_which_a_command_is_stopped_does_not_count() -> None:
    program = SUPERVISED + (
        "supervisor.supervise()\n"
        "with supervised.decoding('clip', (1, 1, 6.0)):\n"
        "    print(flush=True)\n"
        "    for _ in range(30):\n"
        "        time.sleep(0.1)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        time.sleep(1)  # the supervisor has read when the clip began
        os.killpg(parent.pid, signal.SIGSTOP)
        time.sleep(9)
        os.killpg(parent.pid, signal.SIGCONT)
        _, messages = parent.communicate(timeout=60)
    assert (parent.returncode, messages) == (0, "")


def test_a_signal_ends_the_first_process_of_a_container(tmp_path: Path) -> None:
    # Such a process ignores signals with the default action, as a process does that blocks them.
    program = SUPERVISED + (
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "supervisor.supervise()\n"
        "open('started', 'a').write('x')\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment) as parent:
        try:
            assert parent.wait(60) == 128 + signal.SIGTERM
        finally:
            parent.kill()
    assert (tmp_path / "started").read_text() == "x"


def test_streams_and_exit_code_are_those_of_the_child() -> None:
    program = SUPERVISED + (
        "supervisor.supervise()\n"
        "print(sys.stdin.read().upper(), end='')\n"
        "print('message', file=sys.stderr)\n"
        "sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], input="given", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "GIVEN", "message\n")
