"""Labels from land-cover maps: the year nearest to the images, in another class scheme's codes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from refnet_cli.classes.crosswalk import CROSSWALKS
from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.errors import InputError, InputMissingError
from refnet_cli.fetching.area import Area
from refnet_cli.fetching.catalogues import LabelCollection
from refnet_cli.fetching.items import SceneItem
from refnet_cli.fetching.reading import GridFile, Reader
from refnet_cli.tiles.window import Window
from refnet_cli.types import UInt8

SCHEME = "esri-io"
"""Class scheme of the labels that are written, which is that of the bundled weights."""
MAX_YEARS = 2
"""Most years between the images and the map."""
_CLOUDS = 10  # in esri-io: hides what is there
_SIDE = 3  # degrees of a tile of a template


def choose_year(items: Iterable[SceneItem], year: int, name: str) -> tuple[int, list[SceneItem]]:
    """Choose the maps of the year nearest to that of the images; of two, the earlier.

    Raises
    ------
    InputMissingError
        If there is none within `MAX_YEARS`.
    """
    by_year: dict[int, list[SceneItem]] = {}
    for item in items:
        by_year.setdefault(item.when.year, []).append(item)
    if not by_year:
        raise InputMissingError(f"There are no {name} labels here. Pass --labels none to fetch without labels.")
    nearest = min(by_year, key=lambda one: (abs(one - year), one))
    if abs(nearest - year) > MAX_YEARS:
        raise InputMissingError(
            f"The nearest {name} labels are of {nearest}, the images of {year} (limit {MAX_YEARS} years apart). Choose "
            "other --dates, other --labels, or --labels none."
        )
    return nearest, sorted(by_year[nearest], key=lambda item: item.id)


def items_of_template(about: LabelCollection, area: Area) -> list[SceneItem]:
    """Return the tiles of maps without a catalogue, of all years, that an area touches."""
    shape = area.outline()
    found = []
    for part in shapely.get_parts(shape):
        west, south, east, north = part.bounds
        for latitude in range(math.floor(south / _SIDE) * _SIDE, math.ceil(north / _SIDE) * _SIDE, _SIDE):
            for longitude in range(math.floor(west / _SIDE) * _SIDE, math.ceil(east / _SIDE) * _SIDE, _SIDE):
                box = shapely.box(longitude, latitude, longitude + _SIDE, latitude + _SIDE)
                letters = "S" if latitude < 0 else "N", "W" if longitude < 0 else "E"
                tile = f"{letters[0]}{abs(latitude):02d}{letters[1]}{abs(longitude):03d}"
                for year, version in about.versions.items():
                    href = about.template.format(year=year, version=version, tile=tile)
                    footprint = {"type": "Polygon", "coordinates": [list(map(list, box.exterior.coords))]}
                    found.append(
                        SceneItem(href.rpartition("/")[2], "", f"{year}-01-01T00:00:00Z", {"labels": href}, footprint)
                    )
    return found


def recoding(scheme: str) -> UInt8:
    """Return the code in `SCHEME` of each code from 0 to 255 of another scheme; 255 for codes that it lacks."""
    table: UInt8 = np.full(256, 255, np.uint8)
    table[0] = 0
    own = SCHEMES[scheme].codes
    crosswalk = dict(zip(own, own, strict=True)) if scheme == SCHEME else CROSSWALKS[scheme, SCHEME]
    for code, new in crosswalk.items():
        table[code] = 0 if new == _CLOUDS else new
    return table


class LabelMosaic:
    """Codes of `SCHEME` on a grid.

    Parameters
    ----------
    items : sequence of SceneItem
    about : LabelCollection
    grid : GeoBox
    reader : Reader
    """

    def __init__(self, items: Sequence[SceneItem], about: LabelCollection, grid: GeoBox, reader: Reader) -> None:
        self._items, self._grid, self._reader = items, grid, reader
        self._table, self._scheme = recoding(about.scheme), about.scheme
        self._files: list[GridFile] | None = None

    def read(self, window: Window, after: Window | None) -> dict[str, NDArray[Any]]:
        """Read a window; ``labels``: uint8, shape (H, W), 0 for no label.

        Raises
        ------
        InputError
            If a file has codes that its scheme lacks.
        """
        if self._files is None:
            self._files = self._reader.open(((item, "labels") for item in self._items), self._grid, "label")
        out: UInt8 = np.zeros((window.height, window.width), np.uint8)
        for file in self._files:
            if not (out == 0).any():
                break
            cells = file.cells(window, out == 0)
            self._reader.fetch([(file, cells)])
            codes = file.read_nearest(window, cells)
            if codes.dtype != np.uint8:
                raise InputError(f"The label file {file.raster.path} is {codes.dtype}; it must be uint8.")
            nodata = file.raster.dataset.nodata
            if nodata is not None and 0 < nodata <= 255:
                codes = np.where(codes == nodata, np.uint8(0), codes)
            new = self._table[codes]
            if (new == 255).any():
                listed = ", ".join(map(str, np.unique(codes[new == 255])[:10]))
                raise InputError(
                    f"The label file {file.raster.path} has the codes {listed}, which are not in the class scheme "
                    f"{self._scheme!r}."
                )
            np.copyto(out, new, where=out == 0)
        self._reader.keep(self._files, after)
        return {"labels": out}
