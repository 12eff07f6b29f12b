"""Standardised batches of crops, read ahead of the network.

Threads draw the crops and write each into its place in the batch. NumPy and SciPy leave the interpreter's lock free
while they copy, fill, draw speckle and compute, so that threads run side by side and need no copies between processes.
Each crop is augmented by itself, with random numbers of its own: its arrays are long enough that calls cost little.

For a CUDA device, batches lie in pinned memory, and the next one is copied on a stream of its own while the network
learns. Nobody has measured that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refnet_cli.engines.torch_engine import blank_sensor
from refnet_cli.model.card import Card, Modality
from refnet_cli.training.augmentation.augment import Crop
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.sampler import Sampler
from refnet_cli.types import Float32

CPU = torch.device("cpu")


class Batch(NamedTuple):
    """Standardised inputs and labels, (N, Bo, H, W), (N, Bs, H, W) and (N, H, W)."""

    optical: Tensor
    sar: Tensor
    labels: Tensor
    weights: Tensor | None = None
    """Weight of each label in the loss, (N, H, W); None if all are 1."""

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to a device; from pinned memory without waiting for the copy."""
        weights = None if self.weights is None else self.weights.to(device, non_blocking=True)
        optical, sar, labels = (part.to(device, non_blocking=True) for part in self[:3])
        return Batch(optical, sar, labels, weights)


def standardised(crops: Sequence[Crop], card: Card, without: str | None = None) -> Batch:
    """Standardise crops and stack them to a batch; ``without`` names a sensor to hide from the network."""
    batch = _empty_batch(len(crops), card, len(crops[0].labels), crops[0].weights is not None)
    for place, crop in enumerate(crops):
        _put(crop, batch, place, card, without)
    return batch


def _empty_batch(count: int, card: Card, side: int, weighted: bool, pinned: bool = False) -> Batch:
    def make(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(count, *shape, side, side, dtype=dtype, pin_memory=pinned)

    labels, weights = make(dtype=torch.int64), make() if weighted else None
    return Batch(make(len(card.optical.bands)), make(len(card.sar.bands)), labels, weights)


def _put(crop: Crop, batch: Batch, place: int, card: Card, without: str | None) -> None:
    """Write a standardised crop to its place in a batch."""
    optical, sar = blank_sensor(crop.optical, crop.sar, without)
    _standardise(optical, card.optical, batch.optical[place].numpy())
    _standardise(sar, card.sar, batch.sar[place].numpy())
    batch.labels[place].numpy()[:] = crop.labels
    if batch.weights is not None:
        batch.weights[place].numpy()[:] = crop.weights


def _standardise(image: Float32, modality: Modality, out: NDArray[np.float32]) -> None:
    """Standardise an image as `refnet_cli.engines.torch_engine.Standardise` does, with the same rounding."""
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (modality.mean, modality.std))
    np.subtract(image, mean, out=out)
    np.divide(out, std, out=out)
    if not np.isfinite(out.sum()):
        np.nan_to_num(out, copy=False)


class _Step(NamedTuple):
    """The batches of a step, which threads are filling."""

    batches: list[Batch]
    crops: list[Future[None]]


class _Device:
    """Brings batches to a device; to a CUDA device on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.pinned = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self.pinned else None  # type: ignore[no-untyped-call]

    def send(self, batches: list[Batch]) -> list[Batch]:
        """Begin to copy batches."""
        if self._stream is None:
            return batches
        with torch.cuda.stream(self._stream):
            return [batch.to(self._device) for batch in batches]

    def receive(self, batches: list[Batch]) -> list[Batch]:
        """Have what is computed next wait for the copies."""
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            for part in (part for batch in batches for part in batch if part is not None):
                part.record_stream(current)
        return batches


def read_batches(
    sampler: Sampler,
    card: Card,
    config: TrainConfig,
    first: int,
    rank: int = 0,
    processes: int = 1,
    device: torch.device = CPU,
) -> Generator[list[Batch], None, None]:
    """Yield the batches of each step from ``first`` on, one per forward pass; threads read ahead.

    With several processes, a process gets every ``processes``-th crop of a step, starting with number ``rank``. Batches
    for a CUDA device are on it, others in memory.
    """
    numbers = range(rank, config.batch, processes)
    size = len(numbers) // config.accumulate
    steps = iter(range(first, config.schedule.steps))
    to_device = _Device(device)
    with ThreadPoolExecutor(config.workers, "refnet-crops") as pool:

        def draw(step: int, number: int, batch: Batch, place: int) -> None:
            _put(sampler.draw(step, number), batch, place, card, config.without)

        def begin_next() -> list[_Step]:
            found = []
            for step in islice(steps, 1):
                batches = [
                    _empty_batch(size, card, config.crop, sampler.weighted, to_device.pinned)
                    for _ in range(config.accumulate)
                ]
                places = [(batch, place) for batch in batches for place in range(size)]
                crops = [
                    pool.submit(draw, step, number, *where) for number, where in zip(numbers, places, strict=True)
                ]
                found.append(_Step(batches, crops))
            return found

        waiting = deque(begin_next() + begin_next())
        sent: list[Batch] | None = None
        try:
            while waiting:
                step = waiting.popleft()
                for crop in step.crops:
                    crop.result()
                ready = sent or to_device.send(step.batches)
                waiting.extend(begin_next())
                sent = None
                if waiting and all(crop.done() and not crop.exception() for crop in waiting[0].crops):
                    sent = to_device.send(waiting[0].batches)
                yield to_device.receive(ready)
        finally:
            pool.shutdown(cancel_futures=True)
