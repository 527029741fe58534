"""Convert a torch module to ONNX, and run it with ONNX Runtime or OpenVINO. Both need the packages of an extra."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram


class Engine(NamedTuple):
    """The extra of an engine, the packages that it installs, and the number types in which the engine runs."""

    extra: str
    packages: tuple[str, ...]
    types: tuple[str, ...]


ENGINES = {
    "openvino": Engine("openvino", ("onnx", "onnxscript", "openvino"), ("float32", "bfloat16")),
    # It has no convolution in bfloat16.
    "onnxruntime": Engine("onnx", ("onnx", "onnxruntime", "onnxscript"), ("float32",)),
}

Shapes = dict[str, Any]
Run = Callable[[Tensor], NDArray[np.float32]]


def has_engine(engine: str) -> bool:
    """Return whether the packages of an engine, `onnxruntime` or `openvino`, are installed."""
    return not _missing_packages(engine)


def require_engine(engine: str, what: str, otherwise: str) -> None:
    """Check that the packages of an engine are installed.

    what: what needs them, as the subject of a sentence. otherwise: what to do without them.

    Raises:
        PipelineError: one is missing.
    """
    missing = _missing_packages(engine)
    if missing:
        extra = ENGINES[engine].extra
        raise PipelineError(
            f"{what} needs {', '.join(missing)}. Install the extra: pip install 'st-pipeline[{extra}]' "
            f"(in a checkout: pip install -e '.[{extra}]'); or {otherwise}."
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


def load_openvino(program: bytes, threads: int, dtype: str) -> Run:
    """Load an ONNX program with one input and one output into OpenVINO, on the CPU.

    The result of a run is only valid until the next run.

    dtype: number type of the layers, `float32` or `bfloat16`; input and output keep theirs.

    Raises:
        PipelineError: the processor has no instructions for bfloat16.
    """
    import openvino

    core = openvino.Core()
    if dtype == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise PipelineError(
            "OpenVINO runs in bfloat16 only on processors that have instructions for it. Use float32, or `compile` jit."
        )
    options = {
        "INFERENCE_PRECISION_HINT": {"float32": openvino.Type.f32, "bfloat16": openvino.Type.bf16}[dtype],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # all worker processes would be pinned to the same core
    }
    compiled = core.compile_model(core.read_model(program), "CPU", options)

    def run(values: Tensor) -> NDArray[np.float32]:
        maps: NDArray[np.float32] = compiled(values.numpy(), share_inputs=True, share_outputs=True)[0]
        return maps

    return run


def _missing_packages(engine: str) -> list[str]:
    return [name for name in ENGINES[engine].packages if importlib.util.find_spec(name) is None]


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
