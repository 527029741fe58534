"""Suffixes by which files in a folder count as clips, for every command."""

from __future__ import annotations

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".gif", ".flv", ".wmv"}
    | {".ogv", ".3gp"}
)
