"""Settings of `pipeline prepare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.registry import DATASET_NAMES
from pipeline.settings.data_set import group_by, label_files, labels, published_fold, subset, val_share
from pipeline.settings.settings import Settings, option, required


@dataclass(frozen=True, kw_only=True)
class PrepareSettings(Settings):
    """Settings of `pipeline prepare`; block `prepare`."""

    subject: ClassVar[tuple[str, ...]] = ("dataset", "out")

    dataset: str = required("Data set, or layout of the clips.", choices=DATASET_NAMES, is_argument=True)
    root: Path | None = option(None, "Folder of the data set; for features, also an HDF5 file.", is_argument=True)
    lists: tuple[Path, ...] = label_files()
    out: Path = required("Manifest to write, data_manifests/NAME.csv.")
    classes: Path | None = option(
        None, "Class file in the folder of the manifest, named in params.yaml for DVC.", is_hidden=True
    )
    class_order: str = option(
        "file", "Order of the class numbers: as in the data set's files, or alphabetical.", choices=("file", "sorted")
    )
    pack: Path | None = option(None, "HDF5 file to write, into which folders of frames are copied.", metavar="FILE.h5")
    val_share: float = val_share()
    fold: int = published_fold()
    group_by: str | None = group_by()
    labels: str = labels()
    subset: Path | None = subset()
    columns: str | None = option(
        None,
        "Names of a csv's columns for path, clip_id, label, split, such as path=file,label=gesture.",
        metavar="WHAT=NAME,...",
    )
    frames: str = option("webm", "Format of drawn gestures: video files, or folders of JPGs.", choices=("webm", "jpg"))
    train_clips: int = option(30, "Number of training clips of each class of drawn gestures.", minimum=1)
    val_clips: int = option(15, "Number of validation clips of each class of drawn gestures.", minimum=1)
    test_clips: int | None = option(
        None, "Number of test clips of each class of drawn gestures.  [default: that of --val-clips]", minimum=0
    )
    width: int = option(160, "Width of drawn gestures in pixels.", minimum=1, is_hidden=True)
    height: int = option(120, "Height of drawn gestures in pixels.", minimum=1, is_hidden=True)
    min_frames: int = option(20, "Minimum number of frames of a drawn gesture.", minimum=1, is_hidden=True)
    max_frames: int = option(70, "Maximum number of frames of a drawn gesture.", minimum=1, is_hidden=True)
    fps: int = option(12, "Frame rate of drawn gestures.", minimum=1, is_hidden=True)
    seed: int = option(0, "Seed of drawn clips and of random splits.")
    workers: int | None = option(None, "Number of processes that draw gestures.  [default: one per core]", minimum=0)
