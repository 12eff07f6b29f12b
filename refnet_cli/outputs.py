"""What a prediction leaves behind: a class map, a picture of it, and the area of each class.

Every output takes finished rows from north to south and holds only what its width asks for. The file
grows in a hidden folder beside its target, is checked, and moves into place at the very end: whatever happens, the
target is the old file or the complete new one.
"""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
import stat
import struct
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
import pyproj
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window as RasterWindow

from refnet_cli.errors import InputError, InputMissingError, OutputError, TryAgainError
from refnet_cli.files import explain, replacing, sync
from refnet_cli.products import ClassScheme
from refnet_cli.translations import Translation
from refnet_cli.workplace import Workplace

UInt8 = NDArray[np.uint8]

BLOCK = 512
QUALITY = ("no data", "optical only", "SAR only", "optical and SAR")
"""What the numbers of `Rows.quality` say of the sensors that saw a pixel."""
CHECKSUM = "REFNET_CHECKSUM"
"""Tag with the SHA-256 of the CRC-32 of all blocks of 512 x 512 pixels and of where they lie and what they mean."""
JOURNAL = "journal"
"""Name of the file in an output's workplace that the next run may go on with."""
DRIVERS = {
    "GTiff": "no file can be read or written",
    "COG": "no map can be written",
    "JP2OpenJPEG": "JPEG 2000 files, as in SAFE products of Sentinel-2, cannot be read",
    "VRT": "virtual rasters cannot be read",
}
"""GDAL's drivers that are used, and what is not possible without them."""
_EXTRA_SAMPLES = 338  # TIFF's tag that says what a band beside the coloured one is
# No second file beside the map, and a bound on GDAL's cache of blocks, which would grow with the grid's height.
_GDAL = {"GDAL_PAM_ENABLED": "NO", "GDAL_CACHEMAX": 64 * 2**20}
# A map is read alone, and by threads that lose no errors: it may be one that others changed.
_READING = _GDAL | {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    "GDAL_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Rows:
    """Finished rows of a map, over its whole width.

    Raises
    ------
    ValueError
        If the translation is one of another scheme, the quality has another shape than the rows, or neither
        probabilities nor codes are there.
    """

    row: int
    """First of the rows."""
    probabilities: NDArray[np.float32] | None
    """Shape (K, rows, width); layer 0 is "no data", layer i belongs to ``scheme.codes[i - 1]``. None where an earlier
    run found the codes."""
    valid: NDArray[np.bool_]
    """False where there is nothing to say, shape (rows, width)."""
    scheme: ClassScheme
    """The network's."""
    translation: Translation | None = None
    """From the network's scheme to that of `codes`, if that is another."""
    quality: UInt8 | None = None
    """Which sensors saw each pixel, as numbered in `QUALITY`, shape (rows, width)."""
    found: UInt8 | None = None
    """Codes, in ``code_scheme``, that an earlier run found, shape (rows, width)."""

    def __post_init__(self) -> None:
        if self.translation is not None and self.translation.source != self.scheme:
            raise ValueError(
                f"A translation of class scheme {self.translation.source.name!r} is none of {self.scheme.name!r}."
            )
        if (self.probabilities is None) == (self.found is None):
            raise ValueError("Rows need either probabilities or codes that were found before.")
        if self.quality is not None and self.quality.shape != self.valid.shape:
            raise ValueError(f"The quality has the shape {self.quality.shape}; {self.valid.shape} was expected.")

    @property
    def code_scheme(self) -> ClassScheme:
        """Class scheme of `codes`."""
        return self.scheme if self.translation is None else self.translation.target

    @cached_property
    def codes(self) -> UInt8:
        """Code of each pixel's most probable class in `code_scheme`, shape (rows, width); see `class_codes`."""
        if self.probabilities is None or self.found is not None:
            return np.asarray(self.found, np.uint8)
        codes = class_codes(self.probabilities, self.valid, self.scheme)
        return codes if self.translation is None else self.translation.table[codes]


class Output(Protocol):
    """Takes the rows of a prediction and leaves one complete file, or none.

    As a context manager it finishes on leaving, or aborts when an exception passes.
    """

    def write(self, rows: Rows) -> None:
        """Take the next rows of the grid, any number of them.

        Parameters
        ----------
        rows : Rows
            They follow the last ones written.
        """

    def finish(self) -> Path:
        """Check the file, move it into place and return its path."""

    def abort(self) -> None:
        """Remove everything unfinished; may be called at any time and more than once."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def class_codes(probabilities: NDArray[np.float32], valid: NDArray[np.bool_], scheme: ClassScheme) -> UInt8:
    """Return the code of each pixel's most probable class.

    Parameters
    ----------
    probabilities : float32 array, shape (K, rows, width)
        Layer 0, "no data", is never chosen.
    valid : bool array, shape (rows, width)
    scheme : ClassScheme
        Gives the code of each layer; ``scheme.classes`` is K.

    Returns
    -------
    uint8 array, shape (rows, width)
        0 where the pixel is not valid or no class has a probability above zero.
    """
    best = probabilities[1].copy()
    chosen = np.zeros(best.shape, np.uint8)
    better = np.empty(best.shape, bool)
    for number, layer in enumerate(probabilities[2:], start=1):
        np.greater(layer, best, out=better)
        np.fmax(best, layer, out=best)
        # Numbers rise, so that the greatest is the latest: much quicker than to put them where they belong.
        np.maximum(chosen, better.view(np.uint8) * np.uint8(number), out=chosen)
    codes = np.asarray(scheme.codes, np.uint8)[chosen]
    codes[~(valid & (best > 0))] = 0
    return codes


class _FileOutput(ABC):
    """What all outputs share: the order of rows, the hidden folder, the move into place."""

    def __init__(self, path: str | Path, grid: GeoBox, scheme: ClassScheme, tags: dict[str, str]) -> None:
        self.path = Path(path)
        self._grid = grid
        self._scheme = scheme
        self._tags = dict(tags)
        self._next_row = 0
        self._finished = False
        self.sha256 = ""
        """Of the finished file."""
        # A link is followed, so that the file it names is replaced and not the link.
        self._target = Path(os.path.realpath(path))
        _check_target(self.path, self._target)
        self.workplace = Workplace(self._target)
        """Where it is made; other files may lie there too."""
        self._folder: Path | None = self.workplace.folder
        with self._cleaning_up():
            self.workplace.sweep(JOURNAL)
            self._start(self._folder)

    @abstractmethod
    def _start(self, folder: Path) -> None:
        """Open what is needed inside the hidden folder."""

    @abstractmethod
    def _put(self, rows: Rows) -> None:
        """Take the next rows."""

    @abstractmethod
    def _complete(self, folder: Path) -> Path:
        """Return the complete, checked file inside the hidden folder."""

    @abstractmethod
    def _close(self) -> None:
        """Let go of open files."""

    def write(self, rows: Rows) -> None:
        """See `Output.write`."""
        row, (height, width) = rows.row, rows.valid.shape
        if self._folder is None:
            raise ValueError(f"{self.path} is finished or given up; nothing more can be written.")
        if row != self._next_row or row + height > self._grid.shape[0] or width != self._grid.shape[1]:
            raise ValueError(
                f"Rows {row} to {row + height} of {width} pixels do not follow row {self._next_row} "
                f"of a grid of {self._grid.shape[0]} x {self._grid.shape[1]} pixels."
            )
        if rows.probabilities is not None and rows.probabilities.shape != (rows.scheme.classes, height, width):
            raise ValueError(
                f"Probabilities have the shape {rows.probabilities.shape}; "
                f"{(rows.scheme.classes, height, width)} was expected."
            )
        if rows.found is not None and rows.found.shape != (height, width):
            raise ValueError(f"Codes have the shape {rows.found.shape}; {(height, width)} was expected.")
        if rows.code_scheme != self._scheme:
            raise ValueError(
                f"Rows of class scheme {rows.code_scheme.name!r} cannot go into {self.path}, "
                f"which has {self._scheme.name!r}."
            )
        with self._cleaning_up():
            self._put(rows)
        self._next_row += height

    def finish(self) -> Path:
        """See `Output.finish`."""
        if self._finished:
            return self.path
        if self._folder is None or self._next_row != self._grid.shape[0]:
            self.abort()
            raise ValueError(f"{self.path} has {self._next_row} of {self._grid.shape[0]} rows; it cannot be finished.")
        with self._cleaning_up():
            file = self._complete(self._folder)
            sync(file)
            self.sha256 = sha256_of(file)
            os.replace(file, self._target)
            sync(self._target.parent)
        self._finished = True
        self.abort()
        return self.path

    def abort(self) -> None:
        """See `Output.abort`."""
        if self._folder is not None:
            with suppress(Exception):  # closing a half-written raster may fail, and it is thrown away
                self._close()
            self.workplace.close()
            self._folder = None

    @contextmanager
    def _cleaning_up(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            self.abort()
            raise OutputError(f"{str(self.path)!a} is no UTF-8 text, as a name must be: choose another.") from error
        except (OSError, RasterioError, CPLE_BaseError) as error:
            self.abort()
            raise explain(self.path, error) from error
        except BaseException as error:
            self._give_up(error)
            raise

    def _give_up(self, error: BaseException | None) -> None:
        # What ends by a signal, or for want of memory, is to be gone on with.
        if isinstance(error, SystemExit | KeyboardInterrupt | TryAgainError):
            self.workplace.keep(JOURNAL)
        self.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and self._folder is not None:
            self.finish()
        self._give_up(error)


def _check_target(path: Path, target: Path) -> None:
    try:
        if not stat.S_ISREG(os.stat(target).st_mode):
            raise OutputError(f"{path} is a folder or a device; name a file that may be written or replaced.")
    except FileNotFoundError:
        return
    except OSError as error:
        raise explain(path, error) from error


class ClassMap(_FileOutput):
    """The map itself: a Cloud Optimized GeoTIFF of class codes, uint8, 0 where there is no data.

    Colours and class names lie inside the file: a colour table, and the band's tags ``CLASS_SCHEME`` and
    ``CLASS_<code>``. GDAL's own category names would need a second file beside it. A second band of quality has the
    tags ``QUALITY_<number>``.

    Parameters
    ----------
    path : str or Path
        Where the map is to appear; an earlier file there is replaced at the very end.
    grid : GeoBox
        Its coordinate system, transform and shape are the map's.
    scheme : ClassScheme
        Codes, names and colours of the classes.
    tags : dict of str to str
        Provenance, written as the file's tags. The same rows and tags give the same bytes.
    quality : bool
        Whether to write `Rows.quality` as a second band; then all rows must have it.

    Raises
    ------
    OutputError
        If the map cannot be made at that place.
    StorageError
        From `write` or `finish`, if the disk fills up or does not hold what was written.
    """

    def __init__(
        self, path: str | Path, grid: GeoBox, scheme: ClassScheme, tags: dict[str, str], *, quality: bool = False
    ) -> None:
        self._with_quality = quality
        super().__init__(path, grid, scheme, tags)

    def _start(self, folder: Path) -> None:
        height, width = self._grid.shape
        self._checksums: list[list[int]] = []
        self._buffer = np.zeros((2 if self._with_quality else 1, min(BLOCK, height), width), np.uint8)
        self._filled = 0
        colours = {0: (0, 0, 0, 0)}
        for code, colour in zip(self._scheme.codes, self._scheme.colours, strict=True):
            colours[code] = (*colour, 255)
        self._working = folder / "working.tif"
        self._raster: Any = rasterio.open(
            self._working, "w", driver="GTiff", dtype="uint8", count=len(self._buffer), nodata=0,
            height=height, width=width, interleave="pixel",
            crs=None if self._grid.crs is None else CRS.from_wkt(self._grid.crs.to_wkt()), transform=self._grid.affine,
            tiled=True, blockxsize=BLOCK, blockysize=BLOCK, compress="deflate", zlevel=1, bigtiff="if_safer",
        )  # fmt: skip
        self._raster.write_colormap(1, colours)
        self._raster.colorinterp = [ColorInterp.palette, ColorInterp.undefined][: len(self._buffer)]
        self._raster.set_band_description(1, "land cover class")
        self._raster.update_tags(**self._tags)
        names = {f"CLASS_{code}": name for code, name in zip(self._scheme.codes, self._scheme.names, strict=True)}
        self._raster.update_tags(1, CLASS_SCHEME=self._scheme.name, **names)
        if self._with_quality:
            self._raster.set_band_description(2, "quality")
            self._raster.update_tags(2, **{f"QUALITY_{number}": meaning for number, meaning in enumerate(QUALITY)})

    def _put(self, rows: Rows) -> None:
        bands = [rows.codes]
        if self._with_quality:
            if rows.quality is None:
                raise ValueError(f"{self.path} is to have a band of quality, which these rows lack.")
            bands.append(rows.quality)
        taken, height = 0, len(rows.valid)
        while taken < height:
            count = min(height - taken, self._buffer.shape[1] - self._filled)
            for place, band in zip(self._buffer, bands, strict=True):
                place[self._filled : self._filled + count] = band[taken : taken + count]
            self._filled += count
            taken += count
            if self._filled == self._buffer.shape[1]:
                self._write_block_row()

    def _write_block_row(self) -> None:
        rows = self._buffer[:, : self._filled]
        width = rows.shape[2]
        with rasterio.Env(**_GDAL):
            self._raster.write(rows, window=RasterWindow(0, len(self._checksums) * BLOCK, width, self._filled))
        self._checksums.append([_checksum(rows[..., left : left + BLOCK]) for left in range(0, width, BLOCK)])
        self._filled = 0

    def _complete(self, folder: Path) -> Path:
        if self._filled:
            self._write_block_row()
        self._raster.close()
        # A file that the disk had no room for says so when it is read; opened to be changed, it is a mistake of types.
        with rasterio.Env(**_GDAL), rasterio.open(self._working) as raster:
            checksum = _combined(self._checksums, raster)
        with rasterio.Env(**_GDAL), rasterio.open(self._working, "r+") as raster:
            raster.update_tags(**{CHECKSUM: checksum})
        result = folder / "complete.tif"
        with rasterio.Env(**_GDAL):
            rasterio.shutil.copy(
                self._working, result, driver="COG", BLOCKSIZE=str(BLOCK), COMPRESS="DEFLATE", BIGTIFF="IF_SAFER",
                OVERVIEW_RESAMPLING="MODE", NUM_THREADS="ALL_CPUS",
            )  # fmt: skip
        if self._with_quality:
            _unmark_opacity(result)
        with rasterio.Env(**_READING):
            _check_raster(result, self._checksums)
        return result

    def _close(self) -> None:
        self._raster.close()


def _unmark_opacity(path: Path) -> None:
    """Take back that the second band is opacity, as GDAL's copy marks each band that stands beside a coloured one.

    Viewers would show hardly anything of the map. No option keeps GDAL from it, and if GDAL changed the mark
    afterwards, it would move to the file's end what has to stand at its beginning.
    """
    with open(path, "r+b") as file:
        try:
            for position in _find_tag(file, _EXTRA_SAMPLES):
                file.seek(position)
                file.write(bytes(2))  # "unspecified"
        except (struct.error, KeyError) as error:
            raise OSError(errno.EIO, "the file's directories did not come back as they were written") from error


def _find_tag(file: BinaryIO, wanted: int) -> list[int]:
    """Return where the value of a tag, of at most four bytes, stands in each directory of a TIFF file."""
    order = {b"II": "<", b"MM": ">"}[file.read(2)]

    def read(kind: str, position: int) -> int:
        file.seek(position)
        number: int = struct.unpack(order + kind, file.read(struct.calcsize(order + kind)))[0]
        return number

    big = read("H", 2) == 43
    count, address, size, value = ("Q", "Q", 20, 12) if big else ("H", "I", 12, 8)
    found = []
    directory, after = read(address, 8 if big else 4), 0
    while directory > after:  # GDAL writes them in this order; what goes back is damaged, and might go in circles
        entries = directory + struct.calcsize(order + count)
        after = entries + read(count, directory) * size
        found += [entry + value for entry in range(entries, after, size) if read("H", entry) == wanted]
        directory = read(address, after)
    return found


def _checksum(block: UInt8) -> int:
    return zlib.crc32(block.tobytes())


def _check_raster(path: Path, checksums: list[list[int]]) -> None:
    """Compare a finished raster with what was written: GDAL says nothing about blocks that did not fit on the disk.

    Overviews have no record to be compared with; the checksum inside their compressed blocks is held instead, which
    GDAL passes over when it reads.
    """
    with rasterio.open(path, driver="GTiff") as raster:
        levels = len(raster.overviews(1))
    with open(path, "rb") as file:
        for level in range(-1, levels):
            with rasterio.open(path, driver="GTiff", **({} if level < 0 else {"overview_level": level})) as raster:
                _check_blocks(raster)
                for (row, column), window in raster.block_windows(1):
                    offset, size = (
                        int(raster.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=1) or 0)
                        for what in ("OFFSET", "SIZE")
                    )
                    file.seek(offset)
                    stored = file.read(size + 4)  # a block's last four bytes are repeated behind it
                    intact = 0 < size == len(stored) - 4 and stored[-4:] == stored[-8:-4] and _inflates(stored[:size])
                    if intact and level < 0:
                        intact = _checksum(raster.read(window=window)) == checksums[row][column]
                    if not intact:
                        raise OSError(errno.EIO, f"block {row}, {column} did not come back as it was written")


def _check_blocks(raster: Any) -> None:
    """Refuse to read blocks that others made, which may take any memory."""
    if raster.count > 2 or {*raster.dtypes} != {"uint8"} or {*raster.block_shapes} != {(BLOCK, BLOCK)}:
        raise OSError(errno.EIO, "it is not stored as it was written")


def _combined(checksums: list[list[int]], raster: Any) -> str:
    """One checksum of those of all blocks, and of where they lie and what they mean."""
    about = [*raster.shape, *raster.transform, raster.crs.to_wkt() if raster.crs else "", raster.nodata, raster.count]
    digest = hashlib.sha256(np.array(checksums, "<u4").tobytes())
    digest.update(repr([*about, sorted(raster.tags(1).items()), raster.descriptions]).encode())
    return digest.hexdigest()


def _overview_count(height: int, width: int) -> int:
    """Number of overviews of a map: each half of the one before, until a block holds the last."""
    return max(math.ceil(math.log2(max(height, width) / BLOCK)), 0)


def write_raster(
    path: Path,
    values: NDArray[Any],
    names: Sequence[str],
    place: tuple[str, float, float, float],
    nodata: float | None = None,
) -> Path:
    """Write bands, shape (B, H, W), that are held in memory as a plain GeoTIFF.

    Parameters
    ----------
    path : Path
    values : array
    names : sequence of str
        Of the bands.
    place : tuple
        Reference system, western and northern edge, and side of a pixel.
    nodata : float, optional

    Returns
    -------
    Path
    """
    crs, west, north, pixel = place
    with rasterio.Env(**_GDAL), rasterio.open(
        path, "w", driver="GTiff", count=len(values), height=values.shape[1], width=values.shape[2],
        dtype=values.dtype, nodata=nodata, crs=crs, transform=Affine(pixel, 0, west, 0, -pixel, north),
    ) as raster:  # fmt: skip
        raster.write(values)
        raster.descriptions = tuple(names)
    return path


def describe_gdal() -> tuple[str, dict[str, str | None]]:
    """Tell the version of GDAL and, for each driver that refnet works with, None or what cannot be done without."""
    with rasterio.Env() as environment:
        there = environment.drivers()
    return rasterio.__gdal_version__, {name: None if name in there else use for name, use in DRIVERS.items()}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_map(path: Path) -> str:
    """Hold a map against the checksum in its tags, and against the file beside it that ``--checksum`` wrote.

    Parameters
    ----------
    path : Path
        A map that refnet made.

    Returns
    -------
    str
        What it was held against.

    Raises
    ------
    InputMissingError
        If it does not exist or may not be read.
    InputError
        If it is damaged, or has nothing to be held against.
    """
    if not path.is_file() or not os.access(path, os.R_OK):
        raise InputMissingError(f"The map {path} does not exist or cannot be read: check the path and its permissions.")
    sidecar = sidecar_of(path)
    if sidecar.is_file():
        wanted = sidecar.read_text(encoding="utf-8", errors="replace").split()[:1]
        if wanted != [sha256_of(path)]:
            raise InputError(f"{path} is damaged: its SHA-256 is not the one in {sidecar.name}. Make it anew.")
    try:
        with rasterio.Env(**_READING), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, driver="GTiff") as raster:
                # GDAL would open that other file, or URL, to count them.
                if raster.tags(ns="OVERVIEWS"):
                    raise InputError(f"{path} names a file of overviews: it is no map of refnet, or was changed.")
                wanted_blocks = raster.tags().get(CHECKSUM)
                if wanted_blocks is None:
                    raise InputError(f"{path} carries no {CHECKSUM}: it is no map of refnet, or was changed by others.")
                _check_blocks(raster)
                checksums: list[list[int]] = []
                for (_, column), window in raster.block_windows(1):
                    if not column:
                        checksums.append([])
                    checksums[-1].append(_checksum(raster.read(window=window)))
                found = _combined(checksums, raster)
                shape, overviews = raster.shape, len(raster.overviews(1))
            if found != wanted_blocks:
                raise InputError(f"{path} is damaged: its pixels or their place are not as written. Make it anew.")
            if overviews != _overview_count(*shape):
                raise InputError(f"{path} is damaged: it has {overviews} overviews. Make it anew.")
            _check_raster(path, checksums)
    except (OSError, RasterioError, CPLE_BaseError) as error:
        raise InputError(f"{path} is damaged ({error}). Make it anew.") from error
    return "its pixels, its overviews and the file's SHA-256" if sidecar.is_file() else "its pixels and its overviews"


def sidecar_of(path: Path) -> Path:
    """Return where the SHA-256 of a map is written."""
    return path.with_name(f"{path.name}.sha256")


def write_sidecar(path: Path, sha256: str) -> None:
    """Write the SHA-256 of a map beside it, as sha256sum does.

    Raises
    ------
    OutputError, StorageError
        If it cannot be written.
    """
    with replacing(sidecar_of(path)) as temporary:
        temporary.write_text(f"{sha256}  {path.name}\n", encoding="utf-8", errors="surrogateescape")


def _inflates(stored: bytes) -> bool:
    try:
        zlib.decompress(stored)
    except zlib.error:
        return False
    return True


class _CellCounts:
    """Counts codes inside square cells while the rows of a grid come in.

    Parameters
    ----------
    height, width : int
        Size of the grid in pixels.
    cell : int
        Side of a cell in pixels; the last ones may be cut off by the grid's edges.
    codes : sequence of int
        What to count.
    """

    def __init__(self, height: int, width: int, cell: int, codes: Sequence[int]) -> None:
        self.rows, self.columns = math.ceil(height / cell), math.ceil(width / cell)
        self.next_row = 0
        self._height, self._cell, self._codes = height, cell, codes
        self._starts = np.arange(0, width, cell)
        self._counts = np.zeros((self.columns, len(codes)), np.int64)

    def add(self, codes: UInt8) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Take the next rows and yield each completed row of cells: its number and counts, shape (columns, codes)."""
        taken = 0
        while taken < len(codes):
            end_of_cells = min((self.next_row // self._cell + 1) * self._cell, self._height)
            # No more rows than a byte can count: bytes are added many times faster than anything else.
            part = codes[taken : taken + min(255, end_of_cells - self.next_row)]
            for index, code in enumerate(self._codes):
                in_columns = (part == code).view(np.uint8).sum(axis=0, dtype=np.uint8)
                self._counts[:, index] += np.add.reduceat(in_columns, self._starts, dtype=np.int64)
            taken += len(part)
            self.next_row += len(part)
            if self.next_row == end_of_cells:
                yield (self.next_row - 1) // self._cell, self._counts
                self._counts = np.zeros_like(self._counts)


class Preview(_FileOutput):
    """A picture of the class map for a first look: PNG, transparent where there is no data, with a legend.

    A pixel of the picture shows the commonest class of the map's pixels under it. The longer side of the map takes
    at most 1000 pixels; small maps are enlarged.

    Parameters
    ----------
    path : str or Path
        Where the picture is to appear.
    grid : GeoBox
    scheme : ClassScheme
    tags : dict of str to str
        Written as the picture's text entries.

    Raises
    ------
    OutputError
        If the picture cannot be made at that place.
    StorageError
        From `finish`, if the disk fills up.
    """

    def _start(self, folder: Path) -> None:
        height, width = self._grid.shape
        self._shown = np.array(sorted({0, *self._scheme.codes}), np.uint8)  # of equally common ones the lowest counts
        self._cells = _CellCounts(height, width, math.ceil(max(height, width) / 1000), self._shown.tolist())
        self._codes = np.zeros((self._cells.rows, self._cells.columns), np.uint8)

    def _put(self, rows: Rows) -> None:
        for row, counts in self._cells.add(rows.codes):
            self._codes[row] = self._shown[counts.argmax(axis=1)]

    def _complete(self, folder: Path) -> Path:
        text = PngInfo()
        for key, value in self._tags.items():
            text.add_text(key, value)
        picture = io.BytesIO()
        _draw(self._codes, self._scheme).save(picture, "PNG", pnginfo=text)
        result = folder / "complete.png"
        result.write_bytes(picture.getvalue())
        return result

    def _close(self) -> None:
        pass  # nothing stays open


def _draw(codes: UInt8, scheme: ClassScheme) -> Image.Image:
    """Draw a map of at most 1000 pixels with the classes that occur in it beside it, commonest first."""
    palette = np.zeros((256, 4), np.uint8)
    palette[list(scheme.codes)] = [(*colour, 255) for colour in scheme.colours]
    enlarge = max(1, 600 // max(codes.shape))
    picture = Image.fromarray(palette[codes.repeat(enlarge, 0).repeat(enlarge, 1)])
    counts = dict(zip(scheme.codes, np.bincount(codes.ravel(), minlength=256)[list(scheme.codes)], strict=True))
    names = dict(zip(scheme.codes, scheme.names, strict=True))
    shown = sorted((code for code in scheme.codes if counts[code]), key=lambda code: -counts[code])

    font = ImageFont.load_default(size=18)
    margin, line, swatch = 20, 32, 20
    legend_width = math.ceil(max((font.getlength(names[code]) for code in shown), default=0)) + swatch + 3 * margin
    legend_height = 2 * margin + line * len(shown)
    canvas = Image.new("RGBA", (picture.width + legend_width, max(picture.height, legend_height)), (255, 255, 255, 255))
    canvas.paste((255, 255, 255, 0), (0, 0, picture.width, canvas.height))
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    left = picture.width + margin
    for top, code in zip(range(margin, legend_height, line), shown, strict=False):
        box = (left, top, left + swatch, top + swatch)
        draw.rectangle(box, fill=tuple(palette[code].tolist()), outline=(90, 90, 90, 255))
        place = (left + swatch + margin // 2, top + swatch // 2)
        draw.text(place, names[code], fill=(30, 30, 30, 255), font=font, anchor="lm")
    return canvas


class AreaCounter:
    """Adds up the true area of each class, whatever the grid's projection.

    The area of a cell of 128 x 128 pixels is measured on the ellipsoid, along geodesics between points on its edges,
    and spread evenly over its pixels. In geographic grids and far from a projection's centre the pixels' nominal area
    would be wrong many times over.

    Parameters
    ----------
    grid : GeoBox
        With a coordinate system that is geographic or derived from one.
    scheme : ClassScheme

    Raises
    ------
    InputError
        If the coordinate system is a local one.
    """

    _CELL = 128
    _POINTS_PER_EDGE = 8

    def __init__(self, grid: GeoBox, scheme: ClassScheme) -> None:
        self._grid = grid
        self.scheme = scheme
        self._cells = _CellCounts(grid.shape[0], grid.shape[1], self._CELL, scheme.codes)
        self._square_metres = np.zeros(len(scheme.codes))
        crs = pyproj.CRS.from_user_input(grid.crs)
        geographic, ellipsoid = crs.geodetic_crs, crs.get_geod()
        if geographic is None or ellipsoid is None:
            raise InputError(f"The coordinate system {crs.name} has no place on the Earth; areas need one that has.")
        # The grid's own datum, so that nothing is shifted; its unit is nearly always, but not by law, the degree.
        self._to_geographic = pyproj.Transformer.from_crs(crs, geographic, always_xy=True)
        self._degrees = math.degrees(geographic.axis_info[0].unit_conversion_factor)
        self._ellipsoid = ellipsoid

    def add(self, row: int, codes: UInt8) -> None:
        """Count the next rows, any number of them.

        Parameters
        ----------
        row : int
            The first of these rows; it follows the last one added.
        codes : uint8 array, shape (rows, width)
            Class codes, 0 where there is no data.
        """
        height, width = self._grid.shape
        if row != self._cells.next_row or row + codes.shape[0] > height or codes.shape[1] != width:
            raise ValueError(f"Rows {row} of shape {codes.shape} do not follow row {self._cells.next_row} of the grid.")
        for cell_row, counts in self._cells.add(codes):
            if counts.any():
                self._square_metres += self._pixel_areas(cell_row) @ counts

    def hectares(self) -> dict[str, float]:
        """Return the area of each class of the scheme by name, in hectares."""
        if self._cells.next_row != self._grid.shape[0]:
            raise ValueError(f"Areas need all {self._grid.shape[0]} rows; {self._cells.next_row} were added.")
        return {name: float(area) / 10_000 for name, area in zip(self.scheme.names, self._square_metres, strict=True)}

    def _pixel_areas(self, cell_row: int) -> NDArray[np.float64]:
        """Area of a pixel in each cell of a row of cells, in square metres."""
        height, width = self._grid.shape
        edges = np.append(np.arange(0, width, self._CELL), width).astype(float)
        left, right = edges[:-1, None], edges[1:, None]
        top, bottom = cell_row * self._CELL, min((cell_row + 1) * self._CELL, height)
        on = np.arange(self._POINTS_PER_EDGE) / self._POINTS_PER_EDGE
        columns = np.hstack([left + (right - left) * on, right + 0 * on, right - (right - left) * on, left + 0 * on])
        rows = np.concatenate([top + 0 * on, top + (bottom - top) * on, bottom + 0 * on, bottom - (bottom - top) * on])
        to_map = self._grid.affine
        longitude, latitude = self._to_geographic.transform(
            to_map.a * columns + to_map.b * rows + to_map.c, to_map.d * columns + to_map.e * rows + to_map.f
        )
        areas = np.array([
            abs(self._ellipsoid.polygon_area_perimeter(*outline)[0])
            for outline in zip(longitude * self._degrees, latitude * self._degrees, strict=True)
        ])  # fmt: skip
        per_pixel: NDArray[np.float64] = areas / ((right - left).ravel() * (bottom - top))
        return per_pixel


OUTPUTS: dict[str, Callable[[str | Path, GeoBox, ClassScheme, dict[str, str]], Output]] = {
    "classes": ClassMap,
    "classes and quality": partial(ClassMap, quality=True),
    "preview": Preview,
}
