"""Open a prepared training: its checkpoints, and the processes that decode its clips."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.finetune.clip_loader import ClipLoader
from pipeline.finetune.frozen import FrozenActivations, frozen_activations
from pipeline.finetune.prepared import CommonSetup, PreparedTraining
from pipeline.finetune.trainer import Finetuner
from pipeline.folder_lock import folder_lock
from pipeline.training.checkpoints import CheckpointFolder


@contextmanager
def open_tuner(prepared: PreparedTraining, common: CommonSetup, name: str) -> Iterator[Finetuner]:
    """Yield a training that loads its clips and writes its checkpoints to the folder `name`.

    Raises:
        PipelineError: another process writes to the result folder, or the training was interrupted; then the message
            names its checkpoints.
    """
    place = prepared.checkpoints / name
    checkpoints = CheckpointFolder(place, prepared.digest, prepared.settings.keep_checkpoints)
    own_part = -(-prepared.recipe.training.batch_size // common.world.size)
    classifier, data, runtime = prepared.classifier, prepared.data, common.runtime
    with ExitStack() as stack:
        if common.world.is_main:
            stack.enter_context(folder_lock(prepared.folder))
        source: ClipLoader | FrozenActivations
        source = loader = stack.enter_context(ClipLoader(common.num_workers, num_ahead=2 * own_part))
        if prepared.is_cached:
            num_views = prepared.recipe.finetune.fixed_views
            source = stack.enter_context(frozen_activations(loader, classifier, data, runtime, num_views))
        stack.enter_context(_named_interrupt(place))
        yield Finetuner(classifier, data, prepared.plan, runtime, source, checkpoints, common.world)


@contextmanager
def _named_interrupt(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise PipelineError(f"Stopped. The last checkpoint is in {folder}; the same command resumes from it.") from None
