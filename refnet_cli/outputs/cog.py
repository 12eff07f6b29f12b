"""Cloud Optimized GeoTIFFs: the class map, and bands of quality, confidence and probabilities.

Every block is read back and compared before a file appears, and its checksum lies in the file's tags.
"""

from __future__ import annotations

import errno
import hashlib
import math
import struct
import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple, Self

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import Affine
from rasterio.windows import Window as RasterWindow

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.outputs.base import FileOutput
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.rows import CONFIDENCE, NO_SHARE, STEPS, UNSURE, Rows
from refnet_cli.sensors.quality import CLOUD, QUALITY, SENSOR_BITS, UNREADABLE
from refnet_cli.types import UInt8

BLOCK = 512
CHECKSUM = "REFNET_CHECKSUM"
"""Tag with the SHA-256 of the CRC-32 of all blocks of 512 x 512 pixels and of where they lie and what they mean."""
DRIVERS = {
    "GTiff": "no file can be read or written",
    "COG": "no map can be written",
    "JP2OpenJPEG": "JPEG 2000 files, as in SAFE products of Sentinel-2, cannot be read",
    "VRT": "virtual rasters cannot be read",
}
"""GDAL's drivers that are used, and what is not possible without them."""
REASONS = (
    "mapped", "no optical measurement", "no SAR measurement", "neither sensor's measurement", "cloud", "damaged file",
    "no class", "low probability",
)  # fmt: skip
"""What the numbers of the band "reason" say of why a pixel has no class."""
REMEDY = "Make it again."
_EXTRA_SAMPLES = 338  # TIFF's tag that says what a band next to the coloured one is
# No second file next to the map, and a bound on GDAL's cache of blocks, which would grow with the grid's height.
_GDAL = {"GDAL_PAM_ENABLED": "NO", "GDAL_CACHEMAX": 64 * 2**20}
# A map is read alone, and by threads that lose no errors: it may be one that others changed.
READING = _GDAL | {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    "GDAL_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Storage:
    """How the bands of a raster, uint8, are stored."""

    nodata: int | None = 0
    overviews: str = "MODE"
    """How pixels of overviews are made of those below."""
    scale: float = 1.0
    """What to multiply stored numbers with."""
    predictor: str = "NO"
    """Whether differences of neighbours are compressed, which take less room where values change gradually."""


class Band(NamedTuple):
    """A band of a raster."""

    name: str
    values: ClassScheme | Sequence[str] | None = None
    """The classes or the meanings, by number, that its values stand for; None where they are quantities."""


class CogOutput(FileOutput):
    """A raster that is written row of blocks by row of blocks and then becomes a Cloud Optimized GeoTIFF.

    See `FileOutput` for parameters and errors.
    """

    suffixes = (".tif", ".tiff")
    media: ClassVar = {".tif": ("image/tiff; application=geotiff; profile=cloud-optimized", ("data",))}
    storage = Storage()
    _with_quality = False

    @staticmethod
    @abstractmethod
    def bands(scheme: ClassScheme, quality: bool) -> list[Band]:
        """Return the bands of a map's output, whose class map may have a second band of quality."""

    @abstractmethod
    def _pixels(self, rows: Rows) -> list[NDArray[Any]]:
        """Return the bands of rows, shape (rows, width) each."""

    def _describe(self, raster: Any) -> None:
        """Write what else the file is to say of itself."""
        raster.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (raster.count - 1)]

    def _correct(self, result: Path) -> None:
        """Take back what GDAL's copy added."""

    def _start(self, folder: Path) -> None:
        height, width = self._grid.shape
        names = [band.name for band in self.bands(self._scheme, self._with_quality)]
        self._checksums: list[list[int]] = []
        self._buffer = np.zeros((len(names), min(BLOCK, height), width), np.uint8)
        self._filled = 0
        self._working = folder / "working.tif"
        self._raster: Any = rasterio.open(
            self._working, "w", driver="GTiff", dtype="uint8", count=len(names), nodata=self.storage.nodata,
            height=height, width=width, interleave="pixel",
            crs=None if self._grid.crs is None else CRS.from_wkt(self._grid.crs.to_wkt()), transform=self._grid.affine,
            tiled=True, blockxsize=BLOCK, blockysize=BLOCK, compress="deflate", zlevel=1, bigtiff="if_safer",
        )  # fmt: skip
        self._describe(self._raster)
        for band, name in enumerate(names, start=1):
            self._raster.set_band_description(band, name)
        if self.storage.scale != 1:
            self._raster.scales = [self.storage.scale] * len(names)
        self._raster.update_tags(**self._tags, AREA_OR_POINT="Area")

    def _put(self, rows: Rows) -> None:
        bands = self._pixels(rows)
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
        self._checksums.append([block_checksum(rows[..., left : left + BLOCK]) for left in range(0, width, BLOCK)])
        self._filled = 0

    def _complete(self, folder: Path, facts: Mapping[str, Any]) -> list[Path]:
        if self._filled:
            self._write_block_row()
        self._raster.close()
        # A file that the disk had no room for says so when it is read; opened to be changed, it is a mistake of types.
        with rasterio.Env(**_GDAL), rasterio.open(self._working) as raster:
            checksum = combined_checksum(self._checksums, raster)
        with rasterio.Env(**_GDAL), rasterio.open(self._working, "r+") as raster:
            raster.update_tags(**{CHECKSUM: checksum})
        result = folder / "complete.tif"
        try:
            with rasterio.Env(**_GDAL):
                rasterio.shutil.copy(
                    self._working, result, driver="COG", BLOCKSIZE=str(BLOCK), COMPRESS="DEFLATE", BIGTIFF="IF_SAFER",
                    OVERVIEW_RESAMPLING=self.storage.overviews, PREDICTOR=self.storage.predictor,
                    NUM_THREADS="ALL_CPUS",
                )  # fmt: skip
        except SystemError as error:  # what rasterio makes of it where GDAL fails and does not say why
            raise OSError(errno.EIO, "GDAL could not write it, and does not say why") from error
        self._correct(result)
        with rasterio.Env(**READING):
            check_raster(result, self._checksums)
        return [result]

    def _close(self) -> None:
        self._raster.close()


class ClassMap(CogOutput):
    """The map itself: class codes, uint8, 0 where there is no data.

    Colours and class names lie inside the file: a colour table, and the band's tags ``CLASS_SCHEME`` and
    ``CLASS_<code>``. GDAL's own category names would need a second file next to it. A second band of quality has the
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
        Whether to write `Rows.sensors` as a second band; then all rows must have it.

    Raises
    ------
    OutputError
        If the map cannot be made at that place.
    StorageError
        From `write` or `finish`, if the disk fills up or does not hold what was written.
    """

    ending = ".tif"
    title = "Land cover classes"

    def __init__(
        self, path: str | Path, grid: GeoBox, scheme: ClassScheme, tags: dict[str, str], *, quality: bool = False
    ) -> None:
        self._with_quality = quality
        super().__init__(path, MapContext(Path(path), grid, scheme, tags))

    @classmethod
    def make(cls, path: Path, context: MapContext) -> Self:
        """Begin an output of a map."""
        return cls(path, context.grid, context.scheme, context.tags, quality=context.quality)

    @staticmethod
    def bands(scheme: ClassScheme, quality: bool) -> list[Band]:
        """Return the bands."""
        return [Band("land cover class", scheme), *([Band("quality", QUALITY)] if quality else [])]

    def _describe(self, raster: Any) -> None:
        colours = {0: (0, 0, 0, 0)}
        for code, colour in zip(self._scheme.codes, self._scheme.colours, strict=True):
            colours[code] = (*colour, 255)
        raster.write_colormap(1, colours)
        raster.colorinterp = [ColorInterp.palette, ColorInterp.undefined][: raster.count]
        names = {f"CLASS_{code}": name for code, name in zip(self._scheme.codes, self._scheme.names, strict=True)}
        raster.update_tags(1, CLASS_SCHEME=self._scheme.name, **names)
        if self._with_quality:
            raster.update_tags(2, **{f"QUALITY_{number}": meaning for number, meaning in enumerate(QUALITY)})

    def _correct(self, result: Path) -> None:
        if self._with_quality:
            _unmark_opacity(result)

    def _pixels(self, rows: Rows) -> list[NDArray[Any]]:
        return [rows.codes, rows.sensors] if self._with_quality else [rows.codes]


class Quality(CogOutput):
    """Two bands, uint8: which sensors saw a pixel, as in `QUALITY`, and why it has no class, as in `REASONS`."""

    ending = "_quality.tif"
    title = "What was seen, and why pixels have no class"
    layers = ("codes", "quality")
    storage = Storage(nodata=None)
    pixel_memory = (2, 0)

    @staticmethod
    def bands(scheme: ClassScheme, quality: bool) -> list[Band]:
        """Return the bands."""
        return [Band("sensors", QUALITY), Band("reason", REASONS)]

    def _describe(self, raster: Any) -> None:
        super()._describe(raster)
        raster.update_tags(1, **{f"QUALITY_{number}": meaning for number, meaning in enumerate(QUALITY)})
        raster.update_tags(2, **{f"REASON_{number}": meaning for number, meaning in enumerate(REASONS)})

    def _pixels(self, rows: Rows) -> list[NDArray[Any]]:
        return [rows.sensors, reasons(rows)]


def reasons(rows: Rows) -> UInt8:
    """Return why pixels have no class, as numbered in `REASONS`, shape (rows, width).

    The first that applies counts: a damaged file, a cloud, what was not measured, a probability below the threshold, a
    class that the map's scheme has not.
    """
    quality = rows.layer("quality")
    found: UInt8 = np.array([3, 2, 1, 0], np.uint8)[quality & SENSOR_BITS]
    found[quality & CLOUD > 0] = 4
    found[quality & UNREADABLE > 0] = 5
    found[rows.valid] = 6
    found[quality & UNSURE > 0] = 7
    found[rows.codes > 0] = 0
    return found


class Probabilities(CogOutput):
    """The probability of each class of the map's scheme, a band a class, given that there is one.

    In steps of 1/250, with the bands' scale saying so and 255 where there is no data.
    """

    ending = "_probabilities.tif"
    title = "Probability of each class"
    layers = ("probabilities",)
    storage = Storage(nodata=NO_SHARE, overviews="AVERAGE", scale=1 / STEPS, predictor="YES")
    pixel_memory = (0, 1)

    @staticmethod
    def bands(scheme: ClassScheme, quality: bool) -> list[Band]:
        """Return the bands."""
        return [Band(name) for name in scheme.names]

    def _describe(self, raster: Any) -> None:
        super()._describe(raster)
        for band, code in enumerate(self._scheme.codes, start=1):
            raster.update_tags(band, CLASS_SCHEME=self._scheme.name, CLASS_CODE=str(code))

    def _pixels(self, rows: Rows) -> list[NDArray[Any]]:
        return list(rows.layer("probabilities"))


class Confidence(CogOutput):
    """How sure the map is, three bands in steps of 1/250 and 255 where there is no class; see `Rows.confidence`."""

    ending = "_confidence.tif"
    title = "How sure the map is"
    layers = ("confidence",)
    storage = Storage(nodata=NO_SHARE, overviews="AVERAGE", scale=1 / STEPS, predictor="YES")
    pixel_memory = (3, 0)

    @staticmethod
    def bands(scheme: ClassScheme, quality: bool) -> list[Band]:
        """Return the bands."""
        return [Band(name) for name in CONFIDENCE]

    def _pixels(self, rows: Rows) -> list[NDArray[Any]]:
        return list(rows.confidence)


def _unmark_opacity(path: Path) -> None:
    """Take back that the second band is opacity, as GDAL's copy marks each band that stands next to a coloured one.

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


def _find_tag(file: BinaryIO, needed: int) -> list[int]:
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
        found += [entry + value for entry in range(entries, after, size) if read("H", entry) == needed]
        directory = read(address, after)
    return found


def block_checksum(block: NDArray[Any]) -> int:
    """Return the CRC-32 of a block of pixels."""
    return zlib.crc32(block.tobytes())


def check_raster(path: Path, checksums: list[list[int]]) -> None:
    """Compare a finished raster with what was written: GDAL says nothing about blocks that did not fit on the disk.

    Overviews have no record to be compared with; the checksum inside their compressed blocks is held instead, which
    GDAL passes over when it reads.
    """
    with rasterio.open(path, driver="GTiff") as raster:
        levels = len(raster.overviews(1))
    with open(path, "rb") as file:
        for level in range(-1, levels):
            with rasterio.open(path, driver="GTiff", **({} if level < 0 else {"overview_level": level})) as raster:
                check_blocks(raster)
                for (row, column), window in raster.block_windows(1):
                    offset, size = (
                        int(raster.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=1) or 0)
                        for what in ("OFFSET", "SIZE")
                    )
                    file.seek(offset)
                    stored = file.read(size + 4)  # a block's last four bytes are repeated behind it
                    intact = 0 < size == len(stored) - 4 and stored[-4:] == stored[-8:-4] and inflates(stored[:size])
                    if intact and level < 0:
                        intact = block_checksum(raster.read(window=window)) == checksums[row][column]
                    if not intact:
                        raise OSError(errno.EIO, f"block {row}, {column} did not come back as it was written")


def check_blocks(raster: Any) -> None:
    """Refuse to read blocks that others made, which may take any memory."""
    kinds = ({"uint8"}, {"float32"})  # the latter in probabilities16 of refnet 0.1
    if raster.count > 255 or {*raster.dtypes} not in kinds or {*raster.block_shapes} != {(BLOCK, BLOCK)}:
        raise OSError(errno.EIO, "it is not stored as it was written")


def combined_checksum(checksums: list[list[int]], raster: Any) -> str:
    """One checksum of those of all blocks, and of where they lie and what they mean."""
    about = [*raster.shape, *raster.transform, raster.crs.to_wkt() if raster.crs else "", raster.nodata, raster.count]
    digest = hashlib.sha256(np.array(checksums, "<u4").tobytes())
    digest.update(repr([*about, sorted(raster.tags(1).items()), raster.descriptions]).encode())
    return digest.hexdigest()


def overview_count(height: int, width: int) -> int:
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


def inflates(stored: bytes) -> bool:
    """Tell whether a block is intact."""
    try:
        zlib.decompress(stored)
    except zlib.error:
        return False
    return True
