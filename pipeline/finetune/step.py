"""Make one training step on a batch that is distributed over processes and split into parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from pipeline.errors import PipelineError
from pipeline.finetune.clip_loader import Sample, collate
from pipeline.finetune.distributed import World
from pipeline.finetune.model import EndToEnd
from pipeline.finetune.state import ClipData, TrainingPlan
from pipeline.training.loss import balanced_weights
from pipeline.training.optimiser import ParameterPlan, clear_gradients, clip_gradients


class TrainingStep:
    """Gradient and update of one batch; loss and correct clips are summed on the device until `take_sums`."""

    def __init__(
        self,
        network: EndToEnd,
        plan: ParameterPlan,
        optimiser: Optimizer,
        data: ClipData,
        training_plan: TrainingPlan,
        world: World,
    ) -> None:
        self._network, self._plan, self._optimiser, self._world = network, plan, optimiser, world
        self._samples, self._training_plan = data.samples, training_plan
        self._choices = training_plan.recipe.training
        self._device = network.runtime.device
        self.scaler = network.runtime.scaler()
        if self.scaler.is_enabled() and self._choices.clip_scope == "all" and plan.left_out:
            raise PipelineError(
                "clip_scope=all accumulates the gradients of untrained parameters, which is impossible in float16 with "
                "its scaled loss. Pass --precision float32, or --clip-scope trained."
            )
        self._trained: nn.Module = world.wrap_ddp(network, self._device)
        self._class_weights = self._find_class_weights(data)
        # CPU copy: reading the device tensor would synchronise.
        self.weight_of_label: list[float] = self._class_weights.tolist()
        self._loss_sum = torch.zeros((), dtype=torch.float32, device=self._device)
        self._num_right = torch.zeros((), dtype=torch.int64, device=self._device)

    @property
    def part_size(self) -> int:
        """The number of clips that go through the model at a time."""
        own = math.ceil(self._choices.batch_size / self._world.size)
        return math.ceil(own / self._training_plan.accumulate)

    def make(self, samples: Sequence[Sample], epoch: int, step: int, total_weight: float) -> None:
        """Update the weights from this process's samples of a batch, none of which has failed.

        total_weight: summed class weights of the whole batch.
        """
        # Dropout and sampled tuples are seeded by the step, so a checkpoint needs no random state.
        key = np.random.SeedSequence([self._training_plan.seed, epoch, step, self._world.rank])
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        clear_gradients(self._plan, self._choices)
        size = self.part_size
        chunks = [samples[start : start + size] for start in range(0, len(samples), size)]
        for index, chunk in enumerate(chunks):
            with self._gradients_shared(index + 1 == len(chunks)):
                loss = self._chunk_loss(chunk)
                # DDP averages gradients over the processes; times their number, the average is the sum.
                self.scaler.scale(loss * (self._world.size / total_weight)).backward()
        if not chunks and self._world.size > 1:
            self._empty_step()
        self.scaler.unscale_(self._optimiser)
        clip_gradients(self._plan, self._choices)
        self.scaler.step(self._optimiser)
        self.scaler.update()

    def take_sums(self) -> tuple[float, int]:
        """Return the summed loss and the number of correct clips since the last call."""
        loss, num_right = float(self._loss_sum), int(self._num_right)
        self._loss_sum.zero_()
        self._num_right.zero_()
        return loss, num_right

    def _chunk_loss(self, chunk: Sequence[Sample]) -> Tensor:
        batch = collate(chunk, self._samples, self._device)
        scores = self._trained(batch.frames)
        loss = F.cross_entropy(
            scores,
            batch.labels,
            weight=self._class_weights if self._choices.class_weights != "none" else None,
            label_smoothing=self._choices.label_smoothing,
            reduction="sum",
        )
        self._loss_sum += loss.detach()
        self._num_right += (scores.detach().argmax(dim=1) == batch.labels).sum()
        return loss

    def _empty_step(self) -> None:
        """Take part in a step without a clip for this process: a zero gradient and unchanged statistics."""
        norms = [layer for layer in self._network.modules() if isinstance(layer, _BatchNorm) and layer.training]
        for layer in norms:
            layer.eval()
        size, num_segments = self._samples.input_size, self._samples.num_segments
        frames = torch.zeros((1, num_segments, size, size, 3), dtype=torch.uint8, device=self._device)
        self.scaler.scale(self._trained(frames.permute(0, 1, 4, 2, 3)).sum() * 0.0).backward()
        for layer in norms:
            layer.train()

    def _gradients_shared(self, is_last: bool) -> AbstractContextManager[object]:
        # Gradients of the parts of a batch are summed locally; only the last backward pass exchanges them.
        if is_last or not isinstance(self._trained, DistributedDataParallel):
            return nullcontext()
        return self._trained.no_sync()

    def _find_class_weights(self, data: ClipData) -> Tensor:
        num_classes = self._network.classifier.spec.num_classes
        if self._choices.class_weights == "none":
            return torch.ones(num_classes, device=self._device)
        labels = np.array([clip.label for clip in data.train], dtype=np.int64)
        return balanced_weights(labels, num_classes).to(self._device)
