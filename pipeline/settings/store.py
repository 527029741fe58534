"""Settings of the commands `pipeline store info`, `verify`, `export` and `import`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
