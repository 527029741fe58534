"""Clips in folders named by their class: `ROOT/class/clip.mp4`, or `ROOT/train/class/clip.mp4` with folders of splits.

A clip is a video file or a folder of numbered images. Without folders of splits, a stratified split is drawn. Clips
that lie in a split's folder itself (`ROOT/test/clip.mp4`) are unlabelled.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.manifest import Clip
from pipeline.prepare.directory_scan import is_image_name, is_video_name, list_folders
from pipeline.prepare.listing import SPLIT_NAMES, Listing, ListingRequest, ordered
from pipeline.splitting import LabelledId, stratified_split


def list_folders_of_classes(request: ListingRequest) -> Listing:
    """List the clips of a tree of folders; classes are in the order of their names.

    Raises:
        PipelineError: no clip is found, or lists were given.
    """
    if request.lists:
        raise PipelineError(f"`prepare folders` takes no list, but was given {request.lists[0]}.")
    tops = _subfolders(request.root, [""])[""]
    notes: list[str] = []
    if tops and all(top.lower() in SPLIT_NAMES for top in tops):
        clips = _clips_in_splits(request.root, tops)
        layout = f"folders of splits ({', '.join(tops)}) with a folder for each class"
    else:
        clips = _clips_in_classes(request.root, {label: ("", label) for label in tops})
        split_of = stratified_split((LabelledId(c.clip_id, c.label) for c in clips), request.val_share, request.seed)
        clips = [Clip(c.clip_id, c.path, c.label, split_of[c.clip_id]) for c in clips]
        layout = f"a folder for each class; a share of {request.val_share:g} drawn for validation, seed {request.seed}"
    if not any(clip.is_labelled for clip in clips):
        raise PipelineError(f"{request.root} has no clips in folders of classes, such as {request.root}/waving/1.mp4.")
    classes = ordered(sorted({clip.label for clip in clips if clip.is_labelled}), request.class_order)
    seen = {clip.label for clip in clips}
    empty = [top for top in tops if top.lower() not in SPLIT_NAMES and top not in seen]
    if empty:
        notes.append(f"Folders without a clip are no class: {', '.join(empty)}.")
    return Listing(tuple(clips), classes, layout, (), tuple(notes))


def _clips_in_splits(root: Path, tops: list[str]) -> list[Clip]:
    label_folders = {
        f"{top}/{label}": (SPLIT_NAMES[top.lower()], label)
        for top, labels in _subfolders(root, tops).items()
        for label in labels
    }
    loose = [
        Clip(os.path.splitext(f"{top}/{name}")[0], f"{top}/{name}", "", SPLIT_NAMES[top.lower()])
        for top, entries in list_folders(root, tops).items()
        for name, is_folder in entries
        if not is_folder and is_video_name(name)
    ]
    return _clips_in_classes(root, label_folders) + loose


def _clips_in_classes(root: Path, label_folders: dict[str, tuple[str, str]]) -> list[Clip]:
    """The clips of folders, each given with (split, label), named by their paths without suffix."""
    found = []
    for folder, entries in list_folders(root, label_folders).items():
        split, label = label_folders[folder]
        if any(not is_folder and is_image_name(name) for name, is_folder in entries):
            raise PipelineError(
                f"{root / folder} has images in it: a folder of frames is a clip, and lies in the folder of its class."
            )
        for name, is_folder in entries:
            if not name.startswith(".") and (is_folder or is_video_name(name)):
                path = f"{folder}/{name}"
                found.append((path if is_folder else os.path.splitext(path)[0], path, label, split))
    times = Counter(clip_id for clip_id, *_ in found)
    # a.mp4 beside a.webm: both keep their suffix.
    return [Clip(path if times[clip_id] > 1 else clip_id, path, label, split) for clip_id, path, label, split in found]


def _subfolders(root: Path, paths: list[str]) -> dict[str, list[str]]:
    return {
        path: [name for name, is_folder in entries if is_folder and not name.startswith(".")]
        for path, entries in list_folders(root, paths).items()
    }
