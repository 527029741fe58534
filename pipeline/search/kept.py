"""Keep the curves of trials until the search has ended, so that a killed search does not fit them again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pipeline.files import read_json, write_json
from pipeline.search.curve import Curve


def trial_name(digest: str) -> str:
    """Return the name of the files of a trial, without suffix."""
    return f"trial-{digest[:16]}"


def keep_curve(folder: Path, digest: str, curve: Curve) -> None:
    """Write the curve of a trial. That of a failed trial is not written, so that the trial is tried again."""
    if not curve.failure:
        write_json(folder / f"{trial_name(digest)}.json", {"digest": digest, **asdict(curve)})


def read_kept_curves(folder: Path) -> dict[str, Curve]:
    """Return the curves that `keep_curve` wrote, by digest."""
    found: dict[str, Curve] = {}
    for path in folder.glob("trial-*.json"):
        try:
            values = read_json(path)
            digest, top1, loss = values.pop("digest"), tuple(values.pop("top1")), tuple(values.pop("loss"))
            mixed = values.pop("mixed", None)
            found[digest] = Curve(top1, loss, **values, mixed=None if mixed is None else tuple(mixed))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # fitted again
    return found
