"""Quicklooks of the sensors, built while a scene is read in any order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from refnet_cli.outputs.downsample import cell_side
from refnet_cli.sensors import SENSORS
from refnet_cli.types import Float32, Float64, UInt8

_LIMIT = 32_767  # largest integer that is added up
_MOST_ROWS = 255  # as many as a byte can count, and float32 holds their sum of such integers exactly
_PERCENTILES = (2, 98)
_GAMMA = 1.4
# Default ranges where all values are nearly equal: reflectance x 10,000; dB of both polarisations and of their ratio.
_REFLECTANCE = (0.0, 3000.0)
_BACKSCATTER = ((-20.0, 0.0), (-27.0, -7.0), (2.0, 16.0))


class Quicklook:
    """Means of the displayed bands, over the same cells as those of a picture of the class map.

    The means are of integers (reflectance x 10,000; hundredths of dB, clipped to -327.67 to 327.67), so that the
    pictures are equal to the bit for any order of reading.

    Parameters
    ----------
    height, width : int
        Size of the grid in pixels.
    optical, sar : sequence of str
        Names of the bands that `add` receives. The displayed optical bands are red, green and blue, else the first
        three, else the first. The displayed SAR bands are VV and VH, else HH and HV, else the first two, else the
        first.

    Raises
    ------
    ValueError
        If a sensor has no band.
    """

    def __init__(self, height: int, width: int, optical: Sequence[str], sar: Sequence[str]) -> None:
        if not optical or not sar:
            raise ValueError(f"A quicklook needs bands of both sensors; got {[*optical]} and {[*sar]}.")
        self.shape = height, width
        """Shape of the grid in pixels."""
        self._side = cell_side(height, width)
        cells = math.ceil(height / self._side), math.ceil(width / self._side)
        self._optical = _Sums(optical, SENSORS["optical"].choose_quicklook_bands(optical), 1, cells)
        self._sar = _Sums(sar, SENSORS["sar"].choose_quicklook_bands(sar), 100, cells)

    @property
    def optical_bands(self) -> tuple[str, ...]:
        """Names of the displayed optical bands: red, green and blue, or one in grey."""
        return self._optical.shown

    @property
    def sar_bands(self) -> tuple[str, ...]:
        """Names of the displayed SAR bands: red and green, with their ratio in blue, or one in grey."""
        return self._sar.shown

    def add(self, row: int, column: int, optical: Float32, sar: Float32) -> None:
        """Add a window of the grid. Add every pixel of the grid exactly once.

        Parameters
        ----------
        row, column : int
            First pixel of the window.
        optical : float32 array, shape (Bo, rows, columns)
            Reflectance x 10,000, NaN for no data.
        sar : float32 array, shape (Bs, rows, columns)
            dB, NaN for no data.

        Raises
        ------
        ValueError
            If the window exceeds the grid, or the number of bands is wrong.
        """
        height, width = optical.shape[1:]
        needed = (len(self._optical.names), height, width), (len(self._sar.names), height, width)
        if (optical.shape, sar.shape) != needed:
            raise ValueError(f"Bands have the shapes {optical.shape} and {sar.shape}; expected {needed}.")
        if min(row, column) < 0 or row + height > self.shape[0] or column + width > self.shape[1]:
            raise ValueError(
                f"A window of {height} x {width} pixels at {row}, {column} is not on a grid of "
                f"{self.shape[0]} x {self.shape[1]}."
            )
        if height and width:
            self._optical.add(row, column, optical, self._side)
            self._sar.add(row, column, sar, self._side)

    def merge(self, other: Quicklook) -> None:
        """Add the windows of another quicklook of the same grid and bands.

        Raises
        ------
        ValueError
            If the grids or bands differ.
        """
        own, others = ((look.shape, look._optical.names, look._sar.names) for look in (self, other))
        if own != others:
            raise ValueError(f"A quicklook of {others} cannot be merged into one of {own}.")
        for sums, more in ((self._optical, other._optical), (self._sar, other._sar)):
            sums.sums += more.sums
            sums.counts += more.counts

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the state as plain arrays (no objects), for `from_arrays`."""
        arrays: dict[str, NDArray[Any]] = {"shape": np.array(self.shape, np.int64)}
        for name, sums in (("optical", self._optical), ("sar", self._sar)):
            arrays |= {
                f"{name}_bands": np.array(sums.names, np.str_),
                f"{name}_sums": sums.sums,
                f"{name}_counts": sums.counts,
            }
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Return the quicklook from the arrays of `to_arrays`.

        Raises
        ------
        ValueError
            If the arrays' shapes contradict each other.
        """
        height, width = arrays["shape"].tolist()
        look = cls(height, width, arrays["optical_bands"].tolist(), arrays["sar_bands"].tolist())
        for name, sums in (("optical", look._optical), ("sar", look._sar)):
            for own, stored in ((sums.sums, arrays[f"{name}_sums"]), (sums.counts, arrays[f"{name}_counts"])):
                if own.shape != stored.shape:
                    raise ValueError(f"Stored sums have the shape {stored.shape}; expected {own.shape}.")
                own[:] = stored
        return look

    def optical_picture(self) -> UInt8:
        """Return the optical picture, RGBA, shape (rows, columns, 4) of cells; transparent for no data.

        All bands share one stretch, from the 2nd to the 98th percentile of their cells, and a gamma that brightens
        dark pixels.
        """
        means, seen = self._optical.means()
        low, high = _stretch(means[:, seen], _REFLECTANCE)
        return _picture([np.clip((band - low) / (high - low), 0, 1) ** (1 / _GAMMA) for band in means], seen)

    def sar_picture(self) -> UInt8:
        """Return the SAR picture, RGBA, shape (rows, columns, 4) of cells; transparent for no data.

        Each colour has its own stretch, from the 2nd to the 98th percentile.
        """
        means, seen = self._sar.means()
        layers = [*means, means[0] - means[1]] if len(means) > 1 else [*means]
        shown = []
        for layer, usual in zip(layers, _BACKSCATTER, strict=False):
            low, high = _stretch(layer[seen], usual)
            shown.append((layer - low) / (high - low))
        return _picture(shown, seen)


class _Sums:
    """Sums and counts of integers in each cell, for the displayed bands of one sensor."""

    def __init__(self, names: Sequence[str], chosen: list[int], factor: int, cells: tuple[int, int]) -> None:
        self.names, self.shown = tuple(names), tuple(names[index] for index in chosen)
        self._chosen, self._factor = chosen, factor
        self.sums = np.zeros((len(chosen), *cells), np.int64)
        self.counts = np.zeros((len(chosen), *cells), np.int32)

    def add(self, row: int, column: int, values: Float32, side: int) -> None:
        height, width = values.shape[1:]
        starts = np.maximum(np.arange(-(column % side), width, side), 0)
        columns = slice(column // side, column // side + len(starts))
        most = np.float32(_LIMIT / self._factor)
        top = 0
        while top < height:
            cell = (row + top) // side
            bottom = min(top + _MOST_ROWS, (cell + 1) * side - row, height)
            part = values[self._chosen, top:bottom]  # a copy
            seen = np.isfinite(part)
            part[~seen] = 0
            np.clip(part, -most, most, out=part)
            np.multiply(part, np.float32(self._factor), out=part)
            np.rint(part, out=part)
            sums, counts = part.sum(axis=1), seen.view(np.uint8).sum(axis=1, dtype=np.uint8)
            self.sums[:, cell, columns] += np.add.reduceat(sums.astype(np.int64), starts, axis=1)
            self.counts[:, cell, columns] += np.add.reduceat(counts, starts, axis=1, dtype=np.int32)
            top = bottom

    def means(self) -> tuple[Float64, NDArray[np.bool_]]:
        """Return the means in physical units, shape (bands, rows, columns), and the mask of cells with all bands."""
        seen = np.asarray((self.counts > 0).all(axis=0))
        return self.sums / (np.maximum(self.counts, 1) * float(self._factor)), seen


def _stretch(values: Float64, usual: tuple[float, float]) -> tuple[float, float]:
    """Return the values shown as black and white; the default ones if there are no values or they hardly differ."""
    if values.size:
        low, high = np.percentile(values, _PERCENTILES).tolist()
        if high - low >= (usual[1] - usual[0]) / 100:
            return low, high
    return usual


def _picture(layers: Sequence[Float64], seen: NDArray[np.bool_]) -> UInt8:
    colours = layers if len(layers) == 3 else [layers[0]] * 3
    shown = [np.rint(255 * np.clip(layer, 0, 1)).astype(np.uint8) * seen for layer in colours]
    return np.stack([*shown, seen * np.uint8(255)], axis=-1)
