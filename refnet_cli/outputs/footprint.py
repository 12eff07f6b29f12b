"""The footprint of a grid on the Earth, as GeoJSON.

Own code instead of the library antimeridian, which cuts outlines at the 180th meridian too. That library keeps
latitudes beyond the poles, loses areas that overlap themselves beyond a projection's edge, and treats a grid from 0 to
360 degrees as having no width.
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
_DIGITS = 7  # decimals of degrees: about a centimetre, and equal for every version of PROJ
_STRAIGHT = 1e-6  # degrees by which an edge may deviate from a straight line
_POLE = 90 - 1e-7


def footprint(grid: GeoBox) -> tuple[dict[str, Any], list[float]]:
    """Return the footprint of a grid and its bounding box.

    Parameters
    ----------
    grid : GeoBox

    Returns
    -------
    geometry : dict
        GeoJSON according to RFC 7946: in WGS 84, counterclockwise, cut at the 180th meridian if the grid crosses it,
        and with an edge along the pole if the grid contains a pole.
    bbox : list of float
        West, south, east and north in degrees; west is greater than east across the 180th meridian.

    Raises
    ------
    InputError
        If the grid's coordinates cannot be converted to WGS 84.
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
    # Rejoins parts that only the ring's start separated: a polar cap is a single polygon.
    shape = shapely.union_all(parts)
    if east - west > 360 - _STRAIGHT:  # rounding may shorten a full circle around a pole
        west, east = -180.0, 180.0
    else:
        west, east = (west + 180) % 360 - 180, 180 - (180 - east) % 360
    oriented = [orient(part) for part in _polygons(shape)]
    geometry = mapping(oriented[0] if len(oriented) == 1 else MultiPolygon(oriented))
    return geometry, [round(value, _DIGITS) for value in (west, south, east, north)]


def _outline(grid: GeoBox) -> Float64:
    """Return longitudes and latitudes along the grid's edges, shape (N, 2), without repeating the first point."""
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
        raise InputError(f"The grid's coordinate system cannot be converted to WGS 84 ({error}).") from error
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 3:
        raise InputError("The grid's edges lie outside the area where its projection is defined.")
    return points


def _without_poles(points: Float64) -> Float64:
    """Replace a pole on the grid's edge by two points with its neighbours' longitudes: a pole has no longitude."""
    polar = np.abs(points[:, 1]) >= _POLE
    alone = polar & ~np.roll(polar, 1) & ~np.roll(polar, -1)
    before, after = np.roll(points[:, 0], 1), np.roll(points[:, 0], -1)
    made: list[tuple[float, float]] = []
    for (longitude, latitude), is_alone, earlier, later in zip(points, alone, before, after, strict=True):
        made += [(earlier, latitude), (later, latitude)] if is_alone else [(longitude, latitude)]
    return np.array(made)


def _close(points: Float64) -> Float64:
    """Close a ring with longitudes continued beyond 180 degrees; a ring around a pole is closed along that pole."""
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
    """Return the polygons of a geometry, without points and lines left by the cuts."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    return [part for part in parts if part.geom_type == "Polygon"]
