"""The class map as polygons."""

from __future__ import annotations

import errno
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.outputs.areas.pixel_areas import CELL, PixelAreas
from refnet_cli.outputs.base import FileOutput
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.polygons.polygonize import TracedComponents, Tracer
from refnet_cli.outputs.polygons.sieve import Sieve, apply_sieve
from refnet_cli.outputs.polygons.vector_files import VECTORS, Features, vector_kind
from refnet_cli.outputs.rows import STEPS, Rows
from refnet_cli.system.memory import MB
from refnet_cli.types import UInt8

MAX_POLYGONS = 20_000_000
"""Most polygons in a file. The sieve needs about 250 bytes per component."""


class Polygons(FileOutput):
    """The class map as polygons: one per 4-connected component of a class, without gaps or overlaps.

    The path's extension selects the format: GeoPackage (``.gpkg``), FlatGeobuf (``.fgb``) or GeoParquet
    (``.parquet``). Polygons are sorted by the row in which they end, then by their first pixel; FlatGeobuf has its own
    order. Fields: ``class_code``; ``class_name``; ``area_ha``, the true area in hectares as in `AreaCounter`;
    ``pixels``; ``confidence``, the mean probability (0 to 1) of its pixels' classes before polygons are merged.

    Parameters
    ----------
    path : str or Path
        Path of the file.
    context : MapContext
        The tags become the file's metadata. Polygons smaller than ``min_area`` are merged into their largest neighbour,
        the smallest first; `refnet_cli.outputs.polygons.sieve` states the exact rule. A polygon surrounded by no data
        is kept.

    Raises
    ------
    OptionsError
        If the path has another extension, or the minimum area is invalid.
    UnavailableError
        If GeoParquet is requested and pyarrow is missing.
    InputError
        If the grid's coordinate system is a local one, or there are too many polygons.
    OutputError, StorageError
        See `FileOutput`.
    """

    ending = "_polygons.gpkg"
    suffixes = tuple(VECTORS)
    media: ClassVar = {suffix: (kind.media_type, ("data",)) for suffix, kind in VECTORS.items()}
    layers = ("codes", "confidence")
    fixed_memory = 250 * MB
    own_options = ("min_area",)

    _STRIP = 2**18  # pixels that are traced at once
    _BATCH = 50_000, 2_000_000  # features, and corners, that are written at once

    def __init__(self, path: str | Path, context: MapContext) -> None:
        self._min_area = context.min_area
        if not 0 <= self._min_area < math.inf:
            raise OptionsError(f"The minimum area is {self._min_area} ha; it must be 0 or more.")
        super().__init__(path, context)

    def _start(self, folder: Path) -> None:
        height, width = self._grid.shape
        kind = vector_kind(self.path)
        self._weights, self._unit = _weigh(self._grid)
        self._file = kind(folder, CRS.from_user_input(self._grid.crs).to_wkt(), self._tags)
        self._features: list[tuple[Features, NDArray[np.int64]]] = []
        self._bounds: list[NDArray[np.float64]] = []
        # Shells must be counterclockwise on the map; rows of most grids run downwards, which reverses the direction.
        self._tracer = Tracer(width, clockwise=self._grid.affine.determinant > 0)
        rows = min(max(self._STRIP // width, 1), height)
        self._strip = np.zeros((2, rows, width), np.uint8)
        self._filled, self._row = 0, 0
        least = math.ceil(min(self._min_area * 10_000 / self._unit, 2**62))  # 2**62 exceeds the map's total weight
        self._sieving = (Sieve(width, least), _Stash(folder / "stash")) if self._min_area else None

    def _put(self, rows: Rows) -> None:
        layers, taken = (rows.codes, rows.confidence[0]), 0
        while taken < len(rows.valid):
            count = min(len(rows.valid) - taken, self._strip.shape[1] - self._filled)
            for place, layer in zip(self._strip, layers, strict=True):
                place[self._filled : self._filled + count] = layer[taken : taken + count]
            self._filled += count
            taken += count
            if self._filled == self._strip.shape[1]:
                self._take_strip()

    def _take_strip(self) -> None:
        strip, self._filled = self._strip[:, : self._filled], 0
        if self._sieving is None:
            self._trace(*strip)
            return
        sieve, stash = self._sieving
        sieve.add(strip[0], self._sums_of_weights(self._row, strip.shape[1]))
        self._refuse_too_many(sieve.count)
        stash.add(strip)
        self._row += strip.shape[1]

    def _trace(self, codes: UInt8, steps: UInt8) -> None:
        self._write(self._tracer.add(codes, steps, self._sums_of_weights(self._row, len(codes))))
        self._row += len(codes)

    def _sums_of_weights(self, row: int, rows: int) -> NDArray[np.int64]:
        """Return the cumulative weights left of each column, shape (rows, width + 1)."""
        width = self._grid.shape[1]
        cells = np.arange(row, row + rows) // CELL
        first = int(cells[0])
        pixels = np.repeat(self._weights[first : cells[-1] + 1], CELL, axis=1)[:, :width]
        sums = np.zeros((len(pixels), width + 1), np.int64)
        np.cumsum(pixels, axis=1, out=sums[:, 1:])
        return sums[cells - first]

    def _write(self, outlined: TracedComponents) -> None:
        """Write complete components, in batches that depend on nothing but their order."""
        if not len(outlined.component):
            return
        features, corners = self._describe(outlined)
        self._features.append((features, corners))
        self._refuse_too_many(self._file.count + sum(len(part.wkb) for part, _ in self._features) + self._tracer.count)
        most, most_corners = self._BATCH
        while sum(len(part.wkb) for part, _ in self._features) >= most or (
            sum(int(part.sum()) for _, part in self._features) >= most_corners
        ):
            self._flush()

    def _flush(self) -> None:
        """Write one batch: the features up to the one that fills it."""
        features = Features.joined([part for part, _ in self._features])
        corners = np.concatenate([part for _, part in self._features])
        most, most_corners = self._BATCH
        count = min(int(np.searchsorted(np.cumsum(corners), most_corners)) + 1, most, len(corners))
        self._file.write(features.part(slice(count)))
        rest = features.part(slice(count, None))
        self._features = [(rest, corners[count:])] if len(rest.wkb) else []

    def _describe(self, outlined: TracedComponents) -> tuple[Features, NDArray[np.int64]]:
        """Return polygons with their fields, and each polygon's number of corners."""
        sums, to_map = outlined.sums, self._grid.affine
        x = to_map.a * outlined.x + to_map.b * outlined.y + to_map.c
        y = to_map.d * outlined.x + to_map.e * outlined.y + to_map.f
        self._bounds += [np.array([x.min(), y.min(), -x.max(), -y.max()])]
        self._bounds = [np.min(self._bounds, axis=0)]
        rings = shapely.linearrings(np.stack([x, y], axis=1), indices=outlined.ring)
        names = np.empty(256, object)
        names[list(self._scheme.codes)] = self._scheme.names
        features = Features(
            shapely.to_wkb(shapely.polygons(rings, indices=outlined.component), byte_order=1),
            sums.codes.astype(np.int32),
            names[sums.codes],
            np.asarray(sums.weights * (self._unit / 10_000), np.float64),
            sums.pixels,
            np.asarray(sums.values / (STEPS * sums.pixels), np.float64),
        )
        return features, np.bincount(outlined.component[outlined.ring])

    def _refuse_too_many(self, count: int) -> None:
        if count > MAX_POLYGONS:
            raise InputError(
                f"The map has more than {MAX_POLYGONS:,} polygons, which is the limit. Smooth the map with --smooth, "
                "or merge small polygons into their neighbours with --min-area."
            )

    def _complete(self, folder: Path, facts: Mapping[str, Any]) -> list[Path]:
        if self._filled:
            self._take_strip()
        if self._sieving is not None:
            sieve, stash = self._sieving
            table, start, self._row = sieve.solve(), 0, 0
            for codes, steps in stash.strips():
                codes, start = apply_sieve(codes, table, start)
                self._trace(codes, steps)
        self._write(self._tracer.finish())
        while self._features:
            self._flush()
        bounds = self._bounds[0] * (1, 1, -1, -1) if self._bounds else None
        return [self._file.complete(None if bounds is None else tuple(bounds.tolist()))]

    def _close(self) -> None:
        if self._sieving is not None:
            self._sieving[1].close()
        self._file.close()


class _Stash:
    """Strips of layers, stored on disk for the second pass."""

    def __init__(self, path: Path) -> None:
        # Unbuffered, so that nothing remains to be flushed after a failed write.
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115
        self._sizes: list[tuple[int, tuple[int, ...]]] = []

    def add(self, strip: UInt8) -> None:
        """Store the next strip, shape (layers, rows, width)."""
        packed = zlib.compress(strip.tobytes(), 1)
        self._sizes.append((len(packed), strip.shape))
        while packed:
            packed = packed[self._file.write(packed) :]

    def strips(self) -> Iterator[UInt8]:
        """Yield all strips in order."""
        self._file.seek(0)
        for size, shape in self._sizes:
            try:
                yield np.frombuffer(zlib.decompress(self._file.read(size)), np.uint8).reshape(shape)
            except zlib.error as error:
                raise OSError(errno.EIO, f"the stored rows are damaged ({error})") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _weigh(grid: GeoBox) -> tuple[NDArray[np.int64], float]:
    """Return the pixel area in each cell as integers, shape (rows, columns), and their unit in square metres.

    Integers give the same sum in any order. The sum over all pixels is below 2**62.
    """
    areas = PixelAreas(grid)
    height, width = grid.shape
    measured = np.array([areas.of_row(row) for row in range(math.ceil(height / CELL))])
    measured[~np.isfinite(measured)] = 0  # where the projection is undefined, no pixel has a class
    unit = float(measured.max()) / 2 ** min(62 - math.ceil(math.log2(height * width)), 40)
    return np.rint(measured / (unit or 1.0)).astype(np.int64), unit or 1.0
