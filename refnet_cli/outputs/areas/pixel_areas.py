"""True areas of a grid's pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from refnet_cli.outputs.geodesy import Ground

CELL = 128
"""Side in pixels of the cells within which all pixels get the same area."""


class PixelAreas:
    """The true area of pixels, in any projection.

    The area of a cell of 128 x 128 pixels is measured on the ellipsoid, along geodesics between points on its edges,
    and divided equally among its pixels. In geographic grids and far from a projection's centre the nominal pixel area
    would be wrong by a multiple.

    Parameters
    ----------
    grid : GeoBox
        A grid whose coordinate system is geographic or derived from a geographic one.

    Raises
    ------
    InputError
        If the coordinate system is a local one.
    """

    _POINTS_PER_EDGE = 8

    def __init__(self, grid: GeoBox) -> None:
        self._grid, self._ground = grid, Ground(grid)

    def of_row(self, cell_row: int) -> NDArray[np.float64]:
        """Return the area of a pixel in each cell of a row of cells, in square metres, shape (columns,)."""
        height, width = self._grid.shape
        edges = np.append(np.arange(0, width, CELL), width).astype(float)
        left, right = edges[:-1, None], edges[1:, None]
        top, bottom = cell_row * CELL, min((cell_row + 1) * CELL, height)
        on = np.arange(self._POINTS_PER_EDGE) / self._POINTS_PER_EDGE
        columns = np.hstack([left + (right - left) * on, right + 0 * on, right - (right - left) * on, left + 0 * on])
        rows = np.concatenate([top + 0 * on, top + (bottom - top) * on, bottom + 0 * on, bottom - (bottom - top) * on])
        areas = np.array([
            abs(self._ground.ellipsoid.polygon_area_perimeter(*outline)[0])
            for outline in zip(*self._ground.to_geographic(columns, rows + 0 * columns), strict=True)
        ])  # fmt: skip
        per_pixel: NDArray[np.float64] = areas / ((right - left).ravel() * (bottom - top))
        return per_pixel


def total_area(areas: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the area of each code's pixels in a row of cells, in square metres.

    Parameters
    ----------
    areas : float64 array, shape (columns,)
        From `PixelAreas.of_row`; NaN where a cell exceeds the area where the projection is defined.
    counts : int64 array, shape (columns, codes)
        Pixel counts. The first code is no data, whose pixels in cells with NaN are ignored.
    """
    known = np.isfinite(areas)
    if known.all():
        return np.asarray(areas @ counts)
    total = areas[known] @ counts[known]
    total[1:][counts[~known, 1:].any(axis=0)] = np.nan
    return np.asarray(total)
