"""Print how the demo's results differ from those in Git. Arithmetic rounds differently on other kinds of processors.

python tools/demo_difference.py [FOLDER]      # default: results/fit_head
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.json"


def main(folder: Path) -> None:
    """Compare the top-1 of each result folder with the committed one and with its 95 % interval."""
    found = {path: path.read_bytes() for path in sorted(folder.glob(f"*/{METRICS_FILE}"))}
    committed = {path: _committed(path) for path in found}
    if None in committed.values():
        print(f"Some results in {folder} are not in Git, so there is nothing to compare them with.")
        return
    changed = [path for path in found if found[path] != committed[path]]
    if not changed:
        print(f"All {len(found)} metrics in {folder} equal the committed ones, byte for byte.")
        return
    print(f"{len(changed)} of {len(found)} metrics in {folder} differ from the committed ones. Top-1 in percent:")
    for path in changed:
        before, after = (json.loads(text or b"{}")["report"] for text in (committed[path], found[path]))
        judgement = _judgement(before, after["top1"])
        print(f"  {path.parent.name:<24} {before['top1']:.1f} -> {after['top1']:.1f}; {judgement}")


def _judgement(before: dict[str, Any], top1: float) -> str:
    low, high = before["top1_low"], before["top1_high"]
    is_inside = low <= top1 <= high
    return f"{'within' if is_inside else 'OUTSIDE'} the committed interval, {low:.1f} to {high:.1f}"


def _committed(path: Path) -> bytes | None:
    done = subprocess.run(["git", "show", f"HEAD:./{path.as_posix()}"], capture_output=True)
    return done.stdout if done.returncode == 0 else None


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/fit_head"))
