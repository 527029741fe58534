"""List arrays of features, for `pipeline store import-features`: in folders of classes, or by a CSV of labels.

The id of a clip is the path of its array without `.npy` or `.npz`, or its name in an HDF5 file.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.prepare.csv_table import list_csv
from pipeline.prepare.folders import list_folders_of_classes
from pipeline.prepare.hdf5_features import list_hdf5_features
from pipeline.prepare.listing import Listing, ListingRequest
from pipeline.video.suffixes import is_array_name


def list_features(request: ListingRequest) -> Listing:
    """List the arrays of a folder as `prepare folders` does with videos, or those of a CSV as `prepare csv` does.

    ROOT may also be an HDF5 file, with groups in the place of folders.

    Raises:
        PipelineError: there is no array, or the CSV has no column for ids or labels.
    """
    if request.root.is_file():
        return replace(list_hdf5_features(request), is_drawn=False)
    by_class = replace(request, is_clip=is_array_name)
    listing = list_csv(request) if request.lists else list_folders_of_classes(by_class)
    return replace(listing, is_drawn=False)  # arrays have no frames to compare
