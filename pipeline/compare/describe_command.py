"""`pipeline describe`: print heads or backbones as a table."""

from __future__ import annotations

import json
from typing import Any

import click

from pipeline.backbones.preprocessing import Preprocessing
from pipeline.compare.complexity import describe_backbones, describe_heads
from pipeline.settings.describe import DescribeSettings
from pipeline.tables import table_lines


def describe(settings: DescribeSettings) -> None:
    """Print names, inputs, parameters and multiply-accumulates of heads or backbones."""
    if settings.what == "backbones":
        rows = describe_backbones(settings.names or None)
    else:
        rows = describe_heads(
            settings.num_segments, settings.num_classes, settings.map_size, names=settings.names or None
        )
    if settings.json:
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo(_as_table(rows))
    if settings.what == "backbones" and settings.names:
        for row in rows:
            click.echo(f"{row['name']}: {Preprocessing.from_dict(row['preprocessing'])}")


def _as_table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, dict)))
    cells = [[_as_cell(row.get(column, "")) for column in columns] for row in rows]
    return "\n".join(table_lines(columns, cells, [isinstance(rows[0].get(column), int) for column in columns]))


def _as_cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
