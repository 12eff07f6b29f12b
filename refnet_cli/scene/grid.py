"""The grid of the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.scene.alignment import Alignment
from refnet_cli.scene.geometry import crs_name, moved
from refnet_cli.scene.inputs import Files, Layer
from refnet_cli.scene.judge import Decision
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.raster import Raster, north_up_grid
from refnet_cli.scene.source import Source
from refnet_cli.tiling import Window


def result_grid(
    optical: Source, layers: Sequence[Layer], sar: Source | None, options: SceneOptions
) -> tuple[GeoBox, Decision]:
    """Choose the grid of the result: the optical image's own pixels, or those of a file that is named.

    Parameters
    ----------
    optical : Source
    layers : sequence of Layer
        Optical bands that are used.
    sar : Source or None
        Needed for the extent "intersection".
    options : SceneOptions

    Raises
    ------
    InputError
        If a grid cannot be used.
    OptionsError
        If nothing is left of it within the bounds.
    """
    if options.grid is not None:
        with ExitStack() as stack:
            raster = Raster(options.grid, "grid")
            stack.callback(raster.close)
            grid = north_up_grid(raster)
        how = f"option: the grid of {options.grid.name}"
    else:
        grid = optical.grid(layers)
        how = "tag: the optical file's own grid is kept"
    whole = grid.shape
    if options.extent == "intersection" and sar is not None:
        grid = crop(grid, _extent_of(sar, grid))
        how += ", within the SAR image's extent"
    if options.bounds is not None:
        grid = crop(grid, _window_of(options.bounds, grid))
        how += ", within --bounds"
    cut = "" if grid.shape == whole else f" ({grid.shape[0]} x {grid.shape[1]} of {whole[0]} x {whole[1]} pixels)"
    return grid, Decision("grid", [*grid.shape], f"{how}, {crs_name(CRS.from_user_input(grid.crs))}{cut}.")


def crop(grid: GeoBox, window: Window) -> GeoBox:
    """Return the grid of a window of a grid."""
    return GeoBox((window.height, window.width), moved(grid.transform, window), grid.crs)


def _between(grid: GeoBox, left: float, top: float, right: float, bottom: float) -> Window:
    """Whole pixels that lie at least in part between fractional columns and rows; a rounding error is no part."""
    first_row, first_column = math.floor(top + 1e-6), math.floor(left + 1e-6)
    height, width = math.ceil(bottom - 1e-6) - first_row, math.ceil(right - 1e-6) - first_column
    return Window(first_row, first_column, height, width).clip(*grid.shape)


def _extent_of(sar: Source, grid: GeoBox) -> Window:
    edges = [
        Alignment(sar.rasters[file], grid).bounds()
        for file in dict.fromkeys(file for layer in sar.layers for file, _ in layer.pieces)
    ]
    left, top = max(edge[0] for edge in edges), max(edge[1] for edge in edges)
    window = _between(grid, left, top, min(edge[2] for edge in edges), min(edge[3] for edge in edges))
    if not window.height * window.width:
        raise InputError(f"The SAR input {sar.label} does not overlap the optical image: give files of the same place.")
    return window


def _window_of(bounds: Sequence[str], grid: GeoBox) -> Window:
    west, south, east, north = (float(edge) for edge in bounds[:4])
    given = ",".join(map(str, bounds))
    try:
        if len(bounds) == 5:
            source, target = CRS.from_user_input(bounds[4]), CRS.from_user_input(grid.crs).to_2d()
            to_grid = Transformer.from_crs(source, target, always_xy=True)
            west, south, east, north = to_grid.transform_bounds(west, south, east, north, densify_pts=65)
    except ProjError as error:
        raise OptionsError(f"--bounds {given} cannot be brought into the grid's reference system: {error}.") from error
    if CRS.from_user_input(grid.crs).is_geographic:
        east += 360.0 * (west > east)
        box = grid.boundingbox
        turns = 360.0 * round((box.left + box.right - west - east) / 720)
        west, east = west + turns, east + turns
    corners = [~grid.transform @ point for point in ((west, north), (east, south))]
    if not np.isfinite(corners).all():
        raise OptionsError(f"--bounds {given} has no place in the grid's reference system.")
    window = _between(grid, *corners[0], *corners[1])
    if not window.height * window.width:
        box = grid.boundingbox
        raise OptionsError(
            f"--bounds {given} lies beside the optical grid, which covers "
            f"({box.left:.10g}, {box.bottom:.10g}, {box.right:.10g}, {box.top:.10g}) in "
            f"{crs_name(CRS.from_user_input(grid.crs))}: order them west,south,east,north, in that reference system "
            "or with another one behind them, as EPSG:4326."
        )
    return window


def choose_zone(alternatives: Sequence[Files], sar: Source | None) -> tuple[Files, Decision | None]:
    """Choose, of a product's UTM zones, the one whose granules SAR covers most of."""
    if len(alternatives) == 1 or sar is None:
        return alternatives[0], None
    covered = []
    for files in alternatives:
        with ExitStack() as stack:
            source = Source(files, stack)
            grid = source.grid(source.layers)
            try:
                share = Alignment(sar.rasters[sar.layers[0].pieces[0][0]], grid).share
            except InputError:
                share = 0.0
            covered.append((share * grid.shape[0] * grid.shape[1], crs_name(CRS.from_user_input(grid.crs))))
    best = max(range(len(alternatives)), key=lambda index: covered[index][0])
    zone = covered[best][1]
    others = ", ".join(name for _, name in covered if name != zone)
    how = f"values: SAR covers more of the granules in {zone} than of those in {others}."
    return alternatives[best], Decision("optical.zone", zone, how)
