"""Vector files, and the projection of their features to a pixel grid.

Functions import pyogrio when they run: it imports pandas where that is installed, which takes half a second.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.system.atomic import local_file
from refnet_cli.system.disk import short_reason

Shapes = NDArray[Any]
Bounds = tuple[float, float, float, float]

VECTORS = {
    ".gpkg": b"SQLite format 3", ".geojson": b"{", ".json": b"{", ".shp": b"\x00\x00\x27\x0a", ".fgb": b"fgb\x03fgb",
}  # fmt: skip
"""Signatures of the accepted vector files. GDAL would open other formats too, some of which refer to other files."""
_DRIVERS = ("GPKG", "GeoJSON", "ESRI Shapefile", "FlatGeobuf")
_MAX_JSON = 256 << 20  # bytes


@dataclass(frozen=True)
class VectorFile:
    """A layer of a vector file with a coordinate reference system; use ``VectorFile.open``."""

    path: str
    name: str
    """Name in messages."""
    crs: CRS
    fields: tuple[str, ...]
    layer: str

    @classmethod
    def open(cls, path: str | Path, what: str, layer: str | None, option: str) -> VectorFile:
        """Open a GeoPackage (.gpkg), GeoJSON (.geojson, .json), Shapefile (.shp) or FlatGeobuf (.fgb).

        Parameters
        ----------
        path : str or Path
            A local file.
        what : str
            Content of the file, for messages.
        layer : str or None
            Name of the layer to read. None if only one of the file's layers has geometries.
        option : str
            The option that selects the layer, for messages.

        Raises
        ------
        InputMissingError
            If the file is missing or unreadable.
        InputError
            If the file has another format, is damaged or has no coordinate reference system.
        OptionsError
            If the layer does not exist, or if several layers have geometries and none was selected.
        """
        import pyogrio
        from pyogrio.errors import DataLayerError, DataSourceError

        ending = Path(path).suffix.lower()
        if ending not in VECTORS and os.path.exists(path):
            advice = advise_conversion(path, rasters=False)
            raise InputError(f"The {what} file {path} has none of the extensions {', '.join(VECTORS)}. {advice}")
        text = local_file(path, what)
        name = f"The {what} file {text}"
        with Path(text).open("rb") as file:
            if not file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(VECTORS[ending]):
                raise InputError(f"{name} is not a {ending} file, despite its extension. Check the file.")
        if VECTORS[ending] == b"{":
            _refuse_links(text, name)
        try:
            chosen = _choose_layer(text, name, layer, option)
            about = pyogrio.read_info(text, layer=chosen)
            if about["driver"] not in _DRIVERS:
                raise InputError(f"{name} has the format {about['driver']}. Use {', '.join(_DRIVERS)}.")
            if not about["features"] and not about["fields"].size:
                raise InputError(f"{name} has no features. Use a file that has some.")
            if not about["crs"]:
                raise InputError(f"{name} has no coordinate reference system. Assign the right one first.")
            return cls(text, name, CRS.from_user_input(about["crs"]), tuple(about["fields"].tolist()), chosen)
        except (DataSourceError, DataLayerError) as error:
            raise _unreadable(name, error) from error
        except ProjError as error:
            raise InputError(f"{name} has an unusable coordinate reference system: {error}") from error

    def read(self, fields: Sequence[str], bounds: Bounds | None = None) -> tuple[Shapes, list[NDArray[Any]]]:
        """Read the features, all or those that intersect a box, with the values of some fields.

        Returns
        -------
        shapes : array of shapely geometries, shape (N,)
            None where a feature has no geometry.
        values : list of arrays, shape (N,) each
            In the order of ``fields``.

        Raises
        ------
        InputError
            If the file is damaged or contains other geometries than points, lines and polygons.
        """
        import pyogrio
        from pyogrio.errors import DataLayerError, DataSourceError

        try:
            about, _, stored, values = pyogrio.raw.read(
                self.path, layer=self.layer, columns=list(fields), bbox=bounds, force_2d=True
            )
            by_field = dict(zip(about["fields"].tolist(), values, strict=True))
            return shapely.from_wkb(stored), [by_field[field] for field in fields]
        except (DataSourceError, DataLayerError, shapely.errors.GEOSException) as error:
            raise _unreadable(self.name, error) from error


def _unreadable(name: str, error: Exception) -> InputError:
    reason = short_reason(error)
    if "not recognized as being in a supported file format" in reason:
        reason = "it has no layer with geometries; it contains only rasters or other tables, or is damaged"
    if "database is locked" in reason:
        reason += (
            ". Another program is writing it, or its drive does not support file locks. Close the other program, or "
            "copy the file to a local disk"
        )
    return InputError(f"{name} cannot be read: {reason}.")


def _choose_layer(path: str, name: str, asked: str | None, option: str) -> str:
    """Return the name of the layer to read. Tables without geometries, such as QGIS styles, are not layers."""
    import pyogrio

    kinds = {str(layer): kind for layer, kind in pyogrio.list_layers(path).tolist()}
    layers = [layer for layer, kind in kinds.items() if kind is not None]
    listed = ", ".join(map(repr, layers))
    if not layers:
        raise InputError(f"{name} has no layer with geometries, only {', '.join(map(repr, kinds)) or 'no tables'}.")
    if asked is not None and asked not in layers:
        found = f"has {asked!r} only as a table without geometries" if asked in kinds else f"has no layer {asked!r}"
        raise OptionsError(f"{name} {found}. Select one of its layers with {option}: {listed}.")
    if asked is None and len(layers) > 1:
        raise OptionsError(f"{name} has {len(layers)} layers with geometries: {listed}. Select one with {option}.")
    return asked or layers[0]


_SPREADSHEETS = (".xlsx", ".xls", ".ods", ".txt")
_RASTERS = (".img", ".asc", ".nc", ".png", ".jpg", ".jpeg", ".gif", ".bil", ".bsq", ".grd", ".rst", ".hdf", ".h5")
_SHAPEFILE_PARTS = (".shx", ".dbf", ".prj", ".cpg", ".qix", ".sbn", ".sbx")


def advise_conversion(path: str | Path, rasters: bool = True) -> str:
    """Return advice, in sentences for messages, on a file whose extension is not in `VECTORS`.

    Parameters
    ----------
    path : str or Path
    rasters : bool
        Whether a GeoTIFF is accepted too.
    """
    given, ending = Path(path), Path(path).suffix.lower()
    if ending == ".zip":
        return f"Unpack it and use the file in it: {'GeoTIFF or ' * rasters}{', '.join(VECTORS)}."
    if ending in (".tif", ".tiff", ".jp2", *_RASTERS) and not rasters:
        command = shlex.join(["gdal_polygonize.py", str(given), str(given.with_suffix(".gpkg"))])
        return f"Convert it to polygons: {command}"
    if ending in _SHAPEFILE_PARTS:
        return f"It is one file of a Shapefile. Use {given.with_suffix('.shp')}."
    if ending in _RASTERS:
        return f"Convert it to GeoTIFF: {shlex.join(['gdal_translate', str(given), str(given.with_suffix('.tif'))])}"
    if ending in (".csv", ".tsv", *_SPREADSHEETS):
        first = "Save it as CSV. Then c" if ending in _SPREADSHEETS else "C"
        table = given.with_suffix(".csv") if ending in _SPREADSHEETS else given
        return (
            f"{first}onvert it to points: ogr2ogr -a_srs EPSG:4326 -oo X_POSSIBLE_NAMES='lon*,lng,x' "
            "-oo Y_POSSIBLE_NAMES='lat*,y' -oo KEEP_GEOM_COLUMNS=NO "
            f"{shlex.join([str(given.with_suffix('.gpkg')), str(table)])} "
            "(replace EPSG:4326 if the coordinates have another reference system)."
        )
    command = shlex.join(["ogr2ogr", str(given.with_suffix(".gpkg")), str(given)])
    return f"Convert it to GeoPackage: {command} (or in QGIS: Export, Save Features As)."


def _refuse_links(path: str, name: str) -> None:
    """Refuse GeoJSON whose coordinate reference system is a link, which GDAL would fetch."""

    def check(pairs: list[tuple[str, Any]]) -> frozenset[str] | None:
        # GDAL ignores the case of names and all after a null character. Check every one of several equal names.
        known = [(key.partition("\0")[0].lower(), value) for key, value in pairs]
        kinds = frozenset(str(value).partition("\0")[0].lower() for key, value in known if key == "type")
        systems = [value for key, value in known if key == "crs" and isinstance(value, frozenset)]
        if any(system - {"name", "epsg", "ogc"} for system in systems):
            raise InputError(
                f"{name} only has a link to its coordinate reference system. Write it with a named one, such as "
                "urn:ogc:def:crs:EPSG::4326."
            )
        # Only return what is needed: there may be very many objects.
        return kinds or None

    size = os.path.getsize(path)
    if size > _MAX_JSON:
        raise InputError(
            f"{name} has {size >> 20} MB (limit {_MAX_JSON >> 20} MB for GeoJSON). "
            "Convert it to GeoPackage, for instance with ogr2ogr."
        )
    try:
        json.loads(_without_coordinates(path).decode("utf-8-sig"), object_pairs_hook=check)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} cannot be read as JSON ({error}). Repair or re-download the file.") from error


def _without_coordinates(path: str) -> bytes:
    """Read JSON with a zero in place of each coordinate array, for which Python would need many times the memory."""
    parts = []
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            for _ in range(5):  # the nesting depth of coordinates
                part, found = re.subn(rb"\[[-+\d.eE,\s]*\]", b"0", part)
                if not found:
                    break
            parts.append(part)
    return b"".join(parts)


class ShapeProjector:
    """Projects the features of a file to pixel coordinates of a grid: x to the right, y down.

    Features are first clipped to the grid and a margin, because distant coordinates may be invalid in the grid's CRS.
    Long edges are split, so that they follow the ground. Longitudes may start at -180 or at 0 degrees.

    Parameters
    ----------
    file : VectorFile
    grid : GeoBox

    Raises
    ------
    InputError
        If the file's coordinate reference system cannot be transformed to that of the grid.
    """

    def __init__(self, file: VectorFile, grid: GeoBox) -> None:
        self._name, self._source = file.name, file.crs
        self._to_pixels = ~grid.affine
        box = grid.boundingbox
        try:
            self._target = CRS.from_user_input(grid.crs).to_2d()
            self._transformer = Transformer.from_crs(self._source, self._target, always_xy=True)
            left, bottom, right, top = self._transformer.transform_bounds(*box.bbox, direction="INVERSE")
        except ProjError as error:
            raise InputError(f"{file.name} has an unusable coordinate reference system: {error}") from error
        self._turn = _full_turn(self._source)
        right += self._turn * (left > right)
        if not left < right or not np.isfinite([left, bottom, right, top]).all():
            raise InputError(f"The scene has no valid bounds in the coordinate reference system of {file.name}.")
        margin = max(right - left, top - bottom) / 10
        self._longest = max(right - left, top - bottom) * 1.2 / 100
        left, right, bottom, top = left - margin, right + margin, bottom - margin, top + margin
        if self._turn:  # many projections are undefined at the poles
            pole = self._turn / 4
            bottom, top = max(bottom, (bottom + margin - pole) / 2), min(top, (top - margin + pole) / 2)
        self._box = left, bottom, right, top
        self._middle = (box.left + box.right) / 2

    @property
    def bounds(self) -> Bounds | None:
        """Bounds of the grid in the file's CRS; None if they cross the antimeridian."""
        left, _, right, _ = self._box
        whole = not self._turn or (-self._turn / 2 <= left and right <= self._turn / 2)
        return self._box if whole else None

    def project(self, shapes: Shapes) -> tuple[Shapes, NDArray[np.intp]]:
        """Project features to the grid.

        Parameters
        ----------
        shapes : array of shapely geometries, shape (N,)

        Returns
        -------
        pieces : array of shapely geometries, shape (M,)
            The parts of the features near the grid. A feature may be split into several parts.
        which : int array, shape (M,)
            The index of the feature that each part comes from.

        Raises
        ------
        InputError
            If a part cannot be transformed to the grid's CRS.
        """
        left, bottom, right, top = self._box
        pieces, which = [], []
        for away in (-self._turn, 0.0, self._turn) if self._turn else (0.0,):
            cut = shapely.clip_by_rect(shapes, left - away, bottom, right - away, top)
            # Where a polygon only touches the box, the result is a line or a point.
            whole = shapely.get_dimensions(cut) == shapely.get_dimensions(shapes)
            kept = np.flatnonzero(whole & ~shapely.is_empty(cut))
            pieces.append(self._move(cut[kept], away))
            which.append(kept)
        return np.concatenate(pieces), np.concatenate(which)

    def _move(self, shapes: Shapes, away: float) -> Shapes:
        to_pixels = self._to_pixels

        def move(points: NDArray[np.float64]) -> NDArray[np.float64]:
            x, y = points[:, 0] + away, points[:, 1]
            if self._source != self._target:
                x, y = self._transform(x, y)
            if not (np.isfinite(x).all() and np.isfinite(y).all()):
                raise InputError(f"{self._name} has features on the scene that cannot be transformed to its CRS.")
            return np.stack([
                to_pixels.a * x + to_pixels.b * y + to_pixels.c, to_pixels.d * x + to_pixels.e * y + to_pixels.f
            ], axis=1)  # fmt: skip

        if self._source != self._target:
            shapes = shapely.segmentize(shapes, self._longest)
        moved: Shapes = shapely.transform(shapes, move)
        return moved

    def _transform(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        near = x
        x, y = self._transformer.transform(x, y)
        if turn := _full_turn(self._target):  # wrap longitudes to the range of the grid
            x = x + turn * np.rint(((near / self._turn * turn if self._turn else self._middle) - x) / turn)
        return x, y


def _full_turn(crs: CRS) -> float:
    """Return 360 degrees in the angular unit of a geographic CRS; 0 for a projected CRS."""
    return 2 * math.pi / crs.axis_info[0].unit_conversion_factor if crs.is_geographic else 0.0
