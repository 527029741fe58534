"""Clips -> feature store: blocks of clips, one worker code, in this process or on Dask."""

from __future__ import annotations

from pipeline.extract.extract import ExtractionSummary, extract_features

__all__ = ["ExtractionSummary", "extract_features"]
