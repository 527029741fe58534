"""Layout of a store: keys, array shapes, and the metadata of the Zarr v3 group.

    zarr.json                        settings, classes, size of a block (attributes), with their SHA-256
    records/zarr.json                an empty array, because Zarr ignores files below an array
    records/clips.json               row, clip_id, path, label, split of every clip, with its SHA-256
    records/attributes.json          a second copy of the attributes of zarr.json, with its SHA-256
    records/000012.json              block 12: state, reason, size and digest of its clips; checksums of its objects;
                                     fingerprint of settings and classes
    views/test/pooled                (clip, T, C)        float16 or int8, one chunk per block
    views/test/spatial               (clip, T, H, W, C)  float16 or int8, one shard per block, one chunk per clip
    views/test/sampling              (clip, T + 6)       float64: frame numbers, crop box, flip, label
    views/test/pooled_scale          (clip, C)           float16, if `pooled` is int8; the same for `spatial`
    views/train-0/…                  the same for each training draw
    frames/000012                    (frame, C)          float16, with `--frames all`: block 12, its clips in order

An unfinished row reads as NaN (-1 in `sampling`; int8 codes are 0, and their scale NaN).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.group import GroupMetadata
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import MemoryStore

from pipeline.store.object_store import ObjectStore
from pipeline.store.quantise import ABOUT
from pipeline.store.settings import MAP_KINDS, StoreSettings

FORMAT = "st-pipeline feature store 2"
RECORDS_FOLDER = "records"
TABLE_KEY = f"{RECORDS_FOLDER}/clips.json"
COPY_KEY = f"{RECORDS_FOLDER}/attributes.json"
# This object describes only this copy of a store: DVC ignores it, and a store is complete without it.
LOCAL_FOLDER = f"{RECORDS_FOLDER}/.local"
LOCK_KEYS = (f"{RECORDS_FOLDER}/.lock", f"{RECORDS_FOLDER}/.workers")
MAX_BLOCK_CLIPS = 1 << 16
MAX_ROWS = 1 << 31
TEST_VIEW = "test"
# Extraction waits for compression. This is the fastest level that keeps trained maps small: a third faster than level 3
# at the same size (`benchmarks/store.py`).
ZSTD_LEVEL = 1
SAMPLING_COLUMNS = ("top", "left", "height", "width", "flip", "label")
GROUP = json.dumps({"attributes": {}, "zarr_format": 3, "node_type": "group"}, indent=2).encode()
_NUM_AXES = {"pooled": 3, "spatial": 5, "sampling": 2, "pooled_scale": 2, "spatial_scale": 2}
_RECORD = re.compile(r"\d{6,9}\.json")
_VIEW = re.compile(r"test|train-(0|[1-9]\d{0,5})")
COMPRESSORS = (ZstdCodec(level=ZSTD_LEVEL, checksum=True),)


def record_key(block: int) -> str:
    """Return the key of a block's record."""
    return f"{RECORDS_FOLDER}/{block:06d}.json"


def block_of_record(key: str) -> int:
    """Return the block of a record by its key; -1 for other keys."""
    name = key.rpartition("/")[2]
    return int(name.removesuffix(".json")) if _RECORD.fullmatch(name) else -1


def record_keys(names: Iterable[str]) -> list[str]:
    """Return the keys of the records among the names in their folder."""
    return sorted(f"{RECORDS_FOLDER}/{name}" for name in names if _RECORD.fullmatch(name))


def times_key(block: int) -> str:
    """Return the key of the times of a block's files. They describe this copy of the data set, not the store."""
    return f"{LOCAL_FOLDER}/modified/{block:06d}.json"


def kinds_of(settings: StoreSettings) -> tuple[str, ...]:
    """Return the names of the arrays of each view."""
    scales = () if settings.store_dtype == "float16" else tuple(scale_of(kind) for kind in settings.maps)
    return (*settings.maps, *scales, "sampling")


def scale_of(kind: str) -> str:
    """Return the name of the array with the scales of int8 features."""
    return f"{kind}_scale"


def array_path(view: str, kind: str) -> str:
    """Return the path of an array of a view in the group."""
    return f"views/{view}/{kind}"


def chunk_key(view: str, kind: str, block: int) -> str:
    """Return the key of the object that holds a block of an array."""
    return f"{array_path(view, kind)}/c/{block}" + "/0" * (_NUM_AXES[kind] - 1)


def frames_path(block: int) -> str:
    """Return the path of the array with all frames of a block (`--frames all`)."""
    return f"frames/{block:06d}"


def frames_key(block: int) -> str:
    """Return the key of the object that holds all frames of a block."""
    return f"{frames_path(block)}/c/0/0"


def row_shape(settings: StoreSettings, kind: str) -> tuple[int, ...]:
    """Return the shape of one clip in an array."""
    segments, channels, size = settings.num_segments, settings.channels, settings.map_size
    return {
        "pooled": (segments, channels),
        "spatial": (segments, size, size, channels),
        "sampling": (segments + len(SAMPLING_COLUMNS),),
        "pooled_scale": (channels,),
        "spatial_scale": (channels,),
    }[kind]


def row_dtype(settings: StoreSettings, kind: str) -> np.dtype[Any]:
    """Return the data type of an array. Before transform version 2, crop boxes were whole pixels."""
    if kind == "sampling":
        return np.dtype("int32" if settings.transform_version < 2 else "float64")
    return np.dtype(settings.store_dtype if kind in MAP_KINDS else "float16")


def fill_value(dtype: np.dtype[Any]) -> float:
    """Return the value of an unfinished row: NaN for features and scales, 0 for int8, -1 for `sampling`."""
    return float("nan") if dtype == np.float16 else 0 if dtype == np.int8 else -1


def is_view(name: str) -> bool:
    """Return whether a name is that of a view; other names must not become part of a key."""
    return bool(_VIEW.fullmatch(name))


def is_block_key(key: str, block: int) -> bool:
    """Return whether a key is that of an object of a block."""
    if key in (frames_key(block), f"{frames_path(block)}/zarr.json"):
        return True
    folder, _, rest = key.partition("/")
    view, _, rest = rest.partition("/")
    kind = rest.partition("/")[0]
    return folder == "views" and is_view(view) and kind in _NUM_AXES and key == chunk_key(view, kind, block)


def ensure_metadata(
    objects: ObjectStore, settings: StoreSettings, views: Iterable[str], num_rows: int, block_clips: int
) -> None:
    """Write metadata of groups and arrays that is missing or damaged, or has fewer rows than the store."""
    wanted = expected_metadata(settings, views, num_rows, block_clips)
    for (key, right), found in zip(wanted.items(), objects.get_many(list(wanted)), strict=True):
        if not is_same_metadata(found, right):
            objects.put(key, right)


def expected_metadata(
    settings: StoreSettings, views: Iterable[str], num_rows: int, block_clips: int
) -> dict[str, bytes]:
    """Return the metadata that a store needs below its root, by key."""
    wanted = {f"{RECORDS_FOLDER}/zarr.json": _records_metadata()}
    if settings.frames == "all":
        return {**wanted, "frames/zarr.json": GROUP}
    for view in views:
        wanted |= {"views/zarr.json": GROUP, f"views/{view}/zarr.json": GROUP}
        for kind in kinds_of(settings):
            options = _array_options(settings, kind, num_rows, block_clips)
            wanted[f"{array_path(view, kind)}/zarr.json"] = _metadata_of(options)
    return wanted


def is_same_metadata(found: bytes | None, wanted: bytes) -> bool:
    """Return whether two `zarr.json` are equal except for the compression level, which does not matter to readers."""
    return found is not None and (found == wanted or _parsed(found) == _parsed(wanted))


def _parsed(data: bytes) -> str:
    try:
        value = json.loads(data)
        is_group = value["node_type"] == "group"
        metadata = GroupMetadata.from_dict(value) if is_group else ArrayV3Metadata.from_dict(value)
        return re.sub(r"'level': -?\d+", "'level': any", repr(metadata.to_dict()))
    except Exception as error:  # Zarr raises various errors for a damaged file.
        return f"unreadable: {type(error).__name__}"


def _metadata_of(options: Mapping[str, Any]) -> bytes:
    store = MemoryStore()
    zarr.create_array(store, zarr_format=3, **options)
    return store._store_dict["zarr.json"].to_bytes()


def _records_metadata() -> bytes:
    about = "Records of the feature store, as JSON files beside this one; `pipeline.store.FeatureStore` reads them."
    return _metadata_of({"shape": (0,), "chunks": (1,), "dtype": "uint8", "attributes": {"about": about}})


def _array_options(settings: StoreSettings, kind: str, num_rows: int, block_clips: int) -> dict[str, Any]:
    shape, is_spatial = row_shape(settings, kind), kind == "spatial"
    return {
        "shape": (num_rows, *shape),
        "dtype": row_dtype(settings, kind),
        "chunks": (1 if is_spatial else block_clips, *shape),
        "shards": (block_clips, *shape) if is_spatial else None,
        "fill_value": fill_value(row_dtype(settings, kind)),
        "compressors": COMPRESSORS,
        "filters": None,
        "config": {"write_empty_chunks": True},
        "dimension_names": _dimension_names(kind),
        "attributes": _attributes_of(settings, kind),
    }


def _attributes_of(settings: StoreSettings, kind: str) -> dict[str, Any]:
    if kind == "sampling":
        return {"columns": sampling_columns(settings)}
    return {"quantisation": ABOUT} if row_dtype(settings, kind) == np.int8 else {}


def frames_metadata(num_frames: int, channels: int) -> bytes:
    """Return the `zarr.json` of an array with all frames of a block."""
    return _metadata_of(
        {
            "shape": (num_frames, channels),
            "dtype": "float16",
            "chunks": (max(num_frames, 1), channels),
            "fill_value": float("nan"),
            "dimension_names": ("frame", "channel"),
            "compressors": COMPRESSORS,
            "filters": None,
        }
    )


def _dimension_names(kind: str) -> tuple[str, ...]:
    return {
        "pooled": ("clip", "segment", "channel"),
        "spatial": ("clip", "segment", "height", "width", "channel"),
        "sampling": ("clip", "column"),
        "pooled_scale": ("clip", "channel"),
        "spatial_scale": ("clip", "channel"),
    }[kind]


def sampling_columns(settings: StoreSettings) -> list[str]:
    """Return the names of the columns of `sampling`."""
    return [*(f"frame_{segment}" for segment in range(settings.num_segments)), *SAMPLING_COLUMNS]
