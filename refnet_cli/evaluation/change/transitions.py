"""Transitions between the classes of two maps: their numbers and their areas."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import InputError
from refnet_cli.outputs.areas.pixel_areas import CELL, PixelAreas, total_area
from refnet_cli.types import Float64, Int64, UInt8

UInt16 = NDArray[np.uint16]
_PIXELS_AT_ONCE = 1 << 22


def number_transitions(old: UInt8, new: UInt8, classes: int) -> UInt16:
    """Return the number of each pixel's transition, ``(old - 1) * classes + new``; 0 where a map has no class.

    Parameters
    ----------
    old, new : uint8 array, any shape
        Class indexes from 1; 0 is no data.
    classes : int
        Number of classes without "no data", at most 255.

    Examples
    --------
    >>> number_transitions(np.array([1, 1, 3, 0], np.uint8), np.array([1, 2, 3, 2], np.uint8), 3).tolist()
    [1, 2, 9, 0]
    """
    numbers = (old.astype(np.int32) - 1) * classes + new
    numbers[(old == 0) | (new == 0)] = 0
    return numbers.astype(np.uint16)


def classes_without_clouds(scheme: ClassScheme) -> UInt8:
    """Return a table of class indexes in which clouds, which hide the land cover, are no data; shape (1 + classes,)."""
    table = np.arange(1 + len(scheme.codes), dtype=np.uint8)
    table[[place for place, name in enumerate(scheme.names, 1) if name.casefold() == "clouds"]] = 0
    return table


class TransitionCounter:
    """Sum the true area of each transition; see `refnet_cli.outputs.areas.pixel_areas.PixelAreas`.

    Parameters
    ----------
    grid : GeoBox
        A grid whose coordinate system is geographic or derived from a geographic one.
    classes : int
        Number of classes without "no data".

    Raises
    ------
    InputError
        If the coordinate system is a local one.
    """

    def __init__(self, grid: GeoBox, classes: int) -> None:
        self._classes = classes
        self._areas = PixelAreas(grid)
        self._square_metres = np.zeros(1 + classes**2)
        columns = np.arange(grid.shape[1]) // CELL
        self._first_bins = columns * len(self._square_metres)
        self._bins = int(columns[-1] + 1) * len(self._square_metres)
        self._next_row = 0

    def add(self, numbers: UInt16) -> None:
        """Count the next rows, shape (rows, width): whole cells of `CELL` rows, or what is left of the grid."""
        for top in range(0, len(numbers), CELL):
            counts = self._count(numbers[top : top + CELL])
            self._square_metres += total_area(self._areas.of_row(self._next_row // CELL), counts)
            self._next_row += CELL

    def _count(self, numbers: UInt16) -> Int64:
        """Count the transitions in a row of cells, shape (columns, 1 + transitions)."""
        total = np.zeros(self._bins, np.int64)
        rows = max(_PIXELS_AT_ONCE // numbers.shape[1], 1)
        for top in range(0, len(numbers), rows):
            keys = self._first_bins + numbers[top : top + rows]
            total += np.bincount(keys.ravel(), minlength=self._bins)
        return total.reshape(-1, len(self._square_metres))

    def hectares(self) -> Float64:
        """Return the areas without a class in one of the maps, and of each transition, shape (1 + transitions,).

        Raises
        ------
        InputError
            If an area cannot be computed, because the projection is not defined there.
        """
        return check_areas(self._square_metres / 10_000)


def check_areas(hectares: Float64) -> Float64:
    """Return areas, or refuse them if one is unknown.

    Raises
    ------
    InputError
        If one is NaN.
    """
    if np.isnan(hectares).any():
        raise InputError(
            "Part of the maps lies where their coordinate system is not defined, so areas cannot be computed. Cut the "
            "maps to the area of interest, or warp them to another coordinate system."
        )
    return hectares


def as_matrix(hectares: NDArray[Any], classes: int) -> Float64:
    """Return areas of transitions, without that of no data, as a matrix: old classes by row, new ones by column."""
    return np.asarray(hectares[1:].reshape(classes, classes), np.float64)
