"""Random numbers that depend on names alone, so that the order of work and the number of processes never matter."""

from __future__ import annotations

import hashlib

import numpy as np


def generator_for(*names: str | int) -> np.random.Generator:
    """A generator seeded by a hash of `names`: the same names give the same numbers on every machine."""
    text = "\x1f".join(str(name) for name in names)
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
