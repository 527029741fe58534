"""A tiny store and heads fitted on it, for the tests of predict, evaluate and the notebook."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.extract.extract import extract_features
from pipeline.manifest import Manifest, read_manifest
from tests.support.run_stages import extract_settings, fit_head
from tests.support.small_clips import T, write_clips

HEADS = ("lstm", "fcn2d")


@dataclass(frozen=True)
class Fitted:
    """Clips, the store of their features, and the result folders of heads fitted on it."""

    folder: Path
    manifest: Manifest
    store: Path

    def result_folder(self, head: str) -> Path:
        return self.folder / "fit" / f"squeezenet-{head}"

    def model(self, head: str) -> Path:
        return self.result_folder(head) / "model.safetensors"

    @property
    def clips(self) -> list[str]:
        return [self.manifest.locate(clip) for clip in self.manifest.in_split("val")]


def fitted_in(folder: Path, dtype: str = "float32", heads: tuple[str, ...] = HEADS, frames: str = "segments") -> Fitted:
    """Extract features and fit heads for two epochs, in seconds."""
    manifest = read_manifest(write_clips(folder))
    request = extract_settings(
        weights="random",
        num_segments=T,
        views=1,
        compile="eager",
        dtype=dtype,
        workers=0,
        frames=frames,
        maps=("pooled",) if frames == "all" else ("pooled", "spatial"),
    )
    store = folder / "s.zarr"
    extract_features(manifest, str(store), request)
    fit_head(
        store=store,
        head=heads,
        out=folder / "fit",
        overrides={"epochs": 2, "batch_size": 4},
        precision="float32",
        threads=1,
        jobs=1,
        num_segments=T if frames == "all" else None,
    )
    return Fitted(folder, manifest, store)
