"""List clips in folders named by class: `ROOT/class/clip.mp4`, or `ROOT/train/class/clip.mp4` with split folders.

A clip is a video file or a folder of numbered images, in the folder of its class or in subfolders (for example by
person). Without split folders, a stratified split is drawn. Clips directly in a split's folder (`ROOT/test/clip.mp4`)
are unlabelled.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from unicodedata import normalize

from pipeline.errors import PipelineError
from pipeline.manifest import GROUP_COLUMN, Clip
from pipeline.prepare.groups import grouped
from pipeline.prepare.listing import SPLIT_NAMES, Listing, ListingRequest, ordered
from pipeline.prepare.tree import Tree, joined, read_tree
from pipeline.splitting import LabelledId, stratified_split
from pipeline.video.suffixes import without_suffix

Found = tuple[str, bool, str, str]
"""(path, whether it is a folder of frames, label, split)"""


def list_folders_of_classes(request: ListingRequest) -> Listing:
    """List the clips of a folder tree; classes are sorted by name.

    Raises:
        PipelineError: no clip is found, lists were given, or split folders and class folders are mixed.
    """
    if request.lists:
        raise PipelineError(f"`prepare folders` takes no list, but was given {request.lists[0]}.")
    return list_tree(request, read_tree(request.root, request.is_clip))


def list_tree(request: ListingRequest, tree: Tree) -> Listing:
    """List the clips of a tree that is read already; classes are sorted by name.

    Raises:
        PipelineError: it has no clip, or split folders and class folders are mixed.
    """
    tops = tree.folders[""].folders
    splits = _split_folders(tree)
    if splits:
        found = [clip for top in splits for clip in _clips_of_split(tree, top)]
        found += [clip for top in splits for clip in _unlabelled(tree, top)]
        clips = grouped(_named(found), request.group_by)
        layout = f"folders of splits ({', '.join(splits)}) with a folder for each class"
        empty = [top for top in tops if top not in splits]
    else:
        found = [clip for top in tops for clip in _clips_of_class(tree, top, top, "")]
        clips = grouped(_named(found), request.group_by)
        named = [LabelledId(clip.clip_id, clip.label, clip.group) for clip in clips]
        split_of = stratified_split(named, request.val_share, request.seed)
        clips = [replace(clip, split=split_of[clip.clip_id]) for clip in clips]
        layout = f"a folder for each class; a share of {request.val_share:g} drawn for validation, seed {request.seed}"
        seen = {clip.label for clip in clips}
        empty = [top for top in tops if normalize("NFC", top) not in seen]
    if not any(clip.is_labelled for clip in clips):
        raise PipelineError(f"{request.root} has no clips in folders of classes, such as {request.root}/waving/1.mp4.")
    notes = [f"Folders without a clip are not classes: {', '.join(empty)}."] if empty else []
    loose = tree.folders[""].videos
    if loose:
        notes.append(f"Ignored: {len(loose):,} videos in ROOT itself, without a class, such as {loose[0]}.")
    within = sorted(
        {path.split("/")[2 if splits else 1] for path, *_ in found if path.count("/") > (2 if splits else 1)}
    )
    if within:
        notes.append(f"Clips in subfolders of the classes are included: {_some(within)}.")
    classes = ordered(sorted({clip.label for clip in clips if clip.is_labelled}), request.class_order)
    columns = () if request.group_by is None else (GROUP_COLUMN,)
    notes += tree.left_out()
    return Listing(tuple(clips), classes, layout, columns, tuple(notes), is_drawn=not splits)


def _split_folders(tree: Tree) -> list[str]:
    """Return the split folders in the root; none if each folder is a class."""
    with_clips = [top for top in tree.folders[""].folders if tree.has_clips(top)]
    splits = [top for top in tree.folders[""].folders if top.lower() in SPLIT_NAMES]
    others = [top for top in with_clips if top not in splits]
    if not splits or not others:
        return splits
    # A class may be called `train`: then its clips are directly in it, as in other classes.
    if not any(tree.has_clips(joined(top, name)) for top in splits for name in tree.folders[top].folders):
        return []
    raise PipelineError(
        f"{tree.root} has folders of splits ({', '.join(splits)}) and other folders with clips "
        f"({_some(others)}): all folders must be splits, or all must be classes. Move the other folders elsewhere."
    )


def _clips_of_split(tree: Tree, top: str) -> list[Found]:
    split = SPLIT_NAMES[top.lower()]
    return [
        clip for name in tree.folders[top].folders for clip in _clips_of_class(tree, joined(top, name), name, split)
    ]


def _unlabelled(tree: Tree, top: str) -> list[Found]:
    return [(joined(top, name), False, "", SPLIT_NAMES[top.lower()]) for name in tree.folders[top].videos]


def _clips_of_class(tree: Tree, path: str, label: str, split: str) -> list[Found]:
    if tree.folders[path].images:
        raise PipelineError(
            f"{tree.root / path} contains images: a folder of frames is a clip, and must be in the folder of its class."
        )
    return [(clip, is_folder, label, split) for clip, is_folder in tree.clips(path)]


def _named(found: list[Found]) -> list[Clip]:
    """Return the clips, named by their paths without suffix."""
    names = [path if is_folder else without_suffix(path) for path, is_folder, *_ in found]
    times = Counter(names)
    # If a.mp4 and a.webm exist, both keep their suffix.
    return [
        Clip(path if times[name] > 1 else name, path, normalize("NFC", label), split)
        for name, (path, _, label, split) in zip(names, found, strict=True)
    ]


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
