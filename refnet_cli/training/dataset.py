"""Labelled scenes: their metadata after the survey, and reading of their files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from odc.geo.geobox import GeoBox

from refnet_cli.errors import RefnetError
from refnet_cli.evaluation.confidence import Confidence, ConfidentLabels
from refnet_cli.evaluation.labels import Labels, open_labels
from refnet_cli.scene.blocks import Patch, read_tile
from refnet_cli.scene.pair import ScenePair
from refnet_cli.sensors.decisions import Decision
from refnet_cli.system.closing import Closing
from refnet_cli.system.process import default_read_threads
from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.splits import VALIDATION, Roles
from refnet_cli.types import Bool, Float32, Int64, UInt8

RECORDED_DECISIONS = (
    "optical.level", "optical.bands", "optical.scale", "optical.offset", "sar.bands", "sar.scale", "coreg",
)  # fmt: skip
"""Decisions about the files that are logged and stored in the card, because a wrong one would spoil the training."""


class Cells(NamedTuple):
    """Small windows of a scene, with the number of labelled pixels of each class."""

    windows: Int64
    """Row, column, height and width, shape (n, 4)."""
    counts: Int64
    """Labelled pixels, shape (n, classes), without "no data"."""


@dataclass(frozen=True)
class LabelledScene:
    """A scene of the config after the survey: decisions about its files, label counts, and the role of each pixel."""

    entry: TrainScene
    """The scene's entry in the config."""
    grid: GeoBox
    decisions: tuple[Decision, ...]
    """Decisions about the files, with the evidence, see `RECORDED_DECISIONS`."""
    roles: Roles
    training: Cells
    """Labelled training pixels."""
    validation: Int64
    """Labelled validation pixels of each class, shape (classes,)."""
    unreadable: int = 0
    """Number of unreadable blocks, which are skipped."""
    warnings: tuple[str, ...] = ()
    """Warnings about the labels, see `refnet_cli.evaluation.labels.Labels`."""

    @property
    def name(self) -> str:
        """Name of the scene."""
        return self.entry.name

    @property
    def decided(self) -> dict[str, Any]:
        """Decisions about the files, without the evidence."""
        return {decision.what: decision.value for decision in self.decisions}

    @property
    def trains(self) -> bool:
        """Whether the scene has labelled training pixels."""
        return bool(self.training.counts.any())

    @property
    def scored(self) -> bool:
        """Whether the scene has labelled validation pixels."""
        return bool(self.validation.any())

    def held_out(self, window: Window) -> Bool:
        """Return the validation mask of a window, shape (H, W)."""
        return np.asarray(self.roles.read(window) == VALIDATION)

    def tiling(self, side: int) -> Tiling:
        """Return the default tiling of ``refnet predict`` with tiles of ``side`` pixels."""
        height, width = self.grid.shape
        return Tiling.of(height, width, side)

    def open(self, config: TrainConfig) -> SceneFiles:
        """Open the files for sequential reading in several threads; see `SceneFiles.open`."""
        return SceneFiles.open(self.entry, config, read_threads=default_read_threads())


class SceneReader(Protocol):
    """A labelled scene to read windows of: from its files, or from the training store."""

    grid: GeoBox
    decisions: tuple[Decision, ...]
    """Decisions about the files, see `RECORDED_DECISIONS`."""
    warnings: tuple[str, ...]
    """Warnings about the labels."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def close(self) -> None:
        """Release what is open."""
        ...

    def prefetch(self, windows: Iterable[Window]) -> None:
        """Announce the next windows; see `ScenePair.prefetch`."""
        ...

    def read_labels(self, window: Window) -> UInt8:
        """Read the labels of a window inside the grid; 0 where there is no label or a sensor has no data."""
        ...

    def read(self, window: Window) -> tuple[Patch, UInt8]:
        """Read sensors and labels of a window; beyond the grid there is no data, and labels are 0."""
        ...

    def read_weights(self, window: Window) -> Float32:
        """Read the weight of each label in the loss, (H, W); the window may extend beyond the grid."""
        ...


class SceneFiles(Closing):
    """The open files of a labelled scene; only one thread at a time may read from them."""

    def __init__(self, entry: TrainScene, pair: ScenePair, labels: Labels) -> None:
        self.entry = entry
        self.pair = pair
        self.labels = labels
        self.grid, self.decisions = pair.grid, recorded_decisions(pair)
        self.warnings = tuple(labels.warnings)

    @classmethod
    def open(
        cls, entry: TrainScene, config: TrainConfig, kept_blocks: int | None = None, read_threads: int = 1
    ) -> Self:
        """Open the files of sensors and labels; see `ScenePair.open` and `open_labels` for parameters and errors."""
        pair = ScenePair.open(
            entry.optical, entry.sar, config.optical_bands, config.sar_bands, entry.scene, kept_blocks, read_threads
        )
        try:
            return cls(entry, pair, open_scene_labels(entry, config, pair.grid))
        except RefnetError:
            pair.close()
            raise

    def close(self) -> None:
        """Close the files."""
        self.pair.close()
        self.labels.close()

    def prefetch(self, windows: Iterable[Window]) -> None:
        """See `ScenePair.prefetch`."""
        self.pair.prefetch(windows)

    def read_labels(self, window: Window) -> UInt8:
        """Read the labels of a window inside the grid; 0 where there is no label or a sensor has no data."""
        return np.where(self.pair.read_valid(window), self.labels.read(window), 0).astype(np.uint8)

    def read(self, window: Window) -> tuple[Patch, UInt8]:
        """Read sensors and labels of a window; beyond the grid there is no data, and labels are 0."""
        patch = read_tile(self.pair, window)
        inside = window.clip(*self.pair.grid.shape)
        labels = np.zeros((window.height, window.width), np.uint8)
        labels[inside.slices_in(window)] = self.labels.read(inside)
        labels[~patch.valid] = 0
        return patch, labels

    def read_weights(self, window: Window) -> Float32:
        """Read the weight of each label in the loss, (H, W); the window may extend beyond the grid."""
        weights = np.full((window.height, window.width), self.entry.label_weight, np.float32)
        if isinstance(self.labels, ConfidentLabels):
            inside = window.clip(*self.pair.grid.shape)
            weights[inside.slices_in(window)] *= self.labels.confidence.read(inside)
        return weights


def recorded_decisions(pair: ScenePair) -> tuple[Decision, ...]:
    """Return the decisions about a pair's files that are in `RECORDED_DECISIONS`."""
    return tuple(decision for decision in pair.decisions if decision.what in RECORDED_DECISIONS)


def open_scene_labels(entry: TrainScene, config: TrainConfig, grid: GeoBox) -> Labels:
    """Open the labels of a scene on a grid, with their confidence if it has one; see `open_labels` for errors."""
    meanings = config.label_codes if entry.label_codes is None else entry.label_codes
    labels = open_labels(entry.labels, grid, config.classes, entry.label_field, meanings, entry.label_layer)
    return _with_confidence(labels, entry, grid)


def _with_confidence(labels: Labels, entry: TrainScene, grid: GeoBox) -> Labels:
    """Add the scene's confidence file to its labels, if it has one."""
    if entry.confidence is None:
        return labels
    try:
        return ConfidentLabels(labels, Confidence.open(entry.confidence, grid, entry.confidence_band))
    except RefnetError:
        labels.close()
        raise
