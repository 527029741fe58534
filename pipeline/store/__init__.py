"""The feature store: a Zarr v3 group with a checksummed record of the finished clips."""

from __future__ import annotations

from pipeline.store.feature_store import FeatureStore
from pipeline.store.settings import StoreSettings, settings_from_dict
from pipeline.store.table import ClipRow

__all__ = ["ClipRow", "FeatureStore", "StoreSettings", "settings_from_dict"]
