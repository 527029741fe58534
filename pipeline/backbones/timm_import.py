"""Import timm, which only `timm:NAME` needs. No other module imports it."""

from __future__ import annotations

import importlib

# timm imports torchvision, which needs the preparations of this module.
from pipeline.backbones import torchvision_import  # noqa: F401
from pipeline.errors import PipelineError

try:
    timm = importlib.import_module("timm")
except ModuleNotFoundError as error:
    raise PipelineError(
        f"timm:NAME needs the package {error.name}. Install it: pip install 'st-pipeline[timm]', or make setup."
    ) from error
