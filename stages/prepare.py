"""`pipeline prepare`: what lies on disk, or is drawn now, as a validated manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from pipeline.datasets.gestures import GestureSettings, write_gestures
from pipeline.errors import PipelineError
from pipeline.manifest import Manifest, classes_path, read_manifest
from pipeline.registry import look_up


@dataclass(frozen=True)
class Request:
    """What was asked for: where the clips lie, the data set's own lists, where the manifest goes, further options."""

    root: Path | None
    lists: tuple[Path, ...]
    out: Path
    gestures: GestureSettings = field(default_factory=GestureSettings)
    workers: int | None = None


def prepare(
    dataset: str,
    root: str | Path | None = None,
    lists: Sequence[str | Path] = (),
    out: str | Path = "",
    *,
    classes: str | Path | None = None,
    seed: int = 0,
    train_clips: int = 30,
    val_clips: int = 15,
    width: int = 160,
    height: int = 120,
    min_frames: int = 20,
    max_frames: int = 70,
    fps: int = 12,
    frames: str = "webm",
    workers: int | None = None,
) -> Manifest:
    """Write the manifest of a data set and read it back.

    `seed` and what follows it up to `frames` are for drawn data sets: how many clips each class has, their size and
    length, and whether they become video files (`webm`) or folders of frames (`jpg`). `classes` only names the class
    file for whoever reads the settings; it always lies beside the manifest.

    Raises:
        PipelineError: an unknown data set, a missing or superfluous argument, or a manifest that is not valid.
    """
    preparer = look_up("data set", dataset, PREPARERS)
    if not str(out):
        raise PipelineError("`prepare` needs the path of the manifest: give --out, such as data_manifests/NAME.csv.")
    out = Path(out)
    if classes is not None and Path(classes) != classes_path(out):
        raise PipelineError(f"The class file of {out} is always {classes_path(out)}, so it cannot be {classes}.")
    gestures = GestureSettings(
        seed=seed,
        train_clips=train_clips,
        val_clips=val_clips,
        width=width,
        height=height,
        min_frames=min_frames,
        max_frames=max_frames,
        fps=fps,
        frames=frames,
    )
    where = None if root is None else Path(root)
    preparer(Request(where, tuple(Path(path) for path in lists), out, gestures, workers))
    manifest = read_manifest(out, where)
    counts = ", ".join(f"{split} {len(manifest.in_split(split)):,}" for split in manifest.splits)
    click.echo(f"{out}: {len(manifest.clips):,} clips ({counts}) of {len(manifest.classes):,} classes, root {where}")
    return manifest


def _draw_gestures(request: Request) -> None:
    if request.root is None:
        raise PipelineError(
            "`prepare gestures` needs a folder to draw into: `pipeline prepare gestures data/gestures`."
        )
    if request.lists:
        raise PipelineError(f"`prepare gestures` draws its clips and takes no list, but was given {request.lists[0]}.")
    write_gestures(request.out, request.root, request.gestures, request.workers)


PREPARERS: dict[str, Callable[[Request], None]] = {
    "gestures": _draw_gestures,
}
