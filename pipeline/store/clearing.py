"""What in a place belongs to a store, and taking it away: nothing that no store has made is touched."""

from __future__ import annotations

from pipeline.errors import PipelineError
from pipeline.store import layout
from pipeline.store.object_store import ObjectStore
from pipeline.store.table import read_table

OWN_NAMES = ("zarr.json", layout.TABLE_KEY, "records", "views", "frames", layout.LOCAL_FOLDER)


def check_location_is_free(objects: ObjectStore) -> None:
    """Refuse a place for a new store where something lies that no store has made.

    Raises:
        PipelineError: there is such a thing.
    """
    # Folders without a file count for nothing: a store that was deleted leaves some.
    strangers = sorted({key.partition("/")[0] for key in objects.sizes() if not key.startswith(".")})
    if _has_table(objects):
        # Of a store that was being deleted, or made, when its process was killed.
        strangers = [name for name in strangers if name not in OWN_NAMES]
    if strangers:
        raise PipelineError(
            f"{objects.location} is no feature store, and not empty ('{strangers[0]}' lies there). A store needs a "
            "folder of its own: name a new one with --store."
        )


def remove_store(objects: ObjectStore) -> None:
    """Take away every object of a store, or what a kill has left of one, and nothing else that lies there.

    Raises:
        PipelineError: something else lies there.
    """
    if objects.get("zarr.json") is None and not _has_table(objects):
        return
    if not _is_store(objects):
        raise PipelineError(
            f"{objects.location} is not a feature store; --rebuild does not delete what it did not make."
        )
    # The root first, since without it there is no store; the table last, since by it the rest is known as a store's.
    objects.delete("zarr.json")
    for key in objects.sizes():
        if key.partition("/")[0] in OWN_NAMES and key != layout.TABLE_KEY:
            objects.delete(key)
    objects.delete(layout.TABLE_KEY)


def _is_store(objects: ObjectStore) -> bool:
    try:
        stated = str(layout.read_attributes(objects).get("format", ""))
    except (PipelineError, FileNotFoundError):
        # Gone or damaged; the table beside it tells a store all the same.
        return _has_table(objects)
    return stated.rpartition(" ")[0] == layout.FORMAT.rpartition(" ")[0]


def _has_table(objects: ObjectStore) -> bool:
    data = objects.get(layout.TABLE_KEY)
    try:
        read_table(data, objects.location)
    except PipelineError:
        return False
    return data is not None
