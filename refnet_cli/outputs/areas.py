"""How much ground each class covers."""

from __future__ import annotations

import math

import numpy as np
import pyproj
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from refnet_cli.errors import InputError
from refnet_cli.outputs.cells import CellCounts
from refnet_cli.products import ClassScheme

UInt8 = NDArray[np.uint8]


class AreaCounter:
    """Adds up the true area of each class, whatever the grid's projection.

    The area of a cell of 128 x 128 pixels is measured on the ellipsoid, along geodesics between points on its edges,
    and spread evenly over its pixels. In geographic grids and far from a projection's centre the pixels' nominal area
    would be wrong many times over.

    Parameters
    ----------
    grid : GeoBox
        With a coordinate system that is geographic or derived from one.
    scheme : ClassScheme

    Raises
    ------
    InputError
        If the coordinate system is a local one.
    """

    _CELL = 128
    _POINTS_PER_EDGE = 8

    def __init__(self, grid: GeoBox, scheme: ClassScheme) -> None:
        self._grid = grid
        self.scheme = scheme
        self._cells = CellCounts(grid.shape[0], grid.shape[1], self._CELL, scheme.codes)
        self._square_metres = np.zeros(len(scheme.codes))
        crs = pyproj.CRS.from_user_input(grid.crs)
        geographic, ellipsoid = crs.geodetic_crs, crs.get_geod()
        if geographic is None or ellipsoid is None:
            raise InputError(f"The coordinate system {crs.name} has no place on the Earth; areas need one that has.")
        # The grid's own datum, so that nothing is shifted; its unit is nearly always, but not by law, the degree.
        self._to_geographic = pyproj.Transformer.from_crs(crs, geographic, always_xy=True)
        self._degrees = math.degrees(geographic.axis_info[0].unit_conversion_factor)
        self._ellipsoid = ellipsoid

    def add(self, row: int, codes: UInt8) -> None:
        """Count the next rows, any number of them.

        Parameters
        ----------
        row : int
            The first of these rows; it follows the last one added.
        codes : uint8 array, shape (rows, width)
            Class codes, 0 where there is no data.
        """
        height, width = self._grid.shape
        if row != self._cells.next_row or row + codes.shape[0] > height or codes.shape[1] != width:
            raise ValueError(f"Rows {row} of shape {codes.shape} do not follow row {self._cells.next_row} of the grid.")
        for cell_row, counts in self._cells.add(codes):
            if counts.any():
                self._square_metres += self._pixel_areas(cell_row) @ counts

    def hectares(self) -> dict[str, float]:
        """Return the area of each class of the scheme by name, in hectares."""
        if self._cells.next_row != self._grid.shape[0]:
            raise ValueError(f"Areas need all {self._grid.shape[0]} rows; {self._cells.next_row} were added.")
        return {name: float(area) / 10_000 for name, area in zip(self.scheme.names, self._square_metres, strict=True)}

    def _pixel_areas(self, cell_row: int) -> NDArray[np.float64]:
        """Area of a pixel in each cell of a row of cells, in square metres."""
        height, width = self._grid.shape
        edges = np.append(np.arange(0, width, self._CELL), width).astype(float)
        left, right = edges[:-1, None], edges[1:, None]
        top, bottom = cell_row * self._CELL, min((cell_row + 1) * self._CELL, height)
        on = np.arange(self._POINTS_PER_EDGE) / self._POINTS_PER_EDGE
        columns = np.hstack([left + (right - left) * on, right + 0 * on, right - (right - left) * on, left + 0 * on])
        rows = np.concatenate([top + 0 * on, top + (bottom - top) * on, bottom + 0 * on, bottom - (bottom - top) * on])
        to_map = self._grid.affine
        longitude, latitude = self._to_geographic.transform(
            to_map.a * columns + to_map.b * rows + to_map.c, to_map.d * columns + to_map.e * rows + to_map.f
        )
        areas = np.array([
            abs(self._ellipsoid.polygon_area_perimeter(*outline)[0])
            for outline in zip(longitude * self._degrees, latitude * self._degrees, strict=True)
        ])  # fmt: skip
        per_pixel: NDArray[np.float64] = areas / ((right - left).ravel() * (bottom - top))
        return per_pixel
