"""Compare spatiotemporal heads for video recognition on cached features. Names for notebooks are loaded at first use.

>>> import pipeline
>>> store = pipeline.open_store("cache/squeezenet.zarr")          # doctest: +SKIP
>>> data = pipeline.features(store, split="val")                  # doctest: +SKIP
>>> model = pipeline.load_model("model.safetensors")              # doctest: +SKIP
>>> pipeline.classify(model, "clip.webm")[0].label                 # doctest: +SKIP

`docs/notebook.md` has an example of each.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.errors import PipelineError
    from pipeline.heads import build_head
    from pipeline.model_file import load_model, load_spec
    from pipeline.predict.notebook import LabelledFeatures, features, open_store
    from pipeline.predict.predict import predict as classify

# Module of each name. It is imported at first use, so that `import pipeline` is fast.
_HOMES = {
    "LabelledFeatures": "pipeline.predict.notebook",
    "PipelineError": "pipeline.errors",
    "build_head": "pipeline.heads",
    "classify": "pipeline.predict.predict",
    "features": "pipeline.predict.notebook",
    "load_model": "pipeline.model_file",
    "load_spec": "pipeline.model_file",
    "open_store": "pipeline.predict.notebook",
}

_NAMES_THERE = {"classify": "predict"}

__all__ = [
    "LabelledFeatures",
    "PipelineError",
    "build_head",
    "classify",
    "features",
    "load_model",
    "load_spec",
    "open_store",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    # `pipeline.predict` is the package of the command, so its function has another name here.
    return getattr(importlib.import_module(_HOMES[name]), _NAMES_THERE.get(name, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
