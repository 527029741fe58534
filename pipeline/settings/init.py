"""Settings of `pipeline init`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.registry import DATASET_NAMES, FEATURES, HEAD_NAMES, choose_heads
from pipeline.settings.data_set import group_by, label_files, labels, published_fold, subset, val_share
from pipeline.settings.help_texts import BACKBONE_HELP, DEVICE_HELP, HEADS_HELP, WEIGHTS_HELP
from pipeline.settings.settings import Settings, option

DRAWN = "gestures"  # `--demo`


@dataclass(frozen=True, kw_only=True)
class InitSettings(Settings):
    """Settings of `pipeline init`."""

    root: Path | None = option(None, "Folder of the clips; for features, their folder or HDF5 file.", is_argument=True)
    lists: tuple[Path, ...] = label_files()
    data: str = option(
        "folders",
        "Layout of the clips: folders named by their class, or a data set of `pipeline prepare`.",
        choices=tuple(name for name in DATASET_NAMES if name != DRAWN),
    )
    demo: bool = option(False, "Write the demo, which draws its own clips.")
    out: Path = option(Path(), "Folder of the study.")
    name: str | None = option(None, "Name of the manifest.  [default: that of the folder of clips]")
    backbone: tuple[str, ...] = option(("squeezenet",), f"Backbones, separated by commas: {BACKBONE_HELP}")
    weights: str = option("imagenet", f"Weights of the backbones: {WEIGHTS_HELP}")
    num_segments: int = option(8, "Number of frames taken from each clip.", minimum=1)
    views: int | None = option(
        None, "Number of training views of each clip.  [default: by the number of clips]", minimum=0
    )
    map_size: int = option(
        4, "Height and width to which spatial maps are averaged, so that spatial heads fit faster; 0: not at all.",
        minimum=0,
    )  # fmt: skip
    head: tuple[str, ...] = option(
        (),
        f"Heads to compare, separated by commas: {HEADS_HELP}.  [default: those of the paper that fit into --minutes]",
    )
    seeds: int | None = option(
        None, "Number of fits of each head.  [default: 3, or 1 if 3 do not fit into --minutes]", minimum=1
    )
    epochs: int | None = option(
        None, "Number of epochs of each fit.  [default: by the number of training clips]", minimum=1
    )
    batch_size: int | None = option(
        None, "Number of clips in a training step.  [default: by the number of training clips]", minimum=1
    )
    finetune: str | None = option(
        None, "Head to train end to end with its backbone after the fits, best on a GPU.", choices=HEAD_NAMES
    )
    minutes: float | None = option(
        None, "Minutes in which the heads may be fitted here.  [default: 5, or those of the extraction]", minimum=0
    )
    device: str = option("cpu", f"Device of the backbone and the heads: {DEVICE_HELP}")
    val_share: float = val_share()
    fold: int = published_fold()
    group_by: str | None = group_by()
    labels: str = labels()
    subset: Path | None = subset()
    columns: str | None = option(
        None, "Names of a csv's columns, such as path=file,label=gesture.", metavar="WHAT=NAME,..."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        choose_heads(self.head)  # which checks the names
        if self.data == FEATURES and self.finetune is not None:
            raise PipelineError("--finetune needs the clips and their backbone; --data features has neither.")
        if self.demo and self.root is not None:
            raise PipelineError(
                f"--demo draws its own clips, so it takes no folder of clips, but was given {self.root}."
            )
