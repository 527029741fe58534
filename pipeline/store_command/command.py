"""`pipeline store info`, `export` and `import`: print the contents of a store, convert it to HDF5 and back."""

from __future__ import annotations

import dataclasses
import json

import click

from pipeline.settings.store import StoreExportSettings, StoreImportSettings, StoreInfoSettings
from pipeline.store.feature_store import FeatureStore
from pipeline.store_command.hdf5 import export_hdf5, import_hdf5
from pipeline.store_command.hdf5_file import is_sealed
from pipeline.store_command.info import StoreInfo, describe, info_text


def store_info(settings: StoreInfoSettings) -> StoreInfo:
    """Print the contents of a store."""
    info = describe(FeatureStore.open(settings.store))
    as_json = {**dataclasses.asdict(info), "ratio": info.ratio}
    click.echo(json.dumps(as_json, indent=2) if settings.json else info_text(info))
    return info


def store_export(settings: StoreExportSettings) -> None:
    """Write a store to one HDF5 file."""
    num_clips = export_hdf5(FeatureStore.open(settings.store), settings.out)
    click.echo(f"Wrote {num_clips:,} clips to {settings.out}.")


def store_import(settings: StoreImportSettings) -> None:
    """Create a store from an HDF5 file that `store export` wrote."""
    num_clips = import_hdf5(settings.file, settings.store)
    click.echo(f"Read {num_clips:,} clips into {settings.store}.")
    if not is_sealed(settings.file):
        click.echo(f"{settings.file} was written by version 0.1, without a checksum; it was not verified.", err=True)
