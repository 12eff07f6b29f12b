"""Confidence of labels, from a raster file on any grid."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from refnet_cli.errors import InputError, OptionsError, RefnetError
from refnet_cli.evaluation.labels import Labels
from refnet_cli.raster.raster import BLOCK, Raster
from refnet_cli.raster.warp import Alignment
from refnet_cli.system.closing import Closing
from refnet_cli.system.words import count
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float32

_ROUNDING = 1e-5


class Confidence:
    """A raster of confidences, resampled to a grid as numbers from 0 to 1; use ``Confidence.open``.

    A grid pixel gets the confidence at its centre, or the mean of the file's pixels inside it if these are smaller than
    half of it. No data, and the area outside of the file, have a confidence of 0.

    Attributes
    ----------
    warnings : list of str
        Warnings about the file.
    """

    def __init__(self, raster: Raster, band: int, grid: GeoBox) -> None:
        self._raster, self._band, self._grid = raster, band, grid
        self.warnings: list[str] = []
        dataset = raster.dataset
        if band > dataset.count:
            raise OptionsError(
                f"confidence_band is {band}, but the confidence file {raster.path} has {count(dataset.count, 'band')}."
            )
        whole = np.dtype(dataset.dtypes[band - 1]).kind in "iu"
        self._percent = whole and raster.scaling(band) == (1.0, 0.0)
        self._alignment = Alignment(raster, grid)
        self._method = Resampling.average if self._alignment.ratio > 2 else Resampling.nearest
        self._check_values()

    @classmethod
    def open(cls, path: str | Path, grid: GeoBox, band: int = 1) -> Self:
        """Open a confidence file and check its values.

        Parameters
        ----------
        path : str or Path
            A local GeoTIFF in any CRS and with any pixel size. Integers are percent, from 0 to 100. Floating-point
            numbers, and files with a declared scale or offset, are shares from 0 to 1.
        grid : GeoBox
            Grid to resample to.
        band : int
            Number of the band, from 1.

        Raises
        ------
        InputMissingError
            If the file is missing or unreadable.
        InputError
            If it is not usable, does not overlap the grid, or has values out of range.
        OptionsError
            If it has no such band.
        """
        raster = Raster(path, "confidence")
        try:
            with raster.error_context("is invalid"):
                return cls(raster, band, grid)
        except RefnetError:
            raster.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._raster.close()

    def _check_values(self) -> None:
        """Refuse a file with a value out of range on the grid."""
        region = self._alignment.source_window(Window(0, 0, *self._grid.shape))
        low, high = 0.0, 0.0
        for part in region.pieces(4 * BLOCK):
            values = self._shares(part)
            low, high = min(low, float(values.min())), max(high, float(values.max()))
        unit = 100 if self._percent else 1
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            wrong = low if low < -_ROUNDING else high
            meaning = "Floating-point numbers must be from 0 to 1. Divide percent by 100"
            if self._percent:
                meaning = "Integers must be percent, from 0 to 100. Scale them"
            raise InputError(
                f"The confidence file {self._raster.path} has the value {wrong * unit:g}. {meaning}, or declare the "
                "value as nodata."
            )
        if high <= 0:
            self.warnings.append(
                f"{self._raster.path} has a confidence of 0 everywhere on the scene, so its labels have no effect. "
                f"Check the file and confidence_band, which is {self._band}."
            )
        if self._percent and 0 < high <= 0.01 + _ROUNDING:
            self.warnings.append(
                f"The highest confidence in {self._raster.path} is 1%, because integers are percent. If 1 means "
                "certain, write 100 instead, or floating-point numbers from 0 to 1."
            )

    def _shares(self, source: Window) -> Float32:
        """Read a window of the file as shares; 0 where there is no data."""
        (values,), _ = self._raster.read_valid([self._band], source)
        return np.asarray(np.nan_to_num(values / np.float32(100 if self._percent else 1)), np.float32)

    def read(self, window: Window) -> Float32:
        """Read the confidence of a window inside the grid, from 0 to 1, shape (H, W).

        Raises
        ------
        InputError
            If the file is unreadable there.
        """
        out = np.zeros((window.height, window.width), np.float32)
        for part in window.pieces(BLOCK):
            self._read_part(part, out[part.slices_in(window)])
        return np.clip(np.nan_to_num(out), 0, 1)

    def _read_part(self, window: Window, out: Float32) -> None:
        source = self._alignment.source_window(window)
        if not source.height * source.width:
            return
        shares = self._shares(source)
        with self._raster.error_context(f"cannot be warped to {window} of the grid", window):
            self._alignment.warp(window, source, shares[None], out[None], self._method)


class ConfidentLabels(Closing):
    """Labels that are removed where the confidence is 0; see `refnet_cli.evaluation.labels.Labels`.

    Parameters
    ----------
    labels : Labels
    confidence : Confidence
        Confidence on the same grid.
    """

    def __init__(self, labels: Labels, confidence: Confidence) -> None:
        self._labels, self.confidence = labels, confidence
        self.on_grid = labels.on_grid
        self.warnings = [*labels.warnings, *confidence.warnings]

    def close(self) -> None:
        """Close both files."""
        self._labels.close()
        self.confidence.close()

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Read a window of the grid; see `refnet_cli.evaluation.labels.Labels.read`."""
        labels = self._labels.read(window)
        return np.where(self.confidence.read(window) > 0, labels, 0).astype(np.uint8)
