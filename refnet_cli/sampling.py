"""From regions to batches: where labels lie, what each pixel is for, and crops drawn from what is learned from."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
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

from refnet_cli.card import UNITS, Card, Modality
from refnet_cli.errors import InputError, RefnetError
from refnet_cli.gaps import fill_gaps
from refnet_cli.labels import Labels, open_labels
from refnet_cli.prediction.predict import read_tile, reading_threads
from refnet_cli.regions import TrainConfig, TrainScene
from refnet_cli.scene import Patch, ScenePair
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
STATISTICS_CROPS = 128
MEASURED = 2**31
"""In place of a step's number, for crops that are measured."""
MOST_OPEN, KEPT_BLOCKS = 256, 8
"""Regions that are open at once, and blocks of 512 x 512 pixels that each keeps at most."""
ATTEMPTS = 1000

Counts = NDArray[np.int64]


class Region:
    """A scene pair and its labels, opened; one thread at a time may read from it."""

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
            return cls(scene, pair, labels)
        except RefnetError:
            pair.close()
            raise

    @property
    def decided(self) -> dict[str, Any]:
        """What was found out of the files that a mistake would spoil the training with."""
        optical = ("optical.bands", "optical.level", "optical.scale", "optical.offset")
        decisive = (*optical, "sar.bands", "sar.scale", "coreg")
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
        """Read the labels of a window inside the grid; 0 where there is none or a sensor saw nothing."""
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
    """Count the labelled pixels of a scene that both sensors saw."""
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


class Crop(NamedTuple):
    """Inputs in physical units, (Bo, H, W) and (Bs, H, W), NaN where there is no data, and labels (H, W)."""

    optical: NDArray[np.float32]
    sar: NDArray[np.float32]
    labels: NDArray[np.uint8]


class Batch(NamedTuple):
    """Standardised inputs and labels, (N, Bo, H, W), (N, Bs, H, W) and (N, H, W)."""

    optical: Tensor
    sar: Tensor
    labels: Tensor


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
        self._scenes = scenes
        self._regions = _OpenRegions(scenes, config)
        self._places = np.concatenate([
            np.insert(look.training.windows, 0, index, axis=1) for index, look in enumerate(scenes)
        ])  # fmt: skip
        counts = np.concatenate([look.training.counts for look in scenes])
        if not counts.sum():
            raise InputError("No labelled pixel that both sensors saw is left to learn from.")
        present = counts[:, counts.any(0)]
        chances = counts.sum(1) if config.sampling == "area" else (present / present.sum(0)).sum(1)
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
        for _ in range(ATTEMPTS):
            index, window = self._choose(random)
            try:
                patch, labels = self._regions.read(index, window)
            except InputError:
                self._skip("unreadable")
                continue
            inside = window.clip(*self._scenes[index].grid.shape)
            roles = np.zeros(labels.shape, np.uint8)
            top, left = inside.row - window.row, inside.column - window.column
            roles[top : top + inside.height, left : left + inside.width] = self._scenes[index].roles.read(inside)
            labels[roles != TRAIN] = 0
            if not labels.any():
                self._skip("unlabelled")
                continue
            if not augmented:
                return Crop(patch.optical, patch.sar, labels)
            # Before a sensor is dropped, which has to stay without data.
            crop = Crop(fill_gaps(patch.optical[None])[0], fill_gaps(patch.sar[None])[0], labels)
            return augment(crop, random, self._config.jitter, self._config.modality_dropout)
        raise InputError(f"{ATTEMPTS} crops in a row could not be read or had no labelled pixel that both sensors saw.")

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
            for start, size in zip(starts, self._scenes[index].grid.shape, strict=True)
        )
        return index, Window(top, left, crop, crop)


class _OpenRegions:
    """Regions that are opened when needed and closed when too many are open; threads may read at the same time."""

    def __init__(self, scenes: Sequence[SurveyedScene], config: TrainConfig) -> None:
        self._scenes, self._config = scenes, config
        self._kept_blocks = min(max(MOST_OPEN // (config.workers * len(scenes)), 1), KEPT_BLOCKS)
        self._lock = threading.Lock()
        # A band may have a file of its own, and systems let a process have about a thousand open.
        given = [path for surveyed in scenes for path in (surveyed.scene.optical, surveyed.scene.sar)]
        single = all(isinstance(path, Path) and path.is_file() for path in given)
        files = 3 if single else len(config.optical_bands) + len(config.sar_bands) + 1
        self._most = max(3 * MOST_OPEN // files, 1)
        # Each thread has its own, so that none waits for another.
        self._open: OrderedDict[tuple[int, int], _OpenRegion] = OrderedDict()

    def read(self, index: int, window: Window) -> tuple[Patch, NDArray[np.uint8]]:
        """Read a window of a region; see `Region.read`."""
        key = index, threading.get_ident()
        with self._lock:
            opened = self._open.setdefault(key, _OpenRegion())
            self._open.move_to_end(key)
            oldest = self._open.popitem(last=False)[1] if len(self._open) > self._most else None
        if oldest is not None:
            oldest.close()
        with opened.lock:
            if opened.region is None:
                opened.region = Region.open(self._scenes[index].scene, self._config, self._kept_blocks)
            found = opened.region.read(window)
        if self._open.get(key) is not opened:  # let go while it was read
            opened.close()
        return found

    def close(self) -> None:
        """Close all."""
        while self._open:
            self._open.popitem()[1].close()


class _OpenRegion:
    """A region, once it is opened, and the lock of those who read from it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.region: Region | None = None

    def close(self) -> None:
        """Close the region when nobody reads from it."""
        with self.lock:
            if self.region is not None:
                self.region.close()
                self.region = None


def augment(crop: Crop, random: np.random.Generator, jitter: float = 0.0, modality_dropout: float = 0.0) -> Crop:
    """Turn and mirror a crop at random, and change what the sensors saw.

    Parameters
    ----------
    crop : Crop
    random : numpy.random.Generator
    jitter : float
        Standard deviation of factors on reflectance, and a tenth of that of decibels added to SAR; each is drawn once
        for all bands of a sensor and, half as large, for each of them.
    modality_dropout : float
        How likely one of the sensors, either as often, is blanked.

    Returns
    -------
    Crop
        In one of the 8 symmetries, laid out anew.
    """
    turns, mirror = int(random.integers(4)), bool(random.integers(2))
    optical, sar, labels = (_turn(array, turns, mirror) for array in crop)
    if jitter:
        for bands, apply in ((optical, np.multiply), (sar, np.add)):
            common, each = random.normal(0, jitter), random.normal(0, jitter / 2, (len(bands), 1, 1))
            change = np.exp(common + each) if apply is np.multiply else 10 * (common + each)
            apply(bands, change.astype(np.float32), out=bands)
    if modality_dropout and random.random() < modality_dropout:
        optical, sar = leave_out(optical, sar, "optical" if random.random() < 0.5 else "sar")
    return Crop(optical, sar, labels)


def _turn(array: NDArray[Any], turns: int, mirror: bool) -> NDArray[Any]:
    array = np.rot90(array, turns, axes=(-2, -1))
    # Laid out anew: views that run backwards slow torch down.
    return np.array(array[..., ::-1] if mirror else array, order="C")


def standardised(crops: Sequence[Crop], card: Card, without: str | None = None) -> Batch:
    """Make a batch of crops; ``without`` names a sensor that the network is not to see."""
    seen = [leave_out(crop.optical, crop.sar, without) for crop in crops]
    inputs = [
        Standardise(modality)(torch.from_numpy(np.stack(arrays)))
        for modality, arrays in zip((card.optical, card.sar), zip(*seen, strict=True), strict=True)
    ]
    labels = torch.from_numpy(np.stack([crop.labels for crop in crops]).astype(np.int64))
    return Batch(inputs[0], inputs[1], labels)


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


def measure(
    sampler: Sampler, config: TrainConfig, known: Mapping[str, Mapping[str, tuple[float, float]]]
) -> tuple[Modality, Modality]:
    """Means and standard deviations of the bands, from crops of what is learned from.

    Parameters
    ----------
    sampler : Sampler
    config : TrainConfig
    known : mapping
        Means and deviations to be kept instead, by ``optical`` or ``sar`` and band.

    Returns
    -------
    optical, sar : Modality
    """
    sums = {"optical": np.zeros((3, len(config.optical_bands))), "sar": np.zeros((3, len(config.sar_bands)))}
    for number in range(STATISTICS_CROPS):
        crop = sampler.draw(MEASURED, number, augmented=False)
        for name, totals in sums.items():
            values = getattr(crop, name).astype(np.float64)
            parts = np.isfinite(values), np.nan_to_num(values), np.nan_to_num(values) ** 2
            totals += [part.sum((1, 2)) for part in parts]
    made = []
    for name, bands in (("optical", config.optical_bands), ("sar", config.sar_bands)):
        found = [_statistics(*totals) for totals in sums[name].T]
        kept = [known.get(name, {}).get(band, own) for band, own in zip(bands, found, strict=True)]
        made.append(Modality(bands, UNITS[name], *map(tuple, zip(*kept, strict=True))))
    return made[0], made[1]


def see(sampler: Sampler, config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Describe what the network sees of each sensor, see `describe_seen`; of none whose input is its mean."""
    crops = (sampler.draw(MEASURED, number) for number in range(STATISTICS_CROPS))
    bands = {"optical": config.optical_bands, "sar": config.sar_bands}
    found = describe_seen(((crop.optical, crop.sar) for crop in crops), bands)
    return {name: seen for name, seen in found.items() if name != config.without}


def _statistics(count: float, total: float, squares: float) -> tuple[float, float]:
    """Mean and standard deviation, to seven digits."""
    mean = total / count
    deviation = max(squares / count - mean**2, 1e-6) ** 0.5
    return float(f"{mean:.7g}"), float(f"{deviation:.7g}")
