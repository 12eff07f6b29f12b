"""Where on the Earth a grid lies, as GeoJSON tells it.

The library antimeridian cuts outlines too, but leaves latitudes beyond the poles as they are, loses what overlaps
itself beyond a projection's edge, and takes a grid from 0 to 360 degrees for one without width.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyproj
import shapely
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Polygon, box, mapping
from shapely.geometry.polygon import orient

from refnet_cli.errors import InputError
from refnet_cli.types import Float64

_POINTS_PER_EDGE = 32
_DIGITS = 7  # of degrees: about a centimetre, and the same with every version of PROJ
_STRAIGHT = 1e-6  # degrees by which an edge may bend without a point there
_POLE = 90 - 1e-7


def footprint(grid: GeoBox) -> tuple[dict[str, Any], list[float]]:
    """Return the outline of a grid on the Earth.

    Parameters
    ----------
    grid : GeoBox

    Returns
    -------
    geometry : dict
        GeoJSON after RFC 7946: in WGS 84, anticlockwise, cut along the 180th meridian where the grid crosses it, and
        with an edge along the pole where the grid holds one.
    bbox : list of float
        West, south, east and north in degrees; west is greater than east across the 180th meridian.

    Raises
    ------
    InputError
        If the grid has no place on the Earth.
    """
    ring = _close(_without_poles(_outline(grid)))
    whole = Polygon(_rounded(ring))
    if not whole.is_valid:
        whole = shapely.union_all(_polygons(shapely.make_valid(whole)))
    whole = whole.simplify(_STRAIGHT)
    west, south, east, north = whole.bounds
    parts = []
    for turn in range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360)):
        inside = whole.intersection(box(360 * turn - 180, -90, 360 * turn + 180, 90))
        parts += [shapely.transform(translate(part, -360 * turn), _rounded) for part in _polygons(inside)]
    # What only the ring's own beginning divided is one again: a cap around a pole is a single polygon.
    shape = shapely.union_all(parts)
    if east - west > 360 - _STRAIGHT:  # rounded, a turn around a pole may be a little less
        west, east = -180.0, 180.0
    else:
        west, east = (west + 180) % 360 - 180, 180 - (180 - east) % 360
    oriented = [orient(part) for part in _polygons(shape)]
    geometry = mapping(oriented[0] if len(oriented) == 1 else MultiPolygon(oriented))
    return geometry, [round(value, _DIGITS) for value in (west, south, east, north)]


def _outline(grid: GeoBox) -> Float64:
    """Longitudes and latitudes along the grid's edges, shape (N, 2), the first not repeated."""
    height, width = grid.shape
    on = np.arange(_POINTS_PER_EDGE) / _POINTS_PER_EDGE
    columns = width * np.concatenate([on, 1 + 0 * on, 1 - on, 0 * on])
    rows = height * np.concatenate([0 * on, on, 1 + 0 * on, 1 - on])
    to_map = grid.affine
    x, y = to_map.a * columns + to_map.b * rows + to_map.c, to_map.d * columns + to_map.e * rows + to_map.f
    try:
        to_wgs84 = pyproj.Transformer.from_crs(pyproj.CRS.from_user_input(grid.crs), "EPSG:4326", always_xy=True)
        points: Float64 = np.column_stack(to_wgs84.transform(x, y))
    except ProjError as error:
        raise InputError(f"The grid's coordinate system has no place on the Earth ({error}).") from error
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 3:
        raise InputError("The grid's edges have no place on the Earth.")
    return points


def _without_poles(points: Float64) -> Float64:
    """Give a pole that a grid's edge passes the longitudes of the points before and after it, having none itself."""
    polar = np.abs(points[:, 1]) >= _POLE
    alone = polar & ~np.roll(polar, 1) & ~np.roll(polar, -1)
    before, after = np.roll(points[:, 0], 1), np.roll(points[:, 0], -1)
    made: list[tuple[float, float]] = []
    for (longitude, latitude), is_alone, earlier, later in zip(points, alone, before, after, strict=True):
        made += [(earlier, latitude), (later, latitude)] if is_alone else [(longitude, latitude)]
    return np.array(made)


def _close(points: Float64) -> Float64:
    """Close a ring whose longitudes go on beyond 180 degrees; around a pole, along that pole."""
    ring = np.vstack([points, points[:1]])
    ring[:, 0] = np.unwrap(ring[:, 0], period=360)
    (start, _), (end, _) = ring[0], ring[-1]
    if abs(end - start) > 180:
        pole = math.copysign(90, ring[:, 1].mean())
        ring = np.vstack([ring, [(end, pole), (start, pole)], ring[:1]])
    return ring


def _rounded(points: Float64) -> Float64:
    return np.round(points, _DIGITS)


def _polygons(shape: Any) -> list[Polygon]:
    """Return the polygons of a shape, without the points and lines that cuts leave."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    return [part for part in parts if part.geom_type == "Polygon"]
