"""Start a finetune in a separate process, and kill it at a chosen moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.conftest import REPOSITORY

SECONDS = 180


def finetune_command(settings: Mapping[str, Any]) -> list[str]:
    return [sys.executable, "-m", "tests.support.finetune_child", json.dumps(settings)]


def kill_when(is_there: Callable[[], bool], settings: Mapping[str, Any], **environment: str) -> None:
    """Run a finetune with SIGKILL as soon as `is_there` is true."""
    child = subprocess.Popen(
        finetune_command(settings), cwd=REPOSITORY, env={**os.environ, **environment}, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    until = time.monotonic() + SECONDS
    while not is_there():
        assert child.poll() is None, child.stderr.read().decode() if child.stderr else ""
        assert time.monotonic() < until
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.communicate()
