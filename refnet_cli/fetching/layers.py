"""Fetched layers: rows into a journal, and from it Cloud Optimized GeoTIFFs.

A fetch that was killed goes on after the last complete rows of its journal, to the same bytes.
"""

from __future__ import annotations

import errno
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS
from rasterio.windows import Window as RasterWindow

from refnet_cli.system.disk import sync
from refnet_cli.system.marks import MARK
from refnet_cli.tiles.window import Window
from refnet_cli.version import __version__

STRIP = 1024
"""Most rows that are fetched at once."""
STRIP_BYTES = 96 << 20
"""Most bytes of the rows that are fetched at once, of all dates that are needed together."""
_BLOCK = 512
_GDAL = {"GDAL_PAM_ENABLED": "NO", "GDAL_CACHEMAX": 64 * 2**20}


class Rows(Protocol):
    """What reads the pixels of a product."""

    def read(self, window: Window, after: Window | None) -> dict[str, NDArray[Any]]:
        """Read the layers in a window of the grid; ``after`` is all that follows."""


@dataclass(frozen=True)
class Layer:
    """A file of a product.

    Parameters
    ----------
    name : str
        Name of the layer in what `Rows.read` returns.
    file : str
        Name of the file.
    dtype : str
    nodata : float
    bands : tuple of str
        Descriptions of the bands.
    unit : str
        Unit of the bands.
    overviews : str
        Resampling of overviews.
    colours : dict
        Colour table; empty for none.
    """

    name: str
    file: str
    dtype: str
    nodata: float
    bands: tuple[str, ...]
    unit: str = ""
    overviews: str = "AVERAGE"
    colours: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)


def strip_rows(width: int, pixel_bytes: int) -> int:
    """Return how many rows are fetched at once, a multiple of 256.

    Parameters
    ----------
    width : int
        Of the grid in pixels.
    pixel_bytes : int
        Bytes of a pixel, of all bands and dates that are needed together.

    Examples
    --------
    >>> strip_rows(2000, 8), strip_rows(10_980, 8), strip_rows(10_980, 200)
    (1024, 1024, 256)
    """
    fitting = STRIP_BYTES // max(width * pixel_bytes, 1)
    return int(min(max(fitting // 256, 1) * 256, STRIP))


def fetch_rows(
    path: Path,
    identity: Mapping[str, Any],
    layers: tuple[Layer, ...],
    rows: Rows,
    grid: GeoBox,
    pixel_bytes: int,
    progress: Callable[[int], None],
) -> Path:
    """Fetch all rows into a journal, or those that it lacks.

    Parameters
    ----------
    path : Path
        The journal.
    identity : mapping
        All that the pixels depend on.
    layers : tuple of Layer
    rows : Rows
    grid : GeoBox
    pixel_bytes : int
        See `strip_rows`.
    progress : callable
        Called with the number of rows that are done.

    Returns
    -------
    Path
        The journal.
    """
    height, width = grid.shape
    from refnet_cli.outputs.journal import FinishedRows, Journal  # imports all outputs, which a plan does without

    step = strip_rows(width, pixel_bytes)
    planes = _planes(layers)
    journal = Journal(path, {**identity, "rows": step}, planes)
    try:
        progress(journal.next_row)
        while journal.next_row < height:
            window = Window(journal.next_row, 0, step, width).clip(height, width)
            following = Window(window.row + window.height, 0, height, width).clip(height, width)
            read = rows.read(window, following if following.height else None)
            journal.add(FinishedRows(window.row, {name: np.ascontiguousarray(read[name]) for name in planes}))
            progress(journal.next_row)
    finally:
        journal.close()
    return path


def _planes(layers: tuple[Layer, ...]) -> dict[str, tuple[type[Any], int]]:
    return {layer.name: (np.dtype(layer.dtype).type, len(layer.bands)) for layer in layers}


@dataclass
class Facts:
    """What is counted while a file is written."""

    pixels: int = 0
    valid: int = 0
    values: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Number of pixels of each value of a layer of one band of whole numbers."""

    @property
    def share(self) -> float:
        """Share of the pixels that have data."""
        return self.valid / max(self.pixels, 1)


def count_facts(
    path: Path, identity: Mapping[str, Any], layers: tuple[Layer, ...], pixel_bytes: int, width: int
) -> dict[str, Facts]:
    """Count the valid pixels of each layer in a finished journal."""
    facts = {layer.name: Facts() for layer in layers}
    for finished in _replay(path, identity, layers, pixel_bytes, width):
        for layer in layers:
            values, found = finished.layers[layer.name], facts[layer.name]
            first = values if values.ndim == 2 else values[0]
            found.pixels += first.size
            found.valid += int((first != layer.nodata).sum())
            if values.ndim == 2 and values.dtype.kind == "u":
                counted = np.bincount(values.ravel())
                longer = np.zeros(max(len(counted), len(found.values)), np.int64)
                longer[: len(found.values)] += found.values
                longer[: len(counted)] += counted
                found.values = longer
    return facts


def _replay(path: Path, identity: Mapping[str, Any], layers: tuple[Layer, ...], pixel_bytes: int, width: int) -> Any:
    from refnet_cli.outputs.journal import read_journal

    return read_journal(path, {**identity, "rows": strip_rows(width, pixel_bytes)}, _planes(layers))


def write_layer(
    journal: Path,
    identity: Mapping[str, Any],
    layers: tuple[Layer, ...],
    layer: Layer,
    grid: GeoBox,
    pixel_bytes: int,
    tags: Mapping[str, str],
    band_tags: Mapping[str, str],
) -> Path:
    """Write a layer of a finished journal as a Cloud Optimized GeoTIFF next to it, and compare it with the journal.

    Returns
    -------
    Path
        The file, whose name ends in ``.ready``.

    Raises
    ------
    OSError
        If the disk does not return what was written.
    """
    working, ready = journal.with_name(f"{layer.file}.working"), journal.with_name(f"{layer.file}.ready")
    ready.unlink(missing_ok=True)
    width = grid.shape[1]
    checksums: list[tuple[int, int, int]] = []
    with rasterio.Env(**_GDAL):
        profile = {
            "driver": "GTiff", "dtype": layer.dtype, "count": len(layer.bands), "nodata": layer.nodata,
            "height": grid.shape[0], "width": width, "crs": CRS.from_user_input(str(grid.crs)),
            "transform": grid.affine,
            "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "zlevel": 1,
            "interleave": "pixel", "bigtiff": "if_safer", "num_threads": "all_cpus",
        }  # fmt: skip
        with rasterio.open(working, "w", **profile) as raster:
            for finished in _replay(journal, identity, layers, pixel_bytes, width):
                values = finished.layers[layer.name]
                values = values if values.ndim == 3 else values[None]
                raster.write(values, window=RasterWindow(0, finished.row, width, finished.rows))
                checksums.append((finished.row, finished.rows, zlib.crc32(values.tobytes())))
            raster.descriptions = layer.bands
            if layer.unit:
                raster.units = (layer.unit,) * len(layer.bands)
            if layer.colours:
                raster.write_colormap(1, layer.colours)
            if band_tags:
                raster.update_tags(1, **band_tags)
            raster.update_tags(**{**tags, MARK: __version__, "AREA_OR_POINT": "Area"})
        try:
            rasterio.shutil.copy(
                working, ready, driver="COG", BLOCKSIZE=str(_BLOCK), COMPRESS="DEFLATE", BIGTIFF="IF_SAFER",
                OVERVIEW_RESAMPLING=layer.overviews, PREDICTOR="YES" if not layer.colours else "NO",
                NUM_THREADS="ALL_CPUS",
            )  # fmt: skip
        except SystemError as error:  # raised by rasterio where GDAL fails without a message
            raise OSError(errno.EIO, "GDAL failed to write it and gave no reason") from error
        working.unlink()
        _compare(ready, checksums)
    sync(ready)
    return ready


def _compare(path: Path, checksums: list[tuple[int, int, int]]) -> None:
    """Compare a file with what was written: GDAL does not report blocks that did not fit on the disk."""
    with rasterio.open(path, driver="GTiff", num_threads="all_cpus") as raster:
        for row, rows, checksum in checksums:
            values = raster.read(window=RasterWindow(0, row, raster.width, rows))
            if zlib.crc32(values.tobytes()) != checksum:
                raise OSError(errno.EIO, f"rows {row} to {row + rows - 1} differ from what was written", str(path))
        # Overviews have no checksum; reading them finds blocks that are missing.
        for level in range(len(raster.overviews(1))):
            with rasterio.open(path, driver="GTiff", overview_level=level) as overview:
                for _, window in overview.block_windows(1):
                    overview.read(window=window)
