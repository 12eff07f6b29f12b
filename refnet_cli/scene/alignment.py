"""Where a grid's pixels lie in a raster file, and how the file's values come onto the grid."""

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
from refnet_cli.scene.geometry import Points, apply, cell_centres, crs_name, describe_bounds, lattice, moved
from refnet_cli.scene.raster import Raster
from refnet_cli.tiling import Window

_MARGIN = 16  # source pixels around a block's footprint: the kernel's, and differences between datum shifts
_STRIP = 128  # columns of the grid warped at once


class Alignment:
    """Where a grid's pixels lie in a raster file, and how the file's values come onto the grid.

    Parameters
    ----------
    raster : Raster
        The file to warp.
    grid : GeoBox
        The grid to warp it to.

    Raises
    ------
    InputError
        If file and grid do not overlap.
    """

    def __init__(self, raster: Raster, grid: GeoBox) -> None:
        self.grid = grid
        self._shape = raster.shape
        self._place = raster.place
        self._grid_crs = CRS.from_user_input(grid.crs).to_2d()
        self._same = raster.crs == self._grid_crs
        self._source_crs = raster.crs
        source_crs, self._wrap = raster.stored_crs, math.nan
        longitudes = self._place.to_ground(*lattice(Window(0, 0, *self._shape), 2))[0]
        box = grid.boundingbox
        own = [longitudes.min(), longitudes.max()] if raster.crs.is_geographic else []
        self._turn = (box.left + box.right) / 2 if self._grid_crs.is_geographic else math.nan
        around = own + ([box.left, box.right] if self._grid_crs.is_geographic else [])
        if own and not -180 <= min(around) <= max(around) <= 180:
            # Transformed longitudes would break at 180 degrees, in the midst of such a file.
            self._wrap = float(longitudes.min() + longitudes.max()) / 2
            source_crs = rasterio.CRS.from_string(f"{source_crs.to_proj4()} +lon_wrap={self._wrap!r}")
        self._wkt = source_crs.to_wkt(), self._grid_crs.to_wkt()
        self._shift = self._whole_shift()
        place = self._overlap(raster)
        columns, rows = np.array(place)[:, None] + [[0, 1, 0], [0, 0, 1]]
        x, y = self.source_pixels(columns, rows)
        self.ratio = float(np.sqrt(abs((x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0]))))
        """Size of a grid pixel in pixels of the file, where they overlap."""

    @cached_property
    def _to_source(self) -> Transformer:
        """From the grid's reference system to the file's; it takes longer to create than small files to read."""
        return Transformer.from_crs(self._grid_crs, self._source_crs, always_xy=True)

    @property
    def same_pixels(self) -> bool:
        """Whether the file's pixels are the grid's, so that nothing is resampled."""
        return self._shift is not None

    def _whole_shift(self) -> tuple[int, int] | None:
        """How many columns and rows the grid's pixels lie off the file's, if they are the same pixels."""
        columns, rows = lattice(Window(0, 0, *self.grid.shape), 2)
        x, y = self.source_pixels(columns, rows)
        if not self._same or not (np.isfinite(x).all() and np.isfinite(y).all()):
            return None
        across, down = round(x[0] - columns[0]), round(y[0] - rows[0])
        off = max(np.abs(x - columns - across).max(), np.abs(y - rows - down).max())
        return (across, down) if off < 1e-6 else None

    def source_pixels(self, columns: Points, rows: Points) -> tuple[Points, Points]:
        """Transform fractional pixel places (pixel corners are whole) on the grid to such places in the file."""
        x, y = apply(self.grid.transform, columns, rows)
        if not self._same:
            x, y = self._to_source.transform(x, y)
        if not math.isnan(self._wrap):
            x = (x - self._wrap + 180) % 360 - 180 + self._wrap
        return self._place.to_pixels(x, y)

    def _inside(self, columns: Points, rows: Points) -> NDArray[np.bool_]:
        """Tell which places on the grid lie in the file."""
        x, y = self.source_pixels(columns, rows)
        return np.asarray((x > 0) & (x < self._shape[1]) & (y > 0) & (y < self._shape[0]))

    def _overlap(self, raster: Raster) -> tuple[float, float]:
        height, width = self.grid.shape
        self.share = float(self._inside(*cell_centres(Window(0, 0, height, width), 128)).mean())
        """Share of the grid that lies in the file."""
        columns, rows = lattice(Window(0, 0, height, width), 65, inset=0.5)
        inside = self._inside(columns, rows)
        if inside.any():
            return float(columns[inside].mean()), float(rows[inside].mean())
        # The file may be smaller than the lattice's mesh.
        columns, rows = apply(
            ~self.grid.transform, *self._to_grid(*lattice(Window(0, 0, *self._shape), 65, inset=0.5))
        )
        inside = (columns > 0) & (columns < width) & (rows > 0) & (rows < height)
        if inside.any():
            return float(columns[inside].mean()), float(rows[inside].mean())
        raise InputError(
            f"The {raster.what} file {raster.path} does not overlap the map's grid: it covers "
            f"{describe_bounds(*self._to_grid(*lattice(Window(0, 0, *self._shape), 65)))}, the grid "
            f"{describe_bounds(*apply(self.grid.transform, *lattice(Window(0, 0, height, width), 2)))} in "
            f"{crs_name(self._grid_crs)}; give files of the same place."
        )

    def bounds(self) -> tuple[float, float, float, float]:
        """Return the first and last column and row on the grid, fractional, between which the file lies."""
        x, y = self._to_grid(*lattice(Window(0, 0, *self._shape), 65))
        columns, rows = apply(~self.grid.transform, x, y)
        known = np.isfinite(columns) & np.isfinite(rows)
        columns, rows = columns[known], rows[known]
        return float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max())

    def _to_grid(self, columns: Points, rows: Points) -> tuple[Points, Points]:
        """Transform places in the file to coordinates of the grid's reference system."""
        x, y = self._place.to_ground(columns, rows)
        if not self._same:
            x, y = self._to_source.transform(x, y, direction="INVERSE")
        return (x if math.isnan(self._turn) else (x - self._turn + 180) % 360 - 180 + self._turn), y

    def source_window(self, window: Window) -> Window:
        """Return the file's window that the warp of a grid window needs; empty where they do not meet."""
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
        """Resample layers of the file's window ``source`` into ``out``, the grid's ``window``; NaN is nodata."""
        if self._shift is not None:
            self._cut(window, source, layers, out)
            return
        # Objects of this thread's own, which GDAL may change while it uses them.
        source_crs, grid_crs = (rasterio.CRS.from_wkt(text) for text in self._wkt)
        # GDAL interpolates the transformation along rows to an eighth of a pixel; along short ones it is exact enough.
        strips = [
            window._replace(column=window.column + start, width=min(_STRIP, window.width - start))
            for start in range(0, window.width, _STRIP)
        ]
        for together in _of_one_validity(layers):
            part, bands = layers[together], list(range(1, len(layers[together]) + 1))
            real = part.dtype.kind == "f"
            # Where nothing is missing and nothing declared so, GDAL takes half the time, to the same values.
            nodata = np.nan if real and np.isnan(part).any() else None
            with _in_memory(part.shape, out.dtype, self._place.profile(source), source_crs, nodata) as stored:
                stored.write(part)
                for strip in strips:
                    shape, place = (len(part), strip.height, strip.width), moved(self.grid.transform, strip)
                    with _in_memory(shape, out.dtype, {"transform": place}, grid_crs, nodata) as warped:
                        warped.write(np.full(shape, np.nan if real else 0, out.dtype))
                        reproject(
                            rasterio.band(stored, bands),
                            rasterio.band(warped, bands),
                            resampling=method,
                            init_dest_nodata=False,
                            warp_mem_limit=1024,  # one piece: GDAL would split it depending on its size
                            SRC_METHOD=self._place.method,
                            XSCALE=1,  # the plain kernel, which GDAL would widen depending on the piece's outline
                            YSCALE=1,
                        )
                        start = strip.column - window.column
                        out[together, :, start : start + strip.width] = warped.read()

    def _cut(self, window: Window, source: Window, layers: NDArray[Any], out: NDArray[Any]) -> None:
        """Copy pixels that are the same in file and grid."""
        across, down = self._shift or (0, 0)
        row, column = window.row + down, window.column + across
        top, left = max(row, source.row), max(column, source.column)
        bottom = min(row + window.height, source.row + source.height)
        right = min(column + window.width, source.column + source.width)
        if top < bottom and left < right:
            out[:, top - row : bottom - row, left - column : right - column] = layers[
                :, top - source.row : bottom - source.row, left - source.column : right - source.column
            ]


def _in_memory(
    shape: tuple[int, ...], dtype: np.dtype[Any], place: dict[str, Any], crs: rasterio.CRS, nodata: float | None
) -> Any:
    """Make a raster in memory; `reproject` would make one of an array, but with filters of warnings for all threads."""
    return rasterio.open(
        "/vsimem/refnet", "w+", driver="MEM", count=shape[0], height=shape[1], width=shape[2], dtype=dtype,
        crs=crs, nodata=nodata, **place,
    )  # fmt: skip


def _of_one_validity(layers: NDArray[Any]) -> list[slice]:
    """Layers that may be warped in one go: all, or each by itself to keep its own validity."""
    absent = np.isnan(layers) if layers.dtype.kind == "f" else np.zeros_like(layers, bool)
    if (absent == absent[:1]).all():
        return [slice(None)]
    return [slice(layer, layer + 1) for layer in range(len(layers))]
