"""The shift that is left between the images of a pair, found for files and written for people and maps."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer

from refnet_cli.errors import InputError
from refnet_cli.files import replacing
from refnet_cli.register import Shift
from refnet_cli.scene import EDGES, Decision, Paths, SceneOptions, ScenePair, Source, find_files


@dataclass(frozen=True)
class PairShift:
    """The shift of a pair, on its grid."""

    shift: Shift
    grid: GeoBox
    decisions: tuple[Decision, ...]

    @property
    def pixel(self) -> tuple[float, float]:
        """Width and height of a pixel on the ground at the grid's middle, in metres."""
        rows, columns = self.grid.shape
        x = columns / 2 + np.array([0, 1, 0])
        y = rows / 2 + np.array([0, 0, 1])
        crs = CRS.from_user_input(self.grid.crs)
        lon, lat = _to_degrees(self.grid, x, y)
        geod = crs.get_geod()
        if geod is None:
            raise InputError(f"The grid's reference system {crs.name} has no ellipsoid, so it has no metres.")
        _, _, distances = geod.inv(lon[[0, 0]], lat[[0, 0]], lon[1:], lat[1:])
        return float(distances[0]), float(distances[1])

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as a plain dict that JSON can hold; ``metres`` is (east, south) along the grid's axes."""
        across, down = self.pixel
        found = self.shift.to_dict()
        known = found["columns"] is not None
        metres = [self.shift.columns * across, self.shift.rows * down] if known else None
        return found | {"metres": metres, "decisions": [decision._asdict() for decision in self.decisions]}

    def write_geojson(self, path: Path) -> None:
        """Write each window's shift as a line from its centre, in true length, in longitude and latitude.

        Raises
        ------
        OutputError, StorageError
            If the file cannot be written.
        """
        features = []
        for vector in self.shift.vectors:
            x = np.array([vector.column, vector.column + vector.columns])
            y = np.array([vector.row, vector.row + vector.rows])
            lon, lat = _to_degrees(self.grid, x, y)
            features.append({
                "type": "Feature",
                "geometry": {"type": "LineString", "coordinates": np.stack([lon, lat], 1).round(8).tolist()},
                "properties": {
                    "columns": round(vector.columns, 3), "rows": round(vector.rows, 3), "peak": round(vector.peak, 4)
                },
            })  # fmt: skip
        text = json.dumps({"type": "FeatureCollection", "features": features})
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def find_shift(optical: Paths, sar: Paths, options: SceneOptions | None = None) -> PairShift:
    """Find how far a SAR image must move to fit an optical one.

    Parameters
    ----------
    optical, sar : path, or sequence of paths
        As `ScenePair.open` takes them. B03, B04 and B08 are used, or what there is of them, and all polarisations.
    options : SceneOptions, optional

    Raises
    ------
    RefnetError
        As `ScenePair.open` does.
    """
    options = replace(options or SceneOptions(), coreg="off")
    with ExitStack() as stack:
        optical_names = Source(find_files(optical, "optical")[0], stack).named[0]
        sar_source = Source(find_files(sar, "sar", options.allow_gcps)[0], stack)
        count = len(sar_source.layers)
        found = [name for name in ("VV", "VH", "HH", "HV") if name in sar_source.named[0]]
    bands = [name for name in EDGES if name in optical_names] or list(EDGES)
    with ScenePair.open(optical, sar, bands, found or ["VV", "VH"][:count], options) as pair:
        return PairShift(pair.estimate_shift(), pair.grid, tuple(pair.decisions))


def _to_degrees(grid: GeoBox, columns: Any, rows: Any) -> tuple[Any, Any]:
    transform = grid.transform
    to_degrees = Transformer.from_crs(CRS.from_user_input(grid.crs).to_2d(), "EPSG:4326", always_xy=True)
    x, y = transform.a * columns + transform.c, transform.e * rows + transform.f
    lon, lat = to_degrees.transform(x, y)
    return np.asarray(lon), np.asarray(lat)
