"""Question: does the memory of an extraction grow with the number of clips?

It runs one extraction for each number of clips: JPG folders (sixteen drawn ones under many names), the test view with
its maps, one worker process per core. The resident memory of the parent and of the workers is read ten times per
second; it prints the maximum of the parent and of the largest worker, with its ratio to that of the first number.

    python -m benchmarks.extraction_memory --counts 100,2000
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.extraction import write_clips
from pipeline.extract.extract import extract_features
from pipeline.processes import num_cores
from pipeline.settings.extract import ExtractSettings

SECONDS_BETWEEN_LOOKS = 0.1


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """Record the maximum resident bytes of this process and of any child while the block runs."""
    this, peaks, stop = psutil.Process(), {"parent": 0, "worker": 0}, threading.Event()

    def look() -> None:
        while not stop.wait(SECONDS_BETWEEN_LOOKS):
            peaks["parent"] = max(peaks["parent"], this.memory_info().rss)
            for child in this.children(recursive=True):
                try:
                    peaks["worker"] = max(peaks["worker"], child.memory_info().rss)
                except psutil.Error:
                    continue  # the process has just ended

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="squeezenet")
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--counts", default="100,2000")
    parser.add_argument("--workers", type=int, default=num_cores())
    options = parser.parse_args()
    first: dict[str, int] = {}
    for count in map(int, options.counts.split(",")):
        with tempfile.TemporaryDirectory() as name:
            manifest = write_clips(Path(name), "jpg", count)
            # The same block size and compilation for every number of clips, because both take memory.
            request = ExtractSettings(
                manifest=manifest.path,
                store=f"{name}/s.zarr",
                backbone=options.backbone,
                weights=options.weights,
                workers=options.workers,
                block_clips=32,
                compile="inductor",
            )
            with watched() as peaks:
                extract_features(manifest, str(Path(name) / "s.zarr"), request)
        first = first or dict(peaks)
        said = ", ".join(f"{who} {peak / 1e6:,.0f} MB (×{peak / first[who]:.2f})" for who, peak in peaks.items())
        print(f"{count:,} clips: {said}", flush=True)


if __name__ == "__main__":
    main()
