"""Where the pixels of a grid lie on the ellipsoid: true directions and distances."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyproj
from odc.geo.geobox import GeoBox

from refnet_cli.errors import InputError
from refnet_cli.types import Float64

_GRID_NORTH = 7.0
"""Degrees by which a projection's own north may differ from the true one and still stand for it: as far as UTM's do."""


class Ground:
    """Turns places in a grid, in pixels from its upper left corner, into longitudes and latitudes and back.

    Both are in degrees, of the grid's own datum, so that nothing is shifted.

    Parameters
    ----------
    grid : GeoBox
        With a coordinate system that is geographic or derived from one.

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
            raise InputError(f"The coordinate system {crs.name} has no place on the Earth; areas need one that has.")
        self.ellipsoid = ellipsoid
        self._transformer = pyproj.Transformer.from_crs(crs, geographic, always_xy=True)
        # The unit is nearly always, but not by law, the degree.
        self._degrees = math.degrees(geographic.axis_info[0].unit_conversion_factor)

    def to_geographic(self, columns: Float64, rows: Float64) -> tuple[Float64, Float64]:
        """Return longitudes and latitudes of places in the grid."""
        place = self._to_map
        longitude, latitude = self._transformer.transform(
            place.a * columns + place.b * rows + place.c, place.d * columns + place.e * rows + place.f
        )
        return longitude * self._degrees, latitude * self._degrees

    def to_pixels(self, longitude: Float64, latitude: Float64) -> tuple[Float64, Float64]:
        """Return columns and rows of places on the ellipsoid."""
        x, y = self._transformer.transform(longitude / self._degrees, latitude / self._degrees, direction="INVERSE")
        place = ~self._to_map
        return place.a * x + place.b * y + place.c, place.d * x + place.e * y + place.f


@dataclass(frozen=True)
class View:
    """How a grid is to be shown so that north is up, as far as flipping does it."""

    flip_rows: bool = False
    flip_columns: bool = False
    north: float | None = None
    """Direction of true north in the middle of what is shown, in degrees clockwise from up. None if it has none."""
    pixel: float | None = None
    """Width of a pixel in metres, the mean along the middle row. None if rows are not straight from side to side."""


def view_of(grid: GeoBox) -> View:
    """Tell how a grid is to be shown.

    True north counts as up where the grid's own, as UTM's, is within 7 degrees of it.
    """
    height, width = grid.shape
    straight = grid.affine.b == grid.affine.d == 0
    try:
        ground = Ground(grid)
    except InputError:
        return View()
    east, north = _directions(ground, width / 2, height / 2)
    if not np.isfinite([east, north]).all():
        return View()
    flip_rows, flip_columns = _flips(east, north)
    angle = math.degrees(math.atan2(north[0] * (-1 if flip_columns else 1), north[1] * (1 if flip_rows else -1)))
    if straight and abs(angle) < _GRID_NORTH:
        angle = 0.0
    length = _length_of_row(ground, height / 2, width) if straight else math.nan
    return View(flip_rows, flip_columns, angle, length / width if math.isfinite(length) else None)


def _directions(ground: Ground, column: float, row: float) -> Float64:
    """Ways in pixels, to the right and down, of a step to the east and one to the north."""
    longitude, latitude = ground.to_geographic(column + np.array([0.0, 1.0]), row + np.array([0.0, 0.0]))
    _, _, step = ground.ellipsoid.inv(longitude[0], latitude[0], longitude[1], latitude[1])
    start = np.full(2, longitude[0]), np.full(2, latitude[0])
    there, up, _ = ground.ellipsoid.fwd(*start, np.array([90.0, 0.0]), np.full(2, step))
    there = there + 360 * np.rint((longitude[0] - there) / 360)  # not round the world
    columns, rows = ground.to_pixels(there, up)
    return np.stack([columns - column, rows - row], axis=1)


def _flips(east: Float64, north: Float64) -> tuple[bool, bool]:
    """Tell whether rows and columns have to be turned round: both, if the map is not stored as in a mirror."""
    down = bool(north[1] > 0)
    mirrored = east[0] * north[1] - east[1] * north[0] > 0
    if mirrored:
        return down, not down
    upside_down = down and bool(north[1] > abs(north[0]))
    return upside_down, upside_down


def _length_of_row(ground: Ground, row: float, width: int) -> float:
    """Length of a row in metres."""
    columns = np.linspace(0, width, 257)
    longitude, latitude = ground.to_geographic(columns, np.full(columns.shape, row))
    return float(ground.ellipsoid.line_length(longitude, latitude))
