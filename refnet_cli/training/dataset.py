"""Scenes with labels: what is known of each, and how its files are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from odc.geo.geobox import GeoBox

from refnet_cli.errors import RefnetError
from refnet_cli.evaluation.confidence import Confidence, ConfidentLabels
from refnet_cli.evaluation.labels import Labels, open_labels
from refnet_cli.scene.pair import Patch, ScenePair, read_tile
from refnet_cli.system.closing import Closing
from refnet_cli.system.process import reading_threads
from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.splits import VALIDATION, Roles
from refnet_cli.types import Bool, Float32, Int64, UInt8

DECISIVE = ("optical.level", "optical.bands", "optical.scale", "optical.offset", "sar.bands", "sar.scale", "coreg")
"""What is found out of the files that a mistake would spoil a training with."""


class Cells(NamedTuple):
    """Small windows of a scene with the labelled pixels of each class in them."""

    windows: Int64
    """Shape (n, 4): row, column, height and width of each."""
    counts: Int64
    """Shape (n, classes), without "no data"."""


@dataclass(frozen=True)
class LabelledScene:
    """A scene of the config: what its files are, where its labels lie, and what each pixel is for."""

    entry: TrainScene
    """What the config says of it."""
    grid: GeoBox
    decided: dict[str, Any]
    """What was found out of its files, see `DECISIVE`."""
    roles: Roles
    training: Cells
    """Labelled pixels that are learned from."""
    validation: Int64
    """Labelled pixels of each class that are only scored, shape (classes,)."""
    unreadable: int = 0
    """Blocks that cannot be read, which are passed over."""
    warnings: tuple[str, ...] = ()
    """Of the labels, see `refnet_cli.evaluation.labels.Labels`."""

    @property
    def name(self) -> str:
        """The scene's name."""
        return self.entry.name

    @property
    def trains(self) -> bool:
        """Whether any labelled pixel is learned from."""
        return bool(self.training.counts.any())

    @property
    def scored(self) -> bool:
        """Whether any labelled pixel is only scored."""
        return bool(self.validation.any())

    def held_out(self, window: Window) -> Bool:
        """Tell which pixels of a window are only scored, shape (H, W)."""
        return np.asarray(self.roles.read(window) == VALIDATION)

    def tiling(self, side: int) -> Tiling:
        """Tiles of ``side`` pixels as ``refnet predict`` lays them by default."""
        height, width = self.grid.shape
        return Tiling.of(height, width, side)

    def open(self, config: TrainConfig) -> SceneFiles:
        """Open its files to read all that is scored, block after block; see `SceneFiles.open`."""
        return SceneFiles.open(self.entry, config, read_threads=reading_threads())


class SceneFiles(Closing):
    """The files of a scene with labels, opened; one thread at a time may read from them."""

    def __init__(self, entry: TrainScene, pair: ScenePair, labels: Labels) -> None:
        self.entry = entry
        self.pair = pair
        self.labels = labels

    @classmethod
    def open(
        cls, entry: TrainScene, config: TrainConfig, kept_blocks: int | None = None, read_threads: int = 1
    ) -> Self:
        """Open the files of sensors and labels; see `ScenePair.open` and `open_labels` for parameters and errors."""
        pair = ScenePair.open(
            entry.optical, entry.sar, config.optical_bands, config.sar_bands, entry.scene, kept_blocks, read_threads
        )
        try:
            meanings = config.label_codes if entry.label_codes is None else entry.label_codes
            labels = open_labels(
                entry.labels, pair.grid, config.classes, entry.label_field, meanings, entry.label_layer
            )
            return cls(entry, pair, _with_confidence(labels, entry, pair.grid))
        except RefnetError:
            pair.close()
            raise

    @property
    def decided(self) -> dict[str, Any]:
        """What was found out of the files, see `DECISIVE`."""
        return {what: value for what, value, _ in self.pair.decisions if what in DECISIVE}

    def close(self) -> None:
        """Close the files."""
        self.pair.close()
        self.labels.close()

    def read_labels(self, window: Window) -> UInt8:
        """Read the labels of a window inside the grid; 0 where there is none or a sensor of the scene saw nothing."""
        return np.where(self.pair.read_valid(window), self.labels.read(window), 0).astype(np.uint8)

    def read(self, window: Window) -> tuple[Patch, UInt8]:
        """Read a window that may reach beyond the grid; there sensors have no data, and labels are 0."""
        patch = read_tile(self.pair, window)
        inside = window.clip(*self.pair.grid.shape)
        labels = np.zeros((window.height, window.width), np.uint8)
        labels[inside.slices_in(window)] = self.labels.read(inside)
        labels[~patch.valid] = 0
        return patch, labels

    def read_weights(self, window: Window) -> Float32:
        """Read what each label of a window counts in the loss, (H, W); the window may reach beyond the grid."""
        weights = np.full((window.height, window.width), self.entry.label_weight, np.float32)
        if isinstance(self.labels, ConfidentLabels):
            inside = window.clip(*self.pair.grid.shape)
            weights[inside.slices_in(window)] *= self.labels.confidence.read(inside)
        return weights


def _with_confidence(labels: Labels, entry: TrainScene, grid: GeoBox) -> Labels:
    """Labels with the scene's file of confidences, if it has one."""
    if entry.confidence is None:
        return labels
    try:
        return ConfidentLabels(labels, Confidence.open(entry.confidence, grid, entry.confidence_band))
    except RefnetError:
        labels.close()
        raise
