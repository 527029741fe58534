"""`pipeline check`: report problems of a manifest and its clips."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context

import click

from pipeline.errors import ClipError, PipelineError
from pipeline.files import write_text
from pipeline.manifest import Manifest, read_manifest
from pipeline.prepare.directory_scan import NUM_THREADS
from pipeline.prepare.findings import Finding, find, histogram
from pipeline.prepare.inspection import Inspected, decode_clips, decode_clips_watched, stat_clips
from pipeline.processes import end_with_parent, num_cores, without_interrupts
from pipeline.progress import Progress
from pipeline.settings.check import CheckSettings
from pipeline.video.fatal_clips import find_fatal_clips
from pipeline.video.limits import ClipLimits

NUM_EXAMPLES = 5
GLANCES_A_TASK = 1024
CLIPS_A_TASK = 16
# Below this number of clips, starting several processes takes longer than decoding in one.
CLIPS_WORTH_PROCESSES = 64

Task = Sequence[tuple[str, str]]


def check(settings: CheckSettings) -> list[Finding]:
    """Check every clip, print a summary and the findings, and write the findings to `out`.

    Without `decode`, files are located but not opened, which takes seconds for 200,000 clips. With `decode`, every
    frame of every clip is decoded in `workers` processes (by default one per core; 0: only this process).

    Raises:
        PipelineError: the manifest or a clip has a problem, which is printed before.
    """
    listed = read_manifest(settings.manifest, settings.root)
    limits = ClipLimits.of(settings)
    looked_at = _looked_at(listed, settings.decode, settings.workers, limits)
    seen = {inspected.clip_id: inspected for inspected in looked_at}
    findings = find(listed, seen)
    if settings.out is not None:
        write_text(settings.out, findings_as_csv(findings))
    click.echo(summary_text(listed, seen, findings))
    if findings:
        more = f"all in {settings.out}" if settings.out is not None else "--out FILE.csv writes all of them"
        raise PipelineError(f"{len(findings):,} findings in {settings.manifest}; {more}.")
    return findings


def findings_as_csv(findings: Sequence[Finding]) -> str:
    """Return the findings as a CSV with the columns `kind,clip_id,split,text`."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("kind", "clip_id", "split", "text"))
    writer.writerows((finding.kind, finding.clip_id, finding.split, finding.text) for finding in findings)
    return buffer.getvalue()


def summary_text(manifest: Manifest, seen: dict[str, Inspected], findings: Sequence[Finding]) -> str:
    """Return counts, sizes, rates, the histogram of classes, and the findings by kind with examples."""
    lines = [f"{manifest.path}: {len(manifest.clips):,} clips, {len(manifest.classes):,} classes."]
    lines += ["", *_histogram_lines(manifest)]
    decoded = [inspected for inspected in seen.values() if inspected.num_frames]
    if decoded:
        lengths = sorted(inspected.num_frames for inspected in decoded)
        middle = lengths[len(lengths) // 2]
        sizes = Counter(f"{inspected.width}×{inspected.height}" for inspected in decoded)
        rates = Counter(f"{inspected.rate:g}" if inspected.rate else "unknown" for inspected in decoded)
        lines += [
            "",
            f"Decoded {len(decoded):,} clips, {sum(lengths):,} frames.",
            f"Frames per clip: {lengths[0]} to {lengths[-1]}, median {middle}.",
            f"Sizes (width×height): {_most_common(sizes)}.",
            f"Frames per second: {_most_common(rates)}.",
        ]
    by_kind: dict[str, list[Finding]] = {}
    for finding in findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    lines.append("")
    for kind, some in sorted(by_kind.items(), key=lambda item: (-len(item[1]), item[0])):
        lines.append(f"{kind}: {len(some):,}")
        lines += [
            f"  {finding.clip_id + ': ' if finding.clip_id else ''}{finding.text}" for finding in some[:NUM_EXAMPLES]
        ]
        lines += [f"  … and {len(some) - NUM_EXAMPLES:,} more"] if len(some) > NUM_EXAMPLES else []
    return "\n".join(lines if findings else [*lines, "No problem was found."])


def _looked_at(manifest: Manifest, decode: bool, workers: int | None, limits: ClipLimits) -> Iterator[Inspected]:
    clips = [(clip.clip_id, manifest.locate(clip)) for clip in manifest.clips]
    size = CLIPS_A_TASK if decode else GLANCES_A_TASK
    tasks = [clips[start : start + size] for start in range(0, len(clips), size)]
    with Progress("check", len(clips)) as progress:
        for results in _decoded(tasks, workers, limits) if decode else _located(tasks):
            yield from results
            progress.advance(len(results))


def _located(tasks: Sequence[Task]) -> Iterator[list[Inspected]]:
    with ThreadPoolExecutor(NUM_THREADS) as executor:  # parallel requests hide the latency of a slow disk
        yield from executor.map(stat_clips, tasks)


def _decoded(tasks: Sequence[Task], workers: int | None, limits: ClipLimits) -> Iterator[list[Inspected]]:
    if workers == 0:
        yield from map(partial(decode_clips, limits=limits), tasks)
        return
    num_workers = min(num_cores() if workers is None else workers, len(tasks))
    if workers is None and sum(map(len, tasks)) < CLIPS_WORTH_PROCESSES:
        num_workers = 1
    fatal: dict[str, ClipError] = {}
    while tasks:
        num_done = 0
        # Spawn, because forking is unsafe with running threads. Two processes decode more than two threads.
        with ProcessPoolExecutor(num_workers, get_context("spawn"), initializer=end_with_parent) as executor:
            look = partial(decode_clips_watched, limits=limits)
            sound = [[clip for clip in task if clip[1] not in fatal] for task in tasks]
            with without_interrupts():
                futures = [executor.submit(look, clips) for clips in sound]
            try:
                for task, future in zip(tasks, futures, strict=True):
                    lost = [Inspected(name, fatal[at].kind, str(fatal[at])) for name, at in task if at in fatal]
                    yield [*future.result(), *lost]
                    num_done += 1
            except BrokenProcessPool as error:
                # Tasks begin in their order: the first ones without a result were running, one waited for a process.
                running = [clips for clips, future in zip(sound, futures, strict=True) if future.exception()]
                found = find_fatal_clips([at for clips in running[: num_workers + 1] for _, at in clips], limits)
                if not found:
                    raise PipelineError(
                        "A process of the check was killed, though none of its clips crashes a decoder: probably for "
                        "lack of memory. Lower --workers."
                    ) from error
                fatal.update(found)
        tasks = tasks[num_done:]


def _histogram_lines(manifest: Manifest) -> list[str]:
    counts = histogram(manifest)
    unlabelled = Counter(clip.split for clip in manifest.clips if not clip.is_labelled)
    rows = [["class", *manifest.splits]]
    rows += [[label, *(f"{counts[label][split]:,}" for split in manifest.splits)] for label in manifest.classes]
    if unlabelled:
        rows.append(["(no label)", *(f"{unlabelled[split]:,}" for split in manifest.splits)])
    totals = Counter(clip.split for clip in manifest.clips)
    rows.append(["all", *(f"{totals[split]:,}" for split in manifest.splits)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(_aligned(row, widths)) for row in rows]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Align text to the left and numbers to the right."""
    first, *numbers = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return [first.strip().ljust(widths[0]), *numbers]


def _most_common(counts: Counter[str]) -> str:
    parts = [f"{name} ({count:,})" for name, count in counts.most_common(NUM_EXAMPLES)]
    return ", ".join(parts) + (f" and {len(counts) - NUM_EXAMPLES:,} others" if len(counts) > NUM_EXAMPLES else "")
