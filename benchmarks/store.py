"""Question: which codec makes trained features small and fast to read, and how fast is reading compared to np.memmap?

It uses an existing store (real clips, trained weights). Size: bytes of the maps relative to plain float16, for each
codec. Reading: 64 shuffled clips, all ways in turn within every round; a factor is the median of the rounds' ratios to
np.memmap of the same clips. Opening: a synthetic store of 100,000 clips (only its records).

    python -m benchmarks.store cache/gestures/squeezenet.zarr
    python -m benchmarks.store STORE --rounds 9 --clips 64
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numcodecs import Blosc, Zstd

from pipeline.manifest import Clip
from pipeline.store import FeatureStore
from pipeline.store.layout import chunk_key
from pipeline.store.record import BlockRecord, ClipRecord, write_record
from pipeline.store.writer import assign_rows
from pipeline.store_command.info import describe

CODECS = {
    "zstd -1": Zstd(level=-1),
    "zstd 1 (ours)": Zstd(level=1),
    "zstd 3": Zstd(level=3),
    "zstd 9": Zstd(level=9),
    "zstd 1 + shuffle": Blosc("zstd", clevel=1, shuffle=Blosc.SHUFFLE),
    "zstd 3 + bitshuffle": Blosc("zstd", clevel=3, shuffle=Blosc.BITSHUFFLE),
    "lz4": Blosc("lz4", clevel=5, shuffle=Blosc.NOSHUFFLE),
}


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare_codecs(maps: np.ndarray) -> None:
    """Print for each codec the size relative to plain float16, and clips/s of writing and reading with one thread."""
    zeros = float((maps == 0).mean())
    print(f"{len(maps)} clips, {zeros:.0%} zeros, {maps[0].nbytes / 1024:,.0f} KiB a clip as plain float16")
    print(f"{'codec':22} {'size':>6} {'write clips/s':>14} {'read clips/s':>13}")
    for name, codec in CODECS.items():
        encoded: list[bytes] = []
        write = seconds_of(
            lambda codec=codec, encoded=encoded: encoded.extend(bytes(codec.encode(clip)) for clip in maps)
        )
        read = seconds_of(lambda codec=codec, encoded=encoded: [codec.decode(data) for data in encoded])
        ratio = sum(map(len, encoded)) / maps.nbytes
        print(f"{name:22} {ratio:6.3f} {len(maps) / write:14,.0f} {len(maps) / read:13,.0f}")


def compare_reading(store: FeatureStore, rows: list[int], rounds: int) -> None:
    """Print medians of reading 64 shuffled clips: our reader, Zarr clip by clip, np.memmap."""
    rng = np.random.default_rng(0)
    maps = store.read_spatial_batch("test", rows)
    array = store.group()["views/test/spatial"]
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "maps.npy"
        np.save(plain, maps)
        mapped = np.load(plain, mmap_mode="r")
        ways: dict[str, Callable[[np.ndarray], object]] = {
            "np.memmap": lambda order: mapped[order],
            "read_spatial_batch": lambda order: store.read_spatial_batch("test", [rows[i] for i in order]),
            "the same, one thread": lambda order: store.read_spatial_batch("test", [rows[i] for i in order], 1),
            "zarr, array[i]": lambda order: [array[rows[i]] for i in order],
        }
        took: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            order = rng.permutation(len(rows))
            for name, read in ways.items():
                took[name].append(seconds_of(lambda read=read, order=order: read(order)))
    for name, seconds in took.items():
        factor = statistics.median(base / own for base, own in zip(took["np.memmap"], seconds, strict=True))
        print(f"{name:22} {len(rows) / statistics.median(seconds):8,.0f} clips/s, {factor:.2f} of np.memmap")


def time_opening(num_clips: int) -> None:
    """Print the seconds to open a store of `num_clips` clips, including reading and parsing its records."""
    with tempfile.TemporaryDirectory() as folder:
        source = FeatureStore.open(ARGUMENTS.store)
        store = FeatureStore.create(Path(folder) / "s.zarr", source.settings, source.classes, 64)
        label = source.classes[0]
        assign_rows(store, [Clip(f"{n}", f"{n}.webm", label, "train") for n in range(num_clips)])
        views = ("test", "train-0", "train-1", "train-2", "train-3")
        for block in range(-(-num_clips // 64)):
            ids = range(block * 64, min(block * 64 + 64, num_clips))
            clips = tuple(ClipRecord(n % 64, f"{n}", label, "done", 9, "0" * 64, n, 30, 240, 320) for n in ids)
            objects = {chunk_key(view, kind, block): (9, "0" * 64) for view in views for kind in ("pooled", "spatial")}
            store.objects.put(f"records/{block:06d}.json", write_record(BlockRecord(block, clips, views, objects)))
        took = [seconds_of(lambda: FeatureStore.open(Path(folder) / "s.zarr").clips("train")) for _ in range(3)]
    print(f"opening {num_clips:,} clips: {statistics.median(took):.2f} s")


def main() -> None:
    store = FeatureStore.open(ARGUMENTS.store)
    clips = store.clips()
    order = np.random.default_rng(0).permutation(len(clips))[: ARGUMENTS.clips]
    rows = [clips[index].row for index in order]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    info = describe(store)
    print(f"{store.objects.location}: {info.num_bytes / 1e6:,.0f} MB, {info.ratio:.3f} of plain float16")
    compare_codecs(store.read_spatial_batch("test", rows))
    compare_reading(store, rows, ARGUMENTS.rounds)
    if ARGUMENTS.opening:
        time_opening(ARGUMENTS.opening)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--opening", type=int, default=100_000, help="Number of clips of the store to open; 0: none.")
    ARGUMENTS = parser.parse_args()
    main()
