"""From regions to batches: where labels lie, what each pixel is for, and crops drawn from what is learned from."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from torch import Tensor

from refnet_cli.augment import Crop, augment, drop_sensor, mix
from refnet_cli.balance import chances_of_cells, number_regions
from refnet_cli.card import UNITS, Card, Modality
from refnet_cli.confidence import Confidence, ConfidentLabels
from refnet_cli.errors import InputError, OptionsError, RefnetError
from refnet_cli.gaps import fill_gaps
from refnet_cli.labels import Labels, open_labels
from refnet_cli.prediction.predict import read_tile, reading_threads
from refnet_cli.processes import started_processes
from refnet_cli.region_pool import RegionPool, choose_most
from refnet_cli.regions import TrainConfig, TrainScene
from refnet_cli.scene import BLOCK, Patch, ScenePair
from refnet_cli.seen import describe_seen
from refnet_cli.splits import (
    TRAIN,
    VALIDATION,
    Lattice,
    Roles,
    Square,
    choose_squares,
    cut,
    draw_squares,
    footprint,
    make_lattice,
)
from refnet_cli.tiling import Window
from refnet_cli.torch_engine import Standardise, leave_out

CELL = 64
"""Side in pixels of the cells in which labels are counted."""
STATISTICS_CROPS, LEAST_STATISTICS_CROPS, MOST_STATISTICS_CROPS = 128, 32, 2048
"""Crops that are measured: of all, at least of each sensor, and at most."""
MEASURED = 2**31
"""In place of a step's number, for crops that are measured."""
ATTEMPTS = 1000

Counts = NDArray[np.int64]


class Region:
    """A scene and its labels, opened; one thread at a time may read from it."""

    def __init__(self, scene: TrainScene, pair: ScenePair, labels: Labels) -> None:
        self.scene = scene
        self.pair = pair
        self.labels = labels

    @classmethod
    def open(
        cls, scene: TrainScene, config: TrainConfig, kept_blocks: int | None = None, read_threads: int = 1
    ) -> Region:
        """Open the three files; see `ScenePair.open` and `open_labels` for parameters and errors."""
        pair = ScenePair.open(
            scene.optical, scene.sar, config.optical_bands, config.sar_bands, scene.scene, kept_blocks, read_threads
        )
        try:
            meanings = config.label_codes if scene.label_codes is None else scene.label_codes
            labels = open_labels(
                scene.labels, pair.grid, config.classes, scene.label_field, meanings, scene.label_layer
            )
            return cls(scene, pair, _with_confidence(labels, scene, pair.grid))
        except RefnetError:
            pair.close()
            raise

    @property
    def decided(self) -> dict[str, Any]:
        """What was found out of the files that a mistake would spoil the training with."""
        decisive = (
            "optical.level", "optical.bands", "optical.scale", "optical.offset", "sar.bands", "sar.scale", "coreg",
        )  # fmt: skip
        return {what: value for what, value, _ in self.pair.decisions if what in decisive}

    def __enter__(self) -> Region:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self.pair.close()
        self.labels.close()

    def read_labels(self, window: Window) -> NDArray[np.uint8]:
        """Read the labels of a window inside the grid; 0 where there is none or a sensor of the scene saw nothing."""
        return np.where(self.pair.read_valid(window), self.labels.read(window), 0).astype(np.uint8)

    def read(self, window: Window) -> tuple[Patch, NDArray[np.uint8]]:
        """Read a window that may reach beyond the grid; there sensors have no data, and labels are 0."""
        patch = read_tile(self.pair, window)
        inside = window.clip(*self.pair.grid.shape)
        labels = np.zeros((window.height, window.width), np.uint8)
        top, left = inside.row - window.row, inside.column - window.column
        target = labels[top : top + inside.height, left : left + inside.width]
        target[...] = self.labels.read(inside)
        labels[~patch.valid] = 0
        return patch, labels

    def read_weights(self, window: Window) -> NDArray[np.float32]:
        """Read what each label of a window counts in the loss, (H, W); the window may reach beyond the grid."""
        weights = np.full((window.height, window.width), self.scene.label_weight, np.float32)
        if isinstance(self.labels, ConfidentLabels):
            inside = window.clip(*self.pair.grid.shape)
            top, left = inside.row - window.row, inside.column - window.column
            confidence = self.labels.confidence.read(inside)
            weights[top : top + inside.height, left : left + inside.width] *= confidence
        return weights


def _with_confidence(labels: Labels, scene: TrainScene, grid: GeoBox) -> Labels:
    """Labels with the scene's file of confidences, if it has one."""
    if scene.confidence is None:
        return labels
    try:
        return ConfidentLabels(labels, Confidence.open(scene.confidence, grid, scene.confidence_band))
    except RefnetError:
        labels.close()
        raise


class Cells(NamedTuple):
    """Small windows of a scene with the labelled pixels of each class in them."""

    windows: Counts
    """Shape (n, 4): row, column, height and width of each."""
    counts: Counts
    """Shape (n, classes), without "no data"."""


@dataclass(frozen=True)
class SurveyedScene:
    """A scene, where its labels lie, and what its pixels are for."""

    scene: TrainScene
    grid: GeoBox
    decided: dict[str, Any]
    roles: Roles
    training: Cells
    """Labelled pixels that are learned from."""
    validation: Counts
    """Labelled pixels of each class that are only scored, shape (classes,)."""
    unreadable: int = 0
    """Blocks that cannot be read, which are passed over."""
    warnings: tuple[str, ...] = ()
    """Of the labels, see `refnet_cli.labels.Labels`."""


def survey(config: TrainConfig) -> list[SurveyedScene]:
    """Find where labels lie, and decide what is learned from and what is scored.

    Parameters
    ----------
    config : TrainConfig

    Returns
    -------
    list of SurveyedScene
        One a scene, in their order.

    Raises
    ------
    RefnetError
        If scenes cannot be used, or hold too little to be divided.
    """
    found = _warn_once([_count_scene(scene, config) for scene in config.scenes])
    windows = _hold_out(config, found)
    held_out = [footprint(look.grid, window) for look, mine in zip(found, windows, strict=True) for window in mine]
    surveyed = []
    for look, mine in zip(found, windows, strict=True):
        trains = config.role(look.scene) != "validation"
        surveyed.append(_share_out(look, Roles(look.grid, trains, mine, held_out, config.buffer), config))
    return surveyed


class _Look(NamedTuple):
    """What a first look at a scene's labels shows."""

    scene: TrainScene
    grid: GeoBox
    decided: dict[str, Any]
    squares: dict[Square, Window]
    """Those that can be read."""
    cells: dict[Square, Cells]
    unreadable: int
    """How many squares cannot be read."""
    warnings: tuple[str, ...]
    """Of the labels."""


def _warn_once(looks: Sequence[_Look]) -> list[_Look]:
    """Leave out warnings that an earlier scene has too."""
    known: set[str] = set()
    found = []
    for look in looks:
        found.append(look._replace(warnings=tuple(text for text in look.warnings if text not in known)))
        known.update(look.warnings)
    return found


def _count_scene(scene: TrainScene, config: TrainConfig) -> _Look:
    """Count the labelled pixels of a scene that its sensors saw."""
    with Region.open(scene, config, read_threads=reading_threads()) as region:
        grid = region.pair.grid
        metres = config.block
        if config.method == "random":
            metres = config.crop * _pixel_metres(grid)
        squares = cut(grid, make_lattice(grid, metres))
        region.pair.expect(squares.values())
        cells = {}
        for square, window in squares.items():
            with suppress(InputError):
                cells[square] = _count_window(region, window, config)
        if not cells:
            _count_window(region, next(iter(squares.values())), config)  # which tells what is wrong with it
        readable = {square: squares[square] for square in cells}
        warnings = tuple(region.labels.warnings)
        return _Look(scene, grid, region.decided, readable, cells, len(squares) - len(cells), warnings)


def _pixel_metres(grid: GeoBox) -> float:
    """Side of a pixel in metres, about."""
    return grid.resolution.x / make_lattice(grid, 1.0).across


def _count_window(region: Region, window: Window, config: TrainConfig) -> Cells:
    """Count labelled pixels in the cells of a window."""
    labels = region.read_labels(window)
    windows, counts = [], []
    for row in range(0, window.height, CELL):
        for column in range(0, window.width, CELL):
            part = labels[row : row + CELL, column : column + CELL]
            if part.any():
                windows.append((window.row + row, window.column + column, *part.shape))
                counts.append(np.bincount(part.ravel(), minlength=config.classes.classes)[1:])
    return Cells(
        np.array(windows, np.int64).reshape(-1, 4),
        np.array(counts, np.int64).reshape(-1, config.classes.classes - 1),
    )


def _hold_out(config: TrainConfig, found: Sequence[_Look]) -> list[list[Window]]:
    """Windows of each scene that are only scored."""
    counts: dict[Square, Counts] = {}
    rings: dict[Lattice, int] = {}
    for look in found:
        if config.role(look.scene) != "divided":
            continue
        for square, cells in look.cells.items():
            counts[square] = counts.get(square, 0) + cells.counts.sum(0)
            rings[square.lattice] = max(rings.get(square.lattice, 0), _ring(config.buffer, look.grid, square.lattice))
    chosen: set[Square] = set()
    if counts and config.method == "random":
        chosen = draw_squares(counts, config.validation_share, config.seed)
    elif counts:
        chosen = choose_squares(counts, rings, config.validation_share, config.seed)
    return [_scored_windows(look, config, chosen) for look in found]


def _scored_windows(look: _Look, config: TrainConfig, chosen: set[Square]) -> list[Window]:
    role = config.role(look.scene)
    if role == "validation":
        return [Window(0, 0, *look.grid.shape)] if not look.unreadable else list(look.squares.values())
    return [window for square, window in look.squares.items() if role == "divided" and square in chosen]


def _ring(buffer: int, grid: GeoBox, lattice: Lattice) -> int:
    """Squares that a buffer in pixels of a grid reaches into."""
    reach = max(buffer * grid.resolution.x / lattice.across, buffer * -grid.resolution.y / lattice.down)
    return int(np.ceil(reach - 1e-6))


def _share_out(look: _Look, roles: Roles, config: TrainConfig) -> SurveyedScene:
    """Share out the labelled pixels of a scene; cells that lie on a border of roles are counted anew."""
    windows, counts = (np.concatenate(parts) for parts in zip(*look.cells.values(), strict=True))
    shares = np.zeros((3, *counts.shape), np.int64)
    mixed = []
    for index, window in enumerate(windows.tolist()):
        role = roles.read(Window(*window))
        if role.min() == role.max():
            shares[role[0, 0], index] = counts[index]
        else:
            mixed.append(index)
    if mixed:
        with Region.open(look.scene, config) as region:
            for index in mixed:
                window = Window(*windows[index].tolist())
                labels, role = region.read_labels(window), roles.read(window)
                for kind in (TRAIN, VALIDATION):
                    shares[kind, index] = np.bincount(labels[role == kind], minlength=counts.shape[1] + 1)[1:]
    kept = shares[TRAIN].any(1)
    training = Cells(windows[kept], shares[TRAIN][kept])
    validation = shares[VALIDATION].sum(0)
    return SurveyedScene(
        look.scene, look.grid, look.decided, roles, training, validation, look.unreadable, look.warnings
    )


def count_classes(scenes: Sequence[SurveyedScene], config: TrainConfig) -> dict[str, dict[str, int]]:
    """Labelled pixels by split, ``train`` and ``validation``, and by name of class."""
    totals = {
        "train": np.sum([look.training.counts.sum(0) for look in scenes], axis=0),
        "validation": np.sum([look.validation for look in scenes], axis=0),
    }
    return {split: dict(zip(config.classes.names, pixels.tolist(), strict=True)) for split, pixels in totals.items()}


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


def sensors_that_suffice(config: TrainConfig, scenes: Sequence[SurveyedScene]) -> list[str]:
    """Sensors, of ``optical`` and ``sar``, that the network learns to do with alone.

    Both where modality dropout blanks one at random, else those of the scenes of one sensor that are learned from, or
    the one that ``without`` leaves.
    """
    if config.modality_dropout:
        return ["optical", "sar"]
    absent = {look.scene.absent for look in scenes if look.training.counts.any()} | {config.without}
    return [name for name, other in (("optical", "sar"), ("sar", "optical")) if other in absent]


def sensors_learned(scenes: Sequence[SurveyedScene]) -> set[str]:
    """Sensors, of ``optical`` and ``sar``, that any scene with labels to learn from has."""
    taught = [look.scene for look in scenes if look.training.counts.any()]
    return {name for name in ("optical", "sar") if any(scene.absent != name for scene in taught)}


def measure(
    sampler: Sampler, config: TrainConfig, known: Mapping[str, Mapping[str, tuple[float, float]]]
) -> tuple[Modality, Modality]:
    """Means and standard deviations of the bands, from crops of what is learned from.

    There are 128 crops, and more where scenes lack a sensor that would else be in fewer than 32. A sensor that the
    config leaves out and no scene has gets a mean of 0 and a deviation of 1.

    Parameters
    ----------
    sampler : Sampler
    config : TrainConfig
    known : mapping
        Means and deviations to be kept instead, by ``optical`` or ``sar`` and band.

    Returns
    -------
    optical, sar : Modality

    Raises
    ------
    OptionsError
        If a sensor that is not left out is in no scene that is learned from.
    InputError
        If crops hold no values of a sensor.
    """
    bands = {"optical": config.optical_bands, "sar": config.sar_bands}
    sums = {name: np.zeros((3, len(of_sensor))) for name, of_sensor in bands.items()}
    there = sensors_learned(sampler.scenes)
    for name in bands.keys() - there - {config.without}:
        raise OptionsError(
            f'No scene that is learned from has {name} files. Write without = "{name}" to train for the other sensor '
            "alone, or add scenes of both sensors."
        )
    crops_with = dict.fromkeys(there, 0)
    for number in range(MOST_STATISTICS_CROPS):
        if number >= STATISTICS_CROPS and min(crops_with.values()) >= LEAST_STATISTICS_CROPS:
            break
        crop = sampler.draw(MEASURED, number, augmented=False)
        for name, totals in sums.items():
            values = getattr(crop, name).astype(np.float64)
            parts = np.isfinite(values), np.nan_to_num(values), np.nan_to_num(values) ** 2
            totals += [part.sum((1, 2)) for part in parts]
            if name in there:
                crops_with[name] += bool(parts[0].any())
    for name in there:
        if not sums[name][0].all():
            raise InputError(f"{MOST_STATISTICS_CROPS} crops of what is learned from hold no {name} values to measure.")
    made = []
    for name, of_sensor in bands.items():
        found = [_statistics(*totals) for totals in sums[name].T]
        kept = [known.get(name, {}).get(band, own) for band, own in zip(of_sensor, found, strict=True)]
        made.append(Modality(of_sensor, UNITS[name], *map(tuple, zip(*kept, strict=True))))
    return made[0], made[1]


def see(sampler: Sampler, config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Describe what the network sees of each sensor, see `describe_seen`; of none whose input is its mean."""
    crops = (sampler.draw(MEASURED, number) for number in range(STATISTICS_CROPS))
    bands = {"optical": config.optical_bands, "sar": config.sar_bands}
    found = describe_seen(((crop.optical, crop.sar) for crop in crops), bands)
    return {name: seen for name, seen in found.items() if name != config.without}


def _statistics(count: float, total: float, squares: float) -> tuple[float, float]:
    """Mean and standard deviation, to seven digits; 0 and 1 of nothing."""
    if not count:
        return 0.0, 1.0
    mean = total / count
    deviation = max(squares / count - mean**2, 1e-6) ** 0.5
    return float(f"{mean:.7g}"), float(f"{deviation:.7g}")
