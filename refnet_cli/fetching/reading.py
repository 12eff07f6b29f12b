"""Pixels of catalogue items on a grid."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from refnet_cli.errors import InputError, InputMissingError, RefnetError
from refnet_cli.fetching.http import AddressError, Http, ProtocolError
from refnet_cli.fetching.items import SceneItem
from refnet_cli.fetching.remote_raster import RangeFile, RemoteRaster
from refnet_cli.fetching.signing import Signer
from refnet_cli.raster.warp import Alignment
from refnet_cli.system.closing import Closing
from refnet_cli.tiles.window import Window
from refnet_cli.types import Bool, Float32

LOG = logging.getLogger(__name__)
_PIECE = 2048  # pixels of a grid along a side that are warped at once
_CELL = 256  # least pixels along a side of the parts that are read by themselves


class UnusableItemError(RefnetError):
    """A file of an item is missing on its server, damaged, or not what it should be.

    Attributes
    ----------
    item : SceneItem
    """

    def __init__(self, item: SceneItem, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.item, self.exit_code = item, exit_code


@contextmanager
def blame(item: SceneItem) -> Iterator[None]:
    """Raise `UnusableItemError` where a file is missing or wrong, but not where its server is."""
    try:
        yield
    except (AddressError, ProtocolError):
        raise
    except (InputError, InputMissingError) as error:
        raise UnusableItemError(item, str(error), error.exit_code) from error


@dataclass(frozen=True)
class GridFile:
    """A band of an item, aligned with a grid."""

    item: SceneItem
    band: str
    raster: RemoteRaster
    alignment: Alignment

    def spans(self, window: Window) -> list[tuple[int, int]]:
        """Return the bytes of the file that are needed for a window of the grid."""
        source = self.alignment.source_window(window)
        return self.raster.spans(1, source) if source.height * source.width else []

    def cells(self, window: Window, wanted: Bool) -> list[Window]:
        """Return the parts of a window to read so that all wanted pixels are read, and blocks without any are not.

        Parameters
        ----------
        window : Window
        wanted : array of bool, shape (H, W)
            Pixels of the window.

        Returns
        -------
        list of Window
            Where the file's pixels are those of the grid, the smallest windows around the wanted pixels of each block.
        """
        if (shift := self.alignment.shift) is None:
            parts = [part for part in window.pieces(_CELL) if wanted[part.slices_in(window)].any()]
            complete = len(parts) == len(list(window.pieces(_CELL)))
            return list(window.pieces(_PIECE)) if complete else parts
        blocks = self.raster.dataset.block_shapes[0]
        rows, columns = (
            _cuts(first, length, block * -(-64 // block), move)
            for first, length, block, move in zip(window[:2], window[2:], blocks, shift[::-1], strict=True)
        )
        return [
            _shrink(part, marked)
            for top, bottom in pairwise(rows)
            for left, right in pairwise(columns)
            if (marked := wanted[(part := Window(top, left, bottom - top, right - left)).slices_in(window)]).any()
        ]

    def read_as_stored(self, window: Window, cells: Iterable[Window], nodata: float) -> NDArray[Any] | None:
        """Read the file's own numbers in parts of a window; None if its pixels are not those of the grid."""
        if not self.alignment.same_pixels:
            return None
        out = np.full((window.height, window.width), nodata, self.raster.dataset.dtypes[0])
        for part in cells:
            stored, source = self._stored(part)
            if stored.size:
                self.alignment.warp(part, source, stored[None], out[None, *part.slices_in(window)], Resampling.nearest)
        return out

    def read_nearest(self, window: Window, cells: Iterable[Window] | None = None) -> NDArray[Any]:
        """Read whole numbers in parts of a window, by default in all of it, each from the nearest pixel; else 0."""
        dtype = np.dtype(self.raster.dataset.dtypes[0])
        out = np.zeros((window.height, window.width), dtype)
        for part in window.pieces(_PIECE) if cells is None else cells:
            stored, source = self._stored(part)
            if stored.size:
                with self.raster.error_context(f"cannot be warped to {part} of the grid", part):
                    target = np.zeros((1, part.height, part.width), dtype)
                    self.alignment.warp(part, source, stored[None], target, Resampling.nearest)
                out[part.slices_in(window)] = target[0]
        return out

    def read_resampled(self, window: Window, cells: Iterable[Window], nodata: float) -> Float32:
        """Read numbers in parts of a window, interpolated where the file's pixels are others; NaN for no data."""
        out: Float32 = np.full((window.height, window.width), np.nan, np.float32)
        method = Resampling.bilinear if self.alignment.ratio < 1.5 else Resampling.average
        for part in cells:
            stored, source = self._stored(part)
            if not stored.size:
                continue
            values = stored.astype(np.float32)
            values[(stored == stored.dtype.type(nodata)) | ~np.isfinite(values)] = np.nan
            target = np.full((1, part.height, part.width), np.nan, np.float32)
            with self.raster.error_context(f"cannot be warped to {part} of the grid", part):
                self.alignment.warp(part, source, values[None], target, method)
            out[part.slices_in(window)] = target[0]
        return out

    def _stored(self, window: Window) -> tuple[NDArray[Any], Window]:
        source = self.alignment.source_window(window)
        if not source.height * source.width:
            return np.zeros((0, 0), self.raster.dataset.dtypes[0]), source
        with self.raster.error_context("is damaged", window):
            stored = self.raster.dataset.read(
                1, window=((source.row, source.row + source.height), (source.column, source.column + source.width))
            )
        return stored, source


def _cuts(first: int, length: int, step: int, shift: int) -> list[int]:
    """Return where a side of a window is cut so that no part lies in two blocks of a file.

    Examples
    --------
    >>> _cuts(100, 300, 128, 20)
    [100, 108, 236, 364, 400]
    """
    begin = first + -(first + shift) % step
    return [first, *(cut for cut in range(begin, first + length, step) if cut > first), first + length]


def _shrink(part: Window, marked: Bool) -> Window:
    """Return the smallest part of a window that holds all marked pixels."""
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return Window(part.row + top, part.column + left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1)


class Reader(Closing):
    """Opens files of items once, and fetches and reads several of them at the same time.

    Parameters
    ----------
    http : Http
    sign : Signer
    concurrency : int
        Requests at the same time.

    Attributes
    ----------
    warnings : list of str
        Files that do not lie where their items say.
    """

    def __init__(self, http: Http, sign: Signer, concurrency: int) -> None:
        self.http, self._sign = http, sign
        self.pool = ThreadPoolExecutor(concurrency, thread_name_prefix="fetch")
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str, str, int, str], GridFile | None] = {}
        self._files: dict[str, RangeFile] = {}
        self.warnings: list[str] = []

    def open(
        self, items: Iterable[tuple[SceneItem, str]], grid: GeoBox, what: str, pixel: float = 0.0
    ) -> list[GridFile]:
        """Open bands of items; those that do not overlap the grid are left out.

        Parameters
        ----------
        items : iterable of (SceneItem, str)
            Items, each with the name of a band.
        grid : GeoBox
        what : str
            The role of the files, for messages.
        pixel : float
            Size in metres that pixels may have, so that an overview is read instead of the file; 0 for none.

        Raises
        ------
        UnusableItemError
            If a file cannot be used.
        RefnetError
            See `RemoteRaster`.
        """
        given = list(items)
        key = f"{grid.shape} {tuple(grid.affine)[:6]} {grid.crs}"
        names = [(item.collection, item.id, band, int(pixel), key) for item, band in given]
        new = [(name, *pair) for name, pair in zip(names, given, strict=True) if name not in self._open]
        opened = self.pool.map(lambda entry: self._open_blamed(entry[1], entry[2], grid, what, pixel), new)
        for (name, _, _), file in zip(new, opened, strict=True):
            self._open[name] = file
        return [file for name in names if (file := self._open[name])]

    def _open_blamed(self, item: SceneItem, band: str, grid: GeoBox, what: str, pixel: float) -> GridFile | None:
        with blame(item):
            return self._open_one(item, band, grid, what, pixel)

    def _open_one(self, item: SceneItem, band: str, grid: GeoBox, what: str, pixel: float) -> GridFile | None:
        file = self._files.get(item.hrefs[band]) or RangeFile(self.http, item.hrefs[band], self._sign)
        self._files[item.hrefs[band]] = file
        raster = RemoteRaster(file, what)
        try:
            if pixel and (level := _overview(raster, pixel)) is not None:
                raster.close()
                raster = RemoteRaster(file, what, level)
            if raster.dataset.count != 1:
                raise InputError(f"The {what} file {raster.path} has {raster.dataset.count} bands; it must have one.")
            if not pixel and (differs := _differences(raster, item.stated.get(band, {}))):
                with self._lock:
                    self.warnings.append(f"{item.id}: the file of {band} {differs}; the file's own grid is used")
            return GridFile(item, band, raster, Alignment(raster, grid))
        except InputError as error:
            raster.close()
            if "does not overlap" not in str(error):
                raise
            with self._lock:
                self.warnings.append(f"{item.id} does not cover the area, although the catalogue says so")
            return None
        except BaseException:
            raster.close()
            raise

    def fetch(self, wanted: Iterable[tuple[GridFile, Iterable[Window]]]) -> None:
        """Fetch what several files need, each for windows of the grid, together."""
        jobs = []
        for file, windows in wanted:
            with blame(file.item):
                spans = [span for window in windows for span in file.spans(window)]
                jobs += [(file, part) for part in file.raster.file.missing(spans)]
        for _ in self.pool.map(lambda job: self._get(*job), jobs):
            pass

    def _get(self, file: GridFile, span: tuple[int, int]) -> None:
        with blame(file.item):
            file.raster.file.get(span)

    def keep(self, files: Iterable[GridFile], window: Window | None) -> None:
        """Drop what was fetched of files, but for what a further window needs."""
        for file in files:
            if file.raster.file.holds_parts:
                file.raster.file.keep(file.spans(window) if window else [])

    def close(self) -> None:
        """Close all files."""
        self.pool.shutdown(cancel_futures=True)
        for file in self._open.values():
            if file:
                file.raster.close()
        self._open.clear()


def _differences(raster: RemoteRaster, stated: Mapping[str, Any]) -> str:
    """Say what a file's grid is where its item states something else; "" where they agree.

    Raises
    ------
    InputError
        If the pixels have another size, so that the file is not the one that is meant.
    """
    pixel = abs(raster.transform.a)
    if "transform" in stated and abs(abs(stated["transform"][0]) - pixel) > 1e-6 * pixel:
        raise InputError(
            f"The {raster.what} file {raster.path} has pixels of {pixel:g} (its item states "
            f"{abs(stated['transform'][0]):g}). Use another source."
        )
    epsg, shape, transform = raster.crs.to_epsg(), list(raster.shape), [float(part) for part in raster.transform[:6]]
    said = []
    if stated.get("epsg", epsg) != epsg:
        said.append(f"is in EPSG:{epsg} (stated {stated['epsg']})")
    if stated.get("shape", shape) != shape:
        said.append(f"has {shape[1]} x {shape[0]} pixels (stated {stated['shape'][1]} x {stated['shape'][0]})")
    if not np.allclose(stated.get("transform", transform), transform, rtol=1e-9, atol=1e-6):
        size, west, north = abs(transform[0]), transform[2], transform[5]
        said.append(f"begins at {west:.10g}, {north:.10g} with pixels of {size:.6g}")
    return " and ".join(said)


def _overview(raster: RemoteRaster, pixel: float) -> int | None:
    """Return the coarsest overview whose pixels are not larger than some metres; None for the full resolution."""
    own = abs(raster.transform.a) * (111_320.0 if raster.crs.is_geographic else 1.0)
    factors = raster.dataset.overviews(1)
    fitting = [number for number, factor in enumerate(factors) if own * factor <= pixel * 1.01]
    return fitting[-1] if fitting else None


def coarse_grid(grid: GeoBox, factor: int) -> GeoBox:
    """Return a grid with pixels that are larger by a factor, over the same ground."""
    height, width = (math.ceil(side / factor) for side in grid.shape)
    return GeoBox((height, width), grid.affine @ Affine.scale(factor), grid.crs)
