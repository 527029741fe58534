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


def group_by() -> Any:
    """Declare the pattern of groups."""
    return option(
        None,
        "Regular expression that finds the group of a clip in its path, such as person(\\d+): a drawn split keeps the "
        "clips of a group together (folders, features).",
        metavar="REGEX",
    )


def subset() -> Any:
    """Declare the file of a subset."""
    return option(None, "File with the names of the classes or clips to keep, one a line.", metavar="FILE")


def labels() -> Any:
    """Declare the kind of labels."""
    return option("verb", "Labels of epic-kitchens-100.", choices=("verb", "noun"))


def published_fold() -> Any:
    """Declare the published split."""
    return option(1, "Published split of ucf101 and hmdb51 to use.", minimum=1, maximum=3)
