"""Class areas in zones, which are polygons of a vector file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.outputs.areas.pixel_areas import CELL, PixelAreas, total_area
from refnet_cli.raster.vectors import ShapeProjector, VectorFile
from refnet_cli.types import UInt8

Shapes = NDArray[Any]
_POLYGONS = (3, 6)  # shapely's type ids of polygons and multipolygons


def read_zones(path: Path, grid: GeoBox, field: str | None = None, layer: str | None = None) -> dict[str, Shapes]:
    """Read zones from a vector file.

    Without a field, every feature is a zone, named by its number in the file from 1: there is no reliable way to detect
    which field holds names. With a field, its values are the zones' names, and features with equal values form one
    zone.

    Parameters
    ----------
    path : Path
        GeoPackage, GeoJSON, Shapefile or FlatGeobuf of polygons, in any coordinate system.
    grid : GeoBox
    field : str, optional
    layer : str, optional
        Needed if several layers of the file have geometries.

    Returns
    -------
    dict of str to array of shapely geometries
        The polygons of each zone that lie near the grid, in pixel coordinates (x to the right, y down), in the order of
        the file.

    Raises
    ------
    InputMissingError
        If the file is missing or unreadable.
    InputError
        If the file is damaged or has no coordinate system or no polygon, or if a feature is not a polygon, cannot be
        repaired or has no name.
    OptionsError
        If the field or layer does not exist, or several layers have geometries and no layer is given.
    """
    file = VectorFile.open(path, "zone", layer, "--zone-layer")
    if field is not None and field not in file.fields:
        listed = ", ".join(map(repr, file.fields)) or "none"
        raise OptionsError(f"{file.name} has no field {field!r}; its fields are {listed}.")
    shapes, values = file.read([field] if field is not None else [])
    if not len(shapes):
        raise InputError(f"{file.name} contains no polygons.")
    repaired = np.array([_repair(shape, number, file) for number, shape in enumerate(shapes, 1)])
    names = _names(values[0].tolist(), file) if values else [str(number) for number in range(1, len(shapes) + 1)]
    pieces, which = ShapeProjector(file, grid).project(repaired)
    zones: dict[str, list[Any]] = {name: [] for name in names}
    for piece, index in zip(pieces, which.tolist(), strict=True):
        zones[names[index]].append(piece)
    return {name: shapely.get_parts(np.array(parts, object)) for name, parts in zones.items()}


def _repair(shape: Any, number: int, file: VectorFile) -> Any:
    if shape is None or shape.is_empty or shapely.get_type_id(shape) not in _POLYGONS:
        kind = "no geometry" if shape is None or shape.is_empty else f"a {shape.geom_type}"
        raise InputError(f"Feature {number} of {file.name} has {kind}; every zone must be a polygon.")
    if not np.isfinite(shapely.get_coordinates(shape)).all():
        raise InputError(f"Feature {number} of {file.path} has infinite or NaN coordinates. Correct them.")
    if shape.is_valid:
        return shape
    repaired = shapely.make_valid(shape)
    if repaired.is_empty or shapely.get_type_id(repaired) not in _POLYGONS:
        raise InputError(f"Feature {number} of {file.path} is not a valid polygon: {shapely.is_valid_reason(shape)}.")
    return repaired


def _names(values: list[Any], file: VectorFile) -> list[str]:
    for number, value in enumerate(values, 1):
        if value is None or value != value or not str(value).strip():
            raise InputError(
                f"Feature {number} of {file.path} has no name. Fill in the field, choose another one, or leave out "
                "--zone-field to number the zones."
            )
    return [f"{value:.15g}" if isinstance(value, float) else str(value) for value in values]


@dataclass(frozen=True)
class _Zone:
    shapes: Shapes
    rows: slice
    columns: slice
    square_metres: NDArray[np.float64]


class ZoneCounter:
    """Sum the true area of each code in zones.

    Holds a band of the map's rows, and the polygons and sums of each zone.

    Parameters
    ----------
    zones : dict of str to array of shapely geometries
        From `read_zones`.
    grid : GeoBox
    codes : sequence of int
        The codes to count, without 0: of classes, or of transitions between classes.

    Attributes
    ----------
    outside : list of str
        Names of zones off the grid.
    """

    _BAND = 8 * CELL
    """Rows that are counted at once. Fixed bands make the last bits independent of how rows arrive."""

    def __init__(self, zones: dict[str, Shapes], grid: GeoBox, codes: Sequence[int]) -> None:
        self._grid, self._areas = grid, PixelAreas(grid)
        self._zones = {name: _place(shapes, grid, 1 + len(codes)) for name, shapes in zones.items()}
        self.outside = [name for name, zone in self._zones.items() if not len(zone.shapes)]
        dtype = np.min_scalar_type(len(codes))
        self._index = np.zeros(max(256, *codes, 0) + 1, dtype)
        self._index[list(codes)] = np.arange(1, 1 + len(codes))
        self._indexes = np.empty((min(self._BAND, grid.shape[0]), grid.shape[1]), dtype)
        self._next_row = 0

    def add(self, codes: NDArray[Any]) -> None:
        """Count the next rows of codes, any number of them, shape (rows, width)."""
        taken = 0
        while taken < len(codes):
            top = self._next_row // self._BAND * self._BAND
            bottom = min(top + self._BAND, self._grid.shape[0])
            part = codes[taken : taken + bottom - self._next_row]
            self._indexes[self._next_row - top :][: len(part)] = self._index[part]
            taken += len(part)
            self._next_row += len(part)
            if self._next_row == bottom:
                self._count(top, bottom)

    def by_code(self) -> dict[str, NDArray[np.float64]]:
        """Return the areas of code 0 and of each code in each zone, in hectares, shape (1 + codes,)."""
        return {name: zone.square_metres / 10_000 for name, zone in self._zones.items()}

    def _count(self, top: int, bottom: int) -> None:
        pixel_areas = {row: self._areas.of_row(row) for row in range(top // CELL, math.ceil(bottom / CELL))}
        for zone in self._zones.values():
            first, last = max(zone.rows.start, top), min(zone.rows.stop, bottom)
            if first >= last or zone.columns.start == zone.columns.stop:
                continue
            left, right = zone.columns.start, zone.columns.stop
            place = Affine.translation(left, first)
            shape = last - first, right - left
            inside = rasterio.features.rasterize(zone.shapes, shape, transform=place, dtype=np.uint8)
            for cell_row, areas in pixel_areas.items():
                above, below = max(first, cell_row * CELL), min(last, (cell_row + 1) * CELL)
                if above < below:
                    indexes = self._indexes[above - top : below - top, zone.columns]
                    self._add(zone, indexes, inside[above - first : below - first], areas)

    @staticmethod
    def _add(zone: _Zone, indexes: NDArray[Any], inside: UInt8, areas: NDArray[np.float64]) -> None:
        """Add the pixels of a row of cells, given the index of each pixel's class and the mask of the zone."""
        classes = len(zone.square_metres)
        cells = np.arange(zone.columns.start, zone.columns.stop) // CELL
        keys = (cells * classes + indexes)[inside > 0]
        counts = np.bincount(keys, minlength=len(areas) * classes).reshape(-1, classes)
        zone.square_metres[:] += total_area(areas, counts)


def _place(shapes: Shapes, grid: GeoBox, classes: int) -> _Zone:
    """Return a zone with the rows and columns in which its polygons may contain pixel centres."""
    height, width = grid.shape
    shapes = shapes[shapely.intersects(shapes, shapely.box(0, 0, width, height))]
    if not len(shapes):
        return _Zone(shapes, slice(0, 0), slice(0, 0), np.zeros(classes))
    left, top, right, bottom = shapely.total_bounds(shapes).clip(0, (width, height, width, height)).tolist()
    rows, columns = slice(math.floor(top), math.ceil(bottom)), slice(math.floor(left), math.ceil(right))
    return _Zone(shapes, rows, columns, np.zeros(classes))
