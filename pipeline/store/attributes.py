"""Attributes of a store: settings, classes, clips per block and provenance, in two copies.

`zarr.json` holds them as attributes of the root group, with their SHA-256. A damaged `zarr.json` is repaired from the
second copy, `records/attributes.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import parse_json
from pipeline.store import layout
from pipeline.store.object_store import ObjectStore
from pipeline.store.sealed import digest_of, seal, unseal
from pipeline.store.settings import StoreSettings, fingerprint_of, settings_from_dict

FAMILY = layout.FORMAT.rpartition(" ")[0]
ROOT_KEY = "zarr.json"
MAX_CHUNK_BYTES = 1 << 32
HDF5_SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True)
class Attributes:
    """Checked attributes of a store."""

    settings: StoreSettings
    classes: tuple[str, ...]
    block_clips: int
    provenance: dict[str, Any]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of settings and classes, which each record has too."""
        return fingerprint_of(self.settings, self.classes)

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes as plain data for JSON."""
        return {
            "format": layout.FORMAT,
            "settings": self.settings.as_dict(),
            "classes": list(self.classes),
            "block_clips": self.block_clips,
            "provenance": self.provenance,
        }


def attributes_from_dict(values: Any) -> Attributes:
    """Convert plain data to attributes and check them, before memory is allocated by a size in them.

    Raises:
        PipelineError: a value is missing, has another type, or is out of range.
    """
    try:
        classes, block_clips, provenance = values["classes"], values["block_clips"], values["provenance"]
        if values["format"] != layout.FORMAT:
            raise ValueError(f"format is '{values['format']}'")
        if type(block_clips) is not int or not 1 <= block_clips <= layout.MAX_BLOCK_CLIPS:
            raise ValueError(f"block_clips is {block_clips!r}")
        if not isinstance(classes, list) or not all(type(label) is str for label in classes):
            raise ValueError("classes is not a list of strings")
        if not isinstance(provenance, dict):
            raise ValueError("provenance is not a mapping")
        settings = settings_from_dict(values["settings"])
        if block_clips * settings.num_segments * settings.channels * 2 > MAX_CHUNK_BYTES:
            raise ValueError(f"a block would take more than {MAX_CHUNK_BYTES:,} bytes")
        return Attributes(settings, tuple(classes), block_clips, provenance)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PipelineError(f"The attributes of the store are invalid: {type(error).__name__}: {error}.") from error


def write_attributes(objects: ObjectStore, attributes: Attributes) -> None:
    """Write both copies, `zarr.json` last, because the store exists once it has a `zarr.json`."""
    values = attributes.as_dict()
    objects.put(layout.COPY_KEY, seal("attributes", values))
    objects.put(ROOT_KEY, root_bytes(values))


def root_bytes(values: dict[str, Any]) -> bytes:
    """Return the `zarr.json` of a store with these attributes."""
    attributes = {**values, "sha256": digest_of(values)}
    node = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    return json.dumps(node, ensure_ascii=False, indent=2).encode()


def has_store(objects: ObjectStore) -> bool:
    """Return whether this location has a store, which may be damaged."""
    return objects.get(ROOT_KEY) is not None or objects.get(layout.COPY_KEY) is not None


def about_no_store(location: str | Path) -> str:
    """Return what is at a location that is not a store, and the way out."""
    path = Path(location)
    if path.is_file() and path.suffix.lower() in HDF5_SUFFIXES:
        return (
            f"{location} is an HDF5 file, not a feature store. If `pipeline store export` wrote it, make a store of it "
            f"with `pipeline store import {location} --store {path.with_suffix('.zarr')}`."
        )
    if path.exists():
        what = "file" if path.is_file() else "folder"
        return f"The {what} {location} is not a feature store. Give the folder that --store named."
    return (
        f"There is no feature store at {location}. Create one with `pipeline extract --backbone NAME "
        f"--store {location}`."
    )


def read_attributes(objects: ObjectStore) -> Attributes:
    """Read the attributes of `zarr.json`.

    Raises:
        PipelineError: they are damaged, or not those of a store of this version.
    """
    location = objects.location
    values: dict[str, Any] | None
    data = objects.get(ROOT_KEY)
    try:
        values = _values_of_root(data)
        stated = values.pop("sha256", None)
        is_whole = stated == digest_of(values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        values, stated, is_whole = None, None, False
    if values is not None and is_whole:
        return attributes_from_dict(values)
    if values is not None and stated is None and objects.get(layout.COPY_KEY) is None:
        number = format_number(values)
        if number is not None and number < 2:
            raise OldFormatError(location, number)
        raise PipelineError(f"{location} is a Zarr group, but not a feature store of this version ({layout.FORMAT}).")
    what = "missing" if data is None else "damaged: its attributes do not match their SHA-256"
    raise PipelineError(
        f"zarr.json of {location} is {what}. Run `pipeline store verify --repair`, or `pipeline extract` again, "
        f"to restore it from its copy, {layout.COPY_KEY}. Without that copy, extract again with --rebuild."
    )


def read_copy(objects: ObjectStore) -> Attributes:
    """Read the second copy of the attributes.

    Raises:
        PipelineError: it is missing or damaged.
    """
    data = objects.get(layout.COPY_KEY)
    if data is None:
        raise PipelineError(f"{layout.COPY_KEY} of the store {objects.location} is missing.")
    return attributes_from_dict(unseal(data, "attributes", layout.COPY_KEY))


class OldFormatError(PipelineError):
    """Raised for a store of version 0.1, whose table and attributes have no checksums."""

    def __init__(self, location: str, number: int) -> None:
        super().__init__(
            f"{location} is a feature store of format {number}, without checksums of its table and settings; this "
            "version reads format 2. Run the `pipeline extract` that made it again: it checks the table against "
            "the manifest and adds the checksums, without computing features again."
        )


def format_number(values: dict[str, Any]) -> int | None:
    """Return the number of a store's format, or None if the attributes are not those of a store."""
    family, _, number = str(values.get("format", "")).rpartition(" ")
    return int(number) if family == FAMILY and number.isdecimal() else None


def _values_of_root(data: bytes | None) -> dict[str, Any]:
    node = parse_json(data or b"")
    if (node["node_type"], node["zarr_format"]) != ("group", 3):
        raise ValueError("it is not a Zarr v3 group")
    return dict(node["attributes"])
