"""Settings of the commands `pipeline store info`, `verify`, `export` and `import`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.settings.help_texts import ROOT_HELP
from pipeline.settings.settings import Settings, option, required


def existing_store() -> Any:
    """Declare the argument that names the store."""
    return required("Feature store: a folder, or a URL such as s3://bucket/name.zarr.", is_argument=True)


@dataclass(frozen=True, kw_only=True)
class StoreInfoSettings(Settings):
    """Settings of `pipeline store info`."""

    store: str = existing_store()
    json: bool = option(False, "Print a JSON object instead of text.")


@dataclass(frozen=True, kw_only=True)
class StoreVerifySettings(Settings):
    """Settings of `pipeline store verify`."""

    store: str = existing_store()
    repair: bool = option(False, "Compute damaged blocks again from the clips.")
    samples: int = option(3, "Number of clips to compute again and compare.", minimum=0)
    manifest: Path | None = option(None, "Manifest of the clips.  [default: as recorded]")
    root: Path | None = option(None, ROOT_HELP)
    weights: str | None = option(None, "Path of the backbone weights if the file has moved.")
    workers: int | None = option(None, "Number of local processes for a repair.", minimum=0)


@dataclass(frozen=True, kw_only=True)
class StoreExportSettings(Settings):
    """Settings of `pipeline store export`."""

    store: str = existing_store()
    out: Path = required("HDF5 file to write.")


@dataclass(frozen=True, kw_only=True)
class StoreImportSettings(Settings):
    """Settings of `pipeline store import`."""

    file: Path = required("HDF5 file that `pipeline store export` wrote.", is_argument=True)
    store: str = required("Feature store to write.")


@dataclass(frozen=True, kw_only=True)
class StoreImportFeaturesSettings(Settings):
    """Settings of `pipeline store import-features`."""

    features: Path = required(
        "Folder of .npy or .npz files named by clip id, or an HDF5 file with an array for each clip id.",
        is_argument=True,
    )
    manifest: Path = required("Manifest of the clips; their files are not read.")
    store: str = required("Feature store to write.")
    name: str | None = option(
        None, "Name of the model that computed the features, for results and table.  [default: that of FEATURES]"
    )
    note: str = option("", "Text about the origin of the features, such as weights and layer; kept in the store.")
    frames: str = option(
        "segments",
        "What the first axis of an array holds. segments: the same number of segments in all arrays; all: the features "
        "of all frames, from which heads draw any number of segments.",
        choices=("segments", "all"),
    )
    maps: tuple[str, ...] = option(
        ("pooled", "spatial"),
        "Features to store, if the arrays have maps or tokens: pooled, or pooled,spatial.",
        choices=("pooled", "spatial"),
    )
    class_tokens: int = option(
        0, "Number of tokens to leave out before those of the patches, such as 1 for a class token.", minimum=0
    )
    key: str | None = option(
        None, "Name of the array in each .npz file or HDF5 group.  [default: the only one]", metavar="NAME"
    )
    video_encoder: bool = option(
        False,
        "The features come from a video encoder, such as a video transformer or 3D CNN, which mixes the frames of a "
        "clip. They are then never divided in time, and the order tests carry a remark.",
    )
    rebuild: bool = option(False, "Replace an existing store.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if "pooled" not in self.maps:
            raise PipelineError("`maps` must be pooled, or pooled,spatial.")
        if self.video_encoder and self.frames == "all":
            raise PipelineError(
                "--frames all draws segments from the frames of a clip, but those of a video encoder are not "
                "independent: each contains the others. Import arrays of one length, without --frames all."
            )
