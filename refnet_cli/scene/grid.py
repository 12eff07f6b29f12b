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
from refnet_cli.raster.georeference import (
    PIXEL,
    crs_name,
    describe_footprint,
    lattice,
    pixel_size_warnings,
    window_transform,
)
from refnet_cli.raster.raster import Raster, north_up_grid
from refnet_cli.raster.warp import Alignment
from refnet_cli.scene.inputs import Files, Layer, file_numbers
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.source import Source
from refnet_cli.sensors.decisions import Decision
from refnet_cli.tiles.window import Window


class GridNeededError(OptionsError):
    """There is no optical image, and the SAR image has no grid that a map can use."""


def result_grid(
    optical: Source | None,
    layers: Sequence[Layer],
    sar: Source | None,
    options: SceneOptions,
    given: GeoBox | None = None,
) -> tuple[GeoBox, Decision]:
    """Return the grid of the result: that of a given file, else of the optical image, else of the SAR image.

    Parameters
    ----------
    optical : Source or None
        None if there are no optical files.
    layers : sequence of Layer
        The optical bands used, or the SAR bands if there are no optical files.
    sar : Source or None
        Needed for the extent "intersection".
    options : SceneOptions
    given : GeoBox, optional
        That of another scene, which is returned as it is.

    Raises
    ------
    InputError
        If the grid is unusable.
    OptionsError
        If the grid is empty within the bounds. As `GridNeededError`, if the user must name a grid.
    """
    if given is not None:
        how = f"option: the grid of another scene, {crs_name(CRS.from_user_input(given.crs))}."
        return given, Decision("grid", [*given.shape], how)
    if options.grid is not None:
        with ExitStack() as stack:
            raster = Raster(options.grid, "grid")
            stack.callback(raster.close)
            grid = north_up_grid(raster)
        how = f"option: the grid of {options.grid.name}"
    elif optical is not None:
        grid = optical.grid(layers)
        how = "tag: the grid of the optical file"
    elif sar is not None:
        grid = sar_grid(sar, layers)
        how = "tag: the grid of the SAR file, because there is no optical file"
    else:
        raise ValueError("There are no files, so there is no grid.")
    whole = grid.shape
    if options.extent == "intersection" and optical is not None and sar is not None:
        grid = crop(grid, _extent_of(sar, grid))
        how += ", within the SAR image's extent"
    if options.bounds is not None:
        grid = crop(grid, _window_of(options.bounds, grid))
        how += ", within --bounds"
    cut = "" if grid.shape == whole else f" ({grid.shape[0]} x {grid.shape[1]} of {whole[0]} x {whole[1]} pixels)"
    return grid, Decision("grid", [*grid.shape], f"{how}, {crs_name(CRS.from_user_input(grid.crs))}{cut}.")


def sar_grid(sar: Source, layers: Sequence[Layer]) -> GeoBox:
    """Return the grid of a SAR image for the result.

    Raises
    ------
    GridNeededError
        If the image is not projected and north-up.
    """
    rasters = _rasters_of(sar, layers)
    for raster in rasters:
        if reason := _why_no_grid(raster):
            raise GridNeededError(
                f"The map has no grid: there is no optical image, and the SAR image {sar.label} {reason}. Pass a "
                f"raster on the map's grid with --grid; `{_empty_raster(rasters)}` creates one with {PIXEL:g} m "
                "pixels. Or use projected, north-up SAR."
            )
    return sar.grid(layers)


def grid_advice(sar: Source, layers: Sequence[Layer], grid: GeoBox) -> list[str]:
    """Return advice on a grid with the pixel size of the training data if the SAR image has another pixel size."""
    if not pixel_size_warnings(grid):
        return []
    return [
        f"the map has the pixels of the SAR image {sar.label}. To map pixels of {PIXEL:g} m, pass a raster with such "
        f"pixels with --grid. `{_empty_raster(_rasters_of(sar, layers))}` creates one."
    ]


def _rasters_of(source: Source, layers: Sequence[Layer]) -> list[Raster]:
    return [source.rasters[file] for file in file_numbers(layers)]


def _why_no_grid(raster: Raster) -> str:
    """Return why a raster's grid cannot be used for a map; "" if it can."""
    if raster.gcps_only:
        return "is georeferenced by ground control points only"
    if not raster.crs.is_projected:
        return f"is not projected (its pixels are degrees of {crs_name(raster.crs)})"
    transform = raster.transform
    if transform.b or transform.d or transform.a <= 0 or transform.e >= 0:
        return f"is rotated, sheared or not north-up (transform {tuple(transform)[:6]})"
    return ""


def _empty_raster(rasters: Sequence[Raster]) -> str:
    """Return the command that creates an empty raster that covers all files, in the UTM zone of their centre."""
    lon, lat = np.concatenate([_outline(raster) for raster in rasters], axis=1)
    lon = (lon - lon[0] + 180) % 360 - 180 + lon[0]  # contiguous across the antimeridian
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
    """Return the longitude and latitude of a lattice of points on a raster, shape (2, n)."""
    x, y = raster.georeference.to_ground(*lattice(Window(0, 0, *raster.shape), 9))
    found = np.array(Transformer.from_crs(raster.crs, "EPSG:4326", always_xy=True).transform(x, y))
    return found[:, np.isfinite(found).all(axis=0)]


def _projection_at(lon: float, lat: float) -> str:
    """Return the EPSG code of the UTM zone, or of a polar projection near the poles."""
    if lat > 84:
        return "EPSG:3413"
    if lat < -80:
        return "EPSG:3031"
    return f"EPSG:{(32600 if lat >= 0 else 32700) + min(int((lon + 180) // 6) + 1, 60)}"


def crop(grid: GeoBox, window: Window) -> GeoBox:
    """Return the grid of a window."""
    return GeoBox((window.height, window.width), window_transform(grid.transform, window), grid.crs)


def _between(grid: GeoBox, left: float, top: float, right: float, bottom: float) -> Window:
    """Return the pixels between fractional columns and rows, including partly covered ones, but not rounding errors."""
    first_row, first_column = math.floor(top + 1e-6), math.floor(left + 1e-6)
    height, width = math.ceil(bottom - 1e-6) - first_row, math.ceil(right - 1e-6) - first_column
    return Window(first_row, first_column, height, width).clip(*grid.shape)


def _extent_of(sar: Source, grid: GeoBox) -> Window:
    edges = [Alignment(sar.rasters[file], grid).bounds() for file in file_numbers(sar.layers)]
    left, top = max(edge[0] for edge in edges), max(edge[1] for edge in edges)
    window = _between(grid, left, top, min(edge[2] for edge in edges), min(edge[3] for edge in edges))
    if not window.height * window.width:
        raise InputError(f"The SAR input {sar.label} does not overlap the optical image. Use files of the same area.")
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
        raise OptionsError(f"--bounds {given} cannot be transformed to the grid's CRS: {error}.") from error
    if CRS.from_user_input(grid.crs).is_geographic:
        east += 360.0 * (west > east)
        box = grid.boundingbox
        turns = 360.0 * round((box.left + box.right - west - east) / 720)
        west, east = west + turns, east + turns
    corners = [~grid.transform @ point for point in ((west, north), (east, south))]
    if not np.isfinite(corners).all():
        raise OptionsError(f"--bounds {given} cannot be transformed to the grid's CRS. Check the order of the bounds.")
    window = _between(grid, *corners[0], *corners[1])
    if not window.height * window.width:
        box, crs = grid.boundingbox, CRS.from_user_input(grid.crs)
        edges = np.array([box.left, box.right] * 2), np.array([box.bottom, box.bottom, box.top, box.top])
        raise OptionsError(
            f"--bounds {given} is outside the map's grid, which covers "
            f"({box.left:.10g}, {box.bottom:.10g}, {box.right:.10g}, {box.top:.10g}) in "
            f"{crs_name(crs)}, {describe_footprint(crs, *edges)}. Pass west,south,east,north in this CRS, or append "
            "another CRS, such as EPSG:4326."
        )
    return window


def choose_zone(alternatives: Sequence[Files], sar: Source | None) -> tuple[Files, Decision | None]:
    """Choose the UTM zone of a product whose granules SAR covers best; without SAR, the zone with most granules."""
    if len(alternatives) == 1:
        return alternatives[0], None
    if sar is None:
        counts = [(_zone_of(files), len((files.layers or ())[0].pieces)) for files in alternatives]
        listed = ", ".join(f"{count} in {zone}" for zone, count in counts)
        how = (
            f"count: a guess, the product has granules in {len(counts)} UTM zones ({listed}); the first zone with the "
            "most granules is mapped."
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


def zone_warnings(decision: Decision) -> list[str]:
    """Return a warning if `choose_zone` guessed the UTM zone of a product because there is no SAR."""
    if not decision.how.startswith("count: a guess"):
        return []
    how = decision.how.removeprefix("count: a guess, ")
    return [f"the map covers only one UTM zone of the optical product, {decision.value}: {how}"]


def _zone_of(files: Files) -> str:
    """Return the CRS of a product's granules."""
    with ExitStack() as stack:
        source = Source(files, stack)
        return crs_name(source.rasters[source.layers[0].pieces[0][0]].crs)
