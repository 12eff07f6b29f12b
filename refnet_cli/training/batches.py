"""Standardised batches of crops, read ahead of the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from refnet_cli.engines.torch_engine import Standardise, blank_sensor
from refnet_cli.model.card import Card
from refnet_cli.training.augmentation.augment import Crop
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.sampler import Sampler


class Batch(NamedTuple):
    """Standardised inputs and labels, (N, Bo, H, W), (N, Bs, H, W) and (N, H, W)."""

    optical: Tensor
    sar: Tensor
    labels: Tensor
    weights: Tensor | None = None
    """Weight of each label in the loss, (N, H, W); None if all are 1."""

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to a device."""
        weights = None if self.weights is None else self.weights.to(device)
        return Batch(self.optical.to(device), self.sar.to(device), self.labels.to(device), weights)


def standardised(crops: Sequence[Crop], card: Card, without: str | None = None) -> Batch:
    """Standardise crops and stack them to a batch; ``without`` names a sensor to hide from the network."""
    seen = [blank_sensor(crop.optical, crop.sar, without) for crop in crops]
    inputs = [
        Standardise(modality)(torch.from_numpy(np.stack(arrays)))
        for modality, arrays in zip((card.optical, card.sar), zip(*seen, strict=True), strict=True)
    ]
    labels = torch.from_numpy(np.stack([crop.labels for crop in crops]).astype(np.int64))
    weights = [crop.weights for crop in crops if crop.weights is not None]
    return Batch(inputs[0], inputs[1], labels, torch.from_numpy(np.stack(weights)) if weights else None)


def read_batches(
    sampler: Sampler, card: Card, config: TrainConfig, first: int, rank: int = 0, processes: int = 1
) -> Generator[list[Batch], None, None]:
    """Yield the batches of each step from ``first`` on, one per forward pass; threads read ahead.

    With several processes, a process gets every ``processes``-th crop of a step, starting with number ``rank``.
    """
    numbers = range(rank, config.batch, processes)
    size = len(numbers) // config.accumulate
    steps = iter(range(first, config.schedule.steps))
    with ThreadPoolExecutor(config.workers, "refnet-crops") as pool:

        def draw_next() -> list[Future[Crop]]:
            return [pool.submit(sampler.draw, step, number) for step in islice(steps, 1) for number in numbers]

        waiting = deque([draw_next(), draw_next()])
        try:
            while futures := waiting.popleft():
                crops = [future.result() for future in futures]
                waiting.append(draw_next())
                passes = [crops[start : start + size] for start in range(0, len(crops), size)]
                yield [standardised(part, card, config.without) for part in passes]
        finally:
            pool.shutdown(cancel_futures=True)
