"""Georeferencing: windows, transforms and coordinate reference systems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj import CRS, Geod, Transformer
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine, GCPTransformer
from rasterio.windows import Window as RasterWindow

from refnet_cli.tiles.window import Window
from refnet_cli.types import Float64

PIXEL = 10.0  # metres: pixel size of Sentinel-2's finest bands


class Georeference(Protocol):
    """Transformation between pixel coordinates, whose integers are pixel corners, and coordinates of the CRS."""

    method: str
    """GDAL's name of the transformation."""

    def to_ground(self, columns: Float64, rows: Float64) -> tuple[Float64, Float64]:
        """Transform pixel coordinates to coordinates of the CRS."""

    def to_pixels(self, x: Float64, y: Float64) -> tuple[Float64, Float64]:
        """Transform coordinates of the CRS to pixel coordinates."""

    def profile(self, window: Window) -> dict[str, Any]:
        """Return the georeferencing of a window as rasterio profile entries."""


class AffineGeoreference:
    """Georeferencing by an affine transform."""

    method = "GEOTRANSFORM"

    def __init__(self, transform: Affine) -> None:
        self.transform = transform

    def to_ground(self, columns: Float64, rows: Float64) -> tuple[Float64, Float64]:
        """See `Georeference`."""
        return apply(self.transform, columns, rows)

    def to_pixels(self, x: Float64, y: Float64) -> tuple[Float64, Float64]:
        """See `Georeference`."""
        return apply(~self.transform, x, y)

    def profile(self, window: Window) -> dict[str, Any]:
        """See `Georeference`."""
        return {"transform": window_transform(self.transform, window)}


class GcpGeoreference:
    """Georeferencing by ground control points, with a thin-plate spline between them.

    For a Sentinel-1 GRD file, an affine fit to the points was 2 km off, the spline 0.3 m.
    """

    method = "GCP_TPS"

    def __init__(self, points: Sequence[GroundControlPoint], crs: CRS) -> None:
        x = np.array([point.x for point in points])
        # Keep the points together across the antimeridian.
        turns = 360.0 * ((x < 0) & (np.ptp(x) > 180) & crs.is_geographic)
        self._points = [
            GroundControlPoint(row=point.row, col=point.col, x=point.x + turn, y=point.y, z=0.0)
            for point, turn in zip(points, turns, strict=True)
        ]
        self._spline = GCPTransformer(self._points, tps=True)

    def to_ground(self, columns: Float64, rows: Float64) -> tuple[Float64, Float64]:
        """See `Georeference`."""
        x, y = self._spline.xy(np.ravel(rows), np.ravel(columns), offset="ul")
        return np.asarray(x, np.float64), np.asarray(y, np.float64)

    def to_pixels(self, x: Float64, y: Float64) -> tuple[Float64, Float64]:
        """See `Georeference`."""
        known = np.isfinite(x) & np.isfinite(y)
        columns, rows = np.full((2, *np.shape(x)), np.nan)
        if known.any():
            rows[known], columns[known] = self._spline.rowcol(x[known], y[known], op=np.float64)
        return columns, rows

    def profile(self, window: Window) -> dict[str, Any]:
        """See `Georeference`."""
        points = [
            GroundControlPoint(
                row=point.row - window.row, col=point.col - window.column, x=point.x, y=point.y, z=0.0
            )
            for point in self._points
        ]  # fmt: skip
        return {"gcps": points}


def raster_window(window: Window) -> RasterWindow:
    """Convert a window to rasterio's type."""
    return RasterWindow(window.column, window.row, window.width, window.height)


def apply(transform: Affine, x: Float64 | np.float64, y: Float64 | np.float64) -> tuple[Float64, Float64]:
    """Apply an affine transform to points. Non-finite points stay non-finite without a warning."""
    with np.errstate(invalid="ignore"):
        across = transform.a * x + transform.b * y + transform.c
        down = transform.d * x + transform.e * y + transform.f
    return np.asarray(across), np.asarray(down)


def window_transform(transform: Affine, window: Window) -> Affine:
    """Return the affine transform of a window of a raster."""
    x, y = apply(transform, np.float64(window.column), np.float64(window.row))
    return Affine(transform.a, transform.b, float(x), transform.d, transform.e, float(y))


def split_window(window: Window) -> tuple[Window, Window]:
    """Split a window in half across its longer side."""
    row, column, height, width = window
    if height >= width:
        return Window(row, column, height // 2, width), Window(row + height // 2, column, height - height // 2, width)
    return Window(row, column, height, width // 2), Window(row, column + width // 2, height, width - width // 2)


def lattice(window: Window, points: int, inset: float = 0.0) -> tuple[Float64, Float64]:
    """Return a lattice of points that spans a window, edge to edge, or with an inset in pixels."""
    rows = np.linspace(window.row + inset, window.row + window.height - inset, points)
    columns = np.linspace(window.column + inset, window.column + window.width - inset, points)
    across, down = np.meshgrid(columns, rows)
    return across.ravel(), down.ravel()


def cell_centres(window: Window, count: int) -> tuple[Float64, Float64]:
    """Return the centres of ``count`` x ``count`` equal cells of a window."""
    steps = (np.arange(count) + 0.5) / count
    across, down = np.meshgrid(window.column + steps * window.width, window.row + steps * window.height)
    return across.ravel(), down.ravel()


def describe_bounds(x: Float64, y: Float64) -> str:
    """Return the bounds of points as text: west, south, east, north."""
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return "unknown bounds"
    edges = x[known].min(), y[known].min(), x[known].max(), y[known].max()
    return f"({', '.join(f'{edge:.10g}' for edge in edges)})"


def to_degrees(grid: GeoBox, columns: Float64, rows: Float64) -> tuple[Float64, Float64]:
    """Transform fractional pixel coordinates of a grid to longitude and latitude."""
    transformer = Transformer.from_crs(CRS.from_user_input(grid.crs).to_2d(), "EPSG:4326", always_xy=True)
    lon, lat = transformer.transform(*apply(grid.transform, columns, rows))
    return np.asarray(lon), np.asarray(lat)


def pixel_metres(grid: GeoBox) -> tuple[float, float]:
    """Return the width and height in metres of a pixel at the centre of a grid; NaN if it is not on Earth."""
    rows, columns = grid.shape
    lon, lat = to_degrees(grid, columns / 2 + np.array([0.0, 1.0, 0.0]), rows / 2 + np.array([0.0, 0.0, 1.0]))
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return math.nan, math.nan
    _, _, distances = Geod(ellps="WGS84").inv(lon[[0, 0]], lat[[0, 0]], lon[1:], lat[1:])
    return float(distances[0]), float(distances[1])


def describe_move(grid: GeoBox, columns: float, rows: float) -> str:
    """Put a move by columns and rows into words: ``38 m east, 38 m south``; on a grid that is turned, right and down.

    Examples
    --------
    >>> utm = GeoBox((100, 100), Affine(10, 0, 500_000, 0, -10, 5_300_000), "EPSG:32633")
    >>> describe_move(utm, 3.8, -0.25)
    '38 m east, 2.5 m north'
    """
    across, down = pixel_metres(grid)
    a, b, _, d, e, *_ = grid.transform
    is_north_up = b == d == 0 and a > 0 > e
    words = ("east", "west", "south", "north") if is_north_up else ("right", "left", "down", "up")
    sides = (columns * across, *words[:2]), (rows * down, *words[2:])
    return ", ".join(f"{_short(abs(metres))} m {more if metres >= 0 else less}" for metres, more, less in sides)


def _short(metres: float) -> str:
    return f"{metres:.0f}" if metres >= 9.95 else f"{metres:.1f}"


def describe_footprint(crs: CRS, x: Float64, y: Float64) -> str:
    """Name the bounds of points of a reference system in longitude and latitude.

    Examples
    --------
    >>> describe_footprint(CRS("EPSG:4326"), np.array([-53.84, -53.75]), np.array([-34.34, -34.26]))
    '53.8400 W to 53.7500 W, 34.3400 S to 34.2600 S'
    >>> describe_footprint(CRS("EPSG:4326"), np.array([179.9, -179.9]), np.array([-1.0, 2.0]))
    '179.9000 E to 179.9000 W, 1.0000 S to 2.0000 N'
    """
    lon, lat = (np.asarray(part) for part in Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y))
    known = np.isfinite(lon) & np.isfinite(lat)
    if not known.any():
        return "an unknown place"
    lon, lat = lon[known], lat[known]
    lon = (lon - lon[0] + 180) % 360 - 180 + lon[0]  # side by side where they lie on both sides of 180 degrees
    west, east = ((edge + 180) % 360 - 180 for edge in (lon.min(), lon.max()))
    edges = [f"{abs(edge):.4f} {'E' if edge >= 0 else 'W'}" for edge in (west, east)]
    edges += [f"{abs(edge):.4f} {'N' if edge >= 0 else 'S'}" for edge in (lat.min(), lat.max())]
    return "{} to {}, {} to {}".format(*edges)


def pixel_size_warnings(grid: GeoBox) -> list[str]:
    """Return a warning if pixels are much larger or smaller than the Sentinel pixels that weights are trained on."""
    size = math.prod(pixel_metres(grid)) ** 0.5
    if not PIXEL / 1.5 <= size <= PIXEL * 1.5:
        return [
            f"the pixels of the map are {size:.3g} m wide, but the weights were trained on pixels of {PIXEL:g} m, so "
            "the map is less reliable."
        ]
    return []


def crs_name(crs: CRS) -> str:
    """Return the EPSG code of a CRS, or its name if it has none."""
    epsg = crs.to_epsg()
    return str(crs.name) if epsg is None else f"EPSG:{epsg}"


def unit_of(crs: CRS) -> str:
    """Return the unit of a reference system's axes: m, degrees, or the name of another one."""
    unit = str(crs.axis_info[0].unit_name)
    return {"metre": "m", "degree": "degrees"}.get(unit, unit)


def describe_grid(grid: GeoBox) -> dict[str, Any]:
    """Describe a grid as a dict of plain values."""
    return {
        "crs": crs_name(CRS.from_user_input(grid.crs)),
        "transform": list(grid.transform)[:6],
        "height": grid.shape[0],
        "width": grid.shape[1],
    }
