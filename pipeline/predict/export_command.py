"""`pipeline export`: export a saved model to ONNX or `torch.export`, checked against torch."""

from __future__ import annotations

import click

from pipeline.model_file import load_model
from pipeline.predict.export import Exported, export_model
from pipeline.settings.predict import ExportSettings


def export(settings: ExportSettings) -> Exported:
    """Export the model and print the difference of its scores from torch's.

    Raises:
        PipelineError: the model or packages are missing, or the scores differ.
    """
    classifier = load_model(settings.model)
    written = export_model(classifier, settings.out, settings.tolerance)
    shape = ", ".join(str(size) for size in ("B", *written.input_shape))
    click.echo(f"Wrote {written.path} ({written.kind}, {written.num_bytes / 1e6:.1f} MB).")
    click.echo(f"Frames ({shape}) uint8 RGB -> scores (B, {classifier.spec.num_classes}), before softmax, for any B.")
    click.echo(
        f"Largest difference from torch {written.difference:.1e} of the largest score, batches of "
        f"{' and '.join(map(str, written.batches))}."
    )
    return written
