"""Write the result folder of a training end to end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.evaluation.result_writer import MODEL_FILE, TRIALS_FILE, write_results
from pipeline.evaluation.selection import data_sha256, groups_of
from pipeline.files import sha256_of_file, write_json
from pipeline.finetune.gain import gain_over_start
from pipeline.finetune.model import STAGE
from pipeline.finetune.prepared import PreparedTraining
from pipeline.finetune.scoring import ScoredClips
from pipeline.finetune.start import NONE
from pipeline.finetune.trainer import Finetuner
from pipeline.manifest import Manifest
from pipeline.model_file import save_model
from pipeline.search.trials import Trial, search_metrics, search_timing, trials_text
from pipeline.settings.search import Search

FAILED_FILE = "failed.json"


@dataclass(frozen=True)
class TrainedSeed:
    """A finished training of one seed."""

    prepared: PreparedTraining
    tuner: Finetuner
    scored: ScoredClips
    best_epoch: int


@dataclass(frozen=True)
class FinishedSearch:
    """The search that chose the settings of a training, and its trials. num_threads: threads of torch."""

    search: Search
    trials: Sequence[Trial]
    num_threads: int


def write_trained(
    folder: Path,
    clips: Manifest,
    trained: Sequence[TrainedSeed],
    init: str,
    precision: str,
    finished: FinishedSearch | None = None,
) -> dict[str, Any]:
    """Write model, metrics and times of all seeds, and return the metrics. The model is that of the first seed.

    finished: the search before the training, whose trials are written too.
    """
    first = trained[0]
    tuner, classifier = first.tuner, first.prepared.classifier
    recipe, plan = tuner.training_plan.recipe, tuner.data.plan
    frozen = first.prepared.settings.freeze_until
    init_selected_on = classifier.spec.selected_on
    # Without an epoch, model and selection are those of `init`.
    selected_on = plan.selected_on if tuner.choices.epochs > 0 else init_selected_on
    spec = dataclasses.replace(
        classifier.spec,
        recipe=recipe.as_dict(),
        seed=tuner.training_plan.seed,
        stage=STAGE,
        compute_dtype=precision,
        best_epoch=first.best_epoch,
        selected_on=selected_on,
        reported_on=plan.reported_on,
        init=init,
    )
    save_model(folder / MODEL_FILE, spec, classifier.head, classifier.backbone)
    failed = {clip_id: list(fault) for each in trained for clip_id, fault in each.tuner.faults.of_clip.items()}
    interpolations = {
        str(each.tuner.training_plan.seed): each.tuner.interpolation.as_dict()
        for each in trained
        if each.tuner.interpolation is not None
    }
    gain = gain_over_start([(each.scored, each.tuner.start_correct) for each in trained])
    about = {
        "stage": STAGE,
        "head": spec.head,
        "backbone": spec.backbone,
        "weights": dict(spec.weights),
        "init": init,
        "init_sha256": sha256_of_file(Path(init)) if init != NONE else None,
        "init_selected_on": init_selected_on,
        "selected_on": selected_on,
        "reported_on": plan.reported_on,
        "data": {"sha256": data_sha256(clips.clips)},
        "recipe": recipe.as_dict(),
        **({} if finished is None else {"search": search_metrics(finished.search, finished.trials)}),
        "num_segments": spec.num_segments,
        "num_classes": spec.num_classes,
        "input_size": classifier.backbone.preprocessing.input_size,
        **({} if frozen is None else {"freeze_until": frozen}),
        "map_size": spec.map_size,
        "st_block": classifier.head.st_block(spec.map_size),
        "seed": tuner.training_plan.seed,
        "precision": precision,
        "device": tuner.device.type,
        "num_processes": tuner.world.size,
        "num_train": len(tuner.data.train) - tuner.faults.num_of("train"),
        "num_failed": len(failed),
        "start": tuner.start_report,
        **({"gain": gain} if gain is not None and tuner.choices.epochs > 0 else {}),
        **({"interpolation": interpolations} if interpolations else {}),
    }
    is_cuda = tuner.device.type == "cuda"
    timing = {
        **({"peak_memory_bytes": torch.cuda.max_memory_allocated(tuner.device)} if is_cuda else {}),
        "total_seconds": round(sum(each.tuner.state.seconds() for each in trained), 3),
        "num_epochs": sum(len(each.tuner.state.history) - 1 for each in trained),
        "epochs": [times for each in trained for times in each.tuner.times],
        **({} if finished is None else {"search": search_timing(finished.trials, finished.num_threads)}),
    }
    if failed:
        write_json(folder / FAILED_FILE, failed)
    else:
        (folder / FAILED_FILE).unlink(missing_ok=True)
    results = [each.tuner.seed_result(each.scored, each.best_epoch) for each in trained]
    groups = groups_of(plan.clips_of(plan.reported_on, clips.clips))
    more = {} if finished is None else {TRIALS_FILE: trials_text(finished.trials)}
    return write_results(folder, about, spec.classes, results, timing, more, groups)
