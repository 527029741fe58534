"""List arrays of features in one HDF5 file: in groups of classes, or by a CSV of labels.

The id of a clip is the name of its data set, or of the group that holds it alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import h5py

from pipeline.errors import PipelineError
from pipeline.manifest import HDF5_SEPARATOR, Clip
from pipeline.prepare.csv_table import list_csv
from pipeline.prepare.folders import list_tree
from pipeline.prepare.listing import Listing, ListingRequest
from pipeline.prepare.tree import Folder, Tree


def list_hdf5_features(request: ListingRequest) -> Listing:
    """List the arrays of an HDF5 file, `request.root`.

    Raises:
        PipelineError: it is no HDF5 file, has no arrays in groups of classes, or the CSV is wrong.
    """
    file = request.root
    members, groups = _members(file)
    if request.lists:
        listing = list_csv(replace(request, root=file.parent))
        missing = {clip.clip_id for clip in listing.clips} - {*members, *groups}
        faulty = {clip_id: f"missing: {file} has no array {clip_id}" for clip_id in sorted(missing)}
        return replace(listing, clips=_located(listing.clips, file), notes=(), faulty=faulty)
    if not any("/" in name for name in members):
        raise PipelineError(
            f"{file} has no arrays in groups of classes, such as waving/1, so their labels are not known. Give a CSV "
            "with the columns clip_id and label after it."
        )
    listing = list_tree(request, _tree(file, members))
    # The name of a file without its suffix is an id; the name of a data set is one as it is.
    named = [replace(clip, clip_id=clip.path) for clip in listing.clips]
    return replace(listing, clips=_located(named, file))


def _located(clips: list[Clip] | tuple[Clip, ...], file: Path) -> tuple[Clip, ...]:
    return tuple(replace(clip, path=f"{file.name}{HDF5_SEPARATOR}{clip.clip_id}") for clip in clips)


def _members(file: Path) -> tuple[list[str], set[str]]:
    """Return the names of the clips in order, and the groups of arrays.

    A clip is an array, or its group if each group holds one array of the same name.
    """
    names: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            names.append(name)

    try:
        with h5py.File(file, "r", locking="best-effort") as opened:
            opened.visititems(visit)
    except (OSError, RuntimeError, ValueError) as error:
        raise PipelineError(
            f"{file} is not an HDF5 file that can be read ({error}). Give the folder of the arrays, or an HDF5 file."
        ) from error
    if not names:
        raise PipelineError(f"{file} has no array.")
    groups = [name.rpartition("/")[0] for name in names]
    holders = {group for group in groups if group}
    if len({PurePosixPath(name).name for name in names}) == 1 and len(holders) == len(groups) > 1:
        names = groups
    return sorted(names), holders


def _tree(file: Path, members: list[str]) -> Tree:
    """Return the groups of a file as folders, and its arrays as their clips."""
    folders: dict[str, tuple[set[str], set[str]]] = {"": (set(), set())}
    for member in members:
        *parents, name = member.split("/")
        path = ""
        for parent in parents:
            folders[path][0].add(parent)
            path = f"{path}/{parent}" if path else parent
            folders.setdefault(path, (set(), set()))
        folders[path][1].add(name)
    return Tree(file, {path: _folder(groups, arrays) for path, (groups, arrays) in folders.items()})


def _folder(groups: set[str], arrays: set[str]) -> Folder:
    return Folder(tuple(sorted(groups)), tuple(sorted(arrays)))
