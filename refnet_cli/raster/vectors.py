"""Vector files, and how their shapes come onto a grid."""

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
import pyogrio
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.system.atomic import local_file
from refnet_cli.system.disk import point_of

Shapes = NDArray[Any]
Bounds = tuple[float, float, float, float]

VECTORS = {
    ".gpkg": b"SQLite format 3", ".geojson": b"{", ".json": b"{", ".shp": b"\x00\x00\x27\x0a", ".fgb": b"fgb\x03fgb",
}  # fmt: skip
"""How the vector files that are read begin: GDAL would open others too, some of which lead elsewhere."""
_DRIVERS = ("GPKG", "GeoJSON", "ESRI Shapefile", "FlatGeobuf")
_MOST_JSON = 256 << 20  # bytes


@dataclass(frozen=True)
class VectorFile:
    """A layer of a vector file that says in which reference system it is; use ``VectorFile.open``."""

    path: str
    name: str
    """What messages call it."""
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
            What it holds, for messages.
        layer : str or None
            Name of the layer to read; None where only one of the file's layers has shapes.
        option : str
            The option that names the layer, for messages.

        Raises
        ------
        InputMissingError
            If it is missing or may not be read.
        InputError
            If it is of another kind or damaged, or has no reference system.
        OptionsError
            If there is no such layer, or several have shapes and none was named.
        """
        ending = Path(path).suffix.lower()
        if ending not in VECTORS and os.path.exists(path):
            advice = advise_conversion(path, rasters=False)
            raise InputError(f"The {what} file {path} is none of {', '.join(VECTORS)}. {advice}")
        text = local_file(path, what)
        name = f"The {what} file {text}"
        with Path(text).open("rb") as file:
            if not file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(VECTORS[ending]):
                raise InputError(f"{name} is no {ending} file, in spite of its name.")
        if VECTORS[ending] == b"{":
            _refuse_links(text, name)
        try:
            chosen = _choose_layer(text, name, layer, option)
            about = pyogrio.read_info(text, layer=chosen)
            if about["driver"] not in _DRIVERS:
                raise InputError(f"{name} is read as {about['driver']}; give {', '.join(_DRIVERS)}.")
            if not about["features"] and not about["fields"].size:
                raise InputError(f"{name} has no shapes.")
            if not about["crs"]:
                raise InputError(f"{name} does not say in which reference system it is.")
            return cls(text, name, CRS.from_user_input(about["crs"]), tuple(about["fields"].tolist()), chosen)
        except (DataSourceError, DataLayerError) as error:
            raise _unreadable(name, error) from error
        except ProjError as error:
            raise InputError(f"{name} has a reference system that cannot be used: {error}") from error

    def read(self, fields: Sequence[str], bounds: Bounds | None = None) -> tuple[Shapes, list[NDArray[Any]]]:
        """Read shapes, all or those that touch a box, and the values of some fields.

        Returns
        -------
        shapes : array of shapely geometries, shape (N,)
            None where a feature has no geometry.
        values : list of arrays, shape (N,) each
            In the order of ``fields``.

        Raises
        ------
        InputError
            If the file is damaged or holds shapes that are no points, lines or polygons.
        """
        try:
            about, _, stored, values = pyogrio.raw.read(
                self.path, layer=self.layer, columns=list(fields), bbox=bounds, force_2d=True
            )
            by_field = dict(zip(about["fields"].tolist(), values, strict=True))
            return shapely.from_wkb(stored), [by_field[field] for field in fields]
        except (DataSourceError, DataLayerError, shapely.errors.GEOSException) as error:
            raise _unreadable(self.name, error) from error


def _unreadable(name: str, error: Exception) -> InputError:
    reason = point_of(error)
    if "not recognized as being in a supported file format" in reason:
        reason = "no layer with shapes is found in it; it holds rasters or other tables only, or is damaged"
    if "database is locked" in reason:
        reason += (
            ". Another program writes it, or it lies on a drive without file locks: close the other program, or copy "
            "the file to a local disk"
        )
    return InputError(f"{name} cannot be read: {reason}.")


def _choose_layer(path: str, name: str, asked: str | None, option: str) -> str:
    """Name of the layer to read. Tables without shapes, as QGIS keeps styles in, are no layers."""
    kinds = {str(layer): kind for layer, kind in pyogrio.list_layers(path).tolist()}
    layers = [layer for layer, kind in kinds.items() if kind is not None]
    listed = ", ".join(map(repr, layers))
    if not layers:
        raise InputError(f"{name} has no layer with shapes, only {', '.join(map(repr, kinds)) or 'no table at all'}.")
    if asked is not None and asked not in layers:
        found = f"has {asked!r} as a table without shapes" if asked in kinds else f"has no layer {asked!r}"
        raise OptionsError(f"{name} {found}. Name one of its layers with {option}: {listed}.")
    if asked is None and len(layers) > 1:
        raise OptionsError(f"{name} has {len(layers)} layers with shapes: {listed}. Name one of them with {option}.")
    return asked or layers[0]


_SPREADSHEETS = (".xlsx", ".xls", ".ods", ".txt")
_RASTERS = (".img", ".asc", ".nc", ".png", ".jpg", ".jpeg", ".gif", ".bil", ".bsq", ".grd", ".rst", ".hdf", ".h5")
_OF_SHAPEFILES = (".shx", ".dbf", ".prj", ".cpg", ".qix", ".sbn", ".sbx")


def advise_conversion(path: str | Path, rasters: bool = True) -> str:
    """Return what to do about a file whose ending is none of `VECTORS`, as sentences for messages.

    Parameters
    ----------
    path : str or Path
    rasters : bool
        Whether a GeoTIFF would do too.
    """
    given, ending = Path(path), Path(path).suffix.lower()
    if ending == ".zip":
        return f"Unpack it and give the file in it: {'GeoTIFF or ' * rasters}{', '.join(VECTORS)}."
    if ending in (".tif", ".tiff", ".jp2", *_RASTERS) and not rasters:
        command = shlex.join(["gdal_polygonize.py", str(given), str(given.with_suffix(".gpkg"))])
        return f"Convert it to polygons: {command}"
    if ending in _OF_SHAPEFILES:
        return f"It is one file of a Shapefile: give {given.with_suffix('.shp')}."
    if ending in _RASTERS:
        return f"Convert it to GeoTIFF: {shlex.join(['gdal_translate', str(given), str(given.with_suffix('.tif'))])}"
    if ending in (".csv", ".tsv", *_SPREADSHEETS):
        first = "Save it as CSV. Then c" if ending in _SPREADSHEETS else "C"
        table = given.with_suffix(".csv") if ending in _SPREADSHEETS else given
        return (
            f"{first}onvert it to points: ogr2ogr -a_srs EPSG:4326 -oo X_POSSIBLE_NAMES='lon*,lng,x' "
            "-oo Y_POSSIBLE_NAMES='lat*,y' -oo KEEP_GEOM_COLUMNS=NO "
            f"{shlex.join([str(given.with_suffix('.gpkg')), str(table)])} "
            "(with the reference system of the coordinates in place of EPSG:4326, if it is another one)."
        )
    command = shlex.join(["ogr2ogr", str(given.with_suffix(".gpkg")), str(given)])
    return f"Convert it to GeoPackage: {command} (or in QGIS: Export, Save Features As)."


def _refuse_links(path: str, name: str) -> None:
    """Refuse GeoJSON whose reference system is a link, which GDAL would fetch."""

    def look(pairs: list[tuple[str, Any]]) -> frozenset[str] | None:
        # GDAL takes names in any case, and up to a zero; which of two alike it takes is better not asked.
        known = [(key.partition("\0")[0].lower(), value) for key, value in pairs]
        kinds = frozenset(str(value).partition("\0")[0].lower() for key, value in known if key == "type")
        systems = [value for key, value in known if key == "crs" and isinstance(value, frozenset)]
        if any(system - {"name", "epsg", "ogc"} for system in systems):
            raise InputError(
                f"{name} has a reference system that is not in it, but behind a link: write it with "
                "one by name, as urn:ogc:def:crs:EPSG::4326."
            )
        # There may be very many.
        return kinds or None

    size = os.path.getsize(path)
    if size > _MOST_JSON:
        raise InputError(
            f"{name} has {size >> 20} MB, more than the {_MOST_JSON >> 20} that are read of GeoJSON: "
            "write it as GeoPackage, for instance with ogr2ogr."
        )
    try:
        json.loads(_without_coordinates(path).decode("utf-8-sig"), object_pairs_hook=look)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} cannot be read as JSON ({error}): give an intact one.") from error


def _without_coordinates(path: str) -> bytes:
    """Read JSON with a zero for each array of numbers alone, which Python would take many times its memory for."""
    parts = []
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            for _ in range(5):  # as deep as coordinates are
                part, found = re.subn(rb"\[[-+\d.eE,\s]*\]", b"0", part)
                if not found:
                    break
            parts.append(part)
    return b"".join(parts)


class WayToGrid:
    """Brings shapes of a file into pixels of a grid: x to the right, y down.

    Shapes are cut to the grid and a margin first, as what lies far off may have no place in the grid's reference
    system, and their long edges are cut up, so that they bend as on the ground. Longitudes may be written from -180 or
    from 0 degrees.

    Parameters
    ----------
    file : VectorFile
    grid : GeoBox

    Raises
    ------
    InputError
        If the file's reference system cannot be used for the grid.
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
            raise InputError(f"{file.name} has a reference system that cannot be used: {error}") from error
        self._turn = _full_turn(self._source)
        right += self._turn * (left > right)
        if not left < right or not np.isfinite([left, bottom, right, top]).all():
            raise InputError(f"{file.name} has a reference system in which the scene has no simple outline.")
        margin = max(right - left, top - bottom) / 10
        self._longest = max(right - left, top - bottom) * 1.2 / 100
        left, right, bottom, top = left - margin, right + margin, bottom - margin, top + margin
        if self._turn:  # the poles have no place in many projections
            pole = self._turn / 4
            bottom, top = max(bottom, (bottom + margin - pole) / 2), min(top, (top - margin + pole) / 2)
        self._box = left, bottom, right, top
        self._middle = (box.left + box.right) / 2

    @property
    def bounds(self) -> Bounds | None:
        """Box in the file's reference system outside of which nothing is on the grid; None if it is no single one."""
        left, _, right, _ = self._box
        whole = not self._turn or (-self._turn / 2 <= left and right <= self._turn / 2)
        return self._box if whole else None

    def onto(self, shapes: Shapes) -> tuple[Shapes, NDArray[np.intp]]:
        """Bring shapes onto the grid.

        Parameters
        ----------
        shapes : array of shapely geometries, shape (N,)

        Returns
        -------
        pieces : array of shapely geometries, shape (M,)
            What of them is near the grid; a shape may come in pieces.
        which : int array, shape (M,)
            The index of each piece's shape.

        Raises
        ------
        InputError
            If a shape has no place in the grid's reference system even there.
        """
        left, bottom, right, top = self._box
        pieces, which = [], []
        for away in (-self._turn, 0.0, self._turn) if self._turn else (0.0,):
            cut = shapely.clip_by_rect(shapes, left - away, bottom, right - away, top)
            # What a polygon only shares with the box's edge is a line or a point.
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
                raise InputError(f"{self._name} has shapes on the scene without a place in its reference system.")
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
        if turn := _full_turn(self._target):  # as often round the world as the grid is
            x = x + turn * np.rint(((near / self._turn * turn if self._turn else self._middle) - x) / turn)
        return x, y


def _full_turn(crs: CRS) -> float:
    """All degrees of longitude in the unit of a geographic reference system; 0 in others."""
    return 2 * math.pi / crs.axis_info[0].unit_conversion_factor if crs.is_geographic else 0.0
