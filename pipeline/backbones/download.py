"""Weight files from the network: resumed when cut, checked by their SHA-256, whole or absent in torch's cache."""

from __future__ import annotations

import fcntl
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import torch

from pipeline.errors import PipelineError
from pipeline.files import sha256_of_file
from pipeline.progress import Progress

CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = 30.0
NUM_ATTEMPTS = 3


@dataclass(frozen=True)
class PublishedWeights:
    """A weight file that its makers publish: where it lies and the beginning of its SHA-256 (8 digits or all 64)."""

    url: str
    sha256_start: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{8,64}", self.sha256_start):
            raise PipelineError(
                f"The checksum of {self.url} must be 8 to 64 hexadecimal digits, not {self.sha256_start!r}."
            )

    @classmethod
    def named_by_checksum(cls, url: str) -> PublishedWeights:
        """A file that bears the beginning of its SHA-256 in its name, `resnet18-f37072fd.pth`, as torch's hub has it.

        Raises:
            PipelineError: the name has no such digits.
        """
        found = re.search(r"-([0-9a-f]{8,64})\.", url)
        if found is None:
            raise PipelineError(f"The address {url} has no checksum in its file name; download it and pass its path.")
        return cls(url, found.group(1))

    @property
    def file_name(self) -> str:
        return Path(urlsplit(self.url).path).name


def cache_folder() -> Path:
    """Where torch keeps downloaded weights: `$TORCH_HOME/hub/checkpoints`, by default under `~/.cache/torch`."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def fetch(weights: PublishedWeights, folder: Path | None = None) -> tuple[Path, str]:
    """Return the path of a published weight file in torch's cache and its SHA-256, downloading it where it is missing.

    What arrives goes into a `.part` file beside the destination, which is moved there once its checksum is right. A
    cut connection is taken up again where it broke, in the next attempt or the next run. Processes that ask for the
    same file at the same time wait for one another.

    Raises:
        PipelineError: no network, no such file, a wrong checksum or a connection that keeps breaking; the message says
            which file to put where.
    """
    destination = (cache_folder() if folder is None else folder) / weights.file_name
    digest = _digest_if_right(destination, weights)
    if digest is not None:
        return destination, digest
    part = destination.with_name(destination.name + ".part")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _locked(destination):
            digest = _digest_if_right(destination, weights)  # Another process may have been first.
            if digest is None:
                digest = _download(weights, part, destination)
    except urllib.error.HTTPError as error:
        error.close()  # It holds the connection.
        raise _failure(weights, destination, f"the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _failure(weights, destination, f"the server cannot be reached ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _failure(weights, destination, f"{error}") from error
    return destination, digest


def _download(weights: PublishedWeights, part: Path, destination: Path) -> str:
    reason = ""
    for _ in range(NUM_ATTEMPTS):
        num_bytes_before = part.stat().st_size if part.exists() else 0
        total_bytes = _receive(weights, part)
        num_bytes = part.stat().st_size
        if total_bytes is not None and num_bytes < total_bytes:
            reason = (
                f"the connection broke after {num_bytes:,} of {total_bytes:,} bytes, "
                f"which are kept in {part.name} and taken up again by the next run"
            )
            continue
        digest = sha256_of_file(part)
        if digest.startswith(weights.sha256_start):
            with open(part, "rb+") as written:
                os.fsync(written.fileno())
            os.replace(part, destination)
            return digest
        part.unlink()
        reason = f"what arrived has the SHA-256 {digest}, which must begin with {weights.sha256_start}"
        if num_bytes_before == 0:
            break  # Not a stale beginning: the file itself is another one, and would be so again.
    raise _failure(weights, destination, reason)


def _receive(weights: PublishedWeights, part: Path) -> int | None:
    """Append to `part` what the server sends; the size that the whole file should have, where the server tells."""
    have_bytes = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(weights.url, headers={"User-Agent": "st-pipeline"})
    if have_bytes:
        request.add_header("Range", f"bytes={have_bytes}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have_bytes:
            error.close()
            return None  # Nothing is left to send; the checksum decides whether the part is the file.
        raise
    with response:
        resumed = response.status == 206 and _first_byte(response) == have_bytes
        if response.status == 206 and not resumed:
            raise OSError(f"the server sent another range than the one asked for, bytes {have_bytes} on")
        have_bytes = have_bytes if resumed else 0
        length = response.headers.get("Content-Length")
        total_bytes = None if length is None else have_bytes + int(length)
        with open(part, "ab" if resumed else "wb") as file:
            _copy(response, file, weights.file_name, have_bytes, total_bytes)
    return total_bytes


def _copy(
    response: http.client.HTTPResponse, file: BinaryIO, name: str, have_bytes: int, total_bytes: int | None
) -> None:
    with Progress(name, total_bytes or have_bytes, unit="bytes", done=have_bytes) as progress:
        while True:
            try:
                chunk = response.read(CHUNK_BYTES)
            except (http.client.IncompleteRead, ConnectionError, TimeoutError):
                return  # The caller sees that the file is short, and goes on from there.
            if not chunk:
                return
            file.write(chunk)
            progress.advance(len(chunk))


def _first_byte(response: http.client.HTTPResponse) -> int:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found.group(1)) if found else -1


def _digest_if_right(path: Path, weights: PublishedWeights) -> str | None:
    if not path.is_file():
        return None
    digest = sha256_of_file(path)
    return digest if digest.startswith(weights.sha256_start) else None


@contextmanager
def _locked(destination: Path) -> Iterator[None]:
    """Hold the download of one file, waiting for whoever holds it.

    The lock is the kernel's: it ends with its process, however that ends. Its file stays, since removing it would let
    two processes lock two different files of one name.
    """
    with open(destination.with_name(f".{destination.name}.lock"), "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _failure(weights: PublishedWeights, destination: Path, reason: str) -> PipelineError:
    return PipelineError(
        f"Cannot download {weights.url}: {reason}. Try again, or get the file elsewhere and put it at {destination} "
        f"(its SHA-256 begins with {weights.sha256_start})."
    )
