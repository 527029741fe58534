"""Decide by name which files and folders are clips, for all commands."""

from __future__ import annotations

import os

# All suffixes of the supported video formats (`video_decoder.FORMATS`), except for those of audio.
VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mj2", ".f4v", ".ism", ".ismv", ".psp"),
        *(".mkv", ".mk3d", ".webm", ".avi", ".divx", ".flv", ".asf", ".wmv", ".ogv", ".ogg", ".ogm"),
        *(".mpg", ".mpeg", ".mpe", ".mpv", ".m1v", ".m2v", ".vob", ".ts", ".mts", ".m2ts", ".m2t", ".tp", ".trp"),
        *(".mxf", ".nut", ".ivf", ".obu", ".h264", ".264", ".avc", ".h26l", ".h265", ".265", ".hevc"),
        *(".h266", ".266", ".vvc", ".y4m", ".mjpeg", ".mjpg", ".dv", ".dif", ".rm", ".rmvb", ".wtv"),
        *(".gif", ".apng"),
    }
)
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
# Features of a clip, for `pipeline store import-features`.
ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
# Folders that operating systems and network drives create. Names that start with a dot are ignored too.
IGNORED_FOLDERS = frozenset(
    {"__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
    | {"#snapshot", "@tmp", "__pycache__"}
)


def is_ignored_folder(name: str) -> bool:
    """Return whether a folder belongs to the operating system or a drive, and not to the user's data."""
    return name.startswith(".") or name.lower() in IGNORED_FOLDERS


def is_video_name(name: str) -> bool:
    """Return whether a file is a clip by its suffix; hidden files (such as those of macOS) are not."""
    return not name.startswith(".") and suffix_of(name) in VIDEO_SUFFIXES


def is_array_name(name: str) -> bool:
    """Return whether a file holds the features of a clip, by its suffix."""
    return not name.startswith(".") and suffix_of(name) in ARRAY_SUFFIXES


def is_image_name(name: str) -> bool:
    """Return whether a file is a frame by its suffix."""
    return not name.startswith(".") and suffix_of(name) in IMAGE_SUFFIXES


def suffix_of(name: str) -> str:
    """Return the suffix in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def without_suffix(path: str) -> str:
    """Return a path without the suffix of a video, an image or an array; other dots in a name are kept."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES | ARRAY_SUFFIXES else path
