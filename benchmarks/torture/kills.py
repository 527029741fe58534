"""Question: does a command that was killed at any moment, and then run again, end as if nothing had happened?

Each command of a tiny study is started, killed by SIGKILL at a random moment, and started again. The exit code is 1 if
a process is still running 20 s after the kill, if the second run fails, or if any file in the folder (including hidden
and temporary ones) differs from that of an undisturbed run. Times, process ids and training states are excluded.

    python -m benchmarks.torture.kills --runs 60
"""

from __future__ import annotations

import math
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.torture.command_line import add_minutes, finish, make_parser, numbers_until
from benchmarks.torture.commands import Commands
from benchmarks.torture.study import STEPS, Step, Undisturbed, copy_inputs, differences, make_study, run_undisturbed


@dataclass
class Outcome:
    """Outcomes of the kills of one command; `num_landed` of them came before its end."""

    num_runs: int = 0
    num_landed: int = 0
    wrong: list[str] = field(default_factory=list)


def run(
    num_runs: int,
    seed: int,
    folder: Path,
    names: Sequence[str] = tuple(STEPS),
    max_seconds: float = math.inf,
) -> dict[str, Outcome]:
    """Kill the commands in turn, each at a random moment of the time that it takes, and run them again."""
    rng = random.Random(seed)
    outcomes = {name: Outcome() for name in names}
    study, place = folder / "study", folder / "run"
    with Commands() as commands:
        make_study(commands, study)
        undisturbed = run_undisturbed(commands, study, place, names)
        for number in numbers_until(num_runs, max_seconds):
            name = names[number % len(names)]
            after_seconds = rng.uniform(0, undisturbed[name].seconds)
            outcomes[name].num_runs += 1
            copy_inputs(study, STEPS[name], place)
            wrong = _kill_and_run_again(commands, STEPS[name], place, after_seconds, outcomes[name], undisturbed[name])
            outcomes[name].wrong += [f"{name}, killed after {after_seconds:.3f} s: {text}" for text in wrong]
    return outcomes


def _kill_and_run_again(
    commands: Commands, step: Step, place: Path, after_seconds: float, outcome: Outcome, undisturbed: Undisturbed
) -> list[str]:
    command = commands.start(step.arguments, place)
    time.sleep(after_seconds)
    command.kill()
    ended = command.wait()
    outcome.num_landed += ended.code == -signal.SIGKILL
    wrong = [f"a process was left: {line}" for line in command.processes_left()]
    if not step.is_repeatable:
        differing = differences(place, undisturbed)
        if ended.code == 0 or not differing:
            return wrong + differing  # it has written everything, so that it would refuse to run again
    again = commands.run(step.arguments, place)
    if again.code or again.has_traceback:
        return [*wrong, f"run again, it ended with {again.code}: {again.output.strip()[-500:]}"]
    return wrong + differences(place, undisturbed)


def as_table(outcomes: dict[str, Outcome]) -> str:
    """Return the counts as a Markdown table."""
    rows = [(name, item.num_runs, item.num_landed, len(item.wrong)) for name, item in outcomes.items()]
    rows.append(("all", *(sum(row[column] for row in rows) for column in (1, 2, 3))))
    lines = ["| command | runs | killed before their end | wrong |", "|---|--:|--:|--:|"]
    return "\n".join([*lines, *(f"| {name} | {runs} | {landed} | {wrong} |" for name, runs, landed, wrong in rows)])


def main() -> None:
    """Print the table and the failures."""
    parser = make_parser(__doc__, 500, "kills")
    parser.add_argument("--only", choices=tuple(STEPS), help="Kill one command only.")
    add_minutes(parser)
    arguments = parser.parse_args()
    names = (arguments.only,) if arguments.only else tuple(STEPS)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(arguments.runs, arguments.seed, Path(folder), names, 60 * arguments.minutes)
    finish(as_table(outcomes), (line for outcome in outcomes.values() for line in outcome.wrong))


if __name__ == "__main__":
    main()
