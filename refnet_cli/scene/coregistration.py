"""The residual shift between the images of a scene pair, estimated from files and exported as JSON or GeoJSON."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from refnet_cli.raster.georeference import describe_move, pixel_metres, to_degrees
from refnet_cli.scene.inputs import find_files
from refnet_cli.scene.options import Paths, SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.scene.registration import Piece, Shift
from refnet_cli.scene.source import Source
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.decisions import Decision
from refnet_cli.sensors.sentinel2 import EDGES
from refnet_cli.system.atomic import write_text_atomic
from refnet_cli.system.marks import MARK
from refnet_cli.types import Float32, Progress
from refnet_cli.version import __version__

MOST = 1000
"""Pixels of a picture along each axis."""


@dataclass(frozen=True)
class PairShift:
    """The residual shift of a scene pair, on its grid."""

    shift: Shift
    grid: GeoBox
    decisions: tuple[Decision, ...]
    picture: Float32 | None = field(default=None, compare=False)
    """Brightness of the optical image over the grid, with pixels `MOST` or fewer along each axis; NaN where it was not
    read, as only parts of large scenes are."""

    @property
    def move(self) -> str:
        """How SAR must move, in words; empty where that is unknown."""
        known = math.isfinite(self.shift.columns)
        return describe_move(self.grid, self.shift.columns, self.shift.rows) if known else ""

    def to_dict(self) -> dict[str, Any]:
        """Return all values as a dict for JSON; ``metres`` is (east, south) along the grid's axes."""
        across, down = pixel_metres(self.grid)
        found = self.shift.to_dict()
        known = found["columns"] is not None
        metres = [self.shift.columns * across, self.shift.rows * down] if known else None
        return found | {"metres": metres, "decisions": [decision._asdict() for decision in self.decisions]}

    def write_geojson(self, path: str | Path) -> None:
        """Write the shift of each window as a line from its centre, in true length, in longitude and latitude.

        Raises
        ------
        OutputError, StorageError
            If the file cannot be written.
        """
        features = []
        for vector in self.shift.vectors:
            x = np.array([vector.column, vector.column + vector.columns])
            y = np.array([vector.row, vector.row + vector.rows])
            lon, lat = to_degrees(self.grid, x, y)
            features.append({
                "type": "Feature",
                "geometry": {"type": "LineString", "coordinates": np.stack([lon, lat], 1).round(8).tolist()},
                "properties": {
                    "columns": round(vector.columns, 3), "rows": round(vector.rows, 3), "peak": round(vector.peak, 4)
                },
            })  # fmt: skip
        text = json.dumps({"type": "FeatureCollection", MARK: __version__, "features": features})
        write_text_atomic(Path(path), text)


class Picture:
    """A small picture of pieces of an optical image: every so many pixels along each axis.

    Parameters
    ----------
    height, width : int
        Size of the grid in pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        self._side = -(-max(height, width) // MOST)
        self.values = np.full((-(-height // self._side), -(-width // self._side)), np.nan, np.float32)

    def add(self, piece: Piece) -> None:
        """Enter a piece of the image."""
        grey = piece.optical.mean(axis=0)
        top, left = -(-piece.row // self._side), -(-piece.column // self._side)
        seen = grey[top * self._side - piece.row :: self._side, left * self._side - piece.column :: self._side]
        self.values[top : top + len(seen), left : left + seen.shape[1]] = seen


def find_shift(
    optical: Paths, sar: Paths, options: SceneOptions | None = None, progress: Progress | None = None
) -> PairShift:
    """Estimate how far a SAR image must be moved to match an optical image.

    Parameters
    ----------
    optical, sar : path, or sequence of paths
        As for `ScenePair.open`. Uses the available ones of B03, B04 and B08, and all polarisations.
    options : SceneOptions, optional
    progress : callable, optional
        Called with how many parts of the scene are compared, and of how many.

    Raises
    ------
    RefnetError
        As `ScenePair.open` does.
    """
    options = replace(options or SceneOptions(), coreg="off")
    with ExitStack() as stack:
        optical_names = list(Source(find_files(optical, "optical", options)[0], stack).band_names[0])
        sar_source = Source(find_files(sar, "sar", options)[0], stack)
        count = len(sar_source.layers)
        found = [name for name in SENSORS["sar"].bands if name in sar_source.band_names[0]]
    bands = [name for name in EDGES if name in optical_names]
    if options.optical_bands:
        bands = list(options.optical_bands)
    elif not bands:  # use all of them
        bands = [name or f"band {number}" for number, name in enumerate(optical_names, 1)]
    with ScenePair.open(optical, sar, bands, found or ["VV", "VH"][:count], options) as pair:
        picture = Picture(*pair.grid.shape)

        def watch(piece: Piece, done: int, total: int) -> None:
            picture.add(piece)
            if progress:
                progress(done, total)

        return PairShift(pair.estimate_shift(watch), pair.grid, tuple(pair.decisions), picture.values)
