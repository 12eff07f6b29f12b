"""Draw random crops from the training pixels."""

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
from refnet_cli.training.augmentation.augment import Crop, add_gap, augment, drop_sensor, mix
from refnet_cli.training.balance import cell_probabilities, index_regions
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.dataset import LabelledScene, SceneReader
from refnet_cli.training.distributed import started_processes
from refnet_cli.training.scene_pool import ScenePool, choose_pool_size
from refnet_cli.training.splits import TRAIN
from refnet_cli.training.store.store import Store, open_scene

ATTEMPTS = 1000


class Sampler:
    """Draws crops that contain training pixels. A crop depends only on the seed, the step and its number.

    Thread-safe. Unreadable crops and crops without a labelled pixel are replaced and counted in ``skipped``.

    Parameters
    ----------
    scenes : sequence of LabelledScene
    config : TrainConfig
    store : Store, optional
        Scenes that are there are read from there, with the same values.

    Raises
    ------
    InputError
        If there are no training pixels.
    """

    def __init__(
        self, scenes: Sequence[LabelledScene], config: TrainConfig, store: Store | None = None
    ) -> None:
        self._config = config
        self.scenes = scenes
        self.weighted = any(scene.entry.label_weight != 1 or scene.entry.confidence for scene in scenes)
        self.pool = open_pool(scenes, config, store)
        self._cells = np.concatenate([
            np.insert(scene.training.windows, 0, index, axis=1) for index, scene in enumerate(scenes)
        ])  # fmt: skip
        counts = np.concatenate([scene.training.counts for scene in scenes])
        if not counts.sum():
            raise InputError(
                "No training pixel has both a label and sensor data. Check the position of the labels and the split."
            )
        cells = [len(scene.training.counts) for scene in scenes]
        regions = np.repeat(index_regions([scene.entry for scene in scenes]), cells)
        # The dates of a place share its crops: each crop draws a date.
        shared = counts / np.repeat([scene.entry.dates for scene in scenes], cells)[:, None]
        probabilities = cell_probabilities(shared, regions, config)
        self._limits = np.cumsum(probabilities / probabilities.sum())
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
            The step, and the number of the crop in the step.
        augmented : bool
            Fill pixels without data as in prediction, rotate, mirror, and apply the config's augmentation. Without it
            the values are as measured.

        Raises
        ------
        InputError
            If 1000 crops in a row are not usable.
        """
        random = np.random.default_rng([self._config.seed, step, number])
        crop = self._read_labelled(random)
        if not augmented:
            return crop
        crop = self._augment(crop, random)
        if self._config.mix and random.random() < self._config.mix:
            crop = mix(crop, self._augment(self._read_labelled(random), random), random)
        return drop_sensor(crop, random, self._config.modality_dropout)

    def _augment(self, crop: Crop, random: np.random.Generator) -> Crop:
        crop = add_gap(crop, random, self._config.gaps)
        filled = crop._replace(optical=fill_gaps(crop.optical[None])[0], sar=fill_gaps(crop.sar[None])[0])
        return augment(filled, random, self._config)

    def _read_labelled(self, random: np.random.Generator) -> Crop:
        """Read random crops until one is readable and has a label."""
        for _ in range(ATTEMPTS):
            index, window = self._choose(random)
            try:
                with self.pool.borrow(index) as files:
                    patch, labels = files.read(window)
                    weights = files.read_weights(window) if self.weighted else None
            except InputError:
                self._skip("unreadable")
                continue
            labels[self.scenes[index].roles.read(window) != TRAIN] = 0
            if labels.any():
                return Crop(patch.optical, patch.sar, labels, weights)
            self._skip("unlabelled")
        raise InputError(
            f"{ATTEMPTS} crops in a row were unreadable or had no labelled pixel with data from the sensors."
        )

    def _skip(self, why: str) -> None:
        with self._lock:
            self.skipped[why] += 1

    def _choose(self, random: np.random.Generator) -> tuple[int, Window]:
        """Choose a cell with labels, a pixel in it, and a random crop around the pixel."""
        at = min(int(np.searchsorted(self._limits, random.random(), side="right")), len(self._limits) - 1)
        index, row, column, height, width = self._cells[at].tolist()
        crop = self._config.crop
        starts = row + random.integers(height), column + random.integers(width)
        top, left = (
            min(max(int(start - random.integers(crop)), 0), size - crop) if size >= crop else -((crop - size) // 2)
            for start, size in zip(starts, self.scenes[index].grid.shape, strict=True)
        )
        return index, Window(top, left, crop, crop)


def open_pool(
    scenes: Sequence[LabelledScene], config: TrainConfig, store: Store | None = None
) -> ScenePool[SceneReader]:
    """Create the pool of open scenes, with as many open files as system and memory allow."""
    training = [scene for scene in scenes if scene.trains]
    files = max((_count_files(scene.entry, config) for scene in training), default=1)
    bands = len(config.optical_bands) + len(config.sar_bands)
    block = max((_block_pixels(scene.grid) for scene in training), default=1) * (4 * bands + 1)
    most, kept_blocks = choose_pool_size(len(training) + config.workers, files, block, started_processes())
    return ScenePool(lambda index: open_scene(scenes[index].entry, config, store, kept_blocks), most)


def _count_files(scene: TrainScene, config: TrainConfig) -> int:
    """Return the maximum number of open files of a scene; each band may have its own file."""
    sensors = ((scene.optical, config.optical_bands), (scene.sar, config.sar_bands))
    files = 1 + (scene.confidence is not None)
    for path, bands in sensors:
        single = path is None or (isinstance(path, Path) and path.suffix.lower() in (".tif", ".tiff"))
        files += (path is not None) if single else len(bands)
    return files


def _block_pixels(grid: GeoBox) -> int:
    height, width = grid.shape
    return min(height, BLOCK) * min(width, BLOCK)
