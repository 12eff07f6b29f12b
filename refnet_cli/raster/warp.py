"""Alignment of a raster file with a grid, and resampling of the file's values to the grid."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from rasterio.enums import Resampling
from rasterio.warp import reproject

from refnet_cli.errors import InputError
from refnet_cli.raster.georeference import (
    apply,
    cell_centres,
    crs_name,
    describe_bounds,
    describe_footprint,
    lattice,
    window_transform,
)
from refnet_cli.raster.raster import Raster
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float64

_MARGIN = 16  # source pixels around a block's footprint, for the resampling kernel and varying datum shifts
_STRIP = 128  # columns of the grid per warp


class Alignment:
    """Alignment of a raster file with a grid, and resampling of the file's values to the grid.

    Parameters
    ----------
    raster : Raster
        The file to warp.
    grid : GeoBox
        The grid to warp it to.

    Raises
    ------
    InputError
        If the file and the grid do not overlap.
    """

    def __init__(self, raster: Raster, grid: GeoBox) -> None:
        self.grid = grid
        self._shape = raster.shape
        self._georeference = raster.georeference
        self._grid_crs = CRS.from_user_input(grid.crs).to_2d()
        self._same = raster.crs == self._grid_crs
        self._source_crs = raster.crs
        source_crs, self._wrap = raster.stored_crs, math.nan
        longitudes = self._georeference.to_ground(*lattice(Window(0, 0, *self._shape), 2))[0]
        box = grid.boundingbox
        own = [longitudes.min(), longitudes.max()] if raster.crs.is_geographic else []
        self._turn = (box.left + box.right) / 2 if self._grid_crs.is_geographic else math.nan
        around = own + ([box.left, box.right] if self._grid_crs.is_geographic else [])
        if own and not -180 <= min(around) <= max(around) <= 180:
            # Transformed longitudes would jump at the antimeridian, in the middle of the file.
            self._wrap = float(longitudes.min() + longitudes.max()) / 2
            source_crs = rasterio.CRS.from_string(f"{source_crs.to_proj4()} +lon_wrap={self._wrap!r}")
        self._wkt = source_crs.to_wkt(), self._grid_crs.to_wkt()
        self._shift = self._pixel_shift()
        point = self._overlap(raster)
        columns, rows = np.array(point)[:, None] + [[0, 1, 0], [0, 0, 1]]
        x, y = self.source_pixels(columns, rows)
        self.ratio = float(np.sqrt(abs((x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0]))))
        """Size of a grid pixel in file pixels, where they overlap."""

    @cached_property
    def _to_source(self) -> Transformer:
        """Transformer from the grid's CRS to the file's. Creating it takes longer than reading a small file."""
        return Transformer.from_crs(self._grid_crs, self._source_crs, always_xy=True)

    @property
    def same_pixels(self) -> bool:
        """Whether the pixels of the file and the grid coincide, so that nothing is resampled."""
        return self._shift is not None

    @property
    def shift(self) -> tuple[int, int] | None:
        """Columns and rows from a pixel's place in the grid to that in the file; None if their pixels differ."""
        return self._shift

    def _pixel_shift(self) -> tuple[int, int] | None:
        """Return the offset in columns and rows between the grid and the file if their pixels coincide, else None."""
        columns, rows = lattice(Window(0, 0, *self.grid.shape), 2)
        x, y = self.source_pixels(columns, rows)
        if not self._same or not (np.isfinite(x).all() and np.isfinite(y).all()):
            return None
        across, down = round(x[0] - columns[0]), round(y[0] - rows[0])
        off = max(np.abs(x - columns - across).max(), np.abs(y - rows - down).max())
        return (across, down) if off < 1e-6 else None

    def source_pixels(self, columns: Float64, rows: Float64) -> tuple[Float64, Float64]:
        """Transform fractional pixel coordinates of the grid (integers are pixel corners) to those of the file."""
        x, y = apply(self.grid.transform, columns, rows)
        if not self._same:
            x, y = self._to_source.transform(x, y)
        if not math.isnan(self._wrap):
            x = (x - self._wrap + 180) % 360 - 180 + self._wrap
        return self._georeference.to_pixels(x, y)

    def _inside(self, columns: Float64, rows: Float64) -> NDArray[np.bool_]:
        """Return which pixel coordinates of the grid are inside the file."""
        x, y = self.source_pixels(columns, rows)
        return np.asarray((x > 0) & (x < self._shape[1]) & (y > 0) & (y < self._shape[0]))

    def _overlap(self, raster: Raster) -> tuple[float, float]:
        height, width = self.grid.shape
        self.share = float(self._inside(*cell_centres(Window(0, 0, height, width), 128)).mean())
        """Share of the grid that the file covers."""
        columns, rows = lattice(Window(0, 0, height, width), 65, inset=0.5)
        inside = self._inside(columns, rows)
        if inside.any():
            return float(columns[inside].mean()), float(rows[inside].mean())
        # The file may be smaller than the spacing of the lattice.
        columns, rows = apply(
            ~self.grid.transform, *self._to_grid(*lattice(Window(0, 0, *self._shape), 65, inset=0.5))
        )
        inside = (columns > 0) & (columns < width) & (rows > 0) & (rows < height)
        if inside.any():
            return float(columns[inside].mean()), float(rows[inside].mean())
        raise InputError(self._describe_gap(raster))

    def _describe_gap(self, raster: Raster) -> str:
        """Describe where file and grid lie, in longitude and latitude and in the grid's reference system."""
        places = lattice(Window(0, 0, *self._shape), 65)
        grid = apply(self.grid.transform, *lattice(Window(0, 0, *self.grid.shape), 9))
        return (
            f"The {raster.what} file {raster.path} does not overlap the map's grid. The file covers "
            f"{describe_footprint(raster.crs, *self._georeference.to_ground(*places))}; the grid "
            f"{describe_footprint(self._grid_crs, *grid)}. In {crs_name(self._grid_crs)} these are "
            f"{describe_bounds(*self._to_grid(*places))} and {describe_bounds(*grid)}. Use files of the same area."
        )

    def bounds(self) -> tuple[float, float, float, float]:
        """Return the file's bounds on the grid: first column, first row, last column, last row, all fractional."""
        x, y = self._to_grid(*lattice(Window(0, 0, *self._shape), 65))
        columns, rows = apply(~self.grid.transform, x, y)
        known = np.isfinite(columns) & np.isfinite(rows)
        columns, rows = columns[known], rows[known]
        return float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max())

    def _to_grid(self, columns: Float64, rows: Float64) -> tuple[Float64, Float64]:
        """Transform pixel coordinates of the file to coordinates of the grid's CRS."""
        x, y = self._georeference.to_ground(columns, rows)
        if not self._same:
            x, y = self._to_source.transform(x, y, direction="INVERSE")
        return (x if math.isnan(self._turn) else (x - self._turn + 180) % 360 - 180 + self._turn), y

    def source_window(self, window: Window) -> Window:
        """Return the file's window needed to warp a grid window; empty if they do not intersect."""
        if self._shift is not None:
            across, down = self._shift
            return window._replace(row=window.row + down, column=window.column + across).clip(*self._shape)
        x, y = self.source_pixels(*lattice(window, 33))
        known = np.isfinite(x) & np.isfinite(y)
        if not known.any():
            return Window(0, 0, 0, 0)
        margin = _MARGIN + int(np.ceil(self.ratio))
        limits = self._shape[1] + margin, self._shape[0] + margin
        left, right = (int(edge) for edge in np.clip([x[known].min(), x[known].max()], -margin, limits[0]))
        top, bottom = (int(edge) for edge in np.clip([y[known].min(), y[known].max()], -margin, limits[1]))
        box = Window(top - margin, left - margin, bottom - top + 2 * margin + 1, right - left + 2 * margin + 1)
        return box.clip(*self._shape)

    def warp(self, window: Window, source: Window, layers: NDArray[Any], out: NDArray[Any], method: Resampling) -> None:
        """Resample the layers of the file's window ``source`` to the grid's ``window`` in ``out``; NaN is nodata."""
        if self._shift is not None:
            self._copy(window, source, layers, out)
            return
        # GDAL may modify these objects, so each thread has its own.
        source_crs, grid_crs = (rasterio.CRS.from_wkt(text) for text in self._wkt)
        # GDAL interpolates the transformation along rows, to an eighth of a pixel. Short rows keep it accurate.
        strips = [
            window._replace(column=window.column + start, width=min(_STRIP, window.width - start))
            for start in range(0, window.width, _STRIP)
        ]
        for together in _group_by_mask(layers):
            part, bands = layers[together], list(range(1, len(layers[together]) + 1))
            real = part.dtype.kind == "f"
            # Without nodata, GDAL gives the same values in half the time.
            nodata = np.nan if real and np.isnan(part).any() else None
            profile = self._georeference.profile(source)
            with _memory_raster(part.shape, out.dtype, profile, source_crs, nodata) as stored:
                stored.write(part)
                for strip in strips:
                    shape = (len(part), strip.height, strip.width)
                    profile = {"transform": window_transform(self.grid.transform, strip)}
                    with _memory_raster(shape, out.dtype, profile, grid_crs, nodata) as warped:
                        warped.write(np.full(shape, np.nan if real else 0, out.dtype))
                        reproject(
                            rasterio.band(stored, bands),
                            rasterio.band(warped, bands),
                            resampling=method,
                            init_dest_nodata=False,
                            warp_mem_limit=1024,  # no chunks, because their number would depend on the window
                            SRC_METHOD=self._georeference.method,
                            XSCALE=1,  # the unscaled kernel; GDAL would derive the scale from the window
                            YSCALE=1,
                        )
                        start = strip.column - window.column
                        out[together, :, start : start + strip.width] = warped.read()

    def _copy(self, window: Window, source: Window, layers: NDArray[Any], out: NDArray[Any]) -> None:
        """Copy pixels that coincide in the file and the grid."""
        across, down = self._shift or (0, 0)
        row, column = window.row + down, window.column + across
        top, left = max(row, source.row), max(column, source.column)
        bottom = min(row + window.height, source.row + source.height)
        right = min(column + window.width, source.column + source.width)
        if top < bottom and left < right:
            out[:, top - row : bottom - row, left - column : right - column] = layers[
                :, top - source.row : bottom - source.row, left - source.column : right - source.column
            ]


def _memory_raster(
    shape: tuple[int, ...], dtype: np.dtype[Any], profile: dict[str, Any], crs: rasterio.CRS, nodata: float | None
) -> Any:
    """Create a raster in memory. `reproject` would do it too, but it changes the warning filters of all threads."""
    return rasterio.open(
        "/vsimem/refnet", "w+", driver="MEM", count=shape[0], height=shape[1], width=shape[2], dtype=dtype,
        crs=crs, nodata=nodata, **profile,
    )  # fmt: skip


def _group_by_mask(layers: NDArray[Any]) -> list[slice]:
    """Return the groups of layers to warp together: all if they have the same nodata pixels, else single layers."""
    absent = np.isnan(layers) if layers.dtype.kind == "f" else np.zeros_like(layers, bool)
    if (absent == absent[:1]).all():
        return [slice(None)]
    return [slice(layer, layer + 1) for layer in range(len(layers))]
