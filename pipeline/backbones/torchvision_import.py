"""The one place that imports torchvision, also where its compiled operators do not load.

torchvision describes its operator `nms` to the compiler as it is imported, which fails with "operator
torchvision::nms does not exist" where its compiled library did not load: a torchvision built for CUDA beside a torch
built for the processor alone, as package indexes often pair them. Nothing here uses these operators (they belong to
object detection), so in that case, and in no other, their signatures are declared and the import is done again.
`MISSING_OPERATORS_REASON` then says why the library did not load; it is empty where all is well.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

SIGNATURES = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _import() -> tuple[ModuleType, str, torch.library.Library | None]:
    try:
        return importlib.import_module("torchvision"), "", None
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        reason = _why_the_library_does_not_load() or str(error)
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]  # What the failed import left behind.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for signature in SIGNATURES:
        library.define(signature)
    return importlib.import_module("torchvision"), reason, library


def _why_the_library_does_not_load() -> str:
    found = importlib.util.find_spec("torchvision")
    for folder in (found.submodule_search_locations or []) if found else []:
        for path in sorted(Path(folder).glob("_C*")):
            try:
                torch.ops.load_library(str(path))
            except OSError as error:
                # torch names the file; what the loader said about it is the cause.
                return f"{error.__cause__ or error}"
    return ""


# The declarations live as long as the library object.
torchvision, MISSING_OPERATORS_REASON, _library = _import()
feature_extraction = importlib.import_module("torchvision.models.feature_extraction")
