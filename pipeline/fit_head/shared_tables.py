"""Tables of features in files that several processes map, so that they are read from the store and held in RAM once."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.fit_head.stored_clips import SplitRows

logger = logging.getLogger(__name__)

# Share of the free space of the folder that a table may take.
SPACE_SHARE = 0.8


@dataclass(frozen=True)
class SharedTables:
    """A folder of tables. The main process writes them (`writes`) before it starts workers, which map them."""

    folder: Path
    writes: bool = False

    def path(self, kind: str, split: SplitRows) -> Path:
        """Return the file of a kind of features of some clips and views."""
        digest = hashlib.sha256(repr((kind, split.views)).encode() + split.rows.tobytes())
        return self.folder / f"{kind}-{digest.hexdigest()[:16]}.npy"


def table_of(
    shared: SharedTables | None, kind: str, split: SplitRows, read: Callable[[], NDArray[np.float16]]
) -> NDArray[np.float16]:
    """Return a table: mapped if another process shares it, else what `read` returns, which is shared if asked.

    The mapping is private (copy on write): the pages are shared as long as nobody writes to them.
    """
    if shared is None:
        return read()
    path = shared.path(kind, split)
    if not path.exists():
        table = read()
        if not shared.writes or not _write(path, table):
            return table
    mapped: NDArray[np.float16] = np.load(path, mmap_mode="c")
    return mapped


def _write(path: Path, table: NDArray[np.float16]) -> bool:
    if table.nbytes > SPACE_SHARE * shutil.disk_usage(path.parent).free:
        logger.info(f"{path.parent} has no room for {table.nbytes / 2**30:.1f} GiB: each process loads the features.")
        return False
    np.save(path, table)
    return True
