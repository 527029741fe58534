"""A tiny study with all that the commands read, and the commands on it: what the torture programs share."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.torture.commands import SCRATCH, Commands
from pipeline.store import layout
from tests.support.small_clips import write_clips

MANIFEST, STORE, DAMAGED_STORE, EXPORT, FITTED = "small.csv", "s.zarr", "damaged.zarr", "s.h5", "fit"
MODEL = f"{FITTED}/squeezenet-mlp/model.safetensors"
HEADS = "mlp,lstm"
# Files with times or process ids: of results, of the store's locks and of DVC's first start.
VARIES = frozenset({"timing.json", ".lock", ".workers", "btime"})

_EXTRACT = (
    "extract", "--manifest", MANIFEST, "--weights", "random", "--num-segments", "2", "--views", "1",
    "--dtype", "float32", "--compile", "eager",
)  # fmt: skip
_FIT = (
    "fit-head", "--store", STORE, "--head", HEADS, "--epochs", "2", "--batch-size", "4", "--seeds", "2",
    "--threads", "1", "--precision", "float32",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A command, the inputs that its folder gets, and the outputs that it writes or mends.

    is_repeatable: whether it can be run again after it has succeeded.
    """

    arguments: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    is_repeatable: bool = True


STEPS = {
    "extract": Step((*_EXTRACT, "--store", "new.zarr", "--workers", "0"), (), ("new.zarr",)),
    "extract on Dask": Step((*_EXTRACT, "--store", "new.zarr", "--workers", "2"), (), ("new.zarr",)),
    "fit-head": Step((*_FIT, "--out", "new", "--jobs", "1"), (STORE,), ("new",)),
    "fit-head, 2 jobs": Step((*_FIT, "--out", "new", "--jobs", "2"), (STORE,), ("new",)),
    "finetune": Step(
        (
            "finetune", "--manifest", MANIFEST, "--init", MODEL, "--out", "new", "--epochs", "1", "--batch-size", "4",
            "--threads", "1", "--precision", "float32", "--workers", "0", "--checkpoint-seconds", "0",
        ),
        (FITTED,), ("new",),
    ),
    "store export": Step(("store", "export", STORE, "--out", "new.h5"), (STORE,), ("new.h5",)),
    "store import": Step(("store", "import", EXPORT, "--store", "new.zarr"), (EXPORT,), ("new.zarr",)),
    "store verify --repair": Step(
        ("store", "verify", DAMAGED_STORE, "--repair", "--samples", "1", "--workers", "0"),
        (DAMAGED_STORE,), (DAMAGED_STORE,),
    ),
    "compare": Step(("compare", FITTED, "--out", "new", "--no-latency"), (FITTED,), ("new",)),
    "evaluate": Step(
        ("evaluate", MODEL, "--store", STORE, "--split", "val", "--out", "new"), (FITTED, STORE), ("new",)
    ),
    "predict": Step(("predict", MODEL, "clips/clip00", "clips/clip01", "--format", "csv"), (FITTED,), ()),
    "export": Step(("export", MODEL, "--out", "new.pt2"), (FITTED,), ("new.pt2",)),
    "temporality": Step(("temporality", STORE, "--epochs", "2", "--out", "new"), (STORE,), ("new",)),
    "check": Step(("check", MANIFEST, "--decode", "--workers", "0", "--out", "new.csv"), (), ("new.csv",)),
    "init": Step(("init", "--demo", "--out", "new"), (), ("new",), is_repeatable=False),
}  # fmt: skip


def make_study(commands: Commands, folder: Path) -> None:
    """Write clips, a store, a damaged copy of it, its export, and fitted heads; an existing study is used again."""
    if folder.is_dir():
        return
    write_clips(folder)
    made = [
        (*_EXTRACT, "--store", STORE, "--workers", "0"),
        ("store", "export", STORE, "--out", EXPORT),
        (*_FIT, "--out", FITTED, "--jobs", "1"),
    ]
    for arguments in made:
        ended = commands.run(arguments, folder)
        if ended.code:
            raise RuntimeError(f"pipeline {' '.join(arguments)}: {ended.output}")
    shutil.copytree(folder / STORE, folder / DAMAGED_STORE)
    damage(folder / DAMAGED_STORE)


def damage(store: Path) -> None:
    """Cut objects of two blocks, a record, and the table of clips."""
    keys = [
        layout.chunk_key("test", "pooled", 0),
        layout.chunk_key("train-0", "spatial", 1),
        layout.record_key(2),
        layout.TABLE_KEY,
    ]
    for key in keys:
        (store / key).write_bytes((store / key).read_bytes()[:-9])


def copy_inputs(study: Path, step: Step, folder: Path) -> None:
    """Make `folder` anew with the clips, the manifest and the inputs of a step."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)  # a mounted disk stays
    for name in ("clips", MANIFEST, "small.classes.csv", *step.inputs):
        if (study / name).is_dir():
            shutil.copytree(study / name, folder / name)
        else:
            shutil.copy2(study / name, folder / name)


@dataclass(frozen=True)
class Undisturbed:
    """The end of a command that nothing disturbs: all files in its folder, those that it wrote, its time and calls."""

    files: dict[str, bytes]
    written: dict[str, bytes]
    seconds: float
    num_calls: int


def run_undisturbed(commands: Commands, study: Path, folder: Path, names: Iterable[str]) -> dict[str, Undisturbed]:
    """Run steps by their names, each in a folder made anew."""
    found = {}
    for name in names:
        copy_inputs(study, STEPS[name], folder)
        before = contents(folder)
        ended = commands.run(STEPS[name].arguments, folder)
        if ended.code:
            raise RuntimeError(f"{name}, undisturbed: {ended.output}")
        files = contents(folder)
        written = {key: data for key, data in files.items() if before.get(key) != data}
        found[name] = Undisturbed(files, written, ended.seconds, ended.num_calls)
    return found


def differences(folder: Path, undisturbed: Undisturbed) -> list[str]:
    """Say how the files in a folder differ from those after an undisturbed run."""
    found, expected = contents(folder), undisturbed.files
    wrong = [f"{name} is left over" for name in sorted(found.keys() - expected.keys())]
    wrong += [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    same = found.keys() & expected.keys()
    return wrong + [f"{name} has other bytes" for name in sorted(same) if found[name] != expected[name]]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder but those that vary, hidden and temporary ones among them.

    Of training states (`.pt`, with times in them) only the names are returned.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        is_compared = path.name not in VARIES and not name.startswith((f"{SCRATCH}/cache/", "new/.git/"))
        if path.is_file() and is_compared:
            found[name] = b"" if path.suffix == ".pt" else path.read_bytes()
    return found
