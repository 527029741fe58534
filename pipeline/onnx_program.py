"""Convert a torch module to ONNX, and run it with ONNX Runtime. Both need the packages of the extra `onnx`."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")

Shapes = dict[str, Any]
Run = Callable[[Tensor], NDArray[np.float32]]


def has_onnx() -> bool:
    """Return whether the packages of the extra `onnx` are installed."""
    return not _missing_packages()


def require_onnx(what: str, otherwise: str) -> None:
    """Check that the packages of the extra `onnx` are installed.

    what: what needs them, as the subject of a sentence. otherwise: what to do without them.

    Raises:
        PipelineError: one is missing.
    """
    missing = _missing_packages()
    if missing:
        raise PipelineError(
            f"{what} needs {', '.join(missing)}. Install the extra: pip install 'st-pipeline[onnx]' "
            f"(in a checkout: pip install -e '.[onnx]'); or {otherwise}."
        )


def capture(model: nn.Module, example: Tensor, dynamic_shapes: Shapes | None = None) -> torch.export.ExportedProgram:
    """Trace a module with one input by `torch.export`."""
    with _quiet():
        return torch.export.export(model, (example,), dynamic_shapes=dynamic_shapes)


def to_onnx(
    program: torch.export.ExportedProgram, input_name: str, output_name: str, dynamic_shapes: Shapes | None = None
) -> ONNXProgram:
    """Convert a traced module with one input and one output to ONNX."""
    with _quiet():
        converted = torch.onnx.export(program, (), dynamo=True, input_names=[input_name], output_names=[output_name],
            dynamic_shapes=dynamic_shapes, verbose=False)  # fmt: skip
    assert converted is not None
    return converted


def load_onnx(program: Path | bytes, threads: int | None = None) -> Run:
    """Load an ONNX program with one input and one output into ONNX Runtime, on the CPU.

    threads: number of threads; by default that of ONNX Runtime.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    input_name, output_name = session.get_inputs()[0].name, session.get_outputs()[0].name

    def run(values: Tensor) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run([output_name], {input_name: values.numpy()})[0]
        return found

    return run


def _missing_packages() -> list[str]:
    return [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's internal messages while it traces a model (recurrent layers: `_flat_weights`)."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
