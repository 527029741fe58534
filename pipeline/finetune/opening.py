"""Open a prepared training: its checkpoints, and the processes that decode its clips."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.finetune.clip_loader import ClipLoader
from pipeline.finetune.prepared import CommonSetup, PreparedTraining
from pipeline.finetune.trainer import Finetuner
from pipeline.training.checkpoints import CheckpointFolder


@contextmanager
def open_tuner(prepared: PreparedTraining, common: CommonSetup, name: str) -> Iterator[Finetuner]:
    """Yield a training that loads its clips and writes its checkpoints to the folder `name`.

    Raises:
        PipelineError: the training was interrupted; the message names its checkpoints.
    """
    place = prepared.checkpoints / name
    checkpoints = CheckpointFolder(place, prepared.digest, prepared.settings.keep_checkpoints)
    own_part = -(-prepared.recipe.training.batch_size // common.world.size)
    with ClipLoader(common.num_workers, num_ahead=2 * own_part) as loader, _named_interrupt(place):
        yield Finetuner(
            prepared.classifier, prepared.data, prepared.plan, common.runtime, loader, checkpoints, common.world
        )


@contextmanager
def _named_interrupt(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise PipelineError(f"Stopped. The last checkpoint is in {folder}; the same command resumes from it.") from None
