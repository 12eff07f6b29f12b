"""What learns: the network with its optimiser, schedule and loss, and one step of it."""

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
from refnet_cli.training.batches import Batch
from refnet_cli.training.checkpoint import Part
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import LabelledScene
from refnet_cli.training.distributed import Processes
from refnet_cli.training.history import Step
from refnet_cli.training.initialise import freeze_encoders, set_training
from refnet_cli.training.losses import choose_loss, labelled_weight, training_loss

POLYNOMIAL_POWER = 0.9


def make_optimizer(net: REFNet, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; A_log and D_skip take no weight decay, by Mamba's convention, and what is frozen takes no part."""
    named = [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]
    plain = [p for name, p in named if name.endswith((".a_log", ".d_skip"))]
    decayed = [p for name, p in named if not name.endswith((".a_log", ".d_skip"))]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)


def make_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig) -> torch.optim.lr_scheduler.LambdaLR:
    """Rise linearly during the warm-up, then fall by the published polynomial to zero."""

    def factor(step: int) -> float:
        if step < config.warmup:
            return (step + 1) / (config.warmup + 1)
        return float((1 - (step - config.warmup) / (config.steps - config.warmup)) ** POLYNOMIAL_POWER)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def class_weights(config: TrainConfig, scenes: Sequence[LabelledScene]) -> Tensor | None:
    """What a pixel of each class counts in the loss, shape (classes,) with "no data"; None if all count alike."""
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
    """A network that learns from batches.

    Parameters
    ----------
    config : TrainConfig
    net : REFNet
        What to train; it moves to the processes' device.
    weights : float tensor, shape (classes,), optional
        What a pixel of each class counts, from `class_weights`.
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
        self._called, self._stepped = processes.prepare(net, self._optimizer)

    @property
    def parts(self) -> dict[str, Part]:
        """What a checkpoint must hold of it, by name."""
        parts: dict[str, Part] = {"net": self.net, "optimizer": self._optimizer, "schedule": self._schedule}
        if self._averaged is not None:
            parts["averaged"] = self._averaged
        return parts | self._processes.parts

    @property
    def kept(self) -> REFNet:
        """The network that is validated and kept."""
        return self.net if self._averaged is None else cast(REFNet, self._averaged.module)

    def step(self, number: int, batches: list[Batch]) -> Step:
        """Take one step of the optimiser, in as many passes as there are batches.

        Parameters
        ----------
        number : int
            Of the step, from 0.
        batches : list of Batch

        Raises
        ------
        TryAgainError
            If the device has too little memory.
        InputError
            If the loss is not finite any more.
        """
        config, processes = self._config, self._processes
        blank = self._blank_sensors(batches)
        # So that a resumed run drops the same paths; each process drops its own.
        torch.manual_seed((config.seed * 1_000_003 + number) * processes.count + processes.rank)
        here = [batch.to(processes.device) for batch in batches]
        # A labelled pixel counts by its weight alone, in whichever pass and process it is.
        weighed = [labelled_weight(batch.labels, self._weights, batch.weights).float() for batch in here]
        whole = processes.sum(torch.stack(weighed).sum()).clamp(min=1e-12)
        rate = float(self._schedule.get_last_lr()[0])
        losses = torch.zeros(2, device=processes.device)
        self._stepped.zero_grad()
        for done, (batch, weight) in enumerate(zip(here, weighed, strict=True), 1):
            self._set_training(blank[done - 1])
            with processes.waiting_with_sum(self._called, done < len(here)), _explaining_memory(batch):
                losses += self._learn(batch, weight / whole)
        if config.clip is not None:
            processes.clip(self._called, config.clip)
        self._stepped.step()
        self._schedule.step()
        if self._averaged is not None:
            self._averaged.update_parameters(self.net)
        loss, auxiliary_loss = processes.sum(losses).tolist()
        if not np.isfinite(loss):
            raise InputError(
                f"The loss became {loss} at step {number}; try a smaller learning rate, or clip gradients."
            )
        return Step(number + 1, loss, auxiliary_loss, rate)

    def _learn(self, batch: Batch, share: Tensor) -> Tensor:
        """Add a batch's gradients to those of the step, and return its part of the step's losses."""
        prediction = self._called(*(x.contiguous(memory_format=torch.channels_last) for x in batch[:2]))
        main, auxiliary = training_loss(prediction, batch.labels, self._loss, self._weights, batch.weights)
        # Gradients are averaged over processes.
        self._processes.backward((main + auxiliary) * share * self._processes.count)
        return torch.stack([main.detach(), auxiliary.detach()]) * share

    def _blank_sensors(self, batches: Sequence[Batch]) -> list[list[str]]:
        """Sensors that no crop of a pass has, in whichever process, for each pass."""
        seen = torch.tensor([[bool(batch.optical.any()), bool(batch.sar.any())] for batch in batches]).float()
        summed = self._processes.sum(seen.to(self._processes.device)).tolist()
        return [[name for name, any_ in zip(("optical", "sar"), found, strict=True) if not any_] for found in summed]

    def _set_training(self, blank: Sequence[str]) -> None:
        set_training(self.net, self._config.freeze == "encoders")
        for sensor in blank:
            # Its encoder sees a constant, whose variance of zero batch norms must not divide by.
            getattr(self.net, f"{sensor}_encoder").eval()


@contextmanager
def _explaining_memory(batch: Batch) -> Iterator[None]:
    """Turn a device's want of memory into what to do about it."""
    try:
        yield
    except RuntimeError as error:
        # The CPU's allocator raises no kind of its own.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise TryAgainError(
            f"Not enough memory on {batch.labels.device} to learn from {len(batch.labels)} crops at once: raise "
            "accumulate, or lower batch or crop."
        ) from error
