"""What in a place belongs to a store, and taking it away: nothing that no store has made is touched."""

from __future__ import annotations

from pipeline.errors import PipelineError
from pipeline.store import layout
from pipeline.store.attributes import FAMILY, ROOT_KEY, has_store
from pipeline.store.object_store import ObjectStore
from pipeline.store.sealed import unseal
from pipeline.store.upgrade import OLD_TABLE_KEY, remove_leftovers

OWN_NAMES = (ROOT_KEY, layout.RECORDS_FOLDER, "views", "frames")


def check_location_is_free(objects: ObjectStore) -> None:
    """Refuse a place for a new store where something lies that no store has made.

    Raises:
        PipelineError: there is such a thing.
    """
    # Folders without a file count for nothing: a store that was deleted leaves some. Hidden files are locks.
    keys = (key for key in objects.sizes() if not any(part.startswith(".") for part in key.split("/")))
    strangers = sorted({key.partition("/")[0] for key in keys})
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
    if not has_store(objects) and not _has_table(objects):
        return
    if not _is_store(objects):
        raise PipelineError(
            f"{objects.location} is not a feature store; --rebuild does not delete what it did not make."
        )
    # The attributes first, since without them there is no store; the table last, since by it the rest is known as a
    # store's.
    objects.delete(layout.COPY_KEY)
    objects.delete(ROOT_KEY)
    for key in objects.sizes():
        if key.partition("/")[0] in OWN_NAMES and key not in (layout.TABLE_KEY, *layout.LOCK_KEYS):
            objects.delete(key)
    remove_leftovers(objects)
    objects.delete(layout.TABLE_KEY)


def _is_store(objects: ObjectStore) -> bool:
    # By its name alone: a store with damaged attributes is one too.
    data = objects.get(ROOT_KEY) or b""
    return _has_table(objects) or objects.get(layout.COPY_KEY) is not None or FAMILY.encode() in data


def _has_table(objects: ObjectStore) -> bool:
    data = objects.get(layout.TABLE_KEY)
    if data is None:
        return (objects.get(OLD_TABLE_KEY) or b"").startswith(b"row,clip_id,path,label,split,listed")
    try:
        unseal(data, "clips", layout.TABLE_KEY)
    except PipelineError:
        return False
    return True
