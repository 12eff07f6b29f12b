"""A first look at all scenes: where labels lie, and which of them are learned from and which only scored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from odc.geo.geobox import GeoBox

from refnet_cli.errors import InputError
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.sensor import other_of
from refnet_cli.system.process import reading_threads
from refnet_cli.tiles.window import Window
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.dataset import Cells, LabelledScene, SceneFiles
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

LOG = logging.getLogger(__name__)
CELL = 64
"""Side in pixels of the cells in which labels are counted."""


class Counted(NamedTuple):
    """A square of a scene, and its labelled pixels of each class, shape (classes,)."""

    window: Window
    pixels: Int64


Squares = Mapping[Square, Counted]
"""The squares of a scene that can be read."""


def survey(config: TrainConfig) -> list[LabelledScene]:
    """Find where labels lie, and decide what is learned from and what is scored.

    Parameters
    ----------
    config : TrainConfig

    Returns
    -------
    list of LabelledScene
        One a scene, in their order.

    Raises
    ------
    RefnetError
        If scenes cannot be used, or hold too little to be divided.
    """
    scenes, squares = zip(*(_count_labels(entry, config) for entry in config.scenes), strict=True)
    windows = _hold_out(config, scenes, squares)
    held_out = [footprint(scene.grid, window) for scene, own in zip(scenes, windows, strict=True) for window in own]
    divided = []
    for scene, own in zip(_warn_once(scenes), windows, strict=True):
        trains = config.role(scene.entry) != "validation"
        divided.append(_divide(scene, Roles(scene.grid, trains, own, held_out, config.buffer), config))
    return divided


def _count_labels(entry: TrainScene, config: TrainConfig) -> tuple[LabelledScene, Squares]:
    """Count the labelled pixels of a scene that its sensors saw; all of them are learned from, for now."""
    with SceneFiles.open(entry, config, read_threads=reading_threads()) as files:
        grid = files.pair.grid
        metres = config.block
        if config.method == "random":
            metres = config.crop * _pixel_metres(grid)
        windows = cut(grid, make_lattice(grid, metres))
        files.pair.prefetch(windows.values())
        cells = {}
        for square, window in windows.items():
            with suppress(InputError):
                cells[square] = _count_window(files, window, config)
        if not cells:
            _count_window(files, next(iter(windows.values())), config)  # which tells what is wrong with it
        everything = Cells(*(np.concatenate(arrays) for arrays in zip(*cells.values(), strict=True)))
        scene = LabelledScene(
            entry, grid, files.decided, Roles(grid, True, [], [], 0), everything,
            np.zeros(everything.counts.shape[1], np.int64), len(windows) - len(cells), tuple(files.labels.warnings),
        )  # fmt: skip
    return scene, {square: Counted(windows[square], found.counts.sum(0)) for square, found in cells.items()}


def _warn_once(scenes: Sequence[LabelledScene]) -> list[LabelledScene]:
    """Leave out warnings that an earlier scene has too."""
    known: set[str] = set()
    found = []
    for scene in scenes:
        found.append(replace(scene, warnings=tuple(text for text in scene.warnings if text not in known)))
        known.update(scene.warnings)
    return found


def _pixel_metres(grid: GeoBox) -> float:
    """Side of a pixel in metres, about."""
    return grid.resolution.x / make_lattice(grid, 1.0).across


def _count_window(files: SceneFiles, window: Window, config: TrainConfig) -> Cells:
    """Count labelled pixels in the cells of a window."""
    labels = files.read_labels(window)
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


def _hold_out(config: TrainConfig, scenes: Sequence[LabelledScene], squares: Sequence[Squares]) -> list[list[Window]]:
    """Windows of each scene that are only scored."""
    counts: dict[Square, Int64] = {}
    rings: dict[Lattice, int] = {}
    for scene, own in zip(scenes, squares, strict=True):
        if config.role(scene.entry) != "divided":
            continue
        for square, (_, pixels) in own.items():
            counts[square] = counts.get(square, 0) + pixels
            rings[square.lattice] = max(rings.get(square.lattice, 0), _ring(config.buffer, scene.grid, square.lattice))
    chosen: set[Square] = set()
    if counts and config.method == "random":
        chosen = draw_squares(counts, config.validation_share, config.seed)
    elif counts:
        chosen = choose_squares(counts, rings, config.validation_share, config.seed)
    return [_scored_windows(scene, own, config, chosen) for scene, own in zip(scenes, squares, strict=True)]


def _scored_windows(scene: LabelledScene, squares: Squares, config: TrainConfig, chosen: set[Square]) -> list[Window]:
    role = config.role(scene.entry)
    if role == "validation" and not scene.unreadable:
        return [Window(0, 0, *scene.grid.shape)]
    return [
        window
        for square, (window, _) in squares.items()
        if role == "validation" or (role == "divided" and square in chosen)
    ]


def _ring(buffer: int, grid: GeoBox, lattice: Lattice) -> int:
    """Squares that a buffer in pixels of a grid reaches into."""
    reach = max(buffer * grid.resolution.x / lattice.across, buffer * -grid.resolution.y / lattice.down)
    return int(np.ceil(reach - 1e-6))


def _divide(scene: LabelledScene, roles: Roles, config: TrainConfig) -> LabelledScene:
    """Share out the labelled pixels of a scene; cells that lie on a border of roles are counted again."""
    windows, counts = scene.training
    shares = np.zeros((3, *counts.shape), np.int64)
    mixed = []
    for index, window in enumerate(windows.tolist()):
        role = roles.read(Window(*window))
        if role.min() == role.max():
            shares[role[0, 0], index] = counts[index]
        else:
            mixed.append(index)
    if mixed:
        with SceneFiles.open(scene.entry, config) as files:
            for index in mixed:
                window = Window(*windows[index].tolist())
                labels, role = files.read_labels(window), roles.read(window)
                for kind in (TRAIN, VALIDATION):
                    shares[kind, index] = np.bincount(labels[role == kind], minlength=counts.shape[1] + 1)[1:]
    kept = shares[TRAIN].any(1)
    training = Cells(windows[kept], shares[TRAIN][kept])
    return replace(scene, roles=roles, training=training, validation=shares[VALIDATION].sum(0))


def count_classes(scenes: Sequence[LabelledScene], config: TrainConfig) -> dict[str, dict[str, int]]:
    """Labelled pixels by split, ``train`` and ``validation``, and by name of class."""
    totals = {
        "train": np.sum([scene.training.counts.sum(0) for scene in scenes], axis=0),
        "validation": np.sum([scene.validation for scene in scenes], axis=0),
    }
    return {split: dict(zip(config.classes.names, pixels.tolist(), strict=True)) for split, pixels in totals.items()}


def sensors_that_suffice(config: TrainConfig, scenes: Sequence[LabelledScene]) -> list[str]:
    """Sensors, of ``optical`` and ``sar``, that the network learns to do with alone.

    Both where modality dropout blanks one at random, else those of the scenes of one sensor that are learned from, or
    the one that ``without`` leaves.
    """
    if config.modality_dropout:
        return ["optical", "sar"]
    absent = {scene.entry.absent for scene in scenes if scene.trains} | {config.without}
    return [name for name, other in (("optical", "sar"), ("sar", "optical")) if other in absent]


def sensors_learned(scenes: Sequence[LabelledScene]) -> set[str]:
    """Sensors, of ``optical`` and ``sar``, that any scene with labels to learn from has."""
    taught = [scene.entry for scene in scenes if scene.trains]
    return {name for name in ("optical", "sar") if any(entry.absent != name for entry in taught)}


def log_scenes(config: TrainConfig, scenes: Sequence[LabelledScene]) -> None:
    """Log what was decided about each scene, and what is doubtful."""
    for scene in scenes:
        LOG.info(f"{scene.name}: " + ", ".join(f"{what} {value}" for what, value in scene.decided.items()))
        if scene.unreadable:
            LOG.warning(f"{scene.name}: {scene.unreadable} blocks cannot be read and are skipped")
    log_warnings(scenes)
    alone = sensors_that_suffice(config, scenes)
    for scene in scenes:
        absent = scene.entry.absent
        if scene.scored and absent is not None and other_of(absent) not in alone:
            LOG.warning(
                f"{scene.name} is scored with {SENSORS[other_of(absent)].name} files alone, but nothing "
                f"teaches the network that: set modality_dropout, or add training scenes without {SENSORS[absent].name}"
            )
    totals = {split: sum(pixels.values()) for split, pixels in count_classes(scenes, config).items()}
    labelled = f"{totals['train']:,} to learn, {totals['validation']:,} to score"
    LOG.info(f"split: {config.method}; labelled pixels: {labelled}")
    if config.method == "random":
        LOG.warning("random patches lie next to each other, so that scores are leaky: they flatter")


def log_warnings(scenes: Sequence[LabelledScene]) -> None:
    """Log the warnings of each scene."""
    for scene in scenes:
        for warning in scene.warnings:
            LOG.warning(f"{scene.name}: {warning}")
