"""Tell what a study will take: its clips, heads, time and disk space."""

from __future__ import annotations

from pipeline.init.plan import Estimate, Plan
from pipeline.init.rates import Machine
from pipeline.init.survey import Survey


def time_text(seconds: float) -> str:
    """Return a time in a suitable unit.

    >>> time_text(4), time_text(100), time_text(5_400), time_text(400_000)
    ('10 s', '2 min', '1.5 h', '4.6 days')
    """
    if seconds < 60:
        return f"{max(round(seconds, -1), 10):.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def size_text(num_bytes: float) -> str:
    """Return a size in a suitable unit.

    >>> size_text(1), size_text(2_500_000), size_text(3e10)
    ('1 MB', '2 MB', '30.0 GB')
    """
    return f"{max(num_bytes / 1e6, 1):.0f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.1f} GB"


def summary(found: Survey, plan: Plan, machine: Machine, taken: Estimate, imports: bool = False) -> str:
    """Return the plan with the estimate of each stage; `imports`: features are imported instead of extracted."""
    fits = f"{len(plan.heads) * len(machine.backbones)} heads x {plan.seeds} seeds x {plan.epochs} epochs"
    what = f"{', '.join(machine.backbones)}; {plan.views} views"
    first = ("import", "arrays of features") if imports else ("extract", what)
    rows = [
        (*first, taken.extract_seconds, taken.store_bytes),
        ("fit_head", fits, taken.fit_seconds, taken.model_bytes),
        ("others", "", taken.other_seconds, 0.0),
        ("together", "", taken.seconds, taken.store_bytes + taken.model_bytes),
    ]
    lines = [
        f"{found.num_clips:,} clips ({found.num_train:,} for training) of {found.num_classes:,} classes. "
        f"Estimate for {machine.cores} cores, if nothing else uses them; times may be wrong by a factor of 2:"
    ]
    for stage, what, seconds, num_bytes in rows:
        space = size_text(num_bytes) if num_bytes else ""
        lines.append(f"  {stage:<9} {what:<36} {time_text(seconds):>8}  {space:>8}".rstrip())
    lines.append(f"Heads: {', '.join(plan.heads)}.")
    if plan.left_out:
        dear = ", ".join(f"{head} ({time_text(seconds)})" for head, seconds in plan.left_out.items())
        lines.append(f"Left out, since they do not fit into --minutes: {dear}.")
    if found.decode_seconds is None and not imports:
        lines.append("None of the clips tried could be decoded, so the time of decoding is not in the estimate.")
    return "\n".join(lines)
