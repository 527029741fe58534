"""Find files of the Hugging Face hub in its cache, or download them."""

from __future__ import annotations

import importlib
from pathlib import Path

from pipeline.errors import PipelineError

try:
    huggingface_hub = importlib.import_module("huggingface_hub")
except ModuleNotFoundError as error:
    raise PipelineError(
        "The package huggingface_hub is missing. Install it: pip install 'st-pipeline[timm]' or "
        "'st-pipeline[transformers]'."
    ) from error


def hub_file(repository: str, name: str) -> Path:
    """Return the path of a file of a repository in the cache of the hub; it is downloaded if it is missing.

    Raises:
        PipelineError: it cannot be downloaded.
    """
    cached = huggingface_hub.try_to_load_from_cache(repository, name)
    if isinstance(cached, str):
        return Path(cached)
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name))
    except (OSError, RuntimeError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise PipelineError(
            f"{name} of {repository} is not in the cache of the Hugging Face hub and cannot be downloaded "
            f"({type(error).__name__}). Try again with a network, get the file elsewhere and pass its path, or use "
            "--weights random."
        ) from error
