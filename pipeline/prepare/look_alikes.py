"""Find clips of different splits whose middle frames look alike, as those of one recording do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.manifest import Clip
from pipeline.prepare.difference_hash import NUM_DIFFERENCES, stack_hashes

# Cosine of the differences of two frames. Of the 352,380 pairs of the demo's clips, which are drawn apart, the most
# similar one has 0.86; of the pairs from one recording of a fixed camera, 79 % have 0.99 or more.
MIN_SIMILARITY = 0.99
# Frames so similar differ in few signs: then one of these bands of signs is equal, which finds them without comparing
# all pairs.
BAND_BITS = 16
# Clips of an equal band are compared with so many neighbours in the manifest. Only bands that hundreds of clips share
# have more, as those of a fixed camera do.
MAX_NEIGHBOURS = 512


@dataclass(frozen=True, slots=True)
class LookAlikes:
    """A clip and the most similar one of another split."""

    other: Clip
    clip: Clip
    similarity: float


def look_alikes(clips: Sequence[Clip], hash_of: Mapping[str, bytes]) -> list[LookAlikes]:
    """Return the clips outside of the largest split that look like a clip of another split, each with that clip.

    If a clip has a group, the groups say what belongs together, and nothing is returned. Clips of one content are left
    out: they are found by it.

    hash_of: difference hash of the middle frame by clip id; clips without one are not compared.
    """
    clips = [clip for clip in clips if hash_of.get(clip.clip_id)]
    if not clips or any(clip.group for clip in clips):
        return []
    vectors = stack_hashes([hash_of[clip.clip_id] for clip in clips])
    names, splits = np.unique([clip.split for clip in clips], return_inverse=True)
    largest = int(np.bincount(splits, minlength=len(names)).argmax())
    best = np.full(len(clips), MIN_SIMILARITY, np.float32)
    found: dict[int, int] = {}
    for members in _with_equal_bands(vectors, splits):
        for asking in _parts(members[splits[members] != largest], MAX_NEIGHBOURS):
            first, last = np.searchsorted(members, (asking[0], asking[-1]))
            near = members[max(first - MAX_NEIGHBOURS, 0) : last + MAX_NEIGHBOURS + 1]
            similar = vectors[asking] @ vectors[near].T
            similar[splits[asking][:, None] == splits[near][None]] = -1
            chosen = similar.argmax(axis=1)
            values = similar[np.arange(len(asking)), chosen]
            for at in np.flatnonzero(values > best[asking]):
                clip, other = int(asking[at]), int(near[chosen[at]])
                best[clip], found[clip] = values[at], other
    pairs: dict[frozenset[int], LookAlikes] = {}
    for clip, other in sorted(found.items()):
        pairs.setdefault(frozenset((clip, other)), LookAlikes(clips[other], clips[clip], float(best[clip])))
    return list(pairs.values())


def look_alikes_sentence(pairs: Sequence[LookAlikes], num_examples: int = 3) -> str:
    """Return a sentence about clips that look alike."""
    examples = "; ".join(text_of(pair) for pair in pairs[:num_examples])
    num_of = Counter(pair.clip.split for pair in pairs)
    counts = ", ".join(f"{count:,} of {split}" for split, count in num_of.items())
    return (
        f"{len(pairs):,} pairs of clips in different splits look alike in their middle frames, {counts} ({examples}). "
        "If they show one recording, accuracies will be too high: keep each recording on one side with --group-by or a "
        "column `group`, and let the split be drawn."
    )


def text_of(pair: LookAlikes) -> str:
    """Return the two clips with their splits: `c1 (train), c2 (val)`."""
    return f"{pair.other.clip_id} ({pair.other.split}), {pair.clip.clip_id} ({pair.clip.split})"


def _with_equal_bands(
    vectors: npt.NDArray[np.float32], splits: npt.NDArray[np.intp]
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the clips that have the same signs in a band, in the order of the manifest, if they are of two splits."""
    bands = np.packbits(vectors > 0, axis=1).view(f"u{BAND_BITS // 8}")  # (N, 8)
    assert bands.shape[1] == NUM_DIFFERENCES // BAND_BITS
    for band in bands.T:
        order = np.argsort(band, kind="stable")
        ends = np.flatnonzero(np.diff(band[order])) + 1
        for start, end in zip((0, *ends), (*ends, len(order)), strict=True):
            members = order[start:end]
            if end - start > 1 and (splits[members] != splits[members[0]]).any():
                yield members


def _parts(indices: npt.NDArray[np.int64], size: int) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
