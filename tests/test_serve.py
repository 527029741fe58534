"""`pipeline report --serve`: files of one folder, read only, and the curves of running fits; TensorBoard files."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.compare.running import running_fits
from pipeline.compare.serve import open_server
from pipeline.errors import PipelineError
from pipeline.evaluation import tensorboard
from pipeline.evaluation.result_writer import EpochRecord, write_running
from tests.support.result_folders import write_cell

HISTORY = [EpochRecord(epoch, 0.001, 1.0 / epoch, 50.0, 1.2 / epoch, 40.0 + epoch) for epoch in (1, 2, 3)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    compare = tmp_path / "results/compare"
    (compare / "plots").mkdir(parents=True)
    (compare / "report.html").write_text("<p>the report</p>")
    (compare / "plots/a.svg").write_text("<svg/>")
    (tmp_path / "results/secret.txt").write_text("secret")
    (compare / "link.txt").symlink_to(tmp_path / "results/secret.txt")
    write_running(tmp_path / "results/fit_head/squeezenet-gru/.unfinished", "seed-0", 0, HISTORY)
    return tmp_path / "results"


@pytest.fixture
def port(place: Path) -> Iterator[int]:
    with open_server(place / "compare", place, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def answer(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"localhost:{port}"})
    response = connection.getresponse()
    found = response.status, response.read().decode(), response.headers.get("Content-Type", "")
    connection.close()
    return found


def test_the_files_of_the_folder_are_served(port: int) -> None:
    assert answer(port, "/report.html") == (200, "<p>the report</p>", "text/html; charset=utf-8")
    assert answer(port, "/plots/a.svg?x=1")[::2] == (200, "image/svg+xml")
    assert answer(port, "/report.html", "HEAD")[:2] == (200, "")


@pytest.mark.parametrize(
    "path",
    ["/../secret.txt", "/%2e%2e/secret.txt", "/plots/../../secret.txt", "/link.txt", "/plots", "/missing", "/%00",
     "//etc/passwd", "/..%2fsecret.txt"],
)  # fmt: skip
def test_paths_outside_the_folder_are_refused(port: int, path: str) -> None:
    status, text, _ = answer(port, path)
    assert status == 404
    assert "secret" not in text


def test_nothing_is_written_and_other_sites_get_nothing(port: int) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert answer(port, "/report.html", method)[0] == 501
    assert answer(port, "/report.html", host="evil.example")[0] == 403
    assert answer(port, "/report.html", host="127.0.0.1:1")[0] == 200


def test_the_page_shows_running_fits_and_refreshes(port: int, place: Path) -> None:
    status, text, _ = answer(port, "/")
    assert status == 200
    assert "squeezenet-gru" in text
    assert "seed-0, 3 epochs" in text
    assert 'http-equiv="refresh"' in text
    assert 'href="/report.html"' in text
    # The fit has finished: its metrics are newer than the curve.
    write_cell(place / "fit_head/squeezenet-gru", head="gru")
    assert running_fits(place) == []
    assert "No fit is running." in answer(port, "/")[1]


def test_damaged_curves_are_left_out(place: Path) -> None:
    for name, text in {"a": "", "b": "seed,epoch\n", "c": "seed,epoch,lr,select_top1\n0,x,y,z\n"}.items():
        (place / f"fit_head/squeezenet-gru/.unfinished/{name}.history.csv").write_text(text)
    assert [fit.part for fit in running_fits(place)] == ["seed-0"]


def test_a_port_in_use_is_a_sentence(place: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(PipelineError, match=rf"Port {number} is in use\. Choose another with --port"):
            open_server(place, place, number)


def test_event_files_need_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PipelineError, match="pip install tensorboard"):
        tensorboard.check_tensorboard()


def test_event_files_have_every_epoch(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = write_cell(tmp_path / "fit_head/squeezenet-lstm", num_seeds=2)
    events = loader.EventAccumulator(str(tensorboard.write_events(folder) / "seed-1"))
    events.Reload()
    first = events.Scalars("loss/train")[0]
    assert (first.step, first.value) == (1, 1.0)
    assert len(events.Scalars("top1/selection")) == 5
