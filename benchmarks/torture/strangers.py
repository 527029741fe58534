"""Question: can an untrusted store, export or model do anything except be read or refused?

Stores of a tiny study are changed as an attacker would: links out of the folder, keys that are paths, numbers and texts
that no writer writes, under digests that are right again, chunks that unpack to gigabytes, pickles as weights. Every
command that opens a store gets each. Exit code 1 where a command ends with a traceback, hangs, runs out of 4 GiB, or
changes any file but the layout of the store and its own output.

    python -m benchmarks.torture.strangers --runs 150
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import random
import resource
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numcodecs.zstd import Zstd
from safetensors.torch import load_file, save_file

from benchmarks.torture.command_line import add_minutes, finish, make_parser, numbers_until
from benchmarks.torture.commands import SCRATCH, Commands
from benchmarks.torture.study import EXPORT, FITTED, MANIFEST, MODEL, STORE, Step, copy_inputs, make_study
from pipeline.evaluation.checksums import write_checksums
from pipeline.model_file import HEADER_DIGEST, HEADER_KEY, TENSORS_DIGEST, _digest_of_header, _digest_of_tensors
from pipeline.store import layout
from pipeline.store.attributes import ROOT_KEY
from pipeline.store.record import checksum
from pipeline.store.sealed import digest_of, unseal
from pipeline.store_command.hdf5_file import BLOCK_BYTES, _digest

OUTSIDE = "outside"
RESULT_FILES = ("metrics.json", "predictions.csv", "history.csv", "confusion.csv", "timing.json")
MAX_BYTES, MAX_SECONDS = 4 << 30, 90.0
SEALED = {layout.TABLE_KEY: "clips", layout.COPY_KEY: "attributes", layout.record_key(0): "record"}
NASTY: tuple[Any, ...] = (
    -1, 0, 1 << 31, 1 << 62, 10**30, 1e308, None, True, "", "..", f"../../{OUTSIDE}/victim.txt", "/etc/passwd", "a\0b",
    "\ud800", "none", "random", [], {}, [[]], {"name": "../weights.pth", "sha256": ""}, "x" * 100_000, [1 << 40] * 9,
)  # fmt: skip
COMMANDS = {
    "store info": ("store", "info", STORE),
    "store verify": ("store", "verify", STORE, "--samples", "1"),
    "store verify --repair": ("store", "verify", STORE, "--repair", "--samples", "1", "--workers", "0"),
    "store export": ("store", "export", STORE, "--out", "new.h5"),
    "store import": ("store", "import", EXPORT, "--store", "new.zarr"),
    "extract": (
        "extract", "--manifest", MANIFEST, "--store", STORE, "--weights", "random", "--num-segments", "2",
        "--views", "1", "--dtype", "float32", "--compile", "eager", "--workers", "0",
    ),
    "fit-head": (
        "fit-head", "--store", STORE, "--head", "mlp", "--epochs", "1", "--threads", "1", "--jobs", "1",
        "--precision", "float32", "--out", "new",
    ),
    "evaluate": ("evaluate", MODEL, "--store", STORE, "--split", "val"),
    "compare": ("compare", FITTED, "--out", "new", "--no-latency"),
}  # fmt: skip


@dataclass
class Outcome:
    """Outcomes of a command with untrusted files."""

    num_done: int = 0
    num_refused: int = 0
    wrong: list[str] = field(default_factory=list)


def link_file(run: Path, rng: random.Random) -> None:
    """Replace a file, or one that will be written, by a link to a file outside."""
    path = rng.choice([*_files(run / STORE), *(run / STORE / key for key in layout.LOCK_KEYS)])
    path.unlink(missing_ok=True)
    path.symlink_to(os.path.relpath(run / OUTSIDE / rng.choice(["victim.txt", "new.txt"]), path.parent))


def link_folder(run: Path, rng: random.Random) -> None:
    """Move a folder of the store outside and put a link in its place."""
    path = rng.choice([path for path in sorted((run / STORE).rglob("*")) if path.is_dir()])
    shutil.move(path, run / OUTSIDE / "moved")
    path.symlink_to(run / OUTSIDE / "moved", target_is_directory=True)


def no_file(run: Path, rng: random.Random) -> None:
    """Replace a file by a pipe, a folder or a loop of links."""
    path = rng.choice([*_files(run / STORE), *(run / STORE / key for key in layout.LOCK_KEYS)])
    path.unlink(missing_ok=True)
    rng.choice([os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)])(path)


def changed_bytes(run: Path, rng: random.Random) -> None:
    """Cut, empty or overwrite a file."""
    _change_bytes(rng.choice(_files(run / STORE)), rng)


def _change_bytes(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data) + 1)
    junk = rng.choice([b"", b"\0" * 999, b"[" * 100_000, b'{"a":' * 50_000, rng.randbytes(50), b"\xff\xfe"])
    path.write_bytes(rng.choice([bytes(data[:start]), junk, bytes(data[:start]) + junk + bytes(data[start:])]))


def strange_values(run: Path, rng: random.Random) -> None:
    """Change values of attributes, table or record, and write the digests that fit."""
    key = rng.choice([ROOT_KEY, layout.TABLE_KEY, layout.record_key(0)])
    path = run / STORE / key
    if key == ROOT_KEY:
        values = json.loads(path.read_bytes())["attributes"]
        del values["sha256"]
        _change(values, rng)
        path.write_bytes(_root(values))
        (run / STORE / layout.COPY_KEY).write_bytes(_sealed("attributes", values))
    else:
        values = unseal(path.read_bytes(), SEALED[key], key)
        _change(values, rng)
        path.write_bytes(_sealed(SEALED[key], values))


def _root(values: dict[str, Any]) -> bytes:
    """Return the `zarr.json` of a store with attributes, written as `_sealed` does."""
    attributes = {**values, "sha256": digest_of(values)}
    return json.dumps({"attributes": attributes, "zarr_format": 3, "node_type": "group"}).encode()


def _sealed(name: str, values: Any) -> bytes:
    """Seal values; halves of a character, which UTF-8 cannot encode, are written as JSON's escapes."""
    body = json.dumps(values).encode()
    return b'{"sha256": "%s",\n"%s": %s}\n' % (hashlib.sha256(body).hexdigest().encode(), name.encode(), body)


def strange_chunk(run: Path, rng: random.Random) -> None:
    """Replace a chunk by a decompression bomb or one of another size, with its checksum in the record."""
    key, path = layout.record_key(0), run / STORE / layout.record_key(0)
    record = unseal(path.read_bytes(), "record", key)
    name = rng.choice(sorted(record["objects"]))
    data = rng.choice([Zstd(1).encode(bytes(1 << 30)), Zstd(1).encode(bytes(7)), b"", rng.randbytes(2000)])
    (run / STORE / name).write_bytes(data)
    record["objects"][name] = checksum(data)
    path.write_bytes(_sealed("record", record))


def strange_provenance(run: Path, rng: random.Random) -> None:
    """Name another manifest, root and weights: a pickle that runs code, a device, a folder, a pipe."""
    os.mkfifo(run / "pipe")
    (run / "evil.pth").write_bytes(pickle.dumps(_Evil(str(run / OUTSIDE / "created.txt"))))
    path = run / STORE / ROOT_KEY
    values = json.loads(path.read_bytes())["attributes"]
    del values["sha256"]
    places = ["../evil.pth", "../pipe", "/dev/zero", "..", f"../{OUTSIDE}/victim.txt", "/", "../../../../etc/passwd"]
    for name in ("manifest", "root", "weights"):
        if rng.random() < 0.6:
            values["provenance"][name] = rng.choice(places)
    path.write_bytes(_root(values))
    (run / STORE / layout.COPY_KEY).write_bytes(_sealed("attributes", values))


def foreign_files(run: Path, rng: random.Random) -> None:
    """Add files that do not belong to a store, and damage an object so that there is something to repair."""
    for name in ("holiday.jpg", "records/notes.txt", "views/test/mine.txt", "records/.local/own", ".hidden", "a.part"):
        (run / STORE / name).parent.mkdir(parents=True, exist_ok=True)
        (run / STORE / name).write_text("precious")
    changed_bytes(run, rng)


def strange_export(run: Path, rng: random.Random) -> None:
    """Change an export, and write the digest that fits."""
    path = run / EXPORT
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = rng.choice(names)
        how = rng.randrange(5)
        if how == 0:
            del file[name]
            file[name] = h5py.ExternalLink(str(run / OUTSIDE / "other.h5"), "/x")
        elif how == 1:
            del file[name]
            file[name] = h5py.SoftLink("/clips" if name != "clips" else "/clips/loop")
        elif how == 2:
            del file[name]
            file.create_dataset(name, (1 << 40,), rng.choice(["float16", "int64"]), chunks=(1 << 20,))
        elif how == 3:
            key = rng.choice(sorted(file.attrs))
            values = json.loads(file.attrs[key]) if key in ("settings", "classes", "provenance") else file.attrs[key]
            if isinstance(values, (dict, list)):
                _change(values, rng)
                file.attrs[key] = json.dumps(values)
            else:
                file.attrs[key] = rng.choice([-1, 0, 1 << 40, "x"])
        elif isinstance(file[name], h5py.Dataset) and file[name].dtype == np.int64:
            file[name][...] = rng.choice([-1, 0, 1 << 40, -(1 << 62)])
        else:
            values = file[name][...] if isinstance(file[name], h5py.Dataset) else np.zeros(3)
            del file[name]
            file[name] = values[:-1] if len(values) else np.zeros(3)
    digest, num_bytes = _digest(path)
    with open(path, "r+b") as opened:
        opened.write(f"st-pipeline export sha256={digest} bytes={num_bytes}\n".encode().ljust(BLOCK_BYTES, b"\0"))


def strange_model(run: Path, rng: random.Random) -> None:
    """Change the header of a model, and write the digests that fit."""
    path = run / MODEL
    tensors = load_file(path)
    with open(path, "rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        values = json.loads(json.loads(opened.read(size))["__metadata__"][HEADER_KEY])
    del values[HEADER_DIGEST]
    _change(values, rng)
    values[TENSORS_DIGEST] = _digest_of_tensors(tensors)
    save_file(tensors, path, {HEADER_KEY: json.dumps({**values, HEADER_DIGEST: _digest_of_header(values)})})


def strange_results(run: Path, rng: random.Random) -> None:
    """Change a file of a result folder, and write the checksums that fit."""
    folder = (run / MODEL).parent
    path = folder / rng.choice(RESULT_FILES)
    how = rng.randrange(4)
    if how == 0:
        path.unlink()
        rng.choice([os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)])(path)
        return
    if how == 1:
        _change_bytes(path, rng)
    elif path.suffix == ".json":
        values = json.loads(path.read_bytes())
        _change(values, rng)
        path.write_text(json.dumps(values))
    else:
        rows = [line.split(",") for line in path.read_text().splitlines()]
        row = rng.choice(rows)
        if how == 2:
            row[rng.randrange(len(row))] = str(rng.choice(NASTY)).encode("utf-8", "replace").decode()
        else:
            rows.remove(row)
        path.write_text("".join(f"{','.join(row)}\n" for row in rows))
    write_checksums(folder, [name for name in RESULT_FILES if name != "timing.json"])


STRANGERS: dict[str, Callable[[Path, random.Random], None]] = {
    "a link to a file": link_file,
    "a link to a folder": link_folder,
    "a pipe, folder or loop": no_file,
    "changed bytes": changed_bytes,
    "values under right digests": strange_values,
    "chunks under right digests": strange_chunk,
    "provenance": strange_provenance,
    "foreign files": foreign_files,
    "export": strange_export,
    "model": strange_model,
    "results": strange_results,
}


def commands_for(kind: str) -> tuple[str, ...]:
    """Return the commands that open a stranger of a kind."""
    if kind == "export":
        return ("store import",)
    if kind in ("model", "results"):
        return ("evaluate",) if kind == "model" else ("compare",)
    return tuple(name for name in COMMANDS if name not in ("store import", "compare"))


def run(
    num_runs: int,
    seed: int,
    folder: Path,
    kinds: Sequence[str] = tuple(STRANGERS),
    max_seconds: float = math.inf,
) -> dict[str, dict[str, Outcome]]:
    """Create untrusted files of each kind in turn, run the commands on each, and count the outcomes."""
    outcomes: dict[str, dict[str, Outcome]] = {kind: {} for kind in kinds}
    study, place = folder / "study", folder / "run"
    with Commands() as commands:
        make_study(commands, study)
        for number in numbers_until(num_runs, max_seconds):
            kind = kinds[number % len(kinds)]
            for name in commands_for(kind):
                # Each command gets the same unchanged copy.
                _make(study, place, kind, random.Random(f"{seed}-{number}"))
                outcome = outcomes[kind].setdefault(name, Outcome())
                wrong = _judge(commands, name, place, outcome)
                outcome.wrong += [f"{kind} {seed}-{number}, {name}: {text}" for text in wrong]
    return outcomes


def _make(study: Path, place: Path, kind: str, rng: random.Random) -> None:
    copy_inputs(study, Step((), (STORE, EXPORT, FITTED), ()), place)
    (place / OUTSIDE).mkdir()
    (place / OUTSIDE / "victim.txt").write_text("precious")
    (place / "new.zarr").mkdir()
    STRANGERS[kind](place, rng)


def _judge(commands: Commands, name: str, place: Path, outcome: Outcome) -> list[str]:
    before = _watched(place)
    command = commands.start(COMMANDS[name], place, {resource.RLIMIT_AS: MAX_BYTES})
    ended = command.wait(MAX_SECONDS)
    after = _watched(place)
    wrong = [f"{path} was changed" for path in sorted(before.keys() | after) if before.get(path) != after.get(path)]
    said = ended.output.strip()[-400:]
    if ended.code not in (0, 1, 2) or ended.has_traceback:
        wrong.append(f"it ended with {ended.code}: {said}")
    if "out of memory" in said:
        wrong.append(f"it asked for more than {MAX_BYTES:,} bytes")
    outcome.num_done += ended.code == 0
    outcome.num_refused += ended.code != 0
    return wrong


def _watched(place: Path) -> dict[str, Any]:
    """Describe every file that no command may change: all but the layout of the store, outputs and scratch files."""
    found: dict[str, Any] = {}
    for path in place.rglob("*"):
        name = path.relative_to(place).parts
        is_output = name[0] in ("new", "new.h5", "new.zarr", SCRATCH)
        if is_output or (name[0] == STORE and _is_of_layout("/".join(name[1:]))):
            continue
        state = path.lstat()
        is_file = path.is_file() and not path.is_symlink()
        found[str(path)] = (state.st_mode, path.read_bytes() if is_file else b"")
        # Links are not followed, because their targets are listed at their own paths.
    return found


def _is_of_layout(key: str) -> bool:
    """Return whether a key can be an object, a lock or a folder of a store."""
    names = {ROOT_KEY, layout.TABLE_KEY, layout.COPY_KEY, *layout.LOCK_KEYS, f"{layout.RECORDS_FOLDER}/zarr.json"}
    if key in names or layout.block_of_record(key) >= 0:
        return True
    own = key.endswith((".txt", ".jpg", "own", ".hidden", "a.part"))
    return not own and key.partition("/")[0] in ("", "records", "views", "frames")


def _files(store: Path) -> list[Path]:
    return [path for path in sorted(store.rglob("*")) if path.is_file()]


def _change(value: Any, rng: random.Random) -> None:
    """Replace some value at a random place of JSON data."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys) if keys else None
        if key is None:
            return
        if isinstance(value[key], (dict, list)) and value[key] and rng.random() < 0.8:
            value = value[key]
            continue
        value[key] = rng.choice(NASTY)
        return


class _Evil:
    """Unpickled, it creates a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def as_table(outcomes: dict[str, dict[str, Outcome]]) -> str:
    """Return the counts as a Markdown table."""
    lines = ["| stranger | runs | done | refused | wrong |", "|---|--:|--:|--:|--:|"]
    total = Counter[str]()
    for kind, of_kind in outcomes.items():
        done, refused, wrong = (
            sum(item.num_done for item in of_kind.values()),
            sum(item.num_refused for item in of_kind.values()),
            sum(len(item.wrong) for item in of_kind.values()),
        )
        total.update(done=done, refused=refused, wrong=wrong)
        lines.append(f"| {kind} | {done + refused:,} | {done:,} | {refused:,} | {wrong} |")
    runs = total["done"] + total["refused"]
    lines.append(f"| all | {runs:,} | {total['done']:,} | {total['refused']:,} | {total['wrong']} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and what went wrong."""
    parser = make_parser(__doc__, 1000, "untrusted files")
    parser.add_argument("--only", choices=tuple(STRANGERS), help="Try one kind only.")
    add_minutes(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kinds = (arguments.only,) if arguments.only else tuple(STRANGERS)
        outcomes = run(arguments.runs, arguments.seed, Path(folder), kinds, 60 * arguments.minutes)
    wrong = (line for of_kind in outcomes.values() for outcome in of_kind.values() for line in outcome.wrong)
    finish(as_table(outcomes), wrong)


if __name__ == "__main__":
    main()
