"""Question: is each flipped bit reported, or without effect on the values that are read?

One random bit of a random file of a small store, of an HDF5 export, of a model file and of a result folder is flipped;
then the file is read as `fit-head`, `import`, `predict` and `compare` read it. The exit code is 1 if a flip gives
neither an error message nor the true values.

    python -m benchmarks.torture.bits --runs 5000
"""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.torture.command_line import finish, make_parser
from pipeline.backbones import build_backbone
from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import round_scores
from pipeline.evaluation.result_reader import read_run
from pipeline.evaluation.result_writer import TIMING_FILE, EpochRecord, SeedResult, write_results
from pipeline.model import ModelSpec, head_of_spec
from pipeline.model_file import load_model, save_model
from pipeline.recipe import Recipe
from pipeline.store import FeatureStore
from pipeline.store_command.hdf5 import export_hdf5, import_hdf5
from tests.test_extraction import run as extract
from tests.test_extraction import write_data

EXPORT_SHARE, MODEL_SHARE, RESULT_SHARE = 0.1, 0.05, 0.15
NUM_RESULT_CLIPS = 12


@dataclass
class Outcome:
    """Outcomes of the flips in one kind of file."""

    num_named: int = 0
    num_harmless: int = 0
    wrong: list[str] = field(default_factory=list)


def run(num_runs: int, seed: int, folder: Path) -> dict[str, Outcome]:
    """Flip bits one after another and count what readers say, by kind of file."""
    rng = random.Random(seed)
    store, export, model = _make(folder)
    results = _make_results(folder / "fit_head" / "squeezenet-tsn")
    files = [path for path in sorted(store.rglob("*")) if path.is_file() and "/." not in str(path.relative_to(folder))]
    subjects = ((_read_store, store), (_read_export, export), (_read_model, model), (_read_results, results))
    expected = {read: read(path) for read, path in subjects}
    # Times are no results, and differ from run to run.
    result_files = [path for path in sorted(results.iterdir()) if path.name != TIMING_FILE]
    outcomes: dict[str, Outcome] = {}
    for _ in range(num_runs):
        draw = rng.random()
        if draw < EXPORT_SHARE:
            path, kind, read, subject = export, "export", _read_export, export
        elif draw < EXPORT_SHARE + MODEL_SHARE:
            path, kind, read, subject = model, "model", _read_model, model
        elif draw < EXPORT_SHARE + MODEL_SHARE + RESULT_SHARE:
            path, read, subject = rng.choice(result_files), _read_results, results
            kind = f"results: {path.name}"
        else:
            path, read, subject = rng.choice(files), _read_store, store
            kind = _kind(str(path.relative_to(store)))
        _try(path, rng, outcomes.setdefault(kind, Outcome()), lambda: read(subject) == expected[read])  # noqa: B023
    return outcomes


def as_table(outcomes: dict[str, Outcome]) -> str:
    """Return the counts as a Markdown table."""
    lines = ["| file | flips | named | no effect | wrong |", "|---|---|---|---|---|"]
    total = Counter[str]()
    for kind, outcome in sorted(outcomes.items()):
        counts = (outcome.num_named, outcome.num_harmless, len(outcome.wrong))
        total.update(named=counts[0], harmless=counts[1], wrong=counts[2])
        lines.append(f"| {kind} | {sum(counts):,} | {counts[0]:,} | {counts[1]:,} | {counts[2]:,} |")
    lines.append(f"| all | {total.total():,} | {total['named']:,} | {total['harmless']:,} | {total['wrong']:,} |")
    return "\n".join(lines)


def _try(path: Path, rng: random.Random, outcome: Outcome, is_same: Callable[[], bool]) -> None:
    whole = path.read_bytes()
    bit = rng.randrange(8 * len(whole))
    changed = bytearray(whole)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)
    try:
        if is_same():
            outcome.num_harmless += 1
        else:
            outcome.wrong.append(f"{path}, bit {bit}: other values")
    except PipelineError:
        outcome.num_named += 1
    except Exception as error:  # a traceback for the user
        outcome.wrong.append(f"{path}, bit {bit}: {type(error).__name__}: {error}")
    finally:
        path.write_bytes(whole)


def _make(folder: Path) -> tuple[Path, Path, Path]:
    manifest = write_data(folder / "clips", train=3, val=2)
    extract(manifest, folder / "s.zarr")
    store = FeatureStore.open(folder / "s.zarr")
    export_hdf5(store, folder / "s.h5")
    backbone, weights = build_backbone("squeezenet", "random", seed=0)
    spec = ModelSpec(
        head="tsn",
        backbone="squeezenet",
        classes=store.classes,
        num_segments=2,
        in_channels=backbone.channels,
        map_size=backbone.map_size,
        preprocessing=backbone.preprocessing.as_dict(),
        recipe=Recipe("cached").as_dict(),
        weights={"name": weights.name, "sha256": weights.sha256},
        seed=0,
        stage="fit_head",
    )
    save_model(folder / "model.safetensors", spec, head_of_spec(spec), backbone)
    return folder / "s.zarr", folder / "s.h5", folder / "model.safetensors"


def _make_results(folder: Path) -> Path:
    """Write the result folder of two seeds with random scores."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, NUM_RESULT_CLIPS)
    seeds = [
        SeedResult(
            seed=seed,
            history=tuple(EpochRecord(epoch, 0.01, 0.5 / epoch, 60.0, 0.6 / epoch, 50.0) for epoch in range(1, 6)),
            best_epoch=5,
            clip_ids=tuple(f"clip{number}" for number in range(NUM_RESULT_CLIPS)),
            labels=labels,
            scores=round_scores(rng.normal(size=(NUM_RESULT_CLIPS, 2))),
            order_tests={"reversed": round_scores(rng.normal(size=(NUM_RESULT_CLIPS, 2)))},
            seconds=1.0,
        )
        for seed in (0, 1)
    ]
    about = {
        "head": "tsn", "backbone": "squeezenet", "weights": {"name": "random", "sha256": ""}, "recipe": "cached",
        "num_segments": 2, "selected_on": "val", "reported_on": "val",
    }  # fmt: skip
    write_results(folder, about, ("swipe left", "swipe right"), seeds, {})
    return folder


def _read_results(folder: Path) -> str:
    """Hash everything that tables, plots and gates read from a result folder."""
    run = read_run(folder)
    digest = hashlib.sha256(repr((run.metrics, run.predictions.classes, run.predictions.clip_ids)).encode())
    for array in (run.predictions.labels, run.predictions.scores, run.predictions.predicted):
        digest.update(array.tobytes())
    digest.update(repr(None if run.history is None else run.history.to_csv()).encode())
    return digest.hexdigest()


def _read_store(location: Path) -> str:
    """Hash everything that training, tables and exports read from a store."""
    store = FeatureStore.open(location)
    digest = hashlib.sha256(repr((store.settings, store.classes, store.provenance, store.table())).encode())
    for view in store.views:
        rows = [clip.row for clip in store.clips(view=view)]
        digest.update(store.read_pooled(view, rows).tobytes())
        digest.update(store.read_sampling(view, rows).tobytes())
        digest.update(store.read_spatial_batch(view, rows, num_threads=1).tobytes())
    return digest.hexdigest()


def _read_export(path: Path) -> str:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        # At the same depth as the first store, because the store has relative paths.
        import_hdf5(path, f"{folder}.zarr")
        try:
            return _read_store(Path(f"{folder}.zarr"))
        finally:
            shutil.rmtree(f"{folder}.zarr")


def _read_model(path: Path) -> str:
    model = load_model(path)
    digest = hashlib.sha256(repr(model.spec).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _kind(key: str) -> str:
    if re.fullmatch(r"records/\d+\.json", key):
        return "store: records"
    if key.endswith("zarr.json"):
        return "store: zarr.json" if key == "zarr.json" else "store: metadata of arrays"
    return f"store: {key.split('/')[2]}" if key.startswith("views/") else f"store: {key}"


def main() -> None:
    """Print the table and the failures."""
    arguments = make_parser(__doc__, 5000, "flips").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(arguments.runs, arguments.seed, Path(folder))
    finish(as_table(outcomes), (line for outcome in outcomes.values() for line in outcome.wrong))


if __name__ == "__main__":
    main()
