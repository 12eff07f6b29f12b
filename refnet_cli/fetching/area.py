"""Areas to fetch: from a bounding box, a tile or a vector file to grids of 10 m in one UTM zone each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.fetching.mgrs import tile_bounds
from refnet_cli.fetching.options import parse_bbox
from refnet_cli.raster.vectors import VectorFile

PIXEL = 10.0
MAX_SIDE = 60_000
"""Most pixels of a scene along a side."""
MIN_SIDE = 16
"""Fewest pixels of a scene along a side."""
UNNAMED = "scene"
"""Name of an area that has none."""
_STEP = 0.05  # degrees between points of edges that are projected
_ROUNDING = 1e-3  # part of a pixel by which projecting may miss a corner
_NAME_FIELDS = ("name", "id", "region", "title")


@dataclass(frozen=True)
class Area:
    """A part of the Earth that becomes one scene.

    Parameters
    ----------
    name : str
        Name of its folder; unique.
    region : str
        Feature that it belongs to; several areas of one feature lie in several UTM zones.
    shape : shapely geometry
        Polygons in longitude and latitude, from -180 to 180 degrees.
    grid : GeoBox
        Pixels of 10 m on the lattice of Sentinel-2 that cover the shape.
    """

    name: str
    region: str
    shape: Any
    grid: GeoBox

    @property
    def epsg(self) -> int:
        """EPSG code of the grid's UTM zone."""
        return epsg_of(self.grid)

    def outline(self) -> Any:
        """Return the outline of the grid in longitude and latitude, cut at 180 degrees."""
        box = self.grid.boundingbox
        ring = shapely.segmentize(shapely.box(box.left, box.bottom, box.right, box.top), 5000.0)
        to_degrees = Transformer.from_crs(self.epsg, 4326, always_xy=True)

        def move(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            x, y = to_degrees.transform(points[:, 0], points[:, 1])
            middle = zone_of(self.epsg) * 6 - 183
            return np.stack([(x - middle + 180) % 360 - 180 + middle, y], axis=1)

        return cut_at_antimeridian(shapely.transform(ring, move))


def epsg_of(grid: GeoBox) -> int:
    """Return the EPSG code of a grid in a UTM zone."""
    code = CRS.from_user_input(grid.crs).to_epsg()
    assert code is not None
    return int(code)


def zone_of(epsg: int) -> int:
    """Return the number of a UTM zone.

    Examples
    --------
    >>> zone_of(32633)
    33
    """
    return epsg % 100


def cut_at_antimeridian(shape: Any) -> Any:
    """Return a shape whose longitudes may exceed 180 degrees as one from -180 to 180 degrees.

    Examples
    --------
    >>> shape = cut_at_antimeridian(shapely.box(179, 0, 182, 1))
    >>> [part.bounds for part in shape.geoms]
    [(-180.0, 0.0, -178.0, 1.0), (179.0, 0.0, 180.0, 1.0)]
    """
    parts = []
    for turn in (-360, 0, 360):
        part = shapely.clip_by_rect(shape, -180 + turn, -90, 180 + turn, 90)
        part = shapely.transform(part, lambda points, turn=turn: points - [turn, 0])
        parts += [one for one in shapely.get_parts(part) if one.geom_type in ("Polygon",) and one.area]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(sorted(parts, key=lambda part: part.bounds))


def area_of_bbox(text: str) -> list[Area]:
    """Return the areas of a bounding box ``W,S,E,N`` in degrees; west may be east of east, across 180 degrees.

    Raises
    ------
    OptionsError
        If it is no bounding box.
    """
    west, south, east, north = parse_bbox(text)
    return split(UNNAMED, cut_at_antimeridian(shapely.segmentize(shapely.box(west, south, east, north), _STEP)))


def area_of_tile(name: str) -> list[Area]:
    """Return the area of a tile of Sentinel-2; see `tile_bounds` for the errors."""
    epsg, (west, south, east, north) = tile_bounds(name)
    grid = _grid(epsg, west, south, east, north)
    upper = name.upper().removeprefix("T")
    area = Area(upper, upper, None, grid)
    return [Area(upper, upper, area.outline(), grid)]


def areas_of_file(path: Path, layer: str | None = None, field: str | None = None) -> list[Area]:
    """Return the areas of a vector file's polygons, one or more for each feature.

    Parameters
    ----------
    path : Path
        GeoJSON, GeoPackage, Shapefile or FlatGeobuf; see `VectorFile.open` for the errors.
    layer : str, optional
    field : str, optional
        Field with the features' names; by default the first of name, id, region and title, else their numbers.

    Raises
    ------
    InputError
        If a feature is no polygon.
    OptionsError
        If the field does not exist.
    """
    file = VectorFile.open(path, "area", layer, "--area-layer")
    if field is not None and field not in file.fields:
        raise OptionsError(f"{path} has no field {field!r}; it has {', '.join(file.fields) or 'none'}.")
    by_case = {name.lower(): name for name in reversed(file.fields)}
    chosen = field or next((by_case[name] for name in _NAME_FIELDS if name in by_case), None)
    geometries, values = file.read([chosen] if chosen else [])
    names = [str(value) for value in values[0]] if chosen else [f"{number}" for number in range(1, len(geometries) + 1)]
    found: list[Area] = []
    taken: set[str] = set()
    single = len(geometries) == 1 and not chosen
    for number, (name, geometry) in enumerate(zip(names, geometries, strict=True), 1):
        if geometry is None or geometry.is_empty or geometry.geom_type not in ("Polygon", "MultiPolygon"):
            raise InputError(f"Feature {number} of {path} is not a polygon. Remove it, or buffer it to a polygon.")
        if not geometry.is_valid:
            geometry = shapely.make_valid(geometry)
        folder = UNNAMED if single else _unique(_folder_name(name, number), taken)
        found += split(folder, _in_degrees(geometry, file.crs, path))
    if not found:
        raise InputError(f"The area file {path} has no features.")
    return found


def _folder_name(name: str, number: int) -> str:
    """Return a name for a folder that holds no special characters.

    Examples
    --------
    >>> _folder_name("Sao Paulo / Norte", 1), _folder_name("..", 2), _folder_name("7", 3)
    ('Sao_Paulo_Norte', 'area-2', '7')
    """
    plain = re.sub(r"[^\w.-]+", "_", name, flags=re.UNICODE).strip("._-")[:60]
    return plain or f"area-{number}"


def _unique(name: str, taken: set[str]) -> str:
    found, number = name, 2
    while found.casefold() in taken:
        found, number = f"{name}-{number}", number + 1
    taken.add(found.casefold())
    return found


def _in_degrees(shape: Any, crs: CRS, path: Path) -> Any:
    """Return a shape in longitude and latitude, cut at 180 degrees."""
    if not crs.is_geographic:
        west, south, east, north = shape.bounds
        shape = shapely.segmentize(shape, max(east - west, north - south) / 50)
    else:
        shape = shapely.segmentize(shape, _STEP)
    to_degrees = Transformer.from_crs(crs.to_2d(), 4326, always_xy=True)

    def move(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        longitudes, latitudes = to_degrees.transform(*points.T)
        if crs.is_geographic:  # -180 may have become 180
            longitudes = longitudes + 360 * np.rint((points[:, 0] - longitudes) / 360)
        return np.stack([longitudes, latitudes], axis=1)

    moved = shapely.transform(shape, move)
    edges = shapely.bounds(shapely.get_parts(moved))
    west, south, east, north = edges[np.argmax(edges[:, 2] - edges[:, 0])]  # of the widest part
    if not np.isfinite(edges).all() or edges[:, 1].min() < -90 or edges[:, 3].max() > 90 or east - west > 180:
        raise InputError(
            f"A feature of {path} spans {east - west:.4g} degrees of longitude (limit 180), or has coordinates that "
            "are no longitudes and latitudes. Check its reference system; split features at 180 degrees."
        )
    return cut_at_antimeridian(moved)


def split(name: str, shape: Any) -> list[Area]:
    """Split a shape in longitude and latitude into areas of one UTM zone each.

    Raises
    ------
    OptionsError
        If a part is too large or too small for a scene, or beyond the latitudes of UTM.
    """
    _, south, _, north = shape.bounds
    if south < -80 or north > 84:
        raise OptionsError(
            f"{name} reaches from latitude {south:.4g} to {north:.4g}; scenes lie between -80 and 84 degrees."
        )
    parts = list(_by_zone(shape))
    found = []
    for zone, part in parts:
        epsg = (32600 if shapely.centroid(part).y >= 0 else 32700) + zone
        own = name if len(parts) == 1 else f"{name}_{zone:02d}{'N' if epsg < 32700 else 'S'}"
        to_grid = Transformer.from_crs(4326, epsg, always_xy=True)
        moved = shapely.transform(part, lambda points, to=to_grid: np.stack(to.transform(*points.T), axis=1))
        grid = _grid(epsg, *moved.bounds)
        height, width = grid.shape
        if max(height, width) > MAX_SIDE:
            raise OptionsError(
                f"{own} has {width:,} x {height:,} pixels of 10 m (limit {MAX_SIDE:,} along a side). Divide the area, "
                "for instance into tiles."
            )
        if min(height, width) < MIN_SIDE:
            if len(parts) > 1:
                continue  # a sliver beyond the edge of a zone
            raise OptionsError(
                f"{own} has {width} x {height} pixels of 10 m (at least {MIN_SIDE} along a side). Give a larger area."
            )
        found.append(Area(own, name, part, grid))
    if len(found) == 1:
        found = [Area(name, name, found[0].shape, found[0].grid)]
    return found


def _by_zone(shape: Any) -> Iterator[tuple[int, Any]]:
    """Yield the parts of a shape in each UTM zone of 6 degrees, with the zone's number."""
    west, _, east, _ = shape.bounds
    for zone in range(max(math.floor((west + 180) / 6), 0), min(math.floor((east + 180) / 6), 59) + 1):
        part = shapely.clip_by_rect(shape, zone * 6 - 180, -90, zone * 6 - 174, 90)
        polygons = [one for one in shapely.get_parts(part) if one.geom_type == "Polygon" and one.area]
        if polygons:
            yield zone + 1, polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)


def _grid(epsg: int, west: float, south: float, east: float, north: float) -> GeoBox:
    """Return the grid of whole pixels that holds these bounds, with corners on multiples of their size."""
    left, bottom = (math.floor(edge / PIXEL + _ROUNDING) for edge in (west, south))
    right, top = (math.ceil(edge / PIXEL - _ROUNDING) for edge in (east, north))
    shape = top - bottom, right - left
    return GeoBox(shape, Affine(PIXEL, 0, left * PIXEL, 0, -PIXEL, top * PIXEL), f"EPSG:{epsg}")


def names_of(areas: Sequence[Area]) -> str:
    """Return the names of areas for a message."""
    listed = [area.name for area in areas[:8]]
    return ", ".join(listed) + (f" and {len(areas) - 8} more" if len(areas) > 8 else "")
