"""Question: how much accuracy do smaller maps and int8 cost, and how many bytes and processor seconds do they save?

The features of one store are averaged and rounded as `extract --map-size` and `--store-dtype` do, without running the
backbone again; heads are fitted on each form with the same seeds.

    python -m benchmarks.map_cost cache/arms.zarr --heads mlp,gru,fcn2d,fcn3d --seeds 2 --epochs 12
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F

import stages.fit_head
from benchmarks.heads import machine
from pipeline.settings.fit_head import FitHeadSettings
from pipeline.store.feature_store import FeatureStore
from pipeline.store.layout import TABLE_KEY, ensure_metadata
from pipeline.store.record import DONE
from pipeline.store.table import write_table
from pipeline.store.writer import BlockBuilder, write_block


def converted(source: FeatureStore, location: Path, map_size: int, store_dtype: str) -> FeatureStore:
    """Write a store with the features of another, averaged to `map_size` and rounded to `store_dtype`."""
    settings = replace(source.settings, map_size=map_size, store_dtype=store_dtype)
    store = FeatureStore.create(location, settings, source.classes, source.block_clips, dict(source.provenance))
    store.objects.put(TABLE_KEY, write_table(source.rows))
    ensure_metadata(store.objects, settings, source.views, source.num_blocks * source.block_clips, source.block_clips)
    for block, record in source.records.items():
        builder = BlockBuilder(settings, block, source.block_clips, tuple(record.views), store.attributes.fingerprint)
        for clip in record.clips:
            row = block * source.block_clips + clip.offset
            for view in record.views_of(clip.offset) if clip.status == DONE else ():
                maps = torch.from_numpy(source.read_spatial(view, row)).float().permute(0, 3, 1, 2)  # (T, C, H, W)
                reduced = F.adaptive_avg_pool2d(maps, map_size).permute(0, 2, 3, 1).half().contiguous().numpy()
                sampling = source.read_sampling(view, [row])[0]
                builder.add(clip.offset, view, source.read_pooled(view, [row])[0], reduced, sampling)
        write_block(store.objects, builder, record.clips, None)
    store.reload()
    return store


def fitted(
    location: Path, heads: str, seeds: int, epochs: int, weights: str | None, out: Path
) -> tuple[dict[str, float], float]:
    """Fit heads on a store one after another; return the top-1 of each in percent, and their processor seconds."""
    settings = FitHeadSettings(
        store=str(location), head=tuple(heads.split(",")), out=out, seeds=seeds, jobs=1, threads=1, weights=weights,
        overrides={"epochs": epochs},
    )  # fmt: skip
    started_at = time.process_time()
    with contextlib.redirect_stdout(sys.stderr):
        stages.fit_head.run(settings)
    found = (json.loads(path.read_text()) for path in out.glob("*/metrics.json"))
    return {metrics["head"]: metrics["report"]["top1"] for metrics in found}, time.process_time() - started_at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--heads", default="mlp,gru,fcn2d,fcn3d")
    parser.add_argument("--sizes", default="7,4,2")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--weights", help="Path of the backbone weights.")
    options = parser.parse_args()
    source = FeatureStore.open(options.store)
    heads = options.heads.split(",")
    print(machine("cpu"))
    print(f"| maps | type | kB a clip and view | processor seconds of all fits | {' | '.join(heads)} |")
    print("|---|---|---:|---:|" + "---:|" * len(heads))
    for size in map(int, options.sizes.split(",")):
        for store_dtype in ("float16", "int8"):
            with tempfile.TemporaryDirectory(dir=options.store.parent) as folder:
                location = Path(folder) / "features.zarr"
                store = converted(source, location, size, store_dtype)
                num_views = sum(len(clip.views) for clip in store.table())
                kilobytes = sum(record.num_bytes for record in store.records.values()) / num_views / 1000
                top1, seconds = fitted(
                    location, options.heads, options.seeds, options.epochs, options.weights, Path(folder) / "r"
                )
            cells = " | ".join(f"{top1[head]:.1f}" for head in heads)
            print(f"| {size}×{size} | {store_dtype} | {kilobytes:.1f} | {seconds:.0f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
