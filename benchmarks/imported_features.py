"""Question: how long does it take from a folder of arrays to the table?

It writes arrays of drawn features, then runs `prepare features`, `store import-features`, `fit-head` and `compare`, as
typed.

    python -m benchmarks.imported_features
    python -m benchmarks.imported_features --arrays 200 --epochs 2
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SHAPE = (8, 768)
NUM_CLASSES = 10
HEADS = "tsn,mlp,gru,trn"


def _processor_seconds() -> float:
    """Return the processor time of the commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Write the arrays, run the commands and print the seconds of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arrays", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    means = generator.normal(size=(NUM_CLASSES, *SHAPE))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.arrays):
            label = number % NUM_CLASSES
            path = Path(folder) / "arrays" / f"class{label}" / f"{number:05d}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, (means[label] + generator.normal(scale=5, size=SHAPE)).astype(np.float32))
        commands = (
            "prepare features arrays --out m.csv",
            "store import-features arrays --manifest m.csv --store s.zarr",
            f"fit-head --store s.zarr --head {HEADS} --out r --epochs {options.epochs}",
            "compare r --out c",
        )
        total = processor_total = 0.0
        for command in commands:
            began, before = time.perf_counter(), _processor_seconds()
            done = subprocess.run(
                [sys.executable, "-m", "pipeline", *command.split()],
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
            )
            seconds = time.perf_counter() - began
            processor = _processor_seconds() - before
            total, processor_total = total + seconds, processor_total + processor
            print(f"{seconds:7.1f} s  ({processor:6.1f} s of the processor)  pipeline {command}")
        print(f"{total:7.1f} s  ({processor_total:6.1f} s)  together, {options.arrays:,} arrays of {SHAPE}")
        print(done.stdout)


if __name__ == "__main__":
    main()
