"""`pipeline evaluate`: compute metrics of a saved model on a split, print them, and write a result folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import click

from pipeline.errors import PipelineError
from pipeline.evaluation.result_writer import metrics_of, write_results
from pipeline.evaluation.selection import SELECTED_ON_REPORTED_NOTE, is_marked
from pipeline.manifest import read_manifest
from pipeline.model_file import load_spec
from pipeline.predict.evaluation import Evaluation, about, class_rows, evaluate_manifest, evaluate_store
from pipeline.predict.head_scorer import HeadScorer
from pipeline.predict.scorer import Scorer, open_scorer
from pipeline.progress import Progress
from pipeline.registry import VIDEO_ENCODER_NOTE
from pipeline.scratch import temporary_folder
from pipeline.settings.predict import EvaluateSettings
from pipeline.store import FeatureStore
from pipeline.video.limits import ClipLimits

logger = logging.getLogger(__name__)

NUM_SHOWN_FAULTS = 10


def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Score a split, print its metrics, write a result folder if `out` is given, and return the metrics.

    Raises:
        PipelineError: neither or both of store and manifest are given, or one of them is wrong.
    """
    if (settings.store is None) == (settings.manifest is None):
        raise PipelineError("Give either --store, for cached features, or --manifest, for clips to decode.")
    if settings.store is not None and int(settings.crops) != 1:
        raise PipelineError(
            f"`crops` (={settings.crops}) needs pixels, but a store only has the centre crop. Give --manifest."
        )
    scorer = _scorer(settings)
    split = scorer.spec.reported_on if settings.split is None else settings.split
    if settings.store is not None:
        with temporary_folder("evaluate") as scratch:
            opened = FeatureStore.open(settings.store)
            found = evaluate_store(scorer, opened, split, settings.draws, settings.seed, scratch)
        mixes = {"video_encoder": True} if opened.settings.video_encoder else {}
        source: dict[str, Any] = {"store": str(settings.store), **mixes}
    else:
        assert settings.manifest is not None
        assert isinstance(scorer, Scorer)
        read = read_manifest(settings.manifest, settings.root)
        total = sum(clip.is_labelled for clip in read.in_split(split))
        with Progress(f"{scorer.spec.head}, {split}", total) as progress:
            found = evaluate_manifest(
                scorer,
                read,
                split,
                int(settings.crops),
                settings.draws,
                settings.seed,
                progress.advance,
                ClipLimits.of(settings),
            )
        source = {"manifest": str(settings.manifest), "num_crops": int(settings.crops), "num_draws": settings.draws}
    values = about(scorer, found, split, source)
    if settings.out is None:
        figures = metrics_of([found.result], found.groups)
        metrics = {**values, "num_seeds": 1, "num_report": len(found.result.labels), **figures}
    else:
        timing = {"total_seconds": round(found.result.seconds, 3)}
        metrics = write_results(settings.out, values, scorer.classes, [found.result], timing, groups=found.groups)
    rows = class_rows(found.result, scorer.classes)
    num_groups = len({found.groups[clip_id] for clip_id in found.result.clip_ids}) if found.groups else 0
    _report_faults(found)
    click.echo(
        json.dumps({**metrics, "classes": rows}, indent=2) if settings.json else report_text(metrics, rows, num_groups)
    )
    if settings.out is not None:
        logger.info(f"Wrote {settings.out}.")
    return metrics


def _scorer(settings: EvaluateSettings) -> Scorer | HeadScorer:
    # Only clips need the network of the features, which may be missing; without it, `open_scorer` says so.
    if settings.store is not None and not load_spec(settings.model).has_backbone:
        return HeadScorer(settings.model, settings.device, settings.dtype)
    return open_scorer(settings.model, settings.device, settings.dtype, settings.compile)


def report_text(metrics: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], num_groups: int = 0) -> str:
    """Return metrics and the table of classes as text; the interval is over groups of clips if there are any."""
    report, order_tests = metrics["report"], metrics["probes"]
    weights = " (random)" if metrics["weights"]["name"] == "random" else ""
    groups = f" in {num_groups} groups" if num_groups else ""
    lines = [
        f"{metrics['backbone']}{weights}-{metrics['head']} on {metrics['reported_on']}: "
        f"{metrics['num_report']} clips{groups}, "
        f"{metrics['num_failed']} failed, {metrics['num_unlabelled']} unlabelled; views: {metrics['num_views']}",
        f"  top-1        {report['top1']:6.2f} %   95 % interval {report['top1_low']:.2f} to {report['top1_high']:.2f}",
        f"  top-5        {report['top5']:6.2f} %",
        f"  class mean   {report['mean_class_accuracy']:6.2f} %",
        f"  loss         {report['loss']:6.3f}",
        f"  calibration  {metrics['ece']:6.2f} %   expected error of the confidence (ECE)",
        "  order        " + ", ".join(f"{order_test} {top1:.2f} %" for order_test, top1 in order_tests.items()),
        *([VIDEO_ENCODER_NOTE] if metrics.get("video_encoder") else []),
        *([SELECTED_ON_REPORTED_NOTE] if is_marked(metrics) else []),
        "",
    ]
    width = max(len("class"), *(len(row["label"]) for row in rows))
    lines.append(f"{'class'.ljust(width)}  clips  recall  precision  taken most often for")
    for row in rows:
        taken = f"{row['taken_for']} ({row['taken_for_clips']})" if row["taken_for"] else ""
        line = f"{row['label'].ljust(width)}  {row['clips']:5d}  {_percent(row['recall'], 6)}"
        lines.append(f"{line}  {_percent(row['precision'], 9)}  {taken}".rstrip())
    return "\n".join(lines)


def _percent(value: float | None, width: int) -> str:
    return ("-" if value is None else f"{value:.1f}").rjust(width)


def _report_faults(found: Evaluation) -> None:
    for clip_id, _, reason in found.faults[:NUM_SHOWN_FAULTS]:
        logger.warning(f"{clip_id}: {reason}")
    if len(found.faults) > NUM_SHOWN_FAULTS:
        logger.warning(f"… and {len(found.faults) - NUM_SHOWN_FAULTS} more clips failed.")
