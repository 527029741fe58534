"""Chart of the training of a head: top-1 of the selection clips and losses, by epoch."""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup

from pipeline.compare.charts import Line, Panel, line_chart


def training_curves(history: pd.DataFrame | None) -> Markup | None:
    """Return top-1 and losses by epoch, averaged over seeds (bold) and of each seed (thin); None without an epoch."""
    if history is None or history.empty or "epoch" not in history:
        return None
    panels = []
    if "select_top1" in history and history["select_top1"].notna().any():
        lines = []
        if "seed" in history and history["seed"].nunique() > 1:
            seeds = [rows for _, rows in history.groupby("seed")]
            lines = [Line(_points(rows, "select_top1"), width=0.8, opacity=0.4) for rows in seeds]
        panels.append(Panel([*lines, Line(_means(history, "select_top1"), has_markers=True)], "top-1 (%)", (0, 104)))
    losses = [
        Line(_means(history, column), colour=colour, width=1.4, dash=dash, name=name)
        for column, name, colour, dash in (
            ("train_loss", "training", "muted", "4 3"),
            ("select_loss", "selection", "second", ""),
        )
        if column in history and history[column].notna().any()
    ]
    if losses:
        panels.append(Panel(losses, "loss"))
    return line_chart(panels, "epoch") if panels else None


def _means(history: pd.DataFrame, column: str) -> list[tuple[float, float]]:
    return _points(history.groupby("epoch", as_index=False)[[column]].mean(), column)


def _points(rows: pd.DataFrame, column: str) -> list[tuple[float, float]]:
    known = rows[rows[column].notna()]
    return [(float(epoch), float(value)) for epoch, value in zip(known["epoch"], known[column], strict=True)]
