"""Write the table of heads for the terminal and as Markdown."""

from __future__ import annotations

import textwrap

from pipeline.compare.columns import count_text, legend_of, needed_width, used_columns
from pipeline.compare.comparison import Comparison, Group
from pipeline.compare.gain import gain_sentence
from pipeline.compare.indistinct import (
    detectable_sentence,
    indistinct_sentence,
    rank_sentence,
)
from pipeline.compare.order_use import order_sentences
from pipeline.compare.signature import signature_line
from pipeline.compare.verdict import verdict_of
from pipeline.evaluation.selection import SELECTED_ON_REPORTED_NOTE
from pipeline.registry import VIDEO_ENCODER_NOTE
from pipeline.tables import table_lines


def terminal_table(comparison: Comparison, width: int) -> str:
    """Return every group as a table of at most `width` characters, followed by remarks."""
    return "\n\n".join(_terminal_group(group, width) for group in comparison.groups)


def markdown_table(comparison: Comparison) -> str:
    """Return every group as a Markdown table without measured times, so that it can be committed."""
    parts: list[str] = []
    for group in comparison.groups:
        columns = [column for column in used_columns(group) if not column.is_measured]
        lines = [
            "| " + " | ".join(column.header for column in columns) + " |",
            "|" + "|".join("---" if column.align == "<" else "---:" for column in columns) + "|",
            *("| " + " | ".join(_escaped(column.text(row)) for column in columns) + " |" for row in group.rows),
        ]
        remarks = "\n".join(f"- {_escaped(remark)}" for remark in [*remarks_of(group), signature_line(group.signature)])
        parts.append(f"### {group.title}\n\n" + "\n".join(lines) + "\n\n" + remarks)
    legend = "\n".join(f"- {term}: {text}" for term, text in legend_of(comparison, with_measured=False).items())
    return "\n\n".join([*parts, legend]) + "\n"


def remarks_of(group: Group) -> list[str]:
    """Return remarks about a group, one sentence each."""
    failed = sorted({int(row.run.metrics.get("num_failed") or 0) for row in group.rows} - {0})
    remarks = [verdict_of(group)]
    front = [
        f"{row.label}: {row.top1.value:.1f} % for {count_text(row.complexity.macs)}"
        for row in group.front()
        if row.complexity is not None
    ]
    if len(front) > 1:
        remarks.append(f"Most accurate for their MACs, the cheapest first: {'; '.join(front)}.")
    limits = [
        indistinct_sentence(group),
        detectable_sentence(group),
        rank_sentence(group.rows),
    ]
    limits += [*order_sentences(group), *(gain_sentence(row) for row in group.rows)]
    remarks += [sentence for sentence in limits if sentence is not None]
    remarks += [*(agreement.sentence() for agreement in group.agreements), group.recipes()]
    if any(row.run.is_selected_on_reported for row in group.rows):
        remarks.append(SELECTED_ON_REPORTED_NOTE)
    if any(row.run.metrics.get("video_encoder") for row in group.rows):
        remarks.append(VIDEO_ENCODER_NOTE)
    if failed:
        remarks.append(f"Clips that could not be used: {failed[-1]:,}. `pipeline store info` gives the reasons.")
    return remarks


def _terminal_group(group: Group, width: int) -> str:
    columns = used_columns(group, width)
    shown = {column.header for column in columns}
    left_out = [column.header for column in used_columns(group) if column.header not in shown]
    texts = [[column.text(row) for column in columns] for row in group.rows]
    heads, *body = table_lines([column.header for column in columns], texts, [c.align == ">" for c in columns])
    rule = "-" * min(width, len(heads))
    lines = [*wrapped(group.title, width), rule, heads, rule, *body, rule]
    if left_out:
        needed = needed_width(group, used_columns(group))
        lines += wrapped(f"{width} characters leave out: {', '.join(left_out)}; {needed} show all.", width)
    for remark in [*remarks_of(group), signature_line(group.signature)]:
        lines += wrapped(remark, width)
    return "\n".join(lines)


def wrapped(text: str, width: int) -> list[str]:
    """Break a sentence into lines of at most `width` characters, between words."""
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
