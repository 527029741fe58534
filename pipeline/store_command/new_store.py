"""Create a store that readers find once it is complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.store.attributes import Attributes, has_store
from pipeline.store.clearing import check_location_is_free, remove_store
from pipeline.store.feature_store import FeatureStore
from pipeline.store.locks import writer_lock
from pipeline.store.object_store import open_object_store


@contextmanager
def new_store(location: str, attributes: Attributes) -> Iterator[FeatureStore]:
    """Yield an empty store, and publish it if the block succeeds; else delete its files.

    A killed block leaves no store; the next one deletes its files. A store at the location is replaced.

    Raises:
        PipelineError: the location has files of others.
    """
    objects = open_object_store(location)
    if not has_store(objects):
        check_location_is_free(objects)
    with writer_lock(objects):
        remove_store(objects)
        objects.remove_parts()
        try:
            store = FeatureStore.create(
                location,
                attributes.settings,
                attributes.classes,
                attributes.block_clips,
                attributes.provenance,
                is_visible=False,
            )
            yield store
            store.publish()
        except BaseException:
            # An incomplete store would look like that of a stopped extraction.
            remove_store(objects)
            raise
