"""Where pixels are: arithmetic of windows, transforms and reference systems."""

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

PIXEL = 10.0  # metres; of Sentinel-2's finest bands


class Place(Protocol):
    """Where a raster's pixels lie in its reference system; pixel corners are whole numbers."""

    method: str
    """GDAL's name of the transformation."""

    def to_ground(self, columns: Float64, rows: Float64) -> tuple[Float64, Float64]:
        """Turn pixel places into coordinates."""

    def to_pixels(self, x: Float64, y: Float64) -> tuple[Float64, Float64]:
        """Turn coordinates into pixel places."""

    def profile(self, window: Window) -> dict[str, Any]:
        """Tell rasterio where a window cut from the raster lies."""


class AffinePlace:
    """A place by an affine transform."""

    method = "GEOTRANSFORM"

    def __init__(self, transform: Affine) -> None:
        self.transform = transform

    def to_ground(self, columns: Float64, rows: Float64) -> tuple[Float64, Float64]:
        """See `Place`."""
        return apply(self.transform, columns, rows)

    def to_pixels(self, x: Float64, y: Float64) -> tuple[Float64, Float64]:
        """See `Place`."""
        return apply(~self.transform, x, y)

    def profile(self, window: Window) -> dict[str, Any]:
        """See `Place`."""
        return {"transform": moved(self.transform, window)}


class SplinePlace:
    """A place by ground control points, with a thin-plate spline between them.

    An affine fit to the points of a Sentinel-1 GRD file was 2 km off, the spline 0.3 m.
    """

    method = "GCP_TPS"

    def __init__(self, points: Sequence[GroundControlPoint], crs: CRS) -> None:
        x = np.array([point.x for point in points])
        # Across 180 degrees of longitude the points must not be torn apart.
        turns = 360.0 * ((x < 0) & (np.ptp(x) > 180) & crs.is_geographic)
        self._points = [
            GroundControlPoint(row=point.row, col=point.col, x=point.x + turn, y=point.y, z=0.0)
            for point, turn in zip(points, turns, strict=True)
        ]
        self._spline = GCPTransformer(self._points, tps=True)

    def to_ground(self, columns: Float64, rows: Float64) -> tuple[Float64, Float64]:
        """See `Place`."""
        x, y = self._spline.xy(np.ravel(rows), np.ravel(columns), offset="ul")
        return np.asarray(x, np.float64), np.asarray(y, np.float64)

    def to_pixels(self, x: Float64, y: Float64) -> tuple[Float64, Float64]:
        """See `Place`."""
        known = np.isfinite(x) & np.isfinite(y)
        columns, rows = np.full((2, *np.shape(x)), np.nan)
        if known.any():
            rows[known], columns[known] = self._spline.rowcol(x[known], y[known], op=np.float64)
        return columns, rows

    def profile(self, window: Window) -> dict[str, Any]:
        """See `Place`."""
        points = [
            GroundControlPoint(
                row=point.row - window.row, col=point.col - window.column, x=point.x, y=point.y, z=0.0
            )
            for point in self._points
        ]  # fmt: skip
        return {"gcps": points}


def raster_window(window: Window) -> RasterWindow:
    """Return the window in rasterio's terms."""
    return RasterWindow(window.column, window.row, window.width, window.height)


def apply(transform: Affine, x: Float64 | np.float64, y: Float64 | np.float64) -> tuple[Float64, Float64]:
    """Transform points; those that are not finite stay so without a warning."""
    with np.errstate(invalid="ignore"):
        across = transform.a * x + transform.b * y + transform.c
        down = transform.d * x + transform.e * y + transform.f
    return np.asarray(across), np.asarray(down)


def moved(transform: Affine, window: Window) -> Affine:
    """Return the transform of a window cut from a raster."""
    x, y = apply(transform, np.float64(window.column), np.float64(window.row))
    return Affine(transform.a, transform.b, float(x), transform.d, transform.e, float(y))


def halves(window: Window) -> tuple[Window, Window]:
    """Cut a window across its longer side."""
    row, column, height, width = window
    if height >= width:
        return Window(row, column, height // 2, width), Window(row + height // 2, column, height - height // 2, width)
    return Window(row, column, height, width // 2), Window(row, column + width // 2, height, width - width // 2)


def lattice(window: Window, points: int, inset: float = 0.0) -> tuple[Float64, Float64]:
    """Spread points over a window, its edges among them, or its outermost pixels' centres with an inset of 0.5."""
    rows = np.linspace(window.row + inset, window.row + window.height - inset, points)
    columns = np.linspace(window.column + inset, window.column + window.width - inset, points)
    across, down = np.meshgrid(columns, rows)
    return across.ravel(), down.ravel()


def cell_centres(window: Window, count: int) -> tuple[Float64, Float64]:
    """Cut a window into ``count`` x ``count`` cells and return their middles."""
    steps = (np.arange(count) + 0.5) / count
    across, down = np.meshgrid(window.column + steps * window.width, window.row + steps * window.height)
    return across.ravel(), down.ravel()


def describe_bounds(x: Float64, y: Float64) -> str:
    """Name the bounds of points: west, south, east and north."""
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return "an unknown place"
    edges = x[known].min(), y[known].min(), x[known].max(), y[known].max()
    return f"({', '.join(f'{edge:.10g}' for edge in edges)})"


def to_degrees(grid: GeoBox, columns: Float64, rows: Float64) -> tuple[Float64, Float64]:
    """Transform fractional pixel places on a grid to longitude and latitude."""
    transformer = Transformer.from_crs(CRS.from_user_input(grid.crs).to_2d(), "EPSG:4326", always_xy=True)
    lon, lat = transformer.transform(*apply(grid.transform, columns, rows))
    return np.asarray(lon), np.asarray(lat)


def pixel_metres(grid: GeoBox) -> tuple[float, float]:
    """Width and height of a pixel on the ground at a grid's middle, in metres; NaN for what is no place on Earth."""
    rows, columns = grid.shape
    lon, lat = to_degrees(grid, columns / 2 + np.array([0.0, 1.0, 0.0]), rows / 2 + np.array([0.0, 0.0, 1.0]))
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return math.nan, math.nan
    _, _, distances = Geod(ellps="WGS84").inv(lon[[0, 0]], lat[[0, 0]], lon[1:], lat[1:])
    return float(distances[0]), float(distances[1])


def warn_of_pixels(grid: GeoBox) -> list[str]:
    """Put into words that pixels are much larger or smaller than Sentinel's, from which weights learn."""
    size = math.prod(pixel_metres(grid)) ** 0.5
    if not PIXEL / 1.5 <= size <= PIXEL * 1.5:
        return [
            f"a pixel of the map is {size:.3g} m wide, but weights learn from pixels of {PIXEL:g} m: what they see "
            "looks unlike what they know."
        ]
    return []


def crs_name(crs: CRS) -> str:
    """Name a reference system by its EPSG code if it has one."""
    epsg = crs.to_epsg()
    return str(crs.name) if epsg is None else f"EPSG:{epsg}"


def describe_grid(grid: GeoBox) -> dict[str, Any]:
    """Describe a grid as plain values."""
    return {
        "crs": crs_name(CRS.from_user_input(grid.crs)),
        "transform": list(grid.transform)[:6],
        "height": grid.shape[0],
        "width": grid.shape[1],
    }
