"""A raster file on a server, opened with the guards of local files.

GDAL reads it through a file object of ours, never from a URL. So every address is checked, lost and short answers are
repeated or reported, and the blocks of a window are fetched together before GDAL asks for them.
"""

from __future__ import annotations

import contextvars
import itertools
import threading
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import rasterio
from rasterio.abc import FileContainer
from rasterio.errors import NotGeoreferencedWarning

from refnet_cli.errors import InputError, RefnetError, TryAgainError
from refnet_cli.fetching.http import Http
from refnet_cli.raster.fills import Fills
from refnet_cli.raster.guard_tiff import check_directories
from refnet_cli.raster.raster import Raster
from refnet_cli.system.urls import hide_secrets
from refnet_cli.tiles.window import Window

HEAD = 1 << 14
"""Bytes that are read at a file's beginning, where Cloud Optimized GeoTIFFs have their directories."""
_PAGE = 1 << 14  # bytes that are read where GDAL asks for less
_GAP = 1 << 13  # bytes between two blocks that are fetched together with them
_MOST = 4 << 20  # bytes of one request
_numbers = itertools.count()
# rasterio keeps open files in context variables. Copies of one context share them, so that any thread may close a file.
_rasterio = contextvars.copy_context()

Sign = Callable[[str, bool], str]


class RangeFile:
    """A read-only file on a server, which several datasets may read through cursors of their own.

    Keeps what was fetched until `keep` drops it, and the directories for good. One thread at a time reads; others may
    fetch meanwhile.

    Parameters
    ----------
    http : Http
    url : str
        Unsigned.
    sign : callable
        See `Http.range`.

    Attributes
    ----------
    error : Exception or None
        Why the last read failed: GDAL drops errors of file objects.
    size : int
        Bytes of the file.
    url : str
        Its URL as messages name it.
    """

    def __init__(self, http: Http, url: str, sign: Sign) -> None:
        self._http, self._url, self._sign = http, url, sign
        self._parts: dict[int, bytes] = {}
        self._pages: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self.error: Exception | None = None
        self.url = hide_secrets(url)
        head = http.range(url, 0, HEAD, sign)
        self.size, self._version = head.size, head.version
        self._head = head.content

    def missing(self, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return what of these spans of bytes, from start to stop, is to be fetched, with near ones joined."""
        return list(_join([(start, stop) for start, stop in sorted(set(spans)) if self._find(start, stop) is None]))

    def get(self, span: tuple[int, int], for_good: bool = False) -> None:
        """Fetch a span of bytes; ``for_good`` for what `keep` must not drop."""
        start, stop = span
        found = self._http.range(self._url, start, min(stop, self.size), self._sign)
        if found.size != self.size or found.version != self._version:
            raise TryAgainError(f"{self.url} was changed on the server while it was read. Try again.")
        with self._lock:
            (self._pages if for_good else self._parts)[start] = found.content

    @property
    def holds_parts(self) -> bool:
        """Whether there is something that `keep` could drop."""
        return bool(self._parts)

    def keep(self, spans: Iterable[tuple[int, int]]) -> None:
        """Drop what was fetched but for the directories and the parts that hold bytes of these spans."""
        spans = sorted(spans)
        stops = [stop for _, stop in spans]

        def needed(start: int, length: int) -> bool:
            number = bisect_right(stops, start)
            return number < len(spans) and spans[number][0] < start + length

        with self._lock:
            self._parts = {start: part for start, part in self._parts.items() if needed(start, len(part))}

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes; none where that fails, and `error` says why."""
        if start >= stop:
            return b""
        try:
            found = self._find(start, stop)
            if found is None:
                page = stop - start < _PAGE  # of a directory: blocks of a window are fetched beforehand
                self.get((start, max(stop, start + _PAGE)), for_good=page)
                found = self._find(start, stop)
        except Exception as error:  # GDAL's callback would print it and go on
            self.error = error
            return b""
        return found or b""

    def _find(self, start: int, stop: int) -> bytes | None:
        stop = min(stop, self.size)
        if stop <= len(self._head):
            return self._head[start:stop]
        with self._lock:
            for parts in (self._parts, self._pages):
                for begin, part in parts.items():
                    if begin <= start and stop <= begin + len(part):
                        return part[start - begin : stop - begin]
        return None


class _Cursor:
    """A position in a file: what GDAL reads from."""

    def __init__(self, file: RangeFile) -> None:
        self._file, self._position = file, 0

    def read(self, count: int = -1) -> bytes:
        """Read bytes at the position."""
        start, size = self._position, self._file.size
        found = self._file.read(start, size if count < 0 else min(start + count, size))
        self._position += len(found)
        return found

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position."""
        self._position = offset + (0, self._position, self._file.size)[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def close(self) -> None:
        """Go back to the beginning: GDAL opens the file more than once."""
        self._position = 0

    def __enter__(self) -> _Cursor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _join(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join sorted spans of bytes with small gaps between them.

    Examples
    --------
    >>> list(_join([(0, 10), (12, 20), (100_000, 100_010)]))
    [(0, 20), (100000, 100010)]
    """
    joined: list[int] = []
    for start, stop in spans:
        if joined and start - joined[1] <= _GAP and stop - joined[0] <= _MOST:
            joined[1] = max(joined[1], stop)
            continue
        if joined:
            yield joined[0], joined[1]
        joined = [start, stop]
    if joined:
        yield joined[0], joined[1]


class _OneFile(FileContainer):  # type: ignore[misc]  # rasterio has no types
    """What GDAL sees: one file and no others."""

    def __init__(self, file: RangeFile, name: str) -> None:
        self._file, self._name = file, name

    def open(self, path: str, mode: str = "r", **_: Any) -> _Cursor:
        return _Cursor(self._file)

    def isfile(self, path: str) -> bool:
        return path == self._name

    def isdir(self, path: str) -> bool:
        return False

    def ls(self, path: str) -> list[str]:
        return []

    def mtime(self, path: str) -> int:
        return 0

    def size(self, path: str) -> int:
        return self._file.size

    def rm(self, path: str) -> None:
        raise OSError("read-only")


class RemoteRaster(Raster):
    """A GeoTIFF on a server; see `Raster`.

    Parameters
    ----------
    file : RangeFile
    what : str
        See `Raster`.
    overview : int or None
        Which overview to read instead of the full resolution, from 0.

    Raises
    ------
    RefnetError
        See `Http.range` and `Raster`.
    """

    def __init__(self, file: RangeFile, what: str, overview: int | None = None) -> None:
        self.path, self.what, self.sensor, self.fills = file.url, what, None, Fills()
        self._remote, self._zipped = None, True
        self.file = file
        self._spans: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._name = name = f"refnet-{next(_numbers)}.tif"
        more = {} if overview is None else {"overview_level": overview}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with self.error_context("cannot be opened as a GeoTIFF"):
                check_directories(_Cursor(file))  # type: ignore[arg-type]  # it only seeks and reads
                opener = _OneFile(file, name)
                self.dataset = _rasterio.copy().run(
                    rasterio.open, name, driver="GTiff", opener=opener, sharing=False, **more
                )
        try:
            with self.error_context("cannot be used"):
                self._check_size(self.dataset)
                self._check_scaling()
                self._check_georeference(False)
        except RefnetError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; any thread may do it."""
        _rasterio.copy().run(self.dataset.close)

    @contextmanager
    def error_context(self, problem: str, window: Window | None = None) -> Iterator[None]:
        """Raise why a request failed, where that is what GDAL's error comes from; else see `Raster`."""
        self.file.error = None
        try:
            with super().error_context(problem, window):
                yield
        except RefnetError as error:
            if self.file.error is not None:
                raise self.file.error from None
            raise type(error)(str(error).replace(f"{self._name}, ", "").replace(f"{self._name}: ", "")) from None
        if self.file.error is not None:
            raise self.file.error

    def spans(self, band: int, window: Window) -> list[tuple[int, int]]:
        """Return the bytes, from start to stop, of the blocks of a band that touch a window."""
        height, width = self.dataset.block_shapes[band - 1]
        blocks = (
            (band, row, column)
            for row in range(window.row // height, -(-(window.row + window.height) // height))
            for column in range(window.column // width, -(-(window.column + window.width) // width))
        )
        return [span for block in blocks if (span := self._span(block))[0] < span[1]]

    def _span(self, block: tuple[int, int, int]) -> tuple[int, int]:
        """Return the bytes of a block; as many as none for one that is not stored."""
        if block not in self._spans:
            band, row, column = block
            offset, size = (
                int(self.dataset.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=band) or 0)
                for what in ("OFFSET", "SIZE")
            )
            if not 0 <= offset <= offset + size <= self.file.size:
                raise InputError(f"The {self.what} file {self.path} is cut short. Use another source.")
            self._spans[block] = offset, offset + size
        return self._spans[block]
