"""Crops drawn at random from what is learned from."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from refnet_cli.errors import InputError
from refnet_cli.raster.raster import BLOCK
from refnet_cli.tiles.gaps import fill_gaps
from refnet_cli.tiles.window import Window
from refnet_cli.training.augmentation.augment import Crop, augment, drop_sensor, leave_gap, mix
from refnet_cli.training.balance import chances_of_cells, number_regions
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.dataset import LabelledScene, SceneFiles
from refnet_cli.training.distributed import started_processes
from refnet_cli.training.scene_pool import ScenePool, choose_most
from refnet_cli.training.splits import TRAIN

ATTEMPTS = 1000


class Sampler:
    """Draws crops from what is learned from; a crop depends on seed, step and its number alone.

    Threads may draw at the same time. Crops that cannot be read, or turn out to have no labelled pixel, are replaced
    and counted in ``skipped``.

    Parameters
    ----------
    scenes : sequence of LabelledScene
    config : TrainConfig

    Raises
    ------
    InputError
        If there is nothing to learn from.
    """

    def __init__(self, scenes: Sequence[LabelledScene], config: TrainConfig) -> None:
        self._config = config
        self.scenes = scenes
        self._weighted = any(scene.entry.label_weight != 1 or scene.entry.confidence for scene in scenes)
        self.pool = open_pool(scenes, config)
        self._cells = np.concatenate([
            np.insert(scene.training.windows, 0, index, axis=1) for index, scene in enumerate(scenes)
        ])  # fmt: skip
        counts = np.concatenate([scene.training.counts for scene in scenes])
        if not counts.sum():
            raise InputError("No labelled pixel that the sensors of its scene saw is left to learn from.")
        cells = [len(scene.training.counts) for scene in scenes]
        regions = np.repeat(number_regions([scene.entry for scene in scenes]), cells)
        chances = chances_of_cells(counts, regions, config)
        self._limits = np.cumsum(chances / chances.sum())
        self.skipped: Counter[str] = Counter()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all files."""
        self.pool.close()

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
        crop = leave_gap(crop, random, self._config.gaps)
        filled = crop._replace(optical=fill_gaps(crop.optical[None])[0], sar=fill_gaps(crop.sar[None])[0])
        return augment(filled, random, self._config)

    def _find(self, random: np.random.Generator) -> Crop:
        """Read a crop that can be read and has a label."""
        for _ in range(ATTEMPTS):
            index, window = self._choose(random)
            try:
                with self.pool.borrow(index) as files:
                    patch, labels = files.read(window)
                    weights = files.read_weights(window) if self._weighted else None
            except InputError:
                self._skip("unreadable")
                continue
            labels[self.scenes[index].roles.read(window) != TRAIN] = 0
            if labels.any():
                return Crop(patch.optical, patch.sar, labels, weights)
            self._skip("unlabelled")
        raise InputError(f"{ATTEMPTS} crops in a row could not be read or had no labelled pixel that sensors saw.")

    def _skip(self, why: str) -> None:
        with self._lock:
            self.skipped[why] += 1

    def _choose(self, random: np.random.Generator) -> tuple[int, Window]:
        """Choose a cell with labels and a crop that sees a pixel of it, somewhere."""
        at = min(int(np.searchsorted(self._limits, random.random(), side="right")), len(self._limits) - 1)
        index, row, column, height, width = self._cells[at].tolist()
        crop = self._config.crop
        starts = row + random.integers(height), column + random.integers(width)
        top, left = (
            min(max(int(start - random.integers(crop)), 0), size - crop) if size >= crop else -((crop - size) // 2)
            for start, size in zip(starts, self.scenes[index].grid.shape, strict=True)
        )
        return index, Window(top, left, crop, crop)


def open_pool(scenes: Sequence[LabelledScene], config: TrainConfig) -> ScenePool[SceneFiles]:
    """Make the pool of the scenes' files; as many stay open as files and memory allow."""
    taught = [scene for scene in scenes if scene.trains]
    files = max((_count_files(scene.entry, config) for scene in taught), default=1)
    bands = len(config.optical_bands) + len(config.sar_bands)
    block = max((_block_pixels(scene.grid) for scene in taught), default=1) * (4 * bands + 1)
    most, kept_blocks = choose_most(len(taught) + config.workers, files, block, started_processes())
    return ScenePool(lambda index: SceneFiles.open(scenes[index].entry, config, kept_blocks), most)


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
