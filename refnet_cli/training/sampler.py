"""From regions to batches: where labels lie, what each pixel is for, and crops drawn from what is learned from."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from torch import Tensor

from refnet_cli.engines.torch_engine import Standardise, leave_out
from refnet_cli.errors import InputError
from refnet_cli.model.card import Card
from refnet_cli.raster.raster import BLOCK
from refnet_cli.scene.pair import Patch
from refnet_cli.tiles.gaps import fill_gaps
from refnet_cli.tiles.window import Window
from refnet_cli.training.augment import Crop, augment, drop_sensor, mix
from refnet_cli.training.balance import chances_of_cells, number_regions
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.dataset import Region, SurveyedScene
from refnet_cli.training.distributed import started_processes
from refnet_cli.training.region_pool import RegionPool, choose_most
from refnet_cli.training.splits import (
    TRAIN,
)

STATISTICS_CROPS, LEAST_STATISTICS_CROPS, MOST_STATISTICS_CROPS = 128, 32, 2048
"""Crops that are measured: of all, at least of each sensor, and at most."""
ATTEMPTS = 1000


class Batch(NamedTuple):
    """Standardised inputs and labels, (N, Bo, H, W), (N, Bs, H, W) and (N, H, W)."""

    optical: Tensor
    sar: Tensor
    labels: Tensor
    weights: Tensor | None = None
    """What each label counts in the loss, (N, H, W); None where all count 1."""

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        weights = None if self.weights is None else self.weights.to(device)
        return Batch(self.optical.to(device), self.sar.to(device), self.labels.to(device), weights)


class Sampler:
    """Draws crops from what is learned from; a crop depends on seed, step and its number alone.

    Threads may draw at the same time. Crops that cannot be read, or turn out to have no labelled pixel, are replaced
    and counted in ``skipped``.

    Parameters
    ----------
    scenes : sequence of SurveyedScene
    config : TrainConfig

    Raises
    ------
    InputError
        If there is nothing to learn from.
    """

    def __init__(self, scenes: Sequence[SurveyedScene], config: TrainConfig) -> None:
        self._config = config
        self.scenes = scenes
        self._regions = _OpenRegions(scenes, config)
        self._places = np.concatenate([
            np.insert(look.training.windows, 0, index, axis=1) for index, look in enumerate(scenes)
        ])  # fmt: skip
        counts = np.concatenate([look.training.counts for look in scenes])
        if not counts.sum():
            raise InputError("No labelled pixel that the sensors of its scene saw is left to learn from.")
        cells = [len(look.training.counts) for look in scenes]
        regions = np.repeat(number_regions([look.scene for look in scenes]), cells)
        chances = chances_of_cells(counts, regions, config)
        self._limits = np.cumsum(chances / chances.sum())
        self.skipped: Counter[str] = Counter()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all files."""
        self._regions.close()

    def draw(self, step: int, number: int, *, augmented: bool = True) -> Crop:
        """Draw a crop.

        Parameters
        ----------
        step, number : int
            Which: the ``number``-th crop of a step.
        augmented : bool
            Fill pixels without data as predicting does, turn and mirror it, and do what else the config says. Without
            it, values are as the sensors measured them.

        Raises
        ------
        InputError
            If crop after crop cannot be used.
        """
        random = np.random.default_rng([self._config.seed, step, number])
        crop = self._find(random)
        if not augmented:
            return crop
        crop = self._change(crop, random)
        if self._config.mix and random.random() < self._config.mix:
            crop = mix(crop, self._change(self._find(random), random), random)
        return drop_sensor(crop, random, self._config.modality_dropout)

    def _change(self, crop: Crop, random: np.random.Generator) -> Crop:
        filled = crop._replace(optical=fill_gaps(crop.optical[None])[0], sar=fill_gaps(crop.sar[None])[0])
        return augment(filled, random, self._config)

    def _find(self, random: np.random.Generator) -> Crop:
        """Read a crop that can be read and has a label."""
        for _ in range(ATTEMPTS):
            index, window = self._choose(random)
            try:
                patch, labels, weights = self._regions.read(index, window)
            except InputError:
                self._skip("unreadable")
                continue
            inside = window.clip(*self.scenes[index].grid.shape)
            roles = np.zeros(labels.shape, np.uint8)
            top, left = inside.row - window.row, inside.column - window.column
            roles[top : top + inside.height, left : left + inside.width] = self.scenes[index].roles.read(inside)
            labels[roles != TRAIN] = 0
            if labels.any():
                return Crop(patch.optical, patch.sar, labels, weights)
            self._skip("unlabelled")
        raise InputError(f"{ATTEMPTS} crops in a row could not be read or had no labelled pixel that sensors saw.")

    def _skip(self, why: str) -> None:
        with self._lock:
            self.skipped[why] += 1

    def _choose(self, random: np.random.Generator) -> tuple[int, Window]:
        """Choose a place with labels and a crop that sees it, somewhere."""
        at = min(int(np.searchsorted(self._limits, random.random(), side="right")), len(self._limits) - 1)
        index, row, column, height, width = self._places[at].tolist()
        crop = self._config.crop
        starts = row + random.integers(height), column + random.integers(width)
        top, left = (
            min(max(int(start - random.integers(crop)), 0), size - crop) if size >= crop else -((crop - size) // 2)
            for start, size in zip(starts, self.scenes[index].grid.shape, strict=True)
        )
        return index, Window(top, left, crop, crop)


class _OpenRegions:
    """Regions that are opened when needed and stay open as long as files and memory allow; threads may read at once."""

    def __init__(self, scenes: Sequence[SurveyedScene], config: TrainConfig) -> None:
        self._scenes, self._config = scenes, config
        self._weighted = any(look.scene.label_weight != 1 or look.scene.confidence for look in scenes)
        taught = [look for look in scenes if look.training.counts.any()]
        count = len(taught) + config.workers
        files = max((_count_files(look.scene, config) for look in taught), default=1)
        bands = len(config.optical_bands) + len(config.sar_bands)
        block = max((_block_pixels(look.grid) for look in taught), default=1) * (4 * bands + 1)
        most, self._kept_blocks = choose_most(count, files, block, started_processes())
        self.pool = RegionPool(self._open, most)

    def _open(self, index: int) -> Region:
        return Region.open(self._scenes[index].scene, self._config, self._kept_blocks)

    def read(self, index: int, window: Window) -> tuple[Patch, NDArray[np.uint8], NDArray[np.float32] | None]:
        """Read a window of a region; see `Region.read` and `Region.read_weights`. No weights where all are 1."""
        with self.pool.borrow(index) as region:
            weights = region.read_weights(window) if self._weighted else None
            return *region.read(window), weights

    def close(self) -> None:
        """Close all."""
        self.pool.close()


def _count_files(scene: TrainScene, config: TrainConfig) -> int:
    """How many files of a scene are open at once, at most: a band may have a file of its own."""
    sensors = ((scene.optical, config.optical_bands), (scene.sar, config.sar_bands))
    files = 1 + (scene.confidence is not None)
    for path, bands in sensors:
        single = path is None or (isinstance(path, Path) and path.suffix.lower() in (".tif", ".tiff"))
        files += (path is not None) if single else len(bands)
    return files


def _block_pixels(grid: GeoBox) -> int:
    height, width = grid.shape
    return min(height, BLOCK) * min(width, BLOCK)


def standardised(crops: Sequence[Crop], card: Card, without: str | None = None) -> Batch:
    """Make a batch of crops; ``without`` names a sensor that the network is not to see."""
    seen = [leave_out(crop.optical, crop.sar, without) for crop in crops]
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
    """Yield the batches of each step from ``first`` on, read ahead by threads; one for each of the step's passes.

    With several processes, each gets every ``processes``-th crop of a step from the ``rank``-th on.
    """
    numbers = range(rank, config.batch, processes)
    size = len(numbers) // config.accumulate
    steps = iter(range(first, config.steps))
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
