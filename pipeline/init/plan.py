"""Choose the settings of a study from its clips, and estimate the time and disk space that they take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pipeline.init.rates import PARALLEL_HEADS, START_SECONDS, Machine
from pipeline.init.survey import Survey
from pipeline.registry import HEAD_NAMES, PAPER_HEADS, SPATIAL_HEADS, choose_heads
from pipeline.settings.init import InitSettings

MANY_CLIPS = 5_000  # training clips from which on larger batches and fewer epochs are enough
MANY_VIEWS, FEW_VIEWS = 4, 1
LEAST_SECONDS = 300.0
# Fitted whatever --minutes says: without order, with little, with all pairs, recurrent.
LEAST_HEADS = ("tsn", "mlp", "gru", "trn")
COMPARE_SECONDS = 20.0
MODEL_BYTES = 12_000_000  # in the results and in DVC's cache


@dataclass(frozen=True)
class Plan:
    """Settings of a study that follow from its clips."""

    heads: tuple[str, ...]
    left_out: Mapping[str, float]
    """Heads that do not fit into the time, with the seconds that they would take."""
    seeds: int
    epochs: int
    batch_size: int
    views: int

    @property
    def maps(self) -> tuple[str, ...]:
        """The features that the heads read."""
        return ("pooled", "spatial") if SPATIAL_HEADS & set(self.heads) else ("pooled",)


@dataclass(frozen=True)
class Estimate:
    """Seconds and bytes of the stages."""

    extract_seconds: float
    fit_seconds: float
    other_seconds: float
    store_bytes: float
    model_bytes: float

    @property
    def seconds(self) -> float:
        """Those of all stages."""
        return self.extract_seconds + self.fit_seconds + self.other_seconds


def make_plan(settings: InitSettings, found: Survey, machine: Machine) -> Plan:
    """Choose what the settings leave open.

    Without named heads, those of the paper are taken in the order of their time while their sum stays below `minutes`.
    If the small heads with three seeds do not fit, each head gets one seed.
    """
    is_large = found.num_train >= MANY_CLIPS
    epochs = settings.epochs or (15 if is_large else 30)
    views = settings.views if settings.views is not None else FEW_VIEWS if is_large else MANY_VIEWS
    batch_size = settings.batch_size or (64 if is_large else 16)
    limit = max(LEAST_SECONDS, extract_seconds(found, machine, settings.num_segments, views))
    if settings.minutes is not None:
        limit = settings.minutes * 60

    def seconds_of(head: str, seeds: int) -> float:
        return len(machine.backbones) * machine.head_seconds(head, found.num_train * epochs, seeds)

    # The machine is measured for these heads alone.
    named = choose_heads(settings.head) if settings.head else PAPER_HEADS
    small = [head for head in named if head not in PARALLEL_HEADS]
    seeds = settings.seeds or (3 if sum(seconds_of(head, 3) for head in small) <= limit else 1)
    if settings.head:
        return Plan(_in_order(named), {}, seeds, epochs, batch_size, views)
    seconds = {head: seconds_of(head, seeds) for head in PAPER_HEADS}
    chosen = set(LEAST_HEADS)
    total = sum(seconds[head] for head in chosen)
    for head in sorted(seconds, key=lambda name: seconds[name]):
        if head not in chosen and total + seconds[head] <= limit:
            chosen.add(head)
            total += seconds[head]
    left_out = {head: seconds[head] for head in PAPER_HEADS if head not in chosen}
    return Plan(_in_order(chosen), left_out, seeds, epochs, batch_size, views)


def without_extraction(plan: Plan) -> Plan:
    """Return a plan for imported features: one view, and heads that read pooled features if no maps are known."""
    heads = tuple(head for head in plan.heads if head not in SPATIAL_HEADS)
    return replace(plan, views=0, heads=heads or plan.heads)


def extract_seconds(found: Survey, machine: Machine, num_segments: int, views: int) -> float:
    """Return the seconds to decode the clips and to run the backbones over the frames of their views."""
    decode_seconds = found.num_clips * (found.decode_seconds or 0.0) / machine.cores
    num_frames = found.num_views(views) * num_segments
    return sum(
        2 * START_SECONDS + decode_seconds + num_frames / rate.frames_per_second for rate in machine.backbones.values()
    )


def estimate(plan: Plan, found: Survey, machine: Machine, num_segments: int, imports: bool = False) -> Estimate:
    """Return the time and space of a plan on this machine, if nothing else uses it.

    imports: whether features are imported instead of extracted.
    """
    rates = machine.backbones.values()
    fits = [machine.head_seconds(head, found.num_train * plan.epochs, plan.seeds) for head in plan.heads]
    frame_bytes = sum(rate.pooled_bytes + (rate.spatial_bytes if "spatial" in plan.maps else 0) for rate in rates)
    return Estimate(
        extract_seconds=START_SECONDS if imports else extract_seconds(found, machine, num_segments, plan.views),
        fit_seconds=len(rates) * sum(fits),
        other_seconds=START_SECONDS + COMPARE_SECONDS,
        store_bytes=found.num_views(plan.views) * num_segments * frame_bytes,
        model_bytes=len(rates) * len(plan.heads) * MODEL_BYTES,
    )


def _in_order(heads: Iterable[str]) -> tuple[str, ...]:
    chosen = set(heads)
    return tuple(head for head in HEAD_NAMES if head in chosen)
