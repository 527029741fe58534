"""Delete a store, and only files that belong to it; check that a location is free for a new store."""

from __future__ import annotations

from pipeline.errors import PipelineError
from pipeline.store import layout
from pipeline.store.attributes import FAMILY, ROOT_KEY, has_store
from pipeline.store.object_store import ObjectStore
from pipeline.store.sealed import unseal
from pipeline.store.upgrade import OLD_TABLE_KEY, remove_leftovers

STORE_NAMES = (ROOT_KEY, layout.RECORDS_FOLDER, "views", "frames")


def check_location_is_free(objects: ObjectStore) -> None:
    """Check that the location of a new store has no files other than those of a store.

    Raises:
        PipelineError: it has other files.
    """
    # Empty folders are ignored, since a deleted store leaves some. Hidden files are locks.
    keys = (key for key in objects.sizes() if not any(part.startswith(".") for part in key.split("/")))
    others = sorted({key.partition("/")[0] for key in keys})
    if _has_table(objects):
        # These files belong to a store whose creation or deletion was interrupted.
        others = [name for name in others if name not in STORE_NAMES]
    if others:
        raise PipelineError(
            f"{objects.location} is not empty and not a feature store (it contains '{others[0]}'). Give a new "
            "folder with --store."
        )


def remove_store(objects: ObjectStore) -> None:
    """Delete all objects of a store, also of an incomplete one, and no other files.

    Raises:
        PipelineError: the location holds other data.
    """
    if not has_store(objects) and not _has_table(objects):
        return
    if not _is_store(objects):
        raise PipelineError(f"{objects.location} is not a feature store; --rebuild deletes only feature stores.")
    # Delete the attributes first, because a store exists only with them, and the table last, because it identifies the
    # other objects as those of a store.
    objects.delete(layout.COPY_KEY)
    objects.delete(ROOT_KEY)
    for key in objects.sizes():
        if key.partition("/")[0] in STORE_NAMES and key not in (layout.TABLE_KEY, *layout.LOCK_KEYS):
            objects.delete(key)
    remove_leftovers(objects)
    objects.delete(layout.TABLE_KEY)


def _is_store(objects: ObjectStore) -> bool:
    # Look only for the name of the format: the attributes may be damaged.
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
