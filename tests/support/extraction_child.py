"""Run an extraction in a separate process that a test can kill: `extraction_child.py MANIFEST STORE JSON`.

The JSON has fields of `ExtractSettings`, and `kill`: {"phase", "number"}: SIGKILL at the start of the number-th
occurrence of a phase; {"phase", "subject"}: SIGKILL at each occurrence for that clip, with "once": a file that is
created first, so that only one process is killed. A marker file shows that the kill happened. `ballast`: {"subject",
"bytes", "limit_bytes"}: allocate that much memory when the clip is decoded, with a limit of `limit_bytes` per worker.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.extract.extract import extract_features
from pipeline.manifest import read_manifest
from pipeline.settings.extract import ExtractSettings
from stages.extract import summary_text


class Killer:
    """Callback for phases that kills the process at a chosen moment."""

    def __init__(self, kill: dict[str, Any]) -> None:
        self.kill, self.count = kill, 0

    def __call__(self, phase: str, subject: str) -> None:
        if phase != self.kill["phase"] or self.kill.get("subject", subject) != subject:
            return
        self.count += 1
        if self.count < self.kill.get("number", 1):
            return
        try:
            Path(self.kill["marker"]).touch(exist_ok=not self.kill.get("once", False))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


class Ballast:
    """Callback for phases that exceeds the memory limit of its process and waits to be killed."""

    def __init__(self, subject: str, num_bytes: int) -> None:
        self.subject, self.num_bytes = subject, num_bytes

    def __call__(self, phase: str, subject: str) -> None:
        if (phase, subject) == ("decode", self.subject):
            ballast = np.ones(self.num_bytes, dtype=np.uint8)
            time.sleep(60)
            raise RuntimeError(f"nobody minded {ballast.nbytes:,} bytes")


def listens_to_nothing(phase: str, subject: str) -> None:
    return None


def main() -> None:
    manifest, store, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    kill, ballast = options.pop("kill", None), options.pop("ballast", None)
    on_phase = Killer(kill) if kill else listens_to_nothing
    if ballast:
        # Linux does not enforce this limit, but Dask uses it as the machine's memory.
        resource.setrlimit(resource.RLIMIT_RSS, (ballast["limit_bytes"], ballast["limit_bytes"]))
        on_phase = Ballast(ballast["subject"], ballast["bytes"])
    request = ExtractSettings(manifest=manifest, store=store, **options)
    print("started", flush=True)
    summary = extract_features(read_manifest(manifest), store, request, on_phase)
    print(summary_text(summary))


if __name__ == "__main__":
    main()
