"""The comparison as plain data: CSV, JSON, and the measurements of this machine."""

from __future__ import annotations

import csv
import io
from typing import Any

from pipeline.compare.budget import budget_json
from pipeline.compare.columns import OTHER_SHARES
from pipeline.compare.comparison import Comparison, Row
from pipeline.compare.indistinct import (
    indistinct_sets,
)
from pipeline.compare.order_use import shuffled_loss, uses_order
from pipeline.compare.verdict import verdict_of
from pipeline.evaluation.statistics import Interval

OPTIONAL_FIELDS = ("num_groups", "calibrated_loss", "calibrated_ece")


def csv_table(comparison: Comparison) -> str:
    """Return one line for each row of every group, with all digits and without measured times."""
    records = [_record(row) for row in comparison.rows]
    # Columns that only some results have, such as those of groups.
    for name in OPTIONAL_FIELDS:
        if all(record[name] is None for record in records):
            records = [{key: value for key, value in record.items() if key != name} for record in records]
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as plain data: rows, paired tests, agreement with the paper; without measured times."""
    return {
        "pairs": [list(pair) for pair in comparison.pairs],
        "groups": [
            {
                "backbone": group.backbone,
                "weights": dict(group.rows[0].run.metrics["weights"]),
                "num_segments": group.num_segments,
                "signature": group.signature,
                "verdict": verdict_of(group),
                "indistinct": [[row.run.name for row in members] for members in indistinct_sets(group)],
                "rows": [{**_record(row), **_gain_of(row)} for row in group.rows],
                "tests": [
                    {
                        "a": test.a.run.name,
                        "b": test.b.run.name,
                        "points": _rounded(test.difference.points.value),
                        "low": _rounded(test.difference.points.low),
                        "high": _rounded(test.difference.points.high),
                        "test": test.difference.test,
                        "knows_seeds": test.difference.knows_seeds,
                        "p": _significant(test.difference.p_value),
                        "p_adjusted": _significant(test.p_adjusted),
                    }
                    for test in group.tests
                ],
                "paper": [
                    {
                        "column": agreement.column.name,
                        "recipe": agreement.recipe,
                        "same_data": agreement.column.same_data,
                        "num_heads": agreement.num_heads,
                        "rank_correlation": _rounded(agreement.correlation),
                    }
                    for agreement in group.agreements
                ],
                **budget_json(group.rows),
            }
            for group in comparison.groups
        ],
    }


def measured_json(comparison: Comparison) -> dict[str, Any]:
    """Return the measurements of each run on this machine, which differ between runs of the command."""
    return {
        row.run.name: {
            "latency_ms": None if row.cost is None else row.cost.latency_ms,
            "memory_bytes": None if row.cost is None else row.cost.memory_bytes,
            "training_seconds": row.training_seconds,
            "time_share_percent": row.time_share,
        }
        for row in comparison.rows
    }


def _record(row: Row) -> dict[str, Any]:
    run, complexity = row.run, row.complexity
    return {
        "cell": run.name,
        "backbone": run.backbone,
        "weights": run.weights,
        "head": run.head,
        "trained": "end to end" if run.is_finetuned else "head",
        "recipe": run.recipe,
        "num_segments": run.num_segments,
        "maps": complexity.maps if complexity else None,
        "parameters": complexity.parameters if complexity else None,
        "macs": complexity.macs if complexity else None,
        "num_seeds": len(row.top1_of_seeds),
        "selected_on": run.selected_on,
        "reported_on": run.reported_on,
        "selected_on_reported": run.is_selected_on_reported,
        "num_report": len(run.predictions.clip_ids),
        "num_groups": run.predictions.num_groups,
        "num_failed": run.metrics.get("num_failed"),
        "top1": _rounded(row.top1.value),
        "top1_low": _rounded(row.top1.low),
        "top1_high": _rounded(row.top1.high),
        "top1_std": _rounded(row.top1_std),
        **{name: _rounded(row.metrics[name]) for name in OTHER_SHARES},
        "pairs": _rounded(row.pairs.value) if row.pairs else None,
        "pairs_low": _rounded(row.pairs.low) if row.pairs else None,
        "pairs_high": _rounded(row.pairs.high) if row.pairs else None,
        **{f"{name}_drop": _rounded(row.order_test_drops.get(name)) for name in ("shuffled", "reversed", "repeated")},
        "order": row.order,
        "uses_order": uses_order(row),
        **_interval_record("shuffled_drop", shuffled_loss(row)),
        "ece": _rounded(run.metrics.get("ece")),
        "calibrated_loss": run.calibrated.get("loss"),
        "calibrated_ece": run.calibrated.get("ece"),
        "paper_top1": row.paper_top1,
    }


def _interval_record(name: str, interval: Interval | None) -> dict[str, float | None]:
    return {
        f"{name}_low": None if interval is None else _rounded(interval.low),
        f"{name}_high": None if interval is None else _rounded(interval.high),
    }


def _gain_of(row: Row) -> dict[str, Any]:
    return {"gain": row.run.metrics["gain"]} if "gain" in row.run.metrics else {}


def _rounded(value: float | None, digits: int = 4) -> float | None:
    # Adding zero turns -0.0 into 0.0.
    return None if value is None else round(float(value), digits) + 0.0


def _significant(p_value: float) -> float:
    """Round to six significant digits, so that no p-value becomes 0."""
    return float(f"{p_value:.6g}")
