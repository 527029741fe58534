"""Run the frozen backbone of an extraction in another engine than torch: ONNX Runtime or OpenVINO, on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.backbones import Backbone
from pipeline.errors import PipelineError, first_line
from pipeline.extract.compute import bfloat16_error, relative_error
from pipeline.onnx_program import capture, load_onnx, load_openvino, to_onnx

# Bound on ||maps of an engine - maps of torch|| / ||maps of torch||, both in float32; SqueezeNet has 4e-7.
FLOAT32_ERROR_BOUND = 1e-4
# In bfloat16 an engine may have this multiple of torch's error; OpenVINO has 0.7 to 1.0 of it in three backbones.
BFLOAT16_ERROR_FACTOR = 2.0


def converted(backbone: Backbone, example: Tensor, engine: str, dtype: str) -> Callable[[Tensor], Tensor]:
    """Return a function that computes the maps of a backbone in an engine, with as many threads as torch has.

    The maps of a batch are only valid until the next batch.

    backbone: in float32. engine: `onnxruntime` or `openvino`. dtype: number type in which the engine computes.

    Shape:
        example: (B, 3, H, W), uint8, channels last in memory; the function takes batches of this shape.

    Raises:
        PipelineError: torch cannot convert the backbone, the engine cannot run it in this number type, or the converted
            one gives other maps.
    """
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, example.shape, dtype=torch.uint8, generator=generator)
    try:
        with torch.no_grad():
            expected = backbone(frames)
            program = to_onnx(capture(_ChannelsLast(backbone), frames.permute(0, 2, 3, 1)), "frames", "maps")
        run = _loaded(program.model_proto.SerializeToString(), engine, dtype)
        found = run(frames)
    except PipelineError:
        raise
    # torch and the engines raise errors of many types.
    except Exception as error:
        raise PipelineError(
            f"`compile` is {engine}, but {backbone.name} cannot be converted for it ({first_line(error)}). Use jit."
        ) from error
    difference = relative_error(found, expected)
    bound = FLOAT32_ERROR_BOUND if dtype == "float32" else BFLOAT16_ERROR_FACTOR * bfloat16_error(backbone, frames)
    # `not <=` is also true for NaN.
    if not difference <= bound:
        raise PipelineError(
            f"`compile` is {engine}, but its maps of {backbone.name} differ from torch's by {difference:.2g} of "
            f"their norm (bound {bound:.2g}). Use jit."
        )
    return run


def _loaded(program: bytes, engine: str, dtype: str) -> Callable[[Tensor], Tensor]:
    threads = torch.get_num_threads()
    run = load_onnx(program, threads) if engine == "onnxruntime" else load_openvino(program, threads, dtype)
    return lambda batch: torch.from_numpy(run(batch.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class _ChannelsLast(nn.Module):
    """A backbone whose frames and maps are channels last, as they are in memory."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, frames: Tensor) -> Tensor:
        maps: Tensor = self.backbone(frames.permute(0, 3, 1, 2))
        return maps.permute(0, 2, 3, 1)
