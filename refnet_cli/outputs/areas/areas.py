"""Areas of the classes: the counting, and the output table."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyproj
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import OptionsError
from refnet_cli.outputs.areas.pixel_areas import CELL, PixelAreas, total_area
from refnet_cli.outputs.areas.zones import ZoneCounter, read_zones
from refnet_cli.outputs.base import FileOutput
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.downsample import CellCounts
from refnet_cli.outputs.rows import Rows
from refnet_cli.types import UInt8


class AreaCounter:
    """Sum the true area of each class; see `PixelAreas`.

    Parameters
    ----------
    grid : GeoBox
        A grid whose coordinate system is geographic or derived from a geographic one.
    scheme : ClassScheme

    Raises
    ------
    InputError
        If the coordinate system is a local one.
    """

    def __init__(self, grid: GeoBox, scheme: ClassScheme) -> None:
        self._grid = grid
        self.scheme = scheme
        self._cells = CellCounts(grid.shape[0], grid.shape[1], CELL, (0, *scheme.codes))
        self._square_metres = np.zeros(1 + len(scheme.codes))
        self._areas = PixelAreas(grid)

    def add(self, row: int, codes: UInt8) -> None:
        """Count the next rows, any number of them.

        Parameters
        ----------
        row : int
            Number of the first row; it must follow the last row added.
        codes : uint8 array, shape (rows, width)
            Class codes, 0 where there is no data.
        """
        height, width = self._grid.shape
        if row != self._cells.next_row or row + codes.shape[0] > height or codes.shape[1] != width:
            raise ValueError(f"Rows {row} of shape {codes.shape} do not follow row {self._cells.next_row} of the grid.")
        for cell_row, counts in self._cells.add(codes):
            if counts.any():
                self._square_metres += total_area(self._areas.of_row(cell_row), counts)

    def hectares(self) -> dict[str, float]:
        """Return the area of each class of the scheme by name, in hectares."""
        return dict(zip(self.scheme.names, self.by_code()[1:].tolist(), strict=True))

    def by_code(self) -> NDArray[np.float64]:
        """Return the areas of code 0, no data, and of each class of the scheme, in hectares, shape (1 + classes,)."""
        if self._cells.next_row != self._grid.shape[0]:
            raise ValueError(f"Areas need all {self._grid.shape[0]} rows; only {self._cells.next_row} were added.")
        return self._square_metres / 10_000


class Areas(FileOutput):
    """A table of class areas, on the full map and in zones: CSV, and JSON next to it.

    The CSV (UTF-8, RFC 4180) has a header and the columns ``class_code``, ``class_name``, ``hectares`` and ``share``,
    the share of the area that has a class. There is one line per class of the scheme, in the scheme's order, and a line
    with code 0 and no share for pixels without a class. With zones, the first column is ``zone``: empty in the lines of
    the full map, which come before those of the zones. The JSON has the same numbers and names the map.

    Areas are true areas; see `PixelAreas`. A pixel belongs to a zone if its centre lies inside, so that zones that
    partition the map add up to it. Only a zone's pixels on the map count. Zones may overlap. `read_zones` describes
    their names.

    Parameters
    ----------
    path : str or Path
        Path of the CSV; the JSON has the same name with its own extension.
    context : MapContext
        The map's name and tags go into the JSON.

    Attributes
    ----------
    warnings : list of str
        Zones off the map.

    Raises
    ------
    OptionsError
        If the path ends in ``.json``, or a field or layer is given without zones.
    InputMissingError, InputError
        If the zones cannot be used, or the coordinate system is a local one.
    """

    ending = "_areas.csv"
    suffixes = (".csv",)
    media: ClassVar = {".csv": ("text/csv", ("metadata",)), ".json": ("application/json", ("metadata",))}
    own_options = ("zones", "zone_field", "zone_layer")

    @staticmethod
    def companions(path: Path, map: Path) -> list[Path]:
        """Return the path of the JSON."""
        return [path.parent / f"{path.stem}.json"]

    def __init__(self, path: str | Path, context: MapContext) -> None:
        grid, scheme, zones = context.grid, context.scheme, context.zones
        for what, given in (("field", context.zone_field), ("layer", context.zone_layer)):
            if given is not None and zones is None:
                raise OptionsError(f"The {what} {given!r} is for zones, but no zones are given. Pass --zones FILE.")
        self._whole = AreaCounter(grid, scheme)
        read = read_zones(zones, grid, context.zone_field, context.zone_layer) if zones else None
        self._zones = ZoneCounter(read, grid, scheme.codes) if read is not None else None
        source = zones.name if zones else None
        self._about = {"map": context.map.name, "zones_from": source, "zone_field": context.zone_field}
        if context.zone_layer is not None:
            self._about["zone_layer"] = context.zone_layer
        outside = self._zones.outside if self._zones else []
        if Path(path).suffix == ".json":
            raise OptionsError(f"{path} would be both the table of areas and its JSON. Use a name that ends in .csv.")
        super().__init__(path, context)
        shown = ["".join(letter if letter.isprintable() else "?" for letter in zone) for zone in outside]
        self.warnings += [f"zone {zone} of {zones.name} is off the map." for zone in shown if zones]

    def _start(self, folder: Path) -> None:
        pass

    def _put(self, rows: Rows) -> None:
        self._whole.add(rows.row, rows.codes)
        if self._zones:
            self._zones.add(rows.codes)

    def _complete(self, folder: Path, facts: Mapping[str, Any]) -> list[Path]:
        whole = self._lines(self._whole.by_code())
        zones = self._zones.by_code() if self._zones else {}
        by_zone = {zone: self._lines(areas) for zone, areas in zones.items()}
        table, document = folder / "areas.csv", folder / "areas.json"
        with table.open("w", encoding="utf-8", newline="") as file:
            if self._zones:
                lines = [{"zone": zone} | line for zone, part in {"": whole, **by_zone}.items() for line in part]
            else:
                lines = whole
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
        text = json.dumps(self._document(whole, by_zone, facts), indent=1, ensure_ascii=False)
        document.write_text(f"{text}\n", encoding="utf-8")
        return [table, document]

    def _lines(self, areas: NDArray[np.float64]) -> list[dict[str, Any]]:
        """Return the table's lines from the areas of code 0 and each class, in hectares."""
        rest, *classes = areas.tolist()
        total = math.fsum(classes)
        lines = [
            {"class_code": code, "class_name": name, "hectares": area, "share": area / total if total else None}
            for code, name, area in zip(self._scheme.codes, self._scheme.names, classes, strict=True)
        ]
        return [*lines, {"class_code": 0, "class_name": "no data", "hectares": rest, "share": None}]

    def _document(
        self, whole: list[dict[str, Any]], by_zone: dict[str, list[dict[str, Any]]], facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        crs = pyproj.CRS.from_user_input(self._grid.crs)
        hashes = {file["name"]: file["sha256"] for file in facts.get("files", {}).get("classes", [])}
        return {
            **self._about,
            "map_sha256": hashes.get(self._about["map"]),
            "crs": ":".join(crs.to_authority() or ()) or crs.to_wkt(),
            "units": {"hectares": "10,000 square metres on the ellipsoid", "share": "of the area that has a class"},
            "classes": whole,
            "zones": [{"zone": zone, "classes": lines} for zone, lines in by_zone.items()],
            "tags": self._tags,
        }
