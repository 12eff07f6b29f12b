"""Pixels of a grid on the ellipsoid: true directions and distances."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyproj
from odc.geo.geobox import GeoBox

from refnet_cli.errors import InputError
from refnet_cli.types import Float64

_GRID_NORTH = 7.0
"""Degrees by which grid north may differ from true north and still count as north: as much as in UTM."""


class Ground:
    """Convert pixel coordinates of a grid, from its upper left corner, to longitudes and latitudes and back.

    Longitudes and latitudes are in degrees on the grid's own datum, so that no datum shift applies.

    Parameters
    ----------
    grid : GeoBox
        A grid whose coordinate system is geographic or derived from a geographic one.

    Raises
    ------
    InputError
        If the coordinate system is a local one.
    """

    def __init__(self, grid: GeoBox) -> None:
        self._to_map = grid.affine
        crs = pyproj.CRS.from_user_input(grid.crs)
        geographic, ellipsoid = crs.geodetic_crs, crs.get_geod()
        if geographic is None or ellipsoid is None:
            raise InputError(f"The coordinate system {crs.name} is not tied to the Earth, so areas cannot be computed.")
        self.ellipsoid = ellipsoid
        self._transformer = pyproj.Transformer.from_crs(crs, geographic, always_xy=True)
        # The unit is nearly always the degree, but need not be.
        self._degrees = math.degrees(geographic.axis_info[0].unit_conversion_factor)

    def to_geographic(self, columns: Float64, rows: Float64) -> tuple[Float64, Float64]:
        """Return longitudes and latitudes of pixel coordinates."""
        place = self._to_map
        longitude, latitude = self._transformer.transform(
            place.a * columns + place.b * rows + place.c, place.d * columns + place.e * rows + place.f
        )
        return longitude * self._degrees, latitude * self._degrees

    def to_pixels(self, longitude: Float64, latitude: Float64) -> tuple[Float64, Float64]:
        """Return columns and rows of longitudes and latitudes."""
        x, y = self._transformer.transform(longitude / self._degrees, latitude / self._degrees, direction="INVERSE")
        place = ~self._to_map
        return place.a * x + place.b * y + place.c, place.d * x + place.e * y + place.f


@dataclass(frozen=True)
class Orientation:
    """How to display a grid with north up, as far as flips allow."""

    flip_rows: bool = False
    flip_columns: bool = False
    north: float | None = None
    """Direction of true north in the middle of the display, in degrees clockwise from up; None if unknown."""
    pixel: float | None = None
    """Mean width of a pixel along the middle row in metres; None if the grid is rotated or sheared."""


def orientation_of(grid: GeoBox) -> Orientation:
    """Return how to display a grid with north up.

    True north counts as up if grid north, as in UTM, is within 7 degrees of it.
    """
    height, width = grid.shape
    straight = grid.affine.b == grid.affine.d == 0
    try:
        ground = Ground(grid)
    except InputError:
        return Orientation()
    east, north = _directions(ground, width / 2, height / 2)
    if not np.isfinite([east, north]).all():
        return Orientation()
    flip_rows, flip_columns = _flips(east, north)
    angle = math.degrees(math.atan2(north[0] * (-1 if flip_columns else 1), north[1] * (1 if flip_rows else -1)))
    if straight and abs(angle) < _GRID_NORTH:
        angle = 0.0
    length = _length_of_row(ground, height / 2, width) if straight else math.nan
    return Orientation(flip_rows, flip_columns, angle, length / width if math.isfinite(length) else None)


def _directions(ground: Ground, column: float, row: float) -> Float64:
    """Return the steps in pixels (right, down) that correspond to a step east and a step north."""
    longitude, latitude = ground.to_geographic(column + np.array([0.0, 1.0]), row + np.array([0.0, 0.0]))
    _, _, step = ground.ellipsoid.inv(longitude[0], latitude[0], longitude[1], latitude[1])
    start = np.full(2, longitude[0]), np.full(2, latitude[0])
    there, up, _ = ground.ellipsoid.fwd(*start, np.array([90.0, 0.0]), np.full(2, step))
    there = there + 360 * np.rint((longitude[0] - there) / 360)  # the nearest equivalent longitude
    columns, rows = ground.to_pixels(there, up)
    return np.stack([columns - column, rows - row], axis=1)


def _flips(east: Float64, north: Float64) -> tuple[bool, bool]:
    """Return whether to flip rows and columns; both are flipped unless the grid is mirrored."""
    down = bool(north[1] > 0)
    mirrored = east[0] * north[1] - east[1] * north[0] > 0
    if mirrored:
        return down, not down
    upside_down = down and bool(north[1] > abs(north[0]))
    return upside_down, upside_down


def _length_of_row(ground: Ground, row: float, width: int) -> float:
    """Return the length of a row in metres."""
    columns = np.linspace(0, width, 257)
    longitude, latitude = ground.to_geographic(columns, np.full(columns.shape, row))
    return float(ground.ellipsoid.line_length(longitude, latitude))
