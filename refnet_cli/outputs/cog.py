"""Cloud Optimized GeoTIFFs: the class map, and rasters of quality, confidence and probabilities.

Every block is read back and compared before a file appears. A checksum of all blocks is kept in the file's tags.
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
from refnet_cli.outputs.rows import BELOW_THRESHOLD, CONFIDENCE, PROBABILITY_NODATA, STEPS, Rows
from refnet_cli.sensors.quality import CLOUD, QUALITY, SENSOR_BITS, UNREADABLE
from refnet_cli.system.steps import Steps
from refnet_cli.types import UInt8

BLOCK = 512
CHECKSUM = "REFNET_CHECKSUM"
"""Tag with the SHA-256 over the CRC-32 of all blocks of 512 x 512 pixels, the georeference and the band metadata."""
DRIVERS = {
    "GTiff": "no file can be read or written",
    "COG": "no map can be written",
    "JP2OpenJPEG": "JPEG 2000 files, as in SAFE products of Sentinel-2, cannot be read",
    "VRT": "virtual rasters cannot be read",
}
"""GDAL drivers that refnet uses, and what does not work without them."""
REASONS = (
    "mapped", "no optical measurement", "no SAR measurement", "neither sensor's measurement", "cloud", "damaged file",
    "no class", "low probability",
)  # fmt: skip
"""Meanings of the values of the band "reason": why a pixel has no class."""
CLOUD_SHARE = "REFNET_CLOUD_SHARE"
"""Tag with the share of the pixels whose optical data are masked as cloud or shadow."""
REMEDY = "Create the map again."
_EXTRA_SAMPLES = 338  # TIFF tag with the meaning of bands beyond the coloured one
# Writes no .aux.xml, and limits GDAL's block cache, which would grow with the grid's height.
_GDAL = {"GDAL_PAM_ENABLED": "NO", "GDAL_CACHEMAX": 64 * 2**20}
# Reads no other files, and in one thread, because GDAL's own threads lose errors: the map may be a foreign file.
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
    """Resampling of overviews."""
    scale: float = 1.0
    """Factor that turns stored numbers into physical values."""
    predictor: str = "NO"
    """GDAL's PREDICTOR: whether to compress differences of neighbours, which suits gradual values."""


class Band(NamedTuple):
    """A band of a raster."""

    name: str
    values: ClassScheme | Sequence[str] | None = None
    """Classes, or meanings by number, of its values; None for quantities."""


class CogOutput(FileOutput):
    """A raster that is written one row of blocks at a time and then converted to a Cloud Optimized GeoTIFF.

    See `FileOutput` for parameters and errors.
    """

    suffixes = (".tif", ".tiff")
    media: ClassVar = {".tif": ("image/tiff; application=geotiff; profile=cloud-optimized", ("data",))}
    storage = Storage()
    _with_quality = False

    @staticmethod
    @abstractmethod
    def bands(scheme: ClassScheme, quality: bool, dates: bool = False) -> list[Band]:
        """Return the output's bands; ``quality`` adds a second band to the class map, ``dates`` one to the quality."""

    @abstractmethod
    def _pixels(self, rows: Rows) -> list[NDArray[Any]]:
        """Return the pixels of each band, shape (rows, width)."""

    def _describe(self, raster: Any) -> None:
        """Write metadata of the bands: colours, names and meanings."""
        raster.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (raster.count - 1)]

    def _correct(self, result: Path) -> None:
        """Undo unwanted changes of GDAL's COG driver."""

    def _start(self, folder: Path) -> None:
        height, width = self._grid.shape
        names = [band.name for band in self.bands(self._scheme, self._with_quality, self._dates)]
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
        # Read before it is opened for update: only reading reports clearly that the disk was full.
        with rasterio.Env(**_GDAL), rasterio.open(self._working) as raster:
            checksum = combined_checksum(self._checksums, raster)
        with rasterio.Env(**_GDAL), rasterio.open(self._working, "r+") as raster:
            clouds = facts.get("cloud_share")
            masked = {} if clouds is None else {CLOUD_SHARE: f"{clouds:.6f}"}
            raster.update_tags(**{CHECKSUM: checksum} | masked)
        result = folder / "complete.tif"
        try:
            with rasterio.Env(**_GDAL):
                rasterio.shutil.copy(
                    self._working, result, driver="COG", BLOCKSIZE=str(BLOCK), COMPRESS="DEFLATE", BIGTIFF="IF_SAFER",
                    OVERVIEW_RESAMPLING=self.storage.overviews, PREDICTOR=self.storage.predictor,
                    NUM_THREADS="ALL_CPUS",
                )  # fmt: skip
        except SystemError as error:  # raised by rasterio where GDAL fails without a message
            raise OSError(errno.EIO, "GDAL failed to write it and gave no reason") from error
        self._correct(result)
        with rasterio.Env(**READING):
            check_raster(result, self._checksums)
        return [result]

    def _close(self) -> None:
        self._raster.close()


class ClassMap(CogOutput):
    """The class map: class codes, uint8, 0 for no data.

    Colours and class names are stored inside the file, as a colour table and as the band tags ``CLASS_SCHEME`` and
    ``CLASS_<code>``. GDAL's own category names would need a second file. The optional quality band has the tags
    ``QUALITY_<number>``.

    Parameters
    ----------
    path : str or Path
        Path of the map; an existing file is replaced at the end.
    grid : GeoBox
        Coordinate system, transform and shape of the map.
    scheme : ClassScheme
        Codes, names and colours of the classes.
    tags : dict of str to str
        Provenance, written as the file's tags. Equal rows and tags give equal bytes.
    quality : bool
        Whether to write `Rows.sensors` as a second band; all rows must then have it.

    Raises
    ------
    OutputError
        If the file cannot be created there.
    StorageError
        From `write` or `finish`, if the disk is full or does not return what was written.
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
        """Create the class map."""
        return cls(path, context.grid, context.scheme, context.tags, quality=context.quality)

    @staticmethod
    def bands(scheme: ClassScheme, quality: bool, dates: bool = False) -> list[Band]:
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
    """Two uint8 bands: the sensors that saw a pixel, as in `QUALITY`, and why it has no class, as in `REASONS`.

    A map of several dates has a third one: the number of dates that saw the pixel.
    """

    ending = "_quality.tif"
    title = "Sensors per pixel, and why pixels have no class"
    layers = ("codes", "quality")
    storage = Storage(nodata=None)
    pixel_memory = (2, 0)

    @staticmethod
    def bands(scheme: ClassScheme, quality: bool, dates: bool = False) -> list[Band]:
        """Return the bands."""
        return [Band("sensors", QUALITY), Band("reason", REASONS), *([Band("dates")] if dates else [])]

    def _describe(self, raster: Any) -> None:
        super()._describe(raster)
        raster.update_tags(1, **{f"QUALITY_{number}": meaning for number, meaning in enumerate(QUALITY)})
        raster.update_tags(2, **{f"REASON_{number}": meaning for number, meaning in enumerate(REASONS)})

    def _pixels(self, rows: Rows) -> list[NDArray[Any]]:
        return [rows.sensors, reasons(rows), *([rows.layer("dates")] if self._dates else [])]


def reasons(rows: Rows) -> UInt8:
    """Return why pixels have no class, as numbered in `REASONS`, shape (rows, width).

    The first reason that applies wins: a damaged file, a cloud, a missing measurement, a probability below the
    threshold, a class without a counterpart in the map's scheme.
    """
    quality = rows.layer("quality")
    found: UInt8 = np.array([3, 2, 1, 0], np.uint8)[quality & SENSOR_BITS]
    found[quality & CLOUD > 0] = 4
    found[quality & UNREADABLE > 0] = 5
    found[rows.valid] = 6
    found[quality & BELOW_THRESHOLD > 0] = 7
    found[rows.codes > 0] = 0
    return found


class Probabilities(CogOutput):
    """The probability of each class of the map's scheme, one band per class, without "no data".

    Stored in steps of 1/250, as the bands' scale states; 255 is nodata.
    """

    ending = "_probabilities.tif"
    title = "Probability of each class"
    layers = ("probabilities",)
    storage = Storage(nodata=PROBABILITY_NODATA, overviews="AVERAGE", scale=1 / STEPS, predictor="YES")
    pixel_memory = (0, 1)

    @staticmethod
    def bands(scheme: ClassScheme, quality: bool, dates: bool = False) -> list[Band]:
        """Return the bands."""
        return [Band(name) for name in scheme.names]

    def _describe(self, raster: Any) -> None:
        super()._describe(raster)
        for band, code in enumerate(self._scheme.codes, start=1):
            raster.update_tags(band, CLASS_SCHEME=self._scheme.name, CLASS_CODE=str(code))

    def _pixels(self, rows: Rows) -> list[NDArray[Any]]:
        return list(rows.layer("probabilities"))


class Confidence(CogOutput):
    """Confidence of the map: three bands in steps of 1/250, 255 where there is no class; see `Rows.confidence`."""

    ending = "_confidence.tif"
    title = "Confidence of the map"
    layers = ("confidence",)
    storage = Storage(nodata=PROBABILITY_NODATA, overviews="AVERAGE", scale=1 / STEPS, predictor="YES")
    pixel_memory = (3, 0)

    @staticmethod
    def bands(scheme: ClassScheme, quality: bool, dates: bool = False) -> list[Band]:
        """Return the bands."""
        return [Band(name) for name in CONFIDENCE]

    def _pixels(self, rows: Rows) -> list[NDArray[Any]]:
        return list(rows.confidence)


def _unmark_opacity(path: Path) -> None:
    """Mark the second band as unspecified: GDAL's COG driver marks a band next to a coloured one as alpha.

    Viewers would show hardly anything of the map. No GDAL option prevents this. The tag is patched in place, because
    GDAL would move the changed directory from the start of the file to its end.
    """
    with open(path, "r+b") as file:
        try:
            for position in _find_tag(file, _EXTRA_SAMPLES):
                file.seek(position)
                file.write(bytes(2))  # "unspecified"
        except (struct.error, KeyError) as error:
            raise OSError(errno.EIO, "the file's directories differ from what was written") from error


def _find_tag(file: BinaryIO, needed: int) -> list[int]:
    """Return the offset of a tag's value, of at most four bytes, in each directory of a TIFF file."""
    order = {b"II": "<", b"MM": ">"}[file.read(2)]

    def read(kind: str, position: int) -> int:
        file.seek(position)
        number: int = struct.unpack(order + kind, file.read(struct.calcsize(order + kind)))[0]
        return number

    big = read("H", 2) == 43
    count, address, size, value = ("Q", "Q", 20, 12) if big else ("H", "I", 12, 8)
    found = []
    directory, after = read(address, 8 if big else 4), 0
    while directory > after:  # GDAL writes directories in this order; a damaged file may form a loop
        entries = directory + struct.calcsize(order + count)
        after = entries + read(count, directory) * size
        found += [entry + value for entry in range(entries, after, size) if read("H", entry) == needed]
        directory = read(address, after)
    return found


def block_checksum(block: NDArray[Any]) -> int:
    """Return the CRC-32 of a block of pixels."""
    return zlib.crc32(block.tobytes())


def check_raster(path: Path, checksums: list[list[int]], steps: Steps | None = None) -> None:
    """Compare a finished raster with what was written: GDAL does not report blocks that did not fit on the disk.

    Blocks of overviews have no recorded checksum. For these, the checksum inside the compressed block is verified,
    which GDAL ignores when it reads. Steps count the blocks of full resolution.

    Raises
    ------
    OSError
        If a block differs.
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
                    if steps and level < 0:
                        steps.count()
                    if not intact:
                        raise OSError(errno.EIO, f"block {row}, {column} differs from what was written")


def check_blocks(raster: Any) -> None:
    """Check that a raster's blocks have refnet's type and size: foreign blocks may take any amount of memory."""
    kinds = ({"uint8"}, {"float32"})  # the latter in probabilities16 of refnet 0.1
    if raster.count > 255 or {*raster.dtypes} not in kinds or {*raster.block_shapes} != {(BLOCK, BLOCK)}:
        raise OSError(errno.EIO, "its blocks are not stored as refnet writes them")


def combined_checksum(checksums: list[list[int]], raster: Any) -> str:
    """Return the checksum of all blocks' checksums, the georeference and the band metadata."""
    about = [*raster.shape, *raster.transform, raster.crs.to_wkt() if raster.crs else "", raster.nodata, raster.count]
    digest = hashlib.sha256(np.array(checksums, "<u4").tobytes())
    digest.update(repr([*about, sorted(raster.tags(1).items()), raster.descriptions]).encode())
    return digest.hexdigest()


def overview_count(height: int, width: int) -> int:
    """Return the number of overviews of a map: each halves the size, until one block holds the last."""
    return max(math.ceil(math.log2(max(height, width) / BLOCK)), 0)


def write_raster(
    path: Path,
    values: NDArray[Any],
    names: Sequence[str],
    place: tuple[str, float, float, float],
    nodata: float | None = None,
) -> Path:
    """Write bands as a plain GeoTIFF, and return its path.

    Parameters
    ----------
    path : Path
    values : array, shape (B, H, W)
    names : sequence of str
        Names of the bands.
    place : tuple
        Coordinate system, western and northern edge, and pixel size.
    nodata : float, optional
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
    """Return GDAL's version and, for each driver that refnet uses, None or what does not work because it is missing."""
    with rasterio.Env() as environment:
        there = environment.drivers()
    return rasterio.__gdal_version__, {name: None if name in there else use for name, use in DRIVERS.items()}


def inflates(stored: bytes) -> bool:
    """Return whether a compressed block is intact."""
    try:
        zlib.decompress(stored)
    except zlib.error:
        return False
    return True
