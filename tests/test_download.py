"""Downloading weights, against a server on loopback that breaks in each of the known ways."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from pipeline.backbones import BACKBONES, download
from pipeline.backbones.download import PublishedWeights, cache_folder, fetch
from pipeline.errors import PipelineError

CONTENT = np.random.default_rng(0).bytes(700_001)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = f"weights-{DIGEST[:8]}.pth"


class Server:
    """A file server whose faults are set by the test, and which remembers what it was asked for."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.cut_after_bytes: list[int] = []  # one entry for each answer to cut
        self.ranges_supported = True
        self.length_told = True
        self.status = 200
        self.wrong_range = False
        self.asked: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/models/{NAME}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.asked.append(asked)
        if self.status != 200:
            request.send_error(self.status)
            return
        start = 0
        if asked and self.ranges_supported:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.content):
                request.send_error(416)
                return
            told = start + 1 if self.wrong_range else start
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {told}-{len(self.content) - 1}/{len(self.content)}")
        else:
            request.send_response(200)
        body = self.content[start:]
        if self.length_told:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        cut = self.cut_after_bytes.pop(0) if self.cut_after_bytes else len(body)
        request.wfile.write(body[:cut])

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.close()


def left_behind(folder: Path) -> list[str]:
    """What lies in the folder, the empty lock file apart."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    weights = PublishedWeights(server.url, DIGEST[:8])
    assert fetch(weights, tmp_path) == (tmp_path / NAME, DIGEST)
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert fetch(weights, tmp_path) == (tmp_path / NAME, DIGEST)
    assert server.asked == [None]
    assert left_behind(tmp_path) == [NAME]


def test_the_folder_is_torchs(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hub" / "checkpoints"
    assert fetch(PublishedWeights(server.url, DIGEST))[0] == tmp_path / "hub" / "checkpoints" / NAME


def test_a_cut_connection_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.cut_after_bytes = [300_000, 1_000]
    assert fetch(PublishedWeights(server.url, DIGEST[:8]), tmp_path)[1] == DIGEST
    assert server.asked == [None, "bytes=300000-", "bytes=301000-"]
    assert left_behind(tmp_path) == [NAME]


def test_a_connection_that_keeps_breaking_is_taken_up_by_the_next_run(server: Server, tmp_path: Path) -> None:
    weights = PublishedWeights(server.url, DIGEST[:8])
    server.cut_after_bytes = [100_000, 100_000, 100_000]
    with pytest.raises(PipelineError, match=r"broke after 300,000 of 700,001 bytes.*the next run resumes"):
        fetch(weights, tmp_path)
    assert left_behind(tmp_path) == [f"{NAME}.part"]  # never half a file under the name that is loaded
    assert fetch(weights, tmp_path)[1] == DIGEST
    assert server.asked[-1] == "bytes=300000-"
    assert left_behind(tmp_path) == [NAME]


def test_without_ranges_the_download_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges_supported = False
    server.cut_after_bytes = [300_000]
    assert fetch(PublishedWeights(server.url, DIGEST[:8]), tmp_path)[1] == DIGEST
    assert server.asked == [None, "bytes=300000-"]


def test_another_range_than_asked_for_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:1000])
    server.wrong_range = True
    with pytest.raises(PipelineError, match="another range than the one asked for, bytes 1000 on"):
        fetch(PublishedWeights(server.url, DIGEST[:8]), tmp_path)
    assert not (tmp_path / NAME).exists()


def test_a_wrong_checksum_is_refused(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    found = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(PipelineError, match=f"SHA-256 {found}, which must begin with {DIGEST[:8]}"):
        fetch(PublishedWeights(server.url, DIGEST[:8]), tmp_path)
    assert left_behind(tmp_path) == []
    assert len(server.asked) == 1


@pytest.mark.parametrize("stale", [b"stale" * 1000, b"stale" * 200_000, CONTENT + b"more"])
def test_a_stale_beginning_is_dropped(stale: bytes, server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(stale)
    assert fetch(PublishedWeights(server.url, DIGEST[:8]), tmp_path)[1] == DIGEST
    assert server.asked == [f"bytes={len(stale)}-", None]
    assert left_behind(tmp_path) == [NAME]


def test_a_whole_part_of_a_killed_run_is_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    assert fetch(PublishedWeights(server.url, DIGEST[:8]), tmp_path)[1] == DIGEST


def test_a_damaged_file_in_the_cache_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT[:5000])
    assert fetch(PublishedWeights(server.url, DIGEST[:8]), tmp_path)[1] == DIGEST
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_server_that_tells_no_length_is_judged_by_the_checksum(server: Server, tmp_path: Path) -> None:
    server.length_told = False
    weights = PublishedWeights(server.url, DIGEST[:8])
    assert fetch(weights, tmp_path)[1] == DIGEST
    (tmp_path / NAME).unlink()
    server.cut_after_bytes = [400_000]
    with pytest.raises(PipelineError, match="SHA-256"):
        fetch(weights, tmp_path)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("status", [404, 503])
def test_an_answer_of_the_server_is_passed_on(status: int, server: Server, tmp_path: Path) -> None:
    server.status = status
    with pytest.raises(PipelineError, match=f"the server answered {status} ") as caught:
        fetch(PublishedWeights(server.url, DIGEST[:8]), tmp_path)
    assert server.url in str(caught.value)
    assert left_behind(tmp_path) == []


def test_without_a_network_the_message_says_which_file_to_put_where(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/{NAME}"
        with pytest.raises(PipelineError) as caught:
            fetch(PublishedWeights(url, DIGEST[:8]), tmp_path)
    assert "the server cannot be reached" in str(caught.value)
    assert f"save it as {tmp_path / NAME} (its SHA-256 begins with {DIGEST[:8]})" in str(caught.value)
    assert left_behind(tmp_path) == []


def test_a_silent_server_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/{NAME}"
        with pytest.raises(PipelineError, match="timed out"):
            fetch(PublishedWeights(url, DIGEST[:8]), tmp_path)


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineError, match=re.escape(str(tmp_path / "file" / NAME))):
        fetch(PublishedWeights(server.url, DIGEST[:8]), tmp_path / "file")


def test_several_askers_download_once(server: Server, tmp_path: Path) -> None:
    weights = PublishedWeights(server.url, DIGEST[:8])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fetch(weights, tmp_path), range(4)))
    assert found == [(tmp_path / NAME, DIGEST)] * 4
    assert server.asked == [None]


def test_every_published_file_is_checked() -> None:
    assert {name: entry.imagenet and entry.imagenet.sha256_start for name, entry in BACKBONES.items()} == {
        "squeezenet": "b8a52dc0",
        "squeezenet_bypass": "b8a52dc0",
        "bninception": "52deb4733",
    }
    for wrong in ("http://127.0.0.1/weights.pth", "http://127.0.0.1/resnet-xyz.pth"):
        with pytest.raises(PipelineError, match="no checksum in its file name"):
            PublishedWeights.named_by_checksum(wrong)
    with pytest.raises(PipelineError, match="8 to 64 hexadecimal digits"):
        PublishedWeights("http://127.0.0.1/weights.pth", "abc")
