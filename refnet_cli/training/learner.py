"""The network with its optimiser, learning-rate schedule and loss, and one training step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from refnet_cli.errors import InputError, TryAgainError
from refnet_cli.model.refnet import REFNet
from refnet_cli.system.words import count
from refnet_cli.training.batches import Batch
from refnet_cli.training.checkpoint import Stateful
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import LabelledScene
from refnet_cli.training.distributed import Processes
from refnet_cli.training.history import Step
from refnet_cli.training.initialise import freeze_encoders, set_training
from refnet_cli.training.losses import choose_loss, labelled_weight, training_loss

POLYNOMIAL_POWER = 0.9


def make_optimizer(net: REFNet, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW for all parameters that are not frozen; A_log and D_skip have no weight decay, as in Mamba."""
    named = [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]
    plain = [p for name, p in named if name.endswith((".a_log", ".d_skip"))]
    decayed = [p for name, p in named if not name.endswith((".a_log", ".d_skip"))]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.schedule.learning_rate, weight_decay=config.weight_decay)


def make_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the schedule: linear warm-up, then the published polynomial decay to zero."""
    steps, warmup = config.schedule.steps, config.schedule.warmup

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return float((1 - (step - warmup) / (steps - warmup)) ** POLYNOMIAL_POWER)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def class_weights(config: TrainConfig, scenes: Sequence[LabelledScene]) -> Tensor | None:
    """Return the class weights of the loss, shape (classes,) with "no data"; None if all are equal."""
    if config.class_weights is None:
        return None
    if isinstance(config.class_weights, dict):
        chosen = [config.class_weights[name] for name in config.classes.names]
        return torch.tensor([0.0, *chosen])
    pixels = np.sum([scene.training.counts.sum(0) for scene in scenes], axis=0)
    present = pixels > 0
    weights = np.divide(pixels.sum() / present.sum(), pixels, out=np.zeros(len(pixels)), where=present)
    return torch.tensor([0.0, *weights.tolist()])


class Learner:
    """Trains a network on batches.

    Parameters
    ----------
    config : TrainConfig
    net : REFNet
        Network to train; it is moved to the processes' device.
    weights : float tensor, shape (classes,), optional
        Class weights of the loss, see `class_weights`.
    processes : Processes
    scan : str
        Kernel of the selective scan.
    """

    def __init__(
        self, config: TrainConfig, net: REFNet, weights: Tensor | None, processes: Processes, scan: str
    ) -> None:
        self._config, self._processes = config, processes
        self.net = net.to(processes.device).to(memory_format=torch.channels_last).use_scan(scan)
        if config.freeze:
            freeze_encoders(net)
        self._weights = None if weights is None else weights.to(processes.device)
        self._loss = choose_loss(config.loss, config.label_smoothing)
        self._optimizer = make_optimizer(net, config)
        self._schedule = make_schedule(self._optimizer, config)
        self._averaged = None
        if config.ema is not None:
            average = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
            self._averaged = AveragedModel(net, multi_avg_fn=average, use_buffers=True)
        self._wrapped_net, self._wrapped_optimizer = processes.prepare(net, self._optimizer)

    @property
    def stateful(self) -> dict[str, Stateful]:
        """Objects whose state belongs in a checkpoint, by name."""
        stateful: dict[str, Stateful] = {"net": self.net, "optimizer": self._optimizer, "schedule": self._schedule}
        if self._averaged is not None:
            stateful["averaged"] = self._averaged
        return stateful | self._processes.stateful

    @property
    def final(self) -> REFNet:
        """The network to validate and save: the moving average if there is one."""
        return self.net if self._averaged is None else cast(REFNet, self._averaged.module)

    def step(self, number: int, batches: list[Batch]) -> Step:
        """Take one optimiser step; accumulate gradients over the batches.

        Parameters
        ----------
        number : int
            Number of the step, from 0.
        batches : list of Batch

        Raises
        ------
        TryAgainError
            If the device runs out of memory.
        InputError
            If the loss is not finite.
        """
        config, processes = self._config, self._processes
        blank = self._blank_sensors(batches)
        # A resumed run must use the same drop path; each process uses a different one.
        torch.manual_seed((config.seed * 1_000_003 + number) * processes.count + processes.rank)
        here = [batch.to(processes.device) for batch in batches]
        # Normalise over all passes and processes, so that a pixel's influence depends only on its weight.
        weights = [labelled_weight(batch.labels, self._weights, batch.weights).float() for batch in here]
        total = processes.sum(torch.stack(weights).sum()).clamp(min=1e-12)
        rate = float(self._schedule.get_last_lr()[0])
        losses = torch.zeros(2, device=processes.device)
        self._wrapped_optimizer.zero_grad()
        for done, (batch, weight) in enumerate(zip(here, weights, strict=True), 1):
            self._set_training(blank[done - 1])
            with processes.no_sync(self._wrapped_net, done < len(here)), _explain_out_of_memory(batch):
                losses += self._learn(batch, weight / total)
        if (norm := config.schedule.clip) is not None:
            processes.clip(self._wrapped_net, norm)
        self._wrapped_optimizer.step()
        self._schedule.step()
        if self._averaged is not None:
            self._averaged.update_parameters(self.net)
        loss, auxiliary_loss = processes.sum(losses).tolist()
        if not np.isfinite(loss):
            raise InputError(
                f"The loss is {loss} at step {number}. Reduce learning_rate, or set clip to limit the gradients."
            )
        return Step(number + 1, loss, auxiliary_loss, rate)

    def _learn(self, batch: Batch, share: Tensor) -> Tensor:
        """Accumulate the gradients of a batch, and return its share of the main and auxiliary loss."""
        prediction = self._wrapped_net(*(x.contiguous(memory_format=torch.channels_last) for x in batch[:2]))
        main, auxiliary = training_loss(prediction, batch.labels, self._loss, self._weights, batch.weights)
        # Gradients are averaged over processes, so scale them to get the sum.
        self._processes.backward((main + auxiliary) * share * self._processes.count)
        return torch.stack([main.detach(), auxiliary.detach()]) * share

    def _blank_sensors(self, batches: Sequence[Batch]) -> list[list[str]]:
        """Return for each pass the sensors that no crop has in any process."""
        present = torch.tensor([[bool(batch.optical.any()), bool(batch.sar.any())] for batch in batches]).float()
        summed = self._processes.sum(present.to(self._processes.device)).tolist()
        return [[name for name, any_ in zip(("optical", "sar"), found, strict=True) if not any_] for found in summed]

    def _set_training(self, blank: Sequence[str]) -> None:
        set_training(self.net, self._config.freeze == "encoders")
        for sensor in blank:
            # The input is constant: batch norms must not divide by its zero variance.
            getattr(self.net, f"{sensor}_encoder").eval()


@contextmanager
def _explain_out_of_memory(batch: Batch) -> Iterator[None]:
    """Turn an out-of-memory error into one that states the remedy."""
    try:
        yield
    except RuntimeError as error:
        # The CPU allocator raises a plain RuntimeError.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise TryAgainError(
            f"Out of memory on {batch.labels.device} with {count(len(batch.labels), 'crop')} per pass. Raise "
            "accumulate, or reduce batch or crop."
        ) from error
