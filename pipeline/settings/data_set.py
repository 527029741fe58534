"""Settings of `pipeline prepare` and `pipeline init` on a data set's own files and splits."""

from __future__ import annotations

from typing import Any

from pipeline.settings.settings import option


def label_files() -> Any:
    """Declare the label files."""
    return option((), "Label files of the data set, or their folder.", is_argument=True)


def val_share() -> Any:
    """Declare the share of validation clips."""
    help = "Share of clips put into validation if the data define no split."
    return option(0.2, help, minimum=0, maximum=1, is_maximum_open=True)


def published_fold() -> Any:
    """Declare the published split."""
    return option(1, "Published split of ucf101 and hmdb51 to use.", minimum=1, maximum=3)
