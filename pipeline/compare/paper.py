"""The paper's Table 3 as data, and the rank correlation of our results with it.

Source: paper, Table 3. `paper_table3.csv` has the table as printed, with its source in the first lines.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from pipeline.evaluation.statistics import rank_correlation
from pipeline.registry import unknown_name

DATA_SETS = ("jester", "something")
# Labels that only these data sets have; the number of classes could also be that of other data sets.
_JESTER_LABELS = frozenset({"Drumming Fingers", "Doing other things", "Swiping Left", "Zooming In With Full Hand"})
_SOMETHING_LABELS = frozenset({"Approaching something with your camera", "Bending something so that it deforms"})
MIN_HEADS = 4


@dataclass(frozen=True)
class PaperColumn:
    """One accuracy column of Table 3. Without `same_data`, our clips are of other data, so only the order counts."""

    name: str
    title: str
    same_data: bool
    accuracies: Mapping[str, float]


@dataclass(frozen=True)
class RankAgreement:
    """Spearman's rank correlation of our top-1 with a column of Table 3, over `num_heads` heads fitted by `recipe`."""

    column: PaperColumn
    recipe: str
    num_heads: int
    correlation: float | None

    def sentence(self) -> str:
        """Return the agreement as a sentence."""
        value = "not defined" if self.correlation is None else f"{self.correlation:+.2f}"
        if self.num_heads < MIN_HEADS:
            value = f"needs {MIN_HEADS} heads"
        caution = ""
        if self.correlation is not None and not self.column.same_data:
            caution = "; other clips, so only the order of the heads is compared"
        what = f"the paper's Table 3 ({self.column.title}), {self.num_heads} heads, recipe {self.recipe}"
        return f"Rank correlation with {what}: {value}{caution}."


def paper_column(
    backbone: str, num_segments: int, classes: Sequence[str], data_set: str = "auto"
) -> PaperColumn | None:
    """Return the column of Table 3 that is nearest to a result; None if the paper does not have the backbone.

    With `data_set` `auto` the class labels decide; for other labels it is Jester, which has gestures too.

    Raises:
        PipelineError: `data_set` is neither `auto` nor a data set of Table 3.
    """
    if data_set not in ("auto", *DATA_SETS):
        raise unknown_name("data set of Table 3", data_set, ("auto", *DATA_SETS))
    family = backbone.removesuffix("_bypass")
    if family not in ("squeezenet", "bninception"):
        return None
    labels = set(classes)
    own = "jester" if labels >= _JESTER_LABELS else "something" if labels >= _SOMETHING_LABELS else None
    chosen = (own or "jester") if data_set == "auto" else data_set
    segments = 16 if chosen == "something" and num_segments >= 16 else 8
    name = f"{chosen}_{segments}_{family}"
    spelt = {
        "jester": "Jester",
        "something": "Something-Something",
        "squeezenet": "SqueezeNet",
        "bninception": "BNInception",
    }
    title = f"{spelt[chosen]}, {segments} segments, {spelt[family]}"
    accuracies = {row["head"]: float(row[name]) for row in table3()}
    return PaperColumn(name, title, own == chosen and segments == num_segments, accuracies)


def rank_agreement(column: PaperColumn, recipe: str, top1_of_heads: Mapping[str, float]) -> RankAgreement:
    """Compute the rank correlation of our top-1 with the paper's, over the heads that both have.

    With fewer than `MIN_HEADS` heads it is None: three heads in random order agree completely in one case of six.
    """
    heads = [head for head in column.accuracies if head in top1_of_heads]
    ours, theirs = [top1_of_heads[head] for head in heads], [column.accuracies[head] for head in heads]
    correlation = rank_correlation(ours, theirs) if len(heads) >= MIN_HEADS else None
    return RankAgreement(column, recipe, len(heads), correlation)


@cache
def table3() -> tuple[dict[str, str], ...]:
    """Return the rows of Table 3, one for each head."""
    text = resources.files("pipeline.compare").joinpath("paper_table3.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
