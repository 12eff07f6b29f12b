"""Estimate how long a training takes on this machine, from two steps on its scenes; nothing is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from refnet_cli.errors import OptionsError, UnavailableError
from refnet_cli.model.card import Card
from refnet_cli.model.refnet import REFNet
from refnet_cli.training.batches import read_batches
from refnet_cli.training.card import card_of_init, make_card
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import LabelledScene
from refnet_cli.training.distributed import Processes
from refnet_cli.training.fine_tuning import with_schedule
from refnet_cli.training.fit import choose_device_and_scan
from refnet_cli.training.held_out import read_held_out, scored_tiles
from refnet_cli.training.initialise import initialise_from_config
from refnet_cli.training.leakage import warn_of_leakage
from refnet_cli.training.learner import Learner, class_weights
from refnet_cli.training.sampler import Sampler
from refnet_cli.training.trainer import count_validations

LOG = logging.getLogger(__name__)
STEPS = 2
"""Steps to take; the first one, which opens files and compiles kernels, is not timed."""
BATCHES = 2
"""Batches of tiles to predict; the first one is not timed if there are more."""
AT_THE_END = 2
"""Passes over the held-out tiles after the last validation: to fit the temperature, and to score with it."""


@dataclass(frozen=True)
class Rehearsal:
    """Estimated duration of a training."""

    device: str
    steps: int
    step_seconds: float
    passes: int
    """Passes over the held-out tiles: validations, and those at the end."""
    tiles: int
    """Held-out tiles."""
    tile_seconds: float
    start_seconds: float
    """Seconds until the first step."""
    patient: bool
    """Whether there is no early stopping."""

    @property
    def seconds(self) -> float:
        """Seconds of the whole training; the maximum if it may stop early."""
        return self.start_seconds + self.steps * self.step_seconds + self.passes * self.tiles * self.tile_seconds

    def of(self, config: TrainConfig, scenes: Sequence[LabelledScene]) -> Rehearsal:
        """Return the estimate for another fold, which has the same network and batches."""
        planned = with_schedule(config.resolved(), scenes)
        tiles, passes = _count_tiles(planned, scenes)
        return replace(self, steps=planned.schedule.steps, tiles=tiles, passes=passes)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a plain dict that JSON can hold."""
        return asdict(self) | {"seconds": self.seconds}


class _EnoughError(Exception):
    """Raised when enough tiles are timed."""


def rehearse(config: TrainConfig, scenes: Sequence[LabelledScene]) -> Rehearsal:
    """Take two steps of a training and predict some of the held-out tiles.

    Parameters
    ----------
    config : TrainConfig
    scenes : sequence of LabelledScene
        Those of the config.

    Raises
    ------
    TryAgainError, UnavailableError
        If memory is short, or this machine lacks the device or the precision.
    RefnetError
        If scenes or weights are not usable.
    """
    started = time.monotonic()
    config = with_schedule(config.resolved(), scenes)
    try:
        device, scan = choose_device_and_scan(config)
    except OptionsError as error:  # the config may be for another machine
        raise UnavailableError(str(error)) from error
    processes = Processes(device, config.precision)
    initial, init = initialise_from_config(config, scenes), card_of_init(config)
    for decision in initial.decisions:
        LOG.info(decision)
    if init:
        warn_of_leakage(init, config, scenes)
    with closing(Sampler(scenes, config)) as sampler:
        card = make_card(config, sampler, initial, init, processes.count)
        learner = Learner(config, initial.net, class_weights(config, scenes), processes, scan.name)
        ready = time.monotonic()
        step_seconds = _time_steps(config, sampler, card, learner, processes.device)
    tiles, passes = _count_tiles(config, scenes)
    tile_seconds = 0.0
    if tiles:
        tile_seconds = _time_tiles(learner.final, card, scenes, config, str(processes.device), scan.name)
    return Rehearsal(
        device=str(processes.device), steps=config.schedule.steps, step_seconds=step_seconds, passes=passes,
        tiles=tiles, tile_seconds=tile_seconds, start_seconds=ready - started, patient=config.patience is None,
    )  # fmt: skip


def _count_tiles(config: TrainConfig, scenes: Sequence[LabelledScene]) -> tuple[int, int]:
    """Return how many tiles are held out, and how often they are predicted."""
    tiles = sum(len(scored_tiles(scene, config.tile)) for scene in scenes if scene.scored)
    return tiles, count_validations(config) + AT_THE_END if tiles else 0


def _time_steps(
    config: TrainConfig, sampler: Sampler, card: Card, learner: Learner, device: torch.device
) -> float:
    """Return the seconds of a step, including the wait for its crops, while later crops are read."""
    seconds = 0.0
    with closing(read_batches(sampler, card, config, 0, device=device)) as batches:
        for number in range(min(STEPS, config.schedule.steps)):
            started = time.monotonic()
            learner.step(number, next(batches))
            seconds = time.monotonic() - started
    return seconds


def _time_tiles(
    net: REFNet, card: Card, scenes: Sequence[LabelledScene], config: TrainConfig, device: str, scan: str
) -> float:
    """Return the seconds of a held-out tile, from some tiles of the scene with the most."""
    largest = max((scene for scene in scenes if scene.scored), key=lambda scene: len(scored_tiles(scene, card.tile)))
    marks = [(time.monotonic(), 0)]

    def note(done: int, total: int) -> None:
        marks.append((time.monotonic(), done))
        if len(marks) > BATCHES:
            raise _EnoughError

    with suppress(_EnoughError):
        read_held_out(net, card, [largest], config, device, scan, note)
    (before, first), (now, last) = marks[-2:]
    return (now - before) / (last - first)
