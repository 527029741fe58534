"""SHA-256 of the result files of a run, in the format of `sha256sum`: `sha256sum -c SHA256SUMS` checks them too.

Metrics can be recomputed from the scores, but scores, losses and epochs from nothing: a changed digit is found by its
digest alone. The file is a result like the others: in Git, and an output of its DVC stage.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import sha256_of_file, write_text

CHECKSUMS_FILE = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([\w.-]+)\n")


def write_checksums(folder: Path, names: Iterable[str]) -> None:
    """Write the checksums of some files of a result folder."""
    write_text(folder / CHECKSUMS_FILE, "".join(f"{sha256_of_file(folder / name)}  {name}\n" for name in names))


def check_checksums(folder: Path) -> None:
    """Compare the files of a result folder with their checksums; folders of older versions have none.

    Raises:
        PipelineError: a file is missing, or was changed since it was written.
    """
    path = folder / CHECKSUMS_FILE
    if path.exists() and not path.is_file():
        raise PipelineError(f"{path} is not a file. Delete the folder, and run the command again.")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}.") from error
    text = data.decode("latin-1")
    listed = _LINE.findall(text)
    if not listed or sum(len(digest) + len(name) + 3 for digest, name in listed) != len(text):
        raise PipelineError(f"{path} is damaged. Restore it from a copy (`git checkout`), or run the command again.")
    for digest, name in listed:
        try:
            is_same = (folder / name).is_file() and sha256_of_file(folder / name) == digest
        except OSError:
            is_same = False
        if not is_same:
            raise PipelineError(
                f"{folder / name} does not match its SHA-256 in {CHECKSUMS_FILE}: it was changed after it was written. "
                "Restore it from a copy (`git checkout`), or run the command that wrote it again."
            )
