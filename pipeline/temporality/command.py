"""`pipeline temporality`: measure which classes need order, and write table, picture and class list."""

from __future__ import annotations

import click

from pipeline.files import write_text
from pipeline.settings.temporality import TemporalitySettings
from pipeline.store import FeatureStore
from pipeline.temporality.measure import measure
from pipeline.temporality.pairs import reverse_pairs
from pipeline.temporality.plot import write_plot
from pipeline.temporality.table import class_rows, markdown, pairs_csv, rows_csv, shown_text, temporal_classes

CLASS_LIST = "temporal_classes.txt"


def temporality(settings: TemporalitySettings) -> None:
    """Measure the classes of a store, write the results to a folder and print the table.

    Raises:
        PipelineError: the store has no pooled features of labelled clips, or the head does not fit.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    found = measure(FeatureStore.open(settings.store), settings)
    pairs = reverse_pairs(found.classes, found.labels, found.predicted, found.predicted_reversed, found.groups)
    rows = class_rows(found, pairs)
    text, chosen = markdown(found, rows, pairs), temporal_classes(rows)
    write_text(settings.out / "classes.csv", rows_csv(rows))
    write_text(settings.out / "pairs.csv", pairs_csv(pairs))
    write_text(settings.out / "temporality.md", text)
    write_text(settings.out / CLASS_LIST, "".join(f"{label}\n" for label in chosen))
    write_plot(settings.out / "classes.svg", rows, len(found.classes))
    click.echo(text)
    click.echo(
        f"{shown_text(len(chosen), len(found.classes))}: {settings.out / CLASS_LIST}, for `pipeline prepare --subset`."
    )
