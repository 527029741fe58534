"""Question: does a command that runs short of something end with a sentence, and does it complete when run again?

Each command of a tiny study runs once with little memory (`ulimit -v`), few open files (`ulimit -n`), small files
(`ulimit -f`), without permission to write (to its folder, its temporary folder or its cache), with a disk that fails
at one call that writes (EIO, ESTALE, or ENOSPC from then on; takes a C compiler), or, where a tmpfs can be mounted, on
a disk that is nearly full; then once more without the shortage.
Exit code 1 where the first run ends with a traceback, a signal or a hang, or where the second does not end as an
undisturbed run does, to the byte and without a file left over.

    python -m benchmarks.torture.shortage --runs 72
"""

from __future__ import annotations

import errno
import math
import random
import resource
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.torture.command_line import add_minutes, finish, make_parser, numbers_until
from benchmarks.torture.commands import SCRATCH, Commands, Ended
from benchmarks.torture.study import STEPS, Undisturbed, copy_inputs, differences, make_study, run_undisturbed

MIB = 1 << 20
SHORTAGES = ("memory", "open files", "file size", "disk", "permission", "failing disk")
_LIMITS = {"memory": resource.RLIMIT_AS, "open files": resource.RLIMIT_NOFILE, "file size": resource.RLIMIT_FSIZE}
_FILLER = "filler"
ERRORS = (errno.EIO, errno.ESTALE, errno.ENOSPC)
# What may not be written to: the folder of the command, or one of those in it.
WRITE_BITS = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
CACHE = f"{SCRATCH}/cache"
UNWRITABLE = (".", SCRATCH, CACHE, "all")


@dataclass
class Outcome:
    """What became of the commands under one shortage: they were completed all the same, or ended with a sentence."""

    num_completed: int = 0
    num_ended: int = 0
    wrong: list[str] = field(default_factory=list)


def run(
    num_runs: int,
    seed: int,
    folder: Path,
    names: Sequence[str] = tuple(STEPS),
    max_seconds: float = math.inf,
    shortages: Sequence[str] = SHORTAGES,
) -> dict[str, dict[str, Outcome]]:
    """Run the commands in turn under each shortage and again without it; outcomes by shortage and command."""
    rng = random.Random(seed)
    kinds = [kind for kind in shortages if _can_provoke(kind, folder)]
    outcomes: dict[str, dict[str, Outcome]] = {kind: {} for kind in kinds}
    study, place = folder / "study", folder / "run"
    place.mkdir(exist_ok=True)
    with Commands(can_fail="failing disk" in kinds) as commands:
        make_study(commands, study)
        undisturbed = run_undisturbed(commands, study, place, names)
        for number in numbers_until(num_runs, max_seconds):
            # Each command under one shortage, then each under the next.
            turn, index = divmod(number, len(names))
            name, kind = names[index], kinds[(turn + index) % len(kinds)]
            amount = _amount(kind, undisturbed[name], rng)
            outcome = outcomes[kind].setdefault(name, Outcome())
            wrong = _run_short(commands, study, place, name, kind, amount, outcome, undisturbed[name])
            outcome.wrong += [f"{name}, {kind} {amount:,}: {text}" for text in wrong]
    return outcomes


def _amount(kind: str, undisturbed: Undisturbed, rng: random.Random) -> int:
    """Draw how much there is: bytes of memory beyond those of the start, open files, bytes of a file or of the disk.

    For permissions, it is the index of what may not be written to; for a failing disk, the number of the failing call.
    """
    if kind == "memory":
        return rng.randrange(MIB, 700 * MIB)
    if kind == "failing disk":
        return rng.randrange(1, max(2, undisturbed.num_calls + 1))
    if kind == "permission":
        return rng.randrange(len(UNWRITABLE))
    if kind == "open files":
        return rng.choice([rng.randrange(8, 64), 64])
    sizes = [len(data) for data in undisturbed.written.values()] or [MIB]
    return rng.randrange(4096, max(4097, max(sizes) if kind == "file size" else sum(sizes)))


def _run_short(
    commands: Commands,
    study: Path,
    place: Path,
    name: str,
    kind: str,
    amount: int,
    outcome: Outcome,
    undisturbed: Undisturbed,
) -> list[str]:
    arguments = STEPS[name].arguments
    with _disk(place) if kind == "disk" else _nothing():
        copy_inputs(study, STEPS[name], place)
        if kind == "disk":
            _fill(place, amount)
        if kind == "permission":
            _forbid(place, UNWRITABLE[amount])
        failing = (amount, ERRORS[amount % len(ERRORS)]) if kind == "failing disk" else None
        command = commands.start(
            arguments, place, {_LIMITS[kind]: amount} if kind in _LIMITS else {}, kind == "permission", failing
        )
        ended = command.wait()
        wrong = [f"a process was left: {line}" for line in command.processes_left()]
        (place / _FILLER).unlink(missing_ok=True)
        wrong += _judge(ended)
        outcome.num_completed += ended.code == 0
        outcome.num_ended += ended.code != 0
        if kind == "permission":
            _forbid(place, "")
        if ended.code == 0 and not STEPS[name].is_repeatable:
            return wrong + differences(place, undisturbed)
        again = commands.run(arguments, place)
        if again.code or again.has_traceback:
            return [*wrong, f"run again, it ended with {again.code}: {again.output.strip()[-500:]}"]
        return wrong + differences(place, undisturbed)


def _judge(ended: Ended) -> list[str]:
    said = ended.output.strip()
    if ended.code not in (0, 1) or ended.has_traceback:
        return [f"it ended with {ended.code}: {said[-700:]}"]
    if ended.code and "Error: " not in said:
        return [f"it ended with {ended.code} and without a sentence: {said[-300:]}"]
    return []


@contextmanager
def _disk(place: Path) -> Iterator[None]:
    """Mount a disk of 256 MiB in memory on a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", place], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _forbid(place: Path, what: str) -> None:
    """Make a part of a folder read-only, one of `UNWRITABLE`, and the rest writable."""
    (place / CACHE).mkdir(parents=True, exist_ok=True)
    for path in (place, *place.rglob("*")):
        name = path.relative_to(place)
        in_scratch, in_cache = name.is_relative_to(SCRATCH), name.is_relative_to(CACHE)
        is_forbidden = {
            "all": True, ".": not in_scratch, SCRATCH: in_scratch and not in_cache, CACHE: in_cache,
        }.get(what, False)  # fmt: skip
        path.chmod(path.stat().st_mode & ~WRITE_BITS | (0 if is_forbidden else stat.S_IWUSR))


def _can_provoke(kind: str, folder: Path) -> bool:
    if kind == "failing disk":
        return shutil.which("cc") is not None
    return kind != "disk" or _can_mount(folder)


def _can_mount(folder: Path) -> bool:
    try:
        (folder / "disk").mkdir(exist_ok=True)
        with _disk(folder / "disk"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def _fill(place: Path, num_left: int) -> None:
    """Fill the disk but for some bytes."""
    with open(place / _FILLER, "wb") as file:
        try:
            while file.write(bytes(MIB)):
                file.flush()
        except OSError:
            pass
    with open(place / _FILLER, "rb+") as file:
        file.truncate(max(0, (place / _FILLER).stat().st_size - num_left))


def as_table(outcomes: Mapping[str, Mapping[str, Outcome]]) -> str:
    """Return the counts as a Markdown table: a row for each command, by shortage ended/completed."""
    kinds = list(outcomes)
    lines = [f"| command | {' | '.join(kinds)} | wrong |", f"|---|{'--:|' * (len(kinds) + 1)}"]
    for name in dict.fromkeys(name for of_kind in outcomes.values() for name in of_kind):
        found = [outcomes[kind].get(name, Outcome()) for kind in kinds]
        cells = " | ".join(f"{item.num_ended} / {item.num_completed}" for item in found)
        lines.append(f"| {name} | {cells} | {sum(len(item.wrong) for item in found)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and what went wrong."""
    parser = make_parser(__doc__, 360, "runs under a shortage")
    parser.add_argument("--only", choices=tuple(STEPS), help="Try one command only.")
    parser.add_argument("--shortage", choices=SHORTAGES, help="Try one shortage only.")
    add_minutes(parser)
    arguments = parser.parse_args()
    names = (arguments.only,) if arguments.only else tuple(STEPS)
    with tempfile.TemporaryDirectory() as folder:
        shortages = (arguments.shortage,) if arguments.shortage else SHORTAGES
        outcomes = run(arguments.runs, arguments.seed, Path(folder), names, 60 * arguments.minutes, shortages)
    table = as_table(outcomes)
    for kind in shortages:
        if kind not in outcomes:
            table += f"\nA shortage was left out, because it takes root or a C compiler: {kind}."
    finish(table, (line for of_kind in outcomes.values() for outcome in of_kind.values() for line in outcome.wrong))


if __name__ == "__main__":
    main()
