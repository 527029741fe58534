"""HDF5 files that are sealed with a digest: written whole or not at all, whatever room there is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.prepare.gestures.encode import write_frame_folder
from pipeline.prepare.packing import pack
from pipeline.store_command.hdf5_file import opened_hdf5, sealed_hdf5
from pipeline.video.decode import open_clip

WRITE = """
import resource, sys
from pathlib import Path
import numpy as np
from pipeline.errors import PipelineError
from pipeline.prepare.gestures.encode import write_frame_folder
from pipeline.prepare.packing import pack
from pipeline.store_command.hdf5_file import sealed_hdf5

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
try:
    with sealed_hdf5(Path(sys.argv[1])) as file:
        file.attrs["classes"] = "x" * 5000
        for number in range(8):
            noise = np.random.default_rng(number).integers(0, 256, (4, 5000), dtype=np.uint8)
            file.create_dataset(f"views/{number}", data=noise, chunks=(1, 5000), compression="gzip")
except PipelineError as error:
    sys.exit(f"sentence: {error}")
"""


@pytest.mark.parametrize("num_bytes", [0, 300, 700, 3_000, 40_000, 120_000, 163_000])
def test_no_room_at_any_point_is_a_sentence(tmp_path: Path, num_bytes: int) -> None:
    command = [sys.executable, "-c", WRITE, str(tmp_path / "s.h5"), str(num_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith(f"sentence: {tmp_path / 's.h5'} could not be written: File too large. Make room")
    assert os.listdir(tmp_path) == []


PACK = """
import resource, sys
from pathlib import Path
from pipeline.errors import PipelineError
from pipeline.prepare.packing import pack

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
folder = Path(sys.argv[1])
try:
    pack(folder / "packed.h5", [(name, folder / name) for name in ("a", "b", "c")], clips_a_part=2)
except PipelineError as error:
    sys.exit(f"sentence: {error}")
"""


@pytest.mark.parametrize("num_bytes", [400, 8_000, 20_000])
def test_no_room_for_packed_clips_is_a_sentence_and_the_same_call_goes_on(tmp_path: Path, num_bytes: int) -> None:
    clips = {
        name: np.random.default_rng(seed).integers(0, 256, (3, 40, 48, 3), np.uint8) for seed, name in enumerate("abc")
    }
    for name, frames in clips.items():
        write_frame_folder(tmp_path / name, frames)
    command = [sys.executable, "-c", PACK, str(tmp_path), str(num_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "could not be written: File too large. Make room" in done.stderr
    pack(tmp_path / "packed.h5", [(name, tmp_path / name) for name in clips])
    assert {path.name for path in tmp_path.iterdir()} == {"packed.h5", *clips}
    for name, frames in clips.items():
        with open_clip(f"{tmp_path / 'packed.h5'}::{name}") as packed, open_clip(str(tmp_path / name)) as folder:
            np.testing.assert_array_equal(packed.read([0, 1, 2]), folder.read([0, 1, 2]))
            assert packed.read([0]).shape == frames[:1].shape


def test_a_sealed_file_is_read_by_h5py_alone(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float16).reshape(3, 4)
    with sealed_hdf5(tmp_path / "s.h5") as file:
        file["views/test"] = values
    with h5py.File(tmp_path / "s.h5", "r") as plain, opened_hdf5(tmp_path / "s.h5") as opened:
        np.testing.assert_array_equal(plain["views/test"][:], values)
        np.testing.assert_array_equal(opened["views/test"][:], values)
