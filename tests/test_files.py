"""Files are whole or absent; shapes and names are checked with words that help."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.torture.commands import build_failing_disk
from pipeline.errors import ClipError, PipelineError, ShapeError, transient_kind
from pipeline.files import UnwritableError, atomic_path, clear_parts, parse_json, sha256_of_file, write_json, write_text
from pipeline.registry import look_up
from pipeline.scratch import temporary_folder
from pipeline.shapes import check_shape
from pipeline.store.attributes import OldFormatError


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    before = path.read_bytes()

    def fail_half_way() -> None:
        with atomic_path(path) as aside:
            aside.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail_half_way()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})


def test_sha256_of_the_standards_example(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_of_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_check_shape_returns_the_sizes_and_names_the_wrong_one() -> None:
    assert check_shape("x", np.zeros((2, 8, 5, 1, 1)), "B T C 1 1", T=8) == {"B": 2, "T": 8, "C": 5}
    with pytest.raises(ShapeError, match=r"`x` must have the axes \(B, T=8, C\), but has T=7"):
        check_shape("x", np.zeros((2, 7, 5)), "B T C", T=8)
    with pytest.raises(ShapeError, match="has the shape"):
        check_shape("x", np.zeros((2, 7)), "B T C")
    with pytest.raises(ShapeError, match="H=4"):
        check_shape("x", np.zeros((3, 4)), "H H")


def test_a_clip_error_travels_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(ClipError("empty", "x.webm is empty.")))
    assert (error.kind, str(error)) == ("empty", "x.webm is empty.")


def test_a_shortage_of_memory_is_known_by_its_texts() -> None:
    """The second one ended `finetune` with a traceback, the third `extract` with workers."""
    for text in (
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes",
        "could not create a primitive",
        "can't start new thread",
    ):
        assert transient_kind(RuntimeError(text)) == "no-memory"
    assert transient_kind(RuntimeError("could not create a primitive descriptor for a convolution")) == ""


def test_errors_with_other_arguments_than_a_message_travel_between_processes(tmp_path: Path) -> None:
    """An error that could not be read again ended the process pool of `prepare gestures` without a sentence."""
    for error in (
        UnwritableError(tmp_path / "m.csv", PermissionError(errno.EACCES, "no")),
        OldFormatError("s.zarr", 1),
        ShapeError("rows must be 3"),
        FailedError("a", "b"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


class FailedError(PipelineError):
    """Some error of the user, made from two values."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} failed: {why}")
        self.what = what


def test_look_up_suggests_the_nearest_name() -> None:
    with pytest.raises(PipelineError, match=r"Unknown head 'lstn'. Did you mean 'lstm'\? Known: gru, lstm."):
        look_up("head", "lstn", {"lstm": 1, "gru": 2})


LIMITED = """
import io, resource, sys
from pathlib import Path
import h5py, numpy as np, safetensors.torch, torch
from PIL import Image
from pipeline.errors import PipelineError
from pipeline.files import atomic_path

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
values = torch.rand(100_000)

def with_h5py(path):
    with h5py.File(path, "w", locking=False) as file:
        file["values"] = values.numpy()

writers = {
    "bytes": lambda path: path.write_bytes(values.numpy().tobytes()),
    "safetensors": lambda path: safetensors.torch.save_file({"values": values}, path),
    "torch": lambda path: torch.save(values, path),
    "hdf5": with_h5py,
    "image": lambda path: Image.fromarray(values.mul(255).byte().numpy().reshape(250, 400)).save(path, format="BMP"),
}
target = Path(sys.argv[2])
try:
    with atomic_path(target) as aside:
        writers[sys.argv[1]](aside)
        aside.write_bytes(bytes(100_001))
except PipelineError as error:
    print(error)
"""


@pytest.mark.parametrize("library", ["bytes", "safetensors", "torch", "hdf5", "image"])
def test_a_full_disk_is_a_sentence_whatever_library_writes(library: str, tmp_path: Path) -> None:
    target = tmp_path / "out" / "file"
    done = subprocess.run([sys.executable, "-c", LIMITED, library, target], capture_output=True, text=True, timeout=100)
    assert "could not be written: File too large. Make room, and run the same command again." in done.stdout, (
        done.stderr
    )
    assert list((tmp_path / "out").iterdir()) == []


ALMOST = """
import resource, sys
from pathlib import Path
import safetensors.torch, torch
from pipeline.errors import PipelineError
from pipeline.files import atomic_path

resource.setrlimit(resource.RLIMIT_FSIZE, (2_100_000, 2_100_000))
try:
    with atomic_path(Path(sys.argv[1])) as aside:
        safetensors.torch.save_file({"values": torch.rand(900_000)}, aside)
except PipelineError as error:
    print(error)
"""


def test_a_library_that_takes_back_what_it_wrote_does_not_hide_the_full_disk(tmp_path: Path) -> None:
    # The limit leaves room for more than what is written to test for it, but not for the model.
    done = subprocess.run(
        [sys.executable, "-c", ALMOST, tmp_path / "file"], capture_output=True, text=True, timeout=100
    )
    assert "could not be written: File too large" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineError, match=r"file/x\.json could not be written: (File exists|Not a directory)"):
        write_json(tmp_path / "file" / "x.json", {})
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "pipeline", "describe", "heads"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.files import atomic_path
with atomic_path(Path(sys.argv[1])) as aside:
    aside.write_bytes(b"half")
    print("writing", flush=True)
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def test_what_a_killed_process_was_writing_is_cleared_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    def parts() -> list[Path]:
        return list(tmp_path.glob(".*.part"))

    command = [sys.executable, "-c", KILLED, str(tmp_path / "model")]
    assert subprocess.run([*command, "kill"], timeout=100, stdout=subprocess.DEVNULL).returncode == -signal.SIGKILL
    assert len(parts()) == 1
    with subprocess.Popen([*command, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as living:
        assert living.stdout is not None
        living.stdout.readline()
        clear_parts.cache_clear()
        write_json(tmp_path / "other.json", {})
        assert len(parts()) == 1  # of the living process, which also cleared that of the killed one
        living.communicate(b"")
    assert living.returncode == 0
    assert (tmp_path / "model").read_bytes() == b"half"
    assert parts() == []


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "out").symlink_to(tmp_path / "victim")
    write_json(tmp_path / "out", 1)
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "out").is_symlink()


def test_temporary_folders_lie_in_one_place_and_those_of_killed_processes_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = (
        "import os, signal, tempfile; tempfile.tempdir = os.environ['PLACE']\n"
        "from pipeline.scratch import temporary_folder\n"
        "with temporary_folder('test') as folder: os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PLACE": str(tmp_path)}, timeout=100)
    (root,) = tmp_path.iterdir()
    assert len(list(root.glob("test-*"))) == 1
    # Killed while it deleted its folder: the lock was already gone.
    (root / "test-halfway").mkdir()
    (root / "test-halfway" / "rest").write_text("")
    with temporary_folder("test") as first, temporary_folder("test") as second:
        assert sorted(root.glob("test-*")) == sorted([first, second])
    assert list(root.glob("test-*")) == []


def test_a_temporary_folder_goes_although_an_ending_process_writes_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder("test") as folder:
        remove = shutil.rmtree
        late = iter(range(3))

        def remove_and_write(path: Path, ignore_errors: bool) -> None:
            remove(path, ignore_errors=ignore_errors)
            if next(late, None) is not None:
                path.mkdir()
                (path / "late.lock").touch()

        monkeypatch.setattr(shutil, "rmtree", remove_and_write)
    assert not folder.exists()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_is_a_sentence_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """A network drive fails only when a file is flushed or moved; the system's error has no name then."""
    write_text(tmp_path / "report.txt", "old")

    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(PipelineError, match=rf"report.txt could not be written: {os.strerror(number)}. Check the disk"):
        write_text(tmp_path / "report.txt", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


FAILING = """
import ctypes, errno, sys
from pathlib import Path
import safetensors.torch, torch
from matplotlib.figure import Figure
from PIL import Image
from pipeline.files import UnwritableError, atomic_path, write_text
from pipeline.hdf5_output import hdf5_to_write
from pipeline.training.checkpoint import write_checkpoint

disk = ctypes.CDLL(None)
target = Path(sys.argv[2])
values = torch.rand(100_000)

def with_hdf5(path):
    with hdf5_to_write(path, "w") as file:
        file["values"] = values.numpy()

def with_figure(path):
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    figure.savefig(path, format="png")

writers = {
    "text": lambda path: path.write_text("text"),
    "safetensors": lambda path: safetensors.torch.save_file({"values": values}, path),
    "hdf5": with_hdf5,
    "image": lambda path: Image.fromarray(values.mul(255).byte().numpy().reshape(250, 400)).save(path, format="BMP"),
    "figure": with_figure,
}

def write():
    if sys.argv[1] == "checkpoint":
        return write_checkpoint(target, "digest", {"values": values, "more": [values[:9].clone(), 1]})
    with atomic_path(target) as aside:
        writers[sys.argv[1]](aside)

disk.let_fail(ctypes.c_long(0), 0)
write()
num_calls = disk.calls_made()
for error in (errno.EIO, errno.ESTALE, errno.ENOSPC):
    num_refused = 0
    for number in range(1, num_calls + 1):
        target.unlink(missing_ok=True)
        disk.let_fail(ctypes.c_long(number), error)
        try:
            write()
            assert target.exists()
        except UnwritableError:
            num_refused += 1
            assert not target.exists()
        disk.let_fail(ctypes.c_long(0), 0)
        left = [path.name for path in target.parent.iterdir() if path != target]
        assert not left, left
    # If mkdir fails, the folder may exist all the same.
    print(error, num_refused == num_calls - (error != errno.ENOSPC) > 3)
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("library", ["text", "safetensors", "checkpoint", "hdf5", "image", "figure"])
def test_a_disk_that_fails_at_any_call_is_a_sentence_whatever_library_writes(library: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    environment = {**os.environ, "LD_PRELOAD": build_failing_disk(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", FAILING, library, tmp_path / "out" / "file"],
        capture_output=True, text=True, timeout=100, env=environment,
    )  # fmt: skip
    expected = [f"{error} True" for error in (errno.EIO, errno.ESTALE, errno.ENOSPC)]
    assert done.stdout.splitlines() == expected, done.stderr


@pytest.mark.parametrize("text", [r'{"a": ["\ud800"]}', r'{"\uDfFf": 1}', r'["\ud83d", "\ude00"]'])
def test_half_a_surrogate_pair_in_json_is_refused(text: str) -> None:
    json.loads(text)  # Python reads it, but no file can hold it
    with pytest.raises(ValueError, match="surrogates not allowed"):
        parse_json(text.encode())


def test_json_that_python_writes_is_read() -> None:
    values = {"a": "😀é", "b": [1.5, None, True], "c": "\\ud800"}
    assert parse_json(json.dumps(values)) == values
    assert parse_json(json.dumps(values, ensure_ascii=False).encode()) == values


def test_bytes_of_half_a_surrogate_pair_are_refused() -> None:
    data = b'["\xed\xa0\x80"]'
    json.loads(data)  # Python reads it
    with pytest.raises(ValueError, match="can't decode"):
        parse_json(data)
