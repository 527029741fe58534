"""Read Diving48: `Diving48_V2_train.json`, `Diving48_V2_test.json` and `Diving48_vocab.json`.

A list has entries `{"vid_name": …, "label": …}`; the vocabulary has the four parts of each dive's name. The test list
is the split `val`. Dives of one competition video (the name before its last number) are one group.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.prepare.label_files import read_json
from pipeline.prepare.listing import Listing, ListingRequest
from pipeline.prepare.parts import Part, list_parts, needed_file

FILES = {
    "train": ("Diving48_V2_train.json", "Diving48_train.json"),
    "val": ("Diving48_V2_test.json", "Diving48_test.json"),
}


def list_diving48(request: ListingRequest) -> Listing:
    """Read both lists.

    Raises:
        PipelineError: a file is missing, or an entry has no name or a label that is not in the vocabulary.
    """
    vocabulary = needed_file(request, "Diving48_vocab.json")
    words = read_json(vocabulary)
    if not isinstance(words, list):
        raise PipelineError(f"{vocabulary} must be a list of classes, but is {type(words).__name__}.")
    classes = [" ".join(word) if isinstance(word, list) else str(word) for word in words]
    parts = [part for split, names in FILES.items() for part in _parts(needed_file(request, *names), split, classes)]
    return list_parts(request, parts, classes, "Diving48")


def _parts(path: Path, split: str, classes: list[str]) -> list[Part]:
    parts = []
    for number, entry in enumerate(read_json(path), 1):
        where = f"{path}, entry {number}"
        name, label = (entry.get(key) for key in ("vid_name", "label")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(label, int) or not 0 <= label < len(classes):
            raise PipelineError(f"{where} must have a vid_name and a label below {len(classes)}, but is {entry}.")
        parts.append(Part(name, name, classes[label], split, where, group=name.rpartition("_")[0]))
    return parts
