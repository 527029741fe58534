"""What lies where in a store: keys, array shapes, and the metadata that makes it a Zarr v3 group.

    zarr.json                        settings, classes, size of a block (attributes)
    clips.csv                        row, clip_id, path, label, split of every clip
    records/000012.json              block 12: state, reason, size and digest of its clips; checksums of its objects
    views/test/pooled                (clip, T, C)        float16, one chunk a block
    views/test/spatial               (clip, T, H, W, C)  float16, one shard a block, one chunk a clip
    views/test/sampling              (clip, T + 6)       float64: frame numbers, crop box, flip, label
    views/train-0/…                  the same for each training draw
    frames/000012                    (frame, C)          float16, with `--frames all`: block 12, its clips in order

A row that is not done reads as NaN (as -1 in `sampling`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from pipeline.errors import PipelineError
from pipeline.store.object_store import ObjectStore
from pipeline.store.settings import StoreSettings

FORMAT = "st-pipeline feature store 1"
TABLE_KEY = "clips.csv"
# Of this copy of a store alone: DVC ignores it, and a store without it is whole.
LOCAL_FOLDER = ".local"
TEST_VIEW = "test"
# Of the levels that keep trained maps small, the quickest to write, which extraction waits for: a third quicker than
# level 3 and no larger (`benchmarks/store.py`).
ZSTD_LEVEL = 1
SAMPLING_COLUMNS = ("top", "left", "height", "width", "flip", "label")
COMPRESSORS = (ZstdCodec(level=ZSTD_LEVEL, checksum=True),)


def record_key(block: int) -> str:
    """Where the record of a block stands."""
    return f"records/{block:06d}.json"


def times_key(block: int) -> str:
    """Return the key of the times of a block's files. They belong to this copy of the data set, not to the store."""
    return f"{LOCAL_FOLDER}/modified/{block:06d}.json"


def kinds_of(settings: StoreSettings) -> tuple[str, ...]:
    """The arrays of each view."""
    return (*settings.maps, "sampling")


def array_path(view: str, kind: str) -> str:
    """The path of one array of a view in the group."""
    return f"views/{view}/{kind}"


def chunk_key(view: str, kind: str, block: int) -> str:
    """The key of the one object that holds a block of an array."""
    num_axes = {"pooled": 3, "spatial": 5, "sampling": 2}[kind]
    return f"{array_path(view, kind)}/c/{block}" + "/0" * (num_axes - 1)


def frames_path(block: int) -> str:
    """The path of the array with every frame of a block (`--frames all`)."""
    return f"frames/{block:06d}"


def frames_key(block: int) -> str:
    """The key of the one object that holds every frame of a block."""
    return f"{frames_path(block)}/c/0/0"


def row_shape(settings: StoreSettings, kind: str) -> tuple[int, ...]:
    """The shape of one clip in an array."""
    segments, channels, size = settings.num_segments, settings.channels, settings.map_size
    return {
        "pooled": (segments, channels),
        "spatial": (segments, size, size, channels),
        "sampling": (segments + len(SAMPLING_COLUMNS),),
    }[kind]


def row_dtype(settings: StoreSettings, kind: str) -> np.dtype[Any]:
    """The type of one array's elements. Before transform version 2, crop boxes were whole pixels."""
    if kind == "sampling":
        return np.dtype("int32" if settings.transform_version < 2 else "float64")
    return np.dtype("float16")


def create_group(objects: ObjectStore, attributes: dict[str, Any]) -> None:
    """Write the root group with its attributes, over whatever attributes stand there."""
    zarr.create_group(objects.zarr_store, zarr_format=3, overwrite=False, attributes=attributes)


def read_attributes(objects: ObjectStore) -> dict[str, Any]:
    """The attributes of the root group.

    Raises:
        PipelineError: its metadata is damaged.
    """
    try:
        group = zarr.open_group(objects.zarr_store, mode="r", zarr_format=3, use_consolidated=False)
    except (ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"zarr.json of {objects.location} is damaged ({error}): without it nobody knows what the store holds. "
            "Put a copy of it back, or extract anew with --rebuild."
        ) from error
    return dict(group.attrs)


def ensure_view(objects: ObjectStore, settings: StoreSettings, view: str, num_rows: int, block_clips: int) -> None:
    """Make the arrays of a view, or make them longer, so that they have `num_rows` rows.

    Raises:
        PipelineError: the metadata of one that is there is damaged.
    """
    try:
        group = zarr.open_group(objects.zarr_store, mode="r+", zarr_format=3, use_consolidated=False)
        group.require_group("views").require_group(view)
        for kind in kinds_of(settings):
            path = array_path(view, kind)
            if path not in group:
                group.create_array(path, **_array_options(settings, kind, num_rows, block_clips))
                continue
            array = group[path]
            if isinstance(array, zarr.Array) and array.shape[0] < num_rows:
                array.resize((num_rows, *array.shape[1:]))
    except (ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"The metadata of view '{view}' of the store {objects.location} is damaged ({error}). "
            "Run `pipeline store verify --repair`."
        ) from error


def group_keys(views: Iterable[str]) -> list[str]:
    """Where the metadata of the groups below the root stand."""
    found = [f"views/{view}/zarr.json" for view in views]
    return ["views/zarr.json", *found] if found else []


def array_metadata(settings: StoreSettings, kind: str, num_rows: int, block_clips: int) -> dict[str, Any]:
    """The metadata that an array of a view must have."""
    array = zarr.create_array(MemoryStore(), zarr_format=3, **_array_options(settings, kind, num_rows, block_clips))
    return dict(array.metadata.to_dict())


def _array_options(settings: StoreSettings, kind: str, num_rows: int, block_clips: int) -> dict[str, Any]:
    shape, is_spatial = row_shape(settings, kind), kind == "spatial"
    return {
        "shape": (num_rows, *shape),
        "dtype": row_dtype(settings, kind),
        "chunks": (1 if is_spatial else block_clips, *shape),
        "shards": (block_clips, *shape) if is_spatial else None,
        "fill_value": -1 if kind == "sampling" else float("nan"),
        "compressors": COMPRESSORS,
        "filters": None,
        "config": {"write_empty_chunks": True},
        "dimension_names": _dimension_names(kind),
        "attributes": {"columns": sampling_columns(settings)} if kind == "sampling" else {},
    }


def frames_metadata(num_frames: int, channels: int) -> bytes:
    """The `zarr.json` of an array with every frame of a block."""
    store = MemoryStore()
    shape = (num_frames, channels)
    zarr.create_array(
        store,
        shape=shape,
        dtype="float16",
        chunks=(max(num_frames, 1), channels),
        fill_value=float("nan"),
        dimension_names=("frame", "channel"),
        zarr_format=3,
        compressors=COMPRESSORS,
        filters=None,
    )
    return store._store_dict["zarr.json"].to_bytes()


def _dimension_names(kind: str) -> tuple[str, ...]:
    return {
        "pooled": ("clip", "segment", "channel"),
        "spatial": ("clip", "segment", "height", "width", "channel"),
        "sampling": ("clip", "column"),
    }[kind]


def sampling_columns(settings: StoreSettings) -> list[str]:
    """The names of the columns of `sampling`."""
    return [*(f"frame_{segment}" for segment in range(settings.num_segments)), *SAMPLING_COLUMNS]
