"""Download weight files into torch's cache: interrupted downloads are resumed, files are checked by their SHA-256."""

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
    """A published weight file: its address and the first 8 to 64 digits of its SHA-256."""

    url: str
    sha256_start: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{8,64}", self.sha256_start):
            raise PipelineError(
                f"The checksum of {self.url} must be 8 to 64 hexadecimal digits, not {self.sha256_start!r}."
            )

    @classmethod
    def named_by_checksum(cls, url: str) -> PublishedWeights:
        """Return a file whose name contains digits of its SHA-256, such as torch hub's `resnet18-f37072fd.pth`.

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
    """Return torch's folder for downloaded weights: `$TORCH_HOME/hub/checkpoints`, by default in `~/.cache/torch`."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def fetch(weights: PublishedWeights, folder: Path | None = None) -> tuple[Path, str]:
    """Return the path of a published weight file in torch's cache and its SHA-256; download it if it is missing.

    The download is written to a `.part` file, which is moved to its destination when the checksum is correct. After an
    interruption, the next attempt or the next run resumes it. Processes that need the same file at the same time wait
    for one another.

    Raises:
        PipelineError: there is no network or no such file, the checksum is wrong, or the connection fails repeatedly;
            the message names the file and its destination.
    """
    destination = (cache_folder() if folder is None else folder) / weights.file_name
    digest = _digest_if_right(destination, weights)
    if digest is not None:
        return destination, digest
    part = destination.with_name(destination.name + ".part")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _locked(destination):
            digest = _digest_if_right(destination, weights)  # another process may have downloaded it
            if digest is None:
                digest = _download(weights, part, destination)
    except urllib.error.HTTPError as error:
        error.close()  # closes the connection
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
                f"which are kept in {part.name}; the next run resumes from them"
            )
            continue
        digest = sha256_of_file(part)
        if digest.startswith(weights.sha256_start):
            with open(part, "rb+") as written:
                os.fsync(written.fileno())
            os.replace(part, destination)
            return digest
        part.unlink()
        reason = f"the downloaded file has the SHA-256 {digest}, which must begin with {weights.sha256_start}"
        if num_bytes_before == 0:
            break  # not an outdated part: the file itself is wrong, and would be wrong again
    raise _failure(weights, destination, reason)


def _receive(weights: PublishedWeights, part: Path) -> int | None:
    """Append the server's answer to `part`; return the size of the whole file, if the server sends it."""
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
                return  # The caller detects that the file is too short, and resumes.
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
    """Lock the download of one file, and wait while another process has the lock.

    It is a lock of the kernel, which ends with its process. Its file is not deleted, because then two processes could
    lock two different files with the same name.
    """
    with open(destination.with_name(f".{destination.name}.lock"), "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _failure(weights: PublishedWeights, destination: Path, reason: str) -> PipelineError:
    return PipelineError(
        f"Cannot download {weights.url}: {reason}. Try again, or get the file elsewhere and save it as {destination} "
        f"(its SHA-256 begins with {weights.sha256_start})."
    )
