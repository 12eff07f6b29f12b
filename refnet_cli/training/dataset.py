"""Scenes with labels: what each pixel is for, and how many of each class there are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from refnet_cli.errors import InputError, RefnetError
from refnet_cli.evaluation.labels import Labels, open_labels
from refnet_cli.prediction.job import reading_threads
from refnet_cli.scene.pair import Patch, ScenePair, read_tile
from refnet_cli.tiles.window import Window
from refnet_cli.training.confidence import Confidence, ConfidentLabels
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.splits import (
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
from refnet_cli.types import Int64

CELL = 64
"""Side in pixels of the cells in which labels are counted."""


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

    windows: Int64
    """Shape (n, 4): row, column, height and width of each."""
    counts: Int64
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
    validation: Int64
    """Labelled pixels of each class that are only scored, shape (classes,)."""
    unreadable: int = 0
    """Blocks that cannot be read, which are passed over."""
    warnings: tuple[str, ...] = ()
    """Of the labels, see `refnet_cli.evaluation.labels.Labels`."""


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
    counts: dict[Square, Int64] = {}
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
