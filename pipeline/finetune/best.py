"""Choose the weights of a training by the selection clips, and score the reported clips with them."""

from __future__ import annotations

import logging

from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import fit_temperature
from pipeline.evaluation.result_writer import Selection
from pipeline.finetune.interpolation import Weights, interpolate
from pipeline.finetune.scoring import ScoredClips
from pipeline.finetune.trainer import Finetuner

logger = logging.getLogger(__name__)


def load_selected(tuner: Finetuner, scored_start: ScoredClips | None = None) -> tuple[ScoredClips, int]:
    """Load the weights of the best epoch, or with `interpolate` the best ones between the initial ones and those.

    Return their scores of the selection clips and the epoch, 0 for the initial weights. Every process must call this.

    scored_start: scores of the initial weights, if they are known.
    """
    state = tuner.checkpoints.read_best(tuner.device)
    if state is None:
        raise PipelineError(f"The best epoch is missing in {tuner.checkpoints.folder}. Run the training again.")
    end = state["model"]
    scores = {name: values.cpu().numpy() for name, values in state["scores"].items()}
    scored = ScoredClips(
        tuple(state["clip_ids"]), state["labels"].cpu().numpy(), scores.pop("plain"), scores, faults=()
    )
    epoch = int(state["epoch"])
    if tuner.training_plan.recipe.finetune.interpolate == "start":

        def score(weights: Weights) -> ScoredClips:
            tuner.classifier.load_state_dict(weights)
            return tuner.score(tuner.data.select)

        tuner.interpolation, end, scored = interpolate(tuner.initial, end, scored, score, scored_start)
        logger.info(f"{tuner.interpolation.alpha:g} of the way from the initial weights to the trained ones is best")
        epoch = epoch if tuner.interpolation.alpha > 0 else 0
    tuner.classifier.load_state_dict(end)
    return scored, epoch


def load_best(tuner: Finetuner) -> tuple[ScoredClips, int]:
    """Load the chosen weights; return their scores of the reported clips, and the epoch.

    Every process must call this: if other clips selected the epoch, the reported ones are scored now.
    """
    scored, epoch = load_selected(tuner)
    if tuner.data.report is not tuner.data.select:
        found = scored.metrics()
        temperature = fit_temperature(scored.scores, scored.labels)
        tuner.selection = Selection(len(scored.clip_ids), found["top1"], found["loss"], temperature)
        scored = tuner.score(tuner.data.report)
        tuner.note_faults(tuner.data.plan.reported_on, scored)
    return scored, epoch
