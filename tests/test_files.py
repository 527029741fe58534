"""Files are whole or absent; shapes and names are checked with words that help."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ClipError, PipelineError, ShapeError
from pipeline.files import sha256_of_file, write_json, written_aside
from pipeline.registry import look_up
from pipeline.shapes import check_shape


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    before = path.read_bytes()

    def fail_half_way() -> None:
        with written_aside(path) as aside:
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


def test_look_up_suggests_the_nearest_name() -> None:
    with pytest.raises(PipelineError, match=r"Unknown head 'lstn'. Did you mean 'lstm'\? Known: gru, lstm."):
        look_up("head", "lstn", {"lstm": 1, "gru": 2})
