"""Open the store that a command names; of another file or folder, say what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pipeline.errors import PipelineError
from pipeline.store.attributes import has_store
from pipeline.store.feature_store import FeatureStore
from pipeline.store.object_store import open_object_store

HDF5_SUFFIXES = (".h5", ".hdf5")


def open_store(location: str, mode: Literal["r", "r+"] = "r") -> FeatureStore:
    """Open the store of a command.

    Raises:
        PipelineError: the location is not a store, or the store is damaged.
    """
    path = Path(location)
    if path.is_file() and path.suffix.lower() in HDF5_SUFFIXES:
        raise PipelineError(
            f"{location} is an HDF5 file, not a feature store. If `pipeline store export` wrote it, make a store of it "
            f"with `pipeline store import {location} --store {path.with_suffix('.zarr')}`."
        )
    if path.exists() and not has_store(open_object_store(location)):
        what = "file" if path.is_file() else "folder"
        raise PipelineError(f"The {what} {location} is not a feature store. Give the folder that --store named.")
    return FeatureStore.open(location, mode)
