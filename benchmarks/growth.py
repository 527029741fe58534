"""Question: do time, bytes and memory grow in proportion to the clips, from 600 to the size of Something-Something V2?

The stores are written by the store's own writer with synthetic features that have the zeros and the log-normal values
of the demo's features: 174 classes, 8 segments × 512 channels, the test view and one training view, an eighth of the
clips for validation. For each number of clips, a new process opens the store, loads it as `fit-head` does, trains one
epoch and scores; it reports processor time (one thread) and its largest resident memory. `pooled`: MLP, up to 170,000
clips. `spatial`: 3D-FCN on maps of 3 × 3, as in the demo. `table`: reading a manifest, assigning rows and planning
blocks of an extraction, up to 220,000 clips.

The cost of a clip in the largest store is compared to that in the second largest, where both are large enough to be
measured; the last line names the costs of which a clip takes more than 1.25 times as much.

    python -m benchmarks.growth                                # about 8 minutes on an idle machine, 3 GB on disk
    python -m benchmarks.growth --parts spatial --spatial 600,40000,170000   # 12 GB
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.decode import processor
from pipeline.extract.blocks import plan_blocks
from pipeline.manifest import Clip, read_manifest, write_manifest
from pipeline.recipe import SamplingConfig, named_recipe
from pipeline.store import FeatureStore
from pipeline.store.record import DONE, ClipRecord
from pipeline.store.settings import StoreSettings
from pipeline.store.writer import BlockBuilder, assign_rows, ensure_views, write_block

NUM_CLASSES, NUM_SEGMENTS, CHANNELS, MAP_SIZE = 174, 8, 512, 3
BLOCK_CLIPS = 64
# Share of zeros, mean and standard deviation of the logarithm of the others, of the demo's SqueezeNet features.
POOLED = (0.09, -1.14, 1.52)
SPATIAL = (0.56, -0.56, 1.55)
HEADS = {"pooled": "mlp", "spatial": "fcn3d"}
NUM_DRAWN = 257  # clips with different features; a prime, so that no block equals another
LIMIT = 1.25
# Smaller amounts are not compared: the constant costs of a process are larger.
LEAST = {"seconds": 0.5, "mib": 256.0}


def clips_of(count: int) -> list[Clip]:
    """Return clips of all classes; every eighth is for validation, as in Something-Something V2."""
    names = [f"class {index:03d}" for index in range(NUM_CLASSES)]
    return [
        Clip(f"{number}", f"{number}.webm", names[number % NUM_CLASSES], "val" if number % 8 == 0 else "train")
        for number in range(count)
    ]


def drawn(shape: tuple[int, ...], zeros: float, mean: float, deviation: float, seed: int) -> np.ndarray:
    """Draw features: zero with a probability, else log-normal. Returns float16."""
    generator = np.random.default_rng(seed)
    values = np.exp(generator.normal(mean, deviation, shape))
    values[generator.random(shape) < zeros] = 0
    return np.minimum(values, 1000).astype(np.float16)


def write_store(folder: Path, kind: str, count: int, map_size: int = MAP_SIZE) -> None:
    """Write a store of synthetic features by the store's writer; files are not flushed to disk one by one."""
    settings = StoreSettings(
        "squeezenet", {"name": "random", "sha256": ""}, "float32", "", "eager", 8, 1, SamplingConfig(), NUM_SEGMENTS, 0,
        (kind,), CHANNELS, map_size, {},
    )  # fmt: skip
    clips = clips_of(count)
    classes = sorted({clip.label for clip in clips})
    store = FeatureStore.create(folder, settings, classes, BLOCK_CLIPS)
    assign_rows(store, clips)
    ensure_views(store, ("test", "train-0"))
    num_drawn = min(NUM_DRAWN, count)
    shape = (num_drawn, NUM_SEGMENTS, *((map_size, map_size) if kind == "spatial" else ()), CHANNELS)
    values = drawn(shape, *(SPATIAL if kind == "spatial" else POOLED), seed=0)
    pooled = values if kind == "pooled" else values.mean(axis=(2, 3), dtype=np.float32).astype(np.float16)
    by_block: dict[int, list[tuple[int, str, str, bool]]] = {}
    for row in store.rows:
        by_block.setdefault(row.row // BLOCK_CLIPS, []).append((row.row, row.clip_id, row.label, row.split == "train"))
    sampling = np.zeros(NUM_SEGMENTS + 6)
    with mock.patch("os.fsync"):
        for block, rows in sorted(by_block.items()):
            views = ("test", "train-0") if rows[0][3] else ("test",)
            builder = BlockBuilder(settings, block, BLOCK_CLIPS, views, store.attributes.fingerprint)
            records = []
            for row, clip_id, label, _ in sorted(rows):
                offset, which = row % BLOCK_CLIPS, row % num_drawn
                sampling[-1] = classes.index(label)
                for view in views:
                    maps = values[which] if kind == "spatial" else None
                    builder.add(offset, view, pooled[which], maps, sampling.copy())
                records.append(ClipRecord(offset, clip_id, label, DONE, 9, "0" * 64, row, 40, 240, 427))
            write_block(store.objects, builder, records, None)


def fit(location: str, kind: str) -> dict[str, float]:
    """Open a store, train a head for an epoch and score; return seconds of processor time and MiB of memory."""
    import torch

    from pipeline.allocator import keep_memory_between_batches
    from pipeline.fit_head import fit as fit_module
    from pipeline.fit_head.cached_data import CachedData
    from pipeline.heads import HEADS as HEAD_TABLE
    from pipeline.runtime import Runtime

    keep_memory_between_batches(of_any_size=True)
    torch.set_num_threads(1)
    head, recipe = HEADS[kind], named_recipe("cached").with_overrides(epochs=1)
    found: dict[str, float] = {"mib before": _peak_mib()}
    started = time.process_time()

    def lap(name: str) -> None:
        nonlocal started
        found[name] = time.process_time() - started
        started = time.process_time()

    store = FeatureStore.open(location)
    store.table()
    lap("open")
    data = CachedData(store, Path(location)).of(HEAD_TABLE[head].reads, recipe)
    lap("load")
    compute = Runtime(torch.device("cpu"), "float32", 1)
    one_fit = fit_module._Fit(data, head, recipe, 0, compute, lambda num_clips, note: None)
    with fit_module._reproducible(0, compute):
        one_fit.run_epoch()
    lap("epoch")
    found["mib"] = _peak_mib()
    return found


def keep_table(count: int) -> dict[str, float]:
    """Read a manifest, assign rows and plan blocks, as an extraction does before its first clip."""
    found: dict[str, float] = {"mib before": _peak_mib()}
    with tempfile.TemporaryDirectory() as name:
        clips = clips_of(count)
        write_manifest(Path(name) / "m.csv", clips, sorted({clip.label for clip in clips}))
        del clips
        started = time.process_time()
        manifest = read_manifest(Path(name) / "m.csv")
        found["read"] = time.process_time() - started
        settings = StoreSettings(
            "squeezenet", {"name": "random", "sha256": ""}, "float32", "", "eager", 8, 1, SamplingConfig(),
            NUM_SEGMENTS, 0, ("pooled",), CHANNELS, MAP_SIZE, {},
        )  # fmt: skip
        started = time.process_time()
        store = FeatureStore.create(Path(name) / "s.zarr", settings, manifest.classes, BLOCK_CLIPS)
        assign_rows(store, manifest.clips)
        ensure_views(store, ("test", "train-0"))
        found["assign"] = time.process_time() - started
        started = time.process_time()
        num_jobs = sum(job.num_clips for job in plan_blocks(store, manifest, 1))
        found["plan"] = time.process_time() - started
        if num_jobs != count:
            raise SystemExit(f"{num_jobs} clips are planned instead of {count}")
        found["bytes"] = sum(store.objects.sizes().values())
    found["mib"] = _peak_mib()
    return found


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_child(*arguments: str) -> dict[str, float]:
    """Run a part in a new process; return what it measured."""
    command = [sys.executable, "-m", "benchmarks.growth", "--child", *arguments]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(answer.stdout.splitlines()[-1]))


def of_store(kind: str, count: int) -> dict[str, float]:
    """Measure a fit on a store of this number of clips, which is deleted again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "s.zarr"
        needed = count * NUM_SEGMENTS * CHANNELS * 2 * (MAP_SIZE**2 if kind == "spatial" else 1) * 2  # views
        if needed > shutil.disk_usage(name).free // 2:
            raise OSError(f"{count:,} clips take up to {needed / 1e9:.0f} GB, more than half of the free space")
        started = time.process_time()
        write_store(folder, kind, count)
        written = time.process_time() - started
        found = {"write": written, **in_child(kind, str(folder))}
        found["bytes"] = sum(FeatureStore.open(folder).objects.sizes().values())
    return found


def report(title: str, counts: list[int], measure: Callable[[int], dict[str, float]]) -> list[str]:
    """Print a line for each number of clips; return the costs that grow faster than the clips."""
    print(f"\n{title}", flush=True)
    before: dict[str, float] = {}
    grown: dict[str, float] = {}
    for count in counts:
        try:
            found = measure(count)
        except OSError as error:
            print(f"{count:>8,} clips: not measured, {error}", flush=True)
            continue
        memory = found["mib"] - found["mib before"]
        times = {name: value for name, value in found.items() if name not in ("mib", "mib before", "bytes")}
        costs = {**times, "memory": memory, "bytes": found["bytes"]}
        parts = [f"{name} {seconds:.2f} s = {1e6 * seconds / count:,.0f} µs/clip" for name, seconds in times.items()]
        parts += [f"{found['bytes'] / count:,.0f} bytes/clip", f"memory {found['mib']:,.0f} MiB ({memory:+,.0f})"]
        least = {name: LEAST["mib" if name == "memory" else "seconds"] * (name != "bytes") for name in costs}
        of_clip = {name: cost / count for name, cost in costs.items() if cost >= least[name]}
        grown = {name: cost / before[name] for name, cost in of_clip.items() if name in before}
        before = of_clip
        print(f"{count:>8,} clips: " + "; ".join(parts), flush=True)
    faster = [f"{name} × {factor:.2f}" for name, factor in grown.items() if factor > LIMIT]
    ratios = ", ".join(f"{name} × {factor:.2f}" for name, factor in grown.items()) or "too small to compare"
    print(f"cost of a clip in the largest, × that in the second largest: {ratios}")
    return faster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pooled", default="600,6000,60000,170000")
    parser.add_argument("--spatial", default="600,6000,24000")
    parser.add_argument("--table", default="600,22000,220000")
    parser.add_argument("--parts", default="pooled,spatial,table")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        part, subject = options.child
        print(json.dumps(keep_table(int(subject)) if part == "table" else fit(subject, part)))
        return
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    titles = {
        "pooled": "pooled features, MLP, one epoch and scoring",
        "spatial": f"maps of {MAP_SIZE} × {MAP_SIZE}, 3D-FCN, one epoch and scoring",
        "table": "table of an extraction",
    }
    faster: list[str] = []
    for part in options.parts.split(","):
        counts = [int(count) for count in getattr(options, part).split(",")]
        measure = (lambda n: in_child("table", str(n))) if part == "table" else (lambda n, part=part: of_store(part, n))
        faster += [f"{part}: {name}" for name in report(titles[part], counts, measure)]
    print(f"\nnot linear, a clip costs more than {LIMIT} times as much: {'; '.join(faster) or 'nothing'}")


if __name__ == "__main__":
    main()
