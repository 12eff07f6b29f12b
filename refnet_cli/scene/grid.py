"""The grid of the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.scene.alignment import Alignment
from refnet_cli.scene.geometry import PIXEL, crs_name, lattice, moved, warn_of_pixels
from refnet_cli.scene.inputs import Files, Layer
from refnet_cli.scene.judge import Decision
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.raster import Raster, north_up_grid
from refnet_cli.scene.source import Source
from refnet_cli.tiling import Window


class GridNeededError(OptionsError):
    """There is no optical image, and the grid of the SAR image cannot be that of a map."""


def result_grid(
    optical: Source | None, layers: Sequence[Layer], sar: Source | None, options: SceneOptions
) -> tuple[GeoBox, Decision]:
    """Choose the grid of the result: the optical image's pixels, without one SAR's, or those of a file that is named.

    Parameters
    ----------
    optical : Source or None
        None if there are no optical files.
    layers : sequence of Layer
        Optical bands that are used; SAR's if there are no optical files.
    sar : Source or None
        Needed for the extent "intersection".
    options : SceneOptions

    Raises
    ------
    InputError
        If a grid cannot be used.
    OptionsError
        If nothing is left of it within the bounds, or, as `GridNeededError`, if only the user can say what it is.
    """
    if options.grid is not None:
        with ExitStack() as stack:
            raster = Raster(options.grid, "grid")
            stack.callback(raster.close)
            grid = north_up_grid(raster)
        how = f"option: the grid of {options.grid.name}"
    elif optical is not None:
        grid = optical.grid(layers)
        how = "tag: the optical file's own grid is kept"
    elif sar is not None:
        grid = grid_of_sar(sar, layers)
        how = "tag: there is no optical file, and the SAR file's own grid is kept"
    else:
        raise ValueError("There are no files that could have a grid.")
    whole = grid.shape
    if options.extent == "intersection" and optical is not None and sar is not None:
        grid = crop(grid, _extent_of(sar, grid))
        how += ", within the SAR image's extent"
    if options.bounds is not None:
        grid = crop(grid, _window_of(options.bounds, grid))
        how += ", within --bounds"
    cut = "" if grid.shape == whole else f" ({grid.shape[0]} x {grid.shape[1]} of {whole[0]} x {whole[1]} pixels)"
    return grid, Decision("grid", [*grid.shape], f"{how}, {crs_name(CRS.from_user_input(grid.crs))}{cut}.")


def grid_of_sar(sar: Source, layers: Sequence[Layer]) -> GeoBox:
    """Return the grid of a SAR image as that of the result.

    Raises
    ------
    GridNeededError
        If the image is not projected and north-up.
    """
    rasters = _rasters_of(sar, layers)
    for raster in rasters:
        if reason := _why_no_grid(raster):
            raise GridNeededError(
                f"The map has no grid: there is no optical image, and the SAR image {sar.label} {reason}. Name a "
                f"raster with --grid whose pixels the map is to have. `{_empty_raster(rasters)}` makes one of "
                f"{PIXEL:g} m pixels; or give SAR that is projected and north-up."
            )
    return sar.grid(layers)


def advise_grid(sar: Source, layers: Sequence[Layer], grid: GeoBox) -> list[str]:
    """Say how to map SAR alone on pixels that weights learn from, where those of its own grid are others."""
    if not warn_of_pixels(grid):
        return []
    return [
        f"the pixels of the map are those of the SAR image {sar.label}. To map it on pixels of {PIXEL:g} m, name a "
        f"raster that has such pixels with --grid. `{_empty_raster(_rasters_of(sar, layers))}` makes one."
    ]


def _rasters_of(source: Source, layers: Sequence[Layer]) -> list[Raster]:
    return [source.rasters[file] for file in dict.fromkeys(file for layer in layers for file, _ in layer.pieces)]


def _why_no_grid(raster: Raster) -> str:
    """Say why a raster's pixels cannot be a map's; nothing if they can."""
    if raster.by_points:
        return "is placed by ground control points only"
    if not raster.crs.is_projected:
        return f"is not projected (its pixels are degrees of {crs_name(raster.crs)})"
    transform = raster.transform
    if transform.b or transform.d or transform.a <= 0 or transform.e >= 0:
        return f"is rotated, sheared or not north-up (transform {tuple(transform)[:6]})"
    return ""


def _empty_raster(rasters: Sequence[Raster]) -> str:
    """Return the command that makes an empty raster over all files, in the UTM zone of their middle."""
    lon, lat = np.concatenate([_outline(raster) for raster in rasters], axis=1)
    lon = (lon - lon[0] + 180) % 360 - 180 + lon[0]  # one piece at 180 degrees too
    zone = _projection_at(((lon.min() + lon.max()) / 2 + 180) % 360 - 180, (lat.min() + lat.max()) / 2)
    x, y = Transformer.from_crs("EPSG:4326", zone, always_xy=True).transform(lon, lat)
    west, south = (math.floor(np.min(edge) / PIXEL) * PIXEL for edge in (x, y))
    east, north = (math.ceil(np.max(edge) / PIXEL) * PIXEL for edge in (x, y))
    columns, rows = round((east - west) / PIXEL), round((north - south) / PIXEL)
    return (
        f"gdal_create -ot Byte -co SPARSE_OK=TRUE -outsize {columns} {rows} -a_srs {zone} "
        f"-a_ullr {west:.0f} {north:.0f} {east:.0f} {south:.0f} grid.tif"
    )


def _outline(raster: Raster) -> NDArray[np.float64]:
    """Return longitude and latitude of points spread over a raster, shape (2, n)."""
    x, y = raster.place.to_ground(*lattice(Window(0, 0, *raster.shape), 9))
    found = np.array(Transformer.from_crs(raster.crs, "EPSG:4326", always_xy=True).transform(x, y))
    return found[:, np.isfinite(found).all(axis=0)]


def _projection_at(lon: float, lat: float) -> str:
    """Return the code of a UTM zone, or near a pole that of a polar projection."""
    if lat > 84:
        return "EPSG:3413"
    if lat < -80:
        return "EPSG:3031"
    return f"EPSG:{(32600 if lat >= 0 else 32700) + min(int((lon + 180) // 6) + 1, 60)}"


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
            f"--bounds {given} lies outside the map's grid, which covers "
            f"({box.left:.10g}, {box.bottom:.10g}, {box.right:.10g}, {box.top:.10g}) in "
            f"{crs_name(CRS.from_user_input(grid.crs))}: order them west,south,east,north, in that reference system "
            "or with another one behind them, as EPSG:4326."
        )
    return window


def choose_zone(alternatives: Sequence[Files], sar: Source | None) -> tuple[Files, Decision | None]:
    """Choose, of a product's UTM zones, the one whose granules SAR covers most of; without SAR, the largest."""
    if len(alternatives) == 1:
        return alternatives[0], None
    if sar is None:
        counts = [(_zone_of(files), len((files.layers or ())[0].pieces)) for files in alternatives]
        listed = ", ".join(f"{count} in {zone}" for zone, count in counts)
        how = (
            f"count: a guess, the product has granules in {len(counts)} UTM zones ({listed}), of which the first with "
            "most of them is mapped."
        )
        return alternatives[0], Decision("optical.zone", counts[0][0], how)
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


def warn_of_zone(decision: Decision) -> list[str]:
    """Put into words that a product's zone was guessed, as `choose_zone` does without SAR."""
    if not decision.how.startswith("count: a guess"):
        return []
    how = decision.how.removeprefix("count: a guess, ")
    return [f"the map covers one UTM zone of the optical product only, {decision.value}: {how}"]


def _zone_of(files: Files) -> str:
    """Name the reference system of a product's granules."""
    with ExitStack() as stack:
        source = Source(files, stack)
        return crs_name(source.rasters[source.layers[0].pieces[0][0]].crs)
