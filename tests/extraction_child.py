"""An extraction in a process of its own, which a test can kill: `extraction_child.py MANIFEST STORE JSON`.

The JSON has fields of `ExtractionRequest`, and `kill`: {"phase", "number"} to die by SIGKILL when a phase begins for
the number-th time, {"phase", "subject"} to die whenever it is about that clip, with "once": a file that is made first,
so that only one process dies. Afterwards the path of a marker file tells that the kill landed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from pipeline.extraction import ExtractionRequest, extract_features
from pipeline.manifest import read_manifest
from stages.extract import summary_text


class Killer:
    """A listener to phases that kills its own process at a chosen moment."""

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


def listens_to_nothing(phase: str, subject: str) -> None:
    return None


def main() -> None:
    manifest, store, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    kill = options.pop("kill", None)
    request = ExtractionRequest(**{**options, "maps": tuple(options["maps"])})
    print("started", flush=True)
    summary = extract_features(read_manifest(manifest), store, request, Killer(kill) if kill else listens_to_nothing)
    print(summary_text(summary))


if __name__ == "__main__":
    main()
