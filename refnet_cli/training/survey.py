"""Survey all scenes: count labelled pixels, and split them into training and validation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from odc.geo.geobox import GeoBox

from refnet_cli.errors import InputError
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.decisions import Decision, name_source
from refnet_cli.sensors.sensor import other_of
from refnet_cli.system.process import default_read_threads
from refnet_cli.system.words import count
from refnet_cli.tiles.window import Window
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.dataset import Cells, LabelledScene, SceneReader
from refnet_cli.training.splits import (
    TRAIN,
    VALIDATION,
    Block,
    BlockGrid,
    Roles,
    SplitError,
    choose_validation_blocks,
    cut_into_blocks,
    draw_validation_blocks,
    ground_box,
    make_block_grid,
)
from refnet_cli.training.store.scenes import StoredScene, load_counts, save_counts
from refnet_cli.training.store.store import Store, open_scene
from refnet_cli.types import Int64

LOG = logging.getLogger(__name__)
CELL = 64
"""Side in pixels of the cells in which labels are counted."""


class BlockLabels(NamedTuple):
    """Window of a block in a scene, and its number of labelled pixels of each class, shape (classes,)."""

    window: Window
    pixels: Int64


Blocks = Mapping[Block, BlockLabels]
"""The readable blocks of a scene."""


def survey(config: TrainConfig, store: Store | None = None) -> list[LabelledScene]:
    """Count the labelled pixels of all scenes, and split them into training and validation.

    Parameters
    ----------
    config : TrainConfig
    store : Store, optional
        Scenes are brought there, and counts of earlier surveys are taken from there.

    Returns
    -------
    list of LabelledScene
        One per scene, in the same order.

    Raises
    ------
    SplitError
        If the labelled area is too small for the split.
    InputError
        If no pixel is labelled.
    RefnetError
        If a scene is not usable.
    """
    scenes, blocks = zip(*(_count_labels(entry, config, store) for entry in config.scenes), strict=True)
    if not any(scene.trains for scene in scenes):  # before the split, all labelled pixels are for training
        raise InputError(
            f"No pixel has a class in {', '.join(sorted({str(scene.entry.labels) for scene in scenes}))} and data from "
            "the sensors, so there is nothing to learn. Check the labels: 0 and nodata are no class."
        )
    try:
        windows = _hold_out(config, scenes, blocks)
    except SplitError as error:
        error.pixels = count_pixels(scenes)
        raise
    held_out = [ground_box(scene.grid, window) for scene, own in zip(scenes, windows, strict=True) for window in own]
    divided = []
    for scene, own in zip(_warn_once(scenes), windows, strict=True):
        trains = config.role(scene.entry) != "validation"
        divided.append(_divide(scene, Roles(scene.grid, trains, own, held_out, config.buffer), config, store))
    return divided


def _count_labels(entry: TrainScene, config: TrainConfig, store: Store | None) -> tuple[LabelledScene, Blocks]:
    """Count the valid labelled pixels of a scene; before the split, all of them are for training."""
    with open_scene(entry, config, store, read_threads=default_read_threads()) as scene:
        grid = scene.grid
        metres = config.block
        if config.method == "random":
            metres = config.crop * _pixel_metres(grid)
        windows = cut_into_blocks(grid, make_block_grid(grid, metres))
        cells = _count_blocks(scene, windows, config)
        everything = Cells(*(np.concatenate(arrays) for arrays in zip(*cells.values(), strict=True)))
        found = LabelledScene(
            entry, grid, scene.decisions, Roles(grid, True, [], [], 0), everything,
            np.zeros(everything.counts.shape[1], np.int64), len(windows) - len(cells), scene.warnings,
        )  # fmt: skip
    return found, {block: BlockLabels(windows[block], own.counts.sum(0)) for block, own in cells.items()}


def _count_blocks(scene: SceneReader, windows: Mapping[Block, Window], config: TrainConfig) -> dict[Block, Cells]:
    """Count the labels in the cells of each readable block; those of a stored scene are kept for the next survey."""
    path = scene.counts_path(list(windows.values()), CELL) if isinstance(scene, StoredScene) else None
    if path and (known := load_counts(path, len(windows), config.classes.classes - 1)):
        return dict(zip(windows, known, strict=True))
    scene.prefetch(windows.values())
    cells = {}
    for block, window in windows.items():
        with suppress(InputError):
            cells[block] = _count_window(scene, window, config)
    if not cells:
        _count_window(scene, next(iter(windows.values())), config)  # raises the error again
    if path:
        save_counts(path, list(cells.values()))
    return cells


def _warn_once(scenes: Sequence[LabelledScene]) -> list[LabelledScene]:
    """Remove warnings that an earlier scene already has."""
    known: set[str] = set()
    found = []
    for scene in scenes:
        found.append(replace(scene, warnings=tuple(text for text in scene.warnings if text not in known)))
        known.update(scene.warnings)
    return found


def _pixel_metres(grid: GeoBox) -> float:
    """Return the approximate side of a pixel in metres."""
    return grid.resolution.x / make_block_grid(grid, 1.0).across


def _count_window(files: SceneReader, window: Window, config: TrainConfig) -> Cells:
    """Count the labelled pixels in each cell of a window."""
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


def _hold_out(config: TrainConfig, scenes: Sequence[LabelledScene], blocks: Sequence[Blocks]) -> list[list[Window]]:
    """Return the validation windows of each scene."""
    counts: dict[Block, Int64] = {}
    rings: dict[BlockGrid, int] = {}
    for scene, own in zip(scenes, blocks, strict=True):
        if config.role(scene.entry) != "divided":
            continue
        for block, (_, pixels) in own.items():
            counts[block] = counts.get(block, 0) + pixels
            rings[block.grid] = max(rings.get(block.grid, 0), _buffer_blocks(config.buffer, scene.grid, block.grid))
    chosen: set[Block] = set()
    if counts and config.method == "random":
        chosen = draw_validation_blocks(counts, config.validation_share, config.seed)
    elif counts:
        chosen = choose_validation_blocks(counts, rings, config.validation_share, config.seed)
    return [_validation_windows(scene, own, config, chosen) for scene, own in zip(scenes, blocks, strict=True)]


def _validation_windows(
    scene: LabelledScene, blocks: Blocks, config: TrainConfig, chosen: set[Block]
) -> list[Window]:
    role = config.role(scene.entry)
    if role == "validation" and not scene.unreadable:
        return [Window(0, 0, *scene.grid.shape)]
    return [
        window
        for block, (window, _) in blocks.items()
        if role == "validation" or (role == "divided" and block in chosen)
    ]


def _buffer_blocks(buffer: int, grid: GeoBox, block_grid: BlockGrid) -> int:
    """Return the number of blocks that a buffer in pixels extends into."""
    reach = max(buffer * grid.resolution.x / block_grid.across, buffer * -grid.resolution.y / block_grid.down)
    return int(np.ceil(reach - 1e-6))


def _divide(scene: LabelledScene, roles: Roles, config: TrainConfig, store: Store | None) -> LabelledScene:
    """Split the labelled pixels of a scene by role; count cells with several roles again."""
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
        with open_scene(scene.entry, config, store) as files:
            for index in mixed:
                window = Window(*windows[index].tolist())
                labels, role = files.read_labels(window), roles.read(window)
                for kind in (TRAIN, VALIDATION):
                    shares[kind, index] = np.bincount(labels[role == kind], minlength=counts.shape[1] + 1)[1:]
    kept = shares[TRAIN].any(1)
    training = Cells(windows[kept], shares[TRAIN][kept])
    return replace(scene, roles=roles, training=training, validation=shares[VALIDATION].sum(0))


def count_pixels(scenes: Sequence[LabelledScene]) -> int:
    """Return the number of pixels of all scenes, labelled or not."""
    return sum(scene.grid.shape[0] * scene.grid.shape[1] for scene in scenes)


def count_classes(scenes: Sequence[LabelledScene], config: TrainConfig) -> dict[str, dict[str, int]]:
    """Return the number of labelled pixels by split, ``train`` and ``validation``, and class name."""
    totals = {
        "train": np.sum([scene.training.counts.sum(0) for scene in scenes], axis=0),
        "validation": np.sum([scene.validation for scene in scenes], axis=0),
    }
    return {split: dict(zip(config.classes.names, pixels.tolist(), strict=True)) for split, pixels in totals.items()}


def sensors_usable_alone(config: TrainConfig, scenes: Sequence[LabelledScene]) -> list[str]:
    """Return the sensors, ``optical`` and ``sar``, that the network learns to use alone.

    Both with modality dropout; otherwise the sensors of training scenes that lack the other sensor, or the one that
    ``without`` leaves.
    """
    if config.modality_dropout:
        return ["optical", "sar"]
    absent = {scene.entry.absent for scene in scenes if scene.trains} | {config.without}
    return [name for name, other in (("optical", "sar"), ("sar", "optical")) if other in absent]


def training_sensors(scenes: Sequence[LabelledScene]) -> set[str]:
    """Return the sensors, ``optical`` and ``sar``, that at least one training scene has."""
    entries = [scene.entry for scene in scenes if scene.trains]
    return {name for name in ("optical", "sar") if any(entry.absent != name for entry in entries)}


def log_scenes(config: TrainConfig, scenes: Sequence[LabelledScene]) -> None:
    """Log the decisions and warnings of each scene, and the split."""
    for scene in scenes:
        LOG.info(f"{scene.name}: {describe_files(scene, config)}")
        for decision in scene.decisions:
            LOG.debug(f"{scene.name}: {decision.what} {decision.value} ({decision.how})")
        if scene.unreadable:
            are = "is" if scene.unreadable == 1 else "are"
            LOG.warning(f"{scene.name}: {count(scene.unreadable, 'block')} {are} unreadable and skipped")
    log_warnings(scenes)
    alone = sensors_usable_alone(config, scenes)
    for scene in scenes:
        absent = scene.entry.absent
        if scene.scored and absent is not None and other_of(absent) not in alone:
            LOG.warning(
                f"{scene.name} is scored with {SENSORS[other_of(absent)].name} files alone, but the network does not "
                f"learn that. Set modality_dropout, or add training scenes without {SENSORS[absent].name}."
            )
    totals = {split: sum(pixels.values()) for split, pixels in count_classes(scenes, config).items()}
    counts = f"{totals['train']:,} for training, {totals['validation']:,} for validation"
    LOG.info(f"split: {config.method}; labelled pixels: {counts}")
    if config.method != "none" and not totals["validation"]:
        LOG.warning("no labelled pixel is held out, so there are no scores, and the last network is kept")
    if config.method == "random":
        LOG.warning("random patches are next to training patches, so scores are optimistic (spatial leakage)")


def describe_files(scene: LabelledScene, config: TrainConfig) -> str:
    """Say how a scene's files are read: level, bands, offset and unit, and which of these only the pixels tell."""
    decided = {decision.what: decision for decision in scene.decisions}
    sensors = []
    for sensor, bands in (("optical", config.optical_bands), ("sar", config.sar_bands)):
        if sensor != scene.entry.absent:
            own = [decided[what] for what in decided if what.startswith(f"{sensor}.")]
            sensors.append(f"{SENSORS[sensor].name} " + ", ".join(_describe(decision, bands) for decision in own))
    if "coreg" in decided:
        sensors.append(_describe_shift(decided["coreg"].value))
    return "; ".join(sensors)


def _describe_shift(found: Mapping[str, Any]) -> str:
    """Say what came of ``coreg``."""
    if not found["accepted"]:
        return "shift of SAR unknown"
    how = "is moved" if found["applied"] else "lies off"
    return f"SAR {how} by {found['columns']:+g} columns, {found['rows']:+g} rows"


def _describe(decision: Decision, bands: Sequence[str]) -> str:
    kind, value = decision.what.partition(".")[2], decision.value
    text = f"{kind} {value:g}" if isinstance(value, float) else f"{kind} {value}"
    if kind == "bands":
        text = f"{' '.join(bands)} from bands {' '.join(map(str, value))}"
    return text + (name_source(decision.how) if decision.is_guess else "")


def log_warnings(scenes: Sequence[LabelledScene]) -> None:
    """Log the warnings of each scene."""
    for scene in scenes:
        for warning in scene.warnings:
            LOG.warning(f"{scene.name}: {warning}")
