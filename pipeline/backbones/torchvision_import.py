"""Import torchvision, even if its compiled operators cannot be loaded. No other module imports it.

On import, torchvision registers its operator `nms` for the compiler. This fails with "operator torchvision::nms does
not exist" if its compiled library cannot be loaded, for example a CUDA build with a CPU build of torch, which package
indexes often combine. Nothing here uses these operators (they are for object detection), so in this case only, their
signatures are declared and the import is repeated. `MISSING_OPERATORS_REASON` then has the reason why the library was
not loaded; otherwise it is empty.
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
        del sys.modules[name]  # remains of the failed import
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
                # torch names only the file; the loader's message is the cause.
                return f"{error.__cause__ or error}"
    return ""


# The declarations exist as long as the library object.
torchvision, MISSING_OPERATORS_REASON, _library = _import()
feature_extraction = importlib.import_module("torchvision.models.feature_extraction")
