"""Lay out a table as plain lines of text, by rich."""

from __future__ import annotations

import io
from collections.abc import Sequence

UNBOUNDED_WIDTH = 10_000


def table_lines(headers: Sequence[str], rows: Sequence[Sequence[str]], right_aligned: Sequence[bool]) -> list[str]:
    """Return the header and the rows as lines, columns two spaces apart, without spaces at the end.

    >>> table_lines(["head", "top-1"], [["trn", "87.1"], ["gru", "9.0"]], [False, True])
    ['head  top-1', 'trn    87.1', 'gru     9.0']
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    for header, is_right in zip(headers, right_aligned, strict=True):
        table.add_column(Text(header), justify="right" if is_right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(file=io.StringIO(), width=UNBOUNDED_WIDTH, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]
