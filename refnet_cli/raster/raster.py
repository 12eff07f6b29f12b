"""A raster file opened with care: known drivers only, bounded sizes, a usable place on Earth."""

from __future__ import annotations

import os
import re
import shlex
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS
from pyproj.exceptions import ProjError
from rasterio._err import CPLE_BaseError
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine

from refnet_cli.errors import InputError, InputMissingError, RefnetError
from refnet_cli.raster.fills import Fills, grow
from refnet_cli.raster.georeference import AffinePlace, Place, SplinePlace, raster_window
from refnet_cli.raster.guard_jp2 import check_codestream
from refnet_cli.raster.guard_tiff import MOST_BYTES, check_directories
from refnet_cli.raster.sidecars import BAND_TAG, LIST_TAG, NUMBERED_TAG, place_in_sidecar
from refnet_cli.raster.vrt import Vrt, is_vrt, raster_driver, read_vrt
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.band_names import Said
from refnet_cli.sensors.safe import ZIP_FAULTS, zip_member
from refnet_cli.system.atomic import local_file
from refnet_cli.system.urls import Remote
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float32

BLOCK = 512  # side of the blocks in which pixels are served
_LEAST_POINTS, _MOST_POINTS = 6, 1000  # of ground control
CONNECT_SECONDS, SILENT_SECONDS, REQUEST_SECONDS = 10, 30, 120  # that a server may take
RETRIES = 2
_SLOW = 1000  # bytes a second, below which a server counts as silent
_FILE_TAG = re.compile(
    r"band(_?(name|id))?|long_name|common_name|polari[sz]ation|(central_?)?wavelength", re.IGNORECASE
)
_CODEC = re.compile(r"missing codec (?!of code)(\w+)|(\w+) codec (?:is )?(?:not available|missing)", re.IGNORECASE)
# Nothing next to the files themselves is looked for, no code in them is run, and no network is touched.
_GDAL: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_GEOREF_SOURCES": "INTERNAL",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "VRT_SHARED_SOURCE": "0",  # else threads that open the same file share one that bears one thread only
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    # Threads of GDAL's own know nothing of these settings, and lose errors.
    "GDAL_NUM_THREADS": "1",
    "VRT_NUM_THREADS": "1",
    "GDAL_CACHEMAX": 64 * 2**20,  # bytes, of the whole process
}


def _first_bytes(path: str, what: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(2)
    except OSError as error:
        raise InputMissingError(f"The {what} file {path} cannot be read: {error.strerror}.") from error


class PictureError(InputError):
    """A raster file of 8-bit values has no place on the ground."""


class ZipMember(str):
    """GDAL's name of a file inside a zip, which no user gives."""


def _check_headers(path: str, driver: str) -> None:
    """Refuse what would take much memory as soon as GDAL reads of it; ``path`` may be a `ZipMember`."""
    if driver == "VRT":
        return
    zipped = zip_member(path) if isinstance(path, ZipMember) else None
    try:
        about = os.stat(zipped[0] if zipped else path)
        _check_headers_once(path, zipped, driver, about.st_mtime_ns, about.st_size)
    except (OSError, KeyError):
        return  # GDAL says what is wrong
    except ZIP_FAULTS as cause:
        raise InputError(f"The file cannot be read from its zip ({cause}): download or copy it once more.") from cause


# Many threads open the same files, and in a zip that takes long.
@lru_cache(1024)
def _check_headers_once(path: str, zipped: tuple[str, str] | None, driver: str, modified: int, size: int) -> None:
    check = check_directories if driver == "GTiff" else check_codestream
    if zipped:
        with zipfile.ZipFile(zipped[0]) as archive, archive.open(zipped[1]) as member:
            check(cast(BinaryIO, member))
    else:
        with open(path, "rb") as file:
            check(file)


def _fetching(remote: Remote) -> dict[str, Any]:
    """GDAL's settings for a file that it is to fetch: that one and no other, from a server that answers."""
    return {
        "CPL_VSIL_CURL_ALLOWED_FILENAME": f"/vsicurl/{remote.url}",
        "GDAL_HTTP_CONNECTTIMEOUT": CONNECT_SECONDS,
        "GDAL_HTTP_LOW_SPEED_TIME": SILENT_SECONDS,
        "GDAL_HTTP_LOW_SPEED_LIMIT": _SLOW,
        "GDAL_HTTP_TIMEOUT": REQUEST_SECONDS,
        "GDAL_HTTP_MAX_RETRY": RETRIES,
        "GDAL_HTTP_RETRY_DELAY": 1,
    }


class Raster:
    """A raster file opened with care: known drivers only, bounded sizes, a usable place on Earth.

    Parameters
    ----------
    path : str or Path
        A local GeoTIFF or JPEG 2000 file, a `ZipMember`, or a `Remote`.
    what : str
        What the file is to the user, for messages: "optical", "SAR", "label".
    allow_gcps : bool
        Whether ground control points may be all that places it.
    allow_vrt : bool
        Whether it may be a virtual raster, see `refnet_cli.raster.vrt`.

    Raises
    ------
    InputMissingError
        If there is no such file, it may not be read, or its server does not give it.
    InputError
        If it is no raster that can be used.
    """

    def __init__(self, path: str | Path, what: str, allow_gcps: bool = False, allow_vrt: bool = False) -> None:
        self.path, self.what = str(path), what
        self.sensor = next((sensor for sensor in SENSORS.values() if sensor.name == what), None)
        self.fills = Fills()
        self._remote = path if isinstance(path, Remote) else None
        self._zipped = isinstance(path, ZipMember)
        sources: tuple[str, ...] = ()
        # One driver, and no other of many.
        if isinstance(path, Remote):
            text = f"/vsicurl/{path.url}"
            name = re.split("[?#]", path.url)[0].lower()
            driver = "JP2OpenJPEG" if name.endswith((".jp2", ".j2k")) else "GTiff"
        elif isinstance(path, ZipMember):
            text = str(path)
            driver = "GTiff" if text.lower().endswith((".tif", ".tiff")) else "JP2OpenJPEG"
        else:
            text = local_file(path, what)
            driver = "GTiff" if _first_bytes(text, what) in (b"II", b"MM") else "JP2OpenJPEG"
            if is_vrt(text):
                (text, sources), driver = self._read_vrt(text, allow_vrt), "VRT"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with self.naming("cannot be opened as GeoTIFF or JPEG 2000"):
                for source in sources:
                    _check_headers(source, raster_driver(source) or "")
                    with rasterio.open(source, driver=raster_driver(source)) as dataset:
                        self._check_size(dataset)
                if not self._remote:
                    _check_headers(ZipMember(text) if isinstance(path, ZipMember) else text, driver)
                self.dataset = rasterio.open(text, driver=driver)
            try:
                with self.naming("cannot be used"):
                    self._check_size(self.dataset)
                    self._check_scaling()
                    self._check_place(allow_gcps)
            except RefnetError:
                self.dataset.close()
                raise

    def _read_vrt(self, path: str, allowed: bool) -> Vrt:
        if allowed:
            return read_vrt(path)
        raise InputError(
            f"The {self.what} file {path} is a virtual raster (VRT), which can make any raster file of this machine "
            "pixels: give the files that it names"
            + (", or, if you know where it is from, --allow-vrt." if self.sensor else ".")
        )

    @contextmanager
    def naming(self, problem: str, window: Window | None = None) -> Iterator[None]:
        """Set GDAL up, and turn its errors, and refusals that do not say so yet, into errors that name the file.

        Parameters
        ----------
        problem : str
            What is wrong with the file if GDAL fails.
        window : Window, optional
            The pixels that are read, for the error.
        """
        try:
            with self._naming(problem):
                yield
        except RefnetError as error:
            error.window = error.window or window
            raise

    @contextmanager
    def _naming(self, problem: str) -> Iterator[None]:
        try:
            with rasterio.Env(**_GDAL | (_fetching(self._remote) if self._remote else {})):
                yield
        except RefnetError as refusal:
            if self.path in str(refusal):
                raise
            raise type(refusal)(f"{self.path}: {refusal}") from refusal.__cause__
        except UnicodeEncodeError as cause:
            name = ascii(self.path)
            raise InputError(f"The {self.what} file {name} has a name that is no UTF-8 text: rename it.") from cause
        except (RasterioError, ProjError, CPLE_BaseError) as cause:
            reason = str(cause.__cause__ or cause).strip().rstrip(".").replace("\n", " ")
            if self._remote:
                raise self._not_fetched(self._remote, problem, cause) from None  # the cause tells what is secret
            if codec := _CODEC.search(reason):
                raise self._without_codec(codec[1] or codec[2]) from cause
            raise InputError(
                f"The {self.what} file {self.path} {problem} ({reason}): give an intact GeoTIFF or JPEG 2000 file."
            ) from cause

    def _without_codec(self, codec: str) -> InputError:
        name = Path(self.path).name
        names = f"{shlex.quote(name)} {shlex.quote(f'{Path(name).stem}_deflate.tif')}"
        return InputError(
            f"The {self.what} file {self.path} is compressed with {codec}, which this installation of GDAL cannot "
            "read. Nothing says that the file is damaged. Rewrite it with another compression, by a GDAL that has "
            f"{codec} (`gdalinfo --format GTiff` lists what one has): "
            f"`gdal_translate -co COMPRESS=DEFLATE {names}`."
        )

    def _not_fetched(self, remote: Remote, problem: str, cause: BaseException) -> RefnetError:
        """Make the error that tells that a server gave no raster file, or none that is whole."""
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = remote.hidden(str(cause)).strip().rstrip(".").replace("\n", " ")
        if "not recognized as" in reason:
            return InputError(f"The {self.what} file {remote} {problem} ({reason}): give another.")
        # When a server falls silent under way, GDAL says no more than that a block cannot be read.
        return InputMissingError(
            f"The {self.what} file {remote} cannot be fetched, or is damaged ({reason}): check the URL and the "
            "network, or download it and give its path."
        )

    def _check_size(self, dataset: rasterio.DatasetReader) -> None:
        if dataset.count > 64 or dataset.width * dataset.height > 1 << 34:
            raise InputError(
                f"The {self.what} file claims {dataset.count} bands of {dataset.width} x {dataset.height} pixels: "
                "at most 64 bands and 2^34 pixels can be read."
            )
        # GDAL would open that other file, or URL, with any of its drivers.
        if dataset.tags(ns="OVERVIEWS"):
            raise InputError(
                f"The {self.what} file says that its overviews are in another file, where refnet does not look: "
                "rewrite it, for instance with gdal_translate -of COG."
            )
        for dtype, (rows, columns) in zip(dataset.dtypes, dataset.block_shapes, strict=True):
            if dtype.startswith("complex"):
                raise InputError(
                    f"The {self.what} file holds complex numbers ({dtype}): give detected, terrain-corrected values."
                )
            together = dataset.count if dataset.profile.get("interleave") == "pixel" else 1
            if rows * columns * np.dtype(dtype).itemsize * together > MOST_BYTES:
                raise InputError(
                    f"The {self.what} file is stored in blocks of {columns} x {rows} pixels, over 256 MB each: "
                    "rewrite it with tiles, for instance with gdal_translate -co TILED=YES."
                )

    def _check_scaling(self) -> None:
        for scale, offset in zip(self.dataset.scales, self.dataset.offsets, strict=True):
            if scale == 0 or not np.isfinite([scale, offset]).all():
                raise InputError(
                    f"The {self.what} file declares the scale {scale:g} and the offset {offset:g}: "
                    "give one whose values mean something."
                )

    def _check_place(self, allow_gcps: bool) -> None:
        dataset, transform = self.dataset, self.dataset.transform
        placed = abs(transform.determinant) not in (0.0, 1.0) or (transform.c, transform.f) != (0.0, 0.0)
        points, points_crs = dataset.gcps
        self.by_points = bool(points or dataset.rpcs) and not (dataset.crs and placed)
        if self.by_points and not (allow_gcps and points):
            raise InputError(
                f"The {self.what} file is placed by ground control points only, so it is not terrain-corrected: in "
                "relief it is off by hundreds of metres. Terrain-correct it first, for instance with SNAP or sarsen"
                + (", or accept that with --allow-gcps." if points and self.what == "SAR" else ".")
            )
        distinct = len({(point.row, point.col) for point in points})
        if self.by_points and not _LEAST_POINTS <= distinct <= len(points) <= _MOST_POINTS:
            raise InputError(
                f"The {self.what} file is placed by {len(points)} ground control points in {distinct} places: "
                f"{_LEAST_POINTS} to {_MOST_POINTS} can be used."
            )
        self.stored_crs = points_crs if self.by_points else dataset.crs
        if not self.stored_crs:
            raise self._unplaced(
                f"The {self.what} file has no coordinate reference system: assign the right one first."
                f"{self._in_sidecars(lacks_crs=True, lacks_transform=not placed)}"
            )
        self.crs = CRS.from_wkt(self.stored_crs.to_wkt()).to_2d()
        if not (self.crs.is_projected or self.crs.is_geographic):
            raise InputError(
                f"The {self.what} file has the local coordinate system {self.crs.name!r}: assign a geographic or "
                "projected one first."
            )
        self.place: Place = SplinePlace(points, self.crs) if self.by_points else AffinePlace(transform)
        if not self.by_points and (not placed or not np.isfinite(transform.determinant)):
            raise self._unplaced(
                f"The {self.what} file has no place on the ground (transform {tuple(transform)[:6]}): "
                f"georeference it first.{self._in_sidecars(lacks_crs=False, lacks_transform=True)}"
            )

    def _unplaced(self, message: str) -> InputError:
        is_picture = all(np.dtype(dtype).itemsize == 1 for dtype in self.dataset.dtypes)
        return PictureError(message) if is_picture else InputError(message)

    def _in_sidecars(self, lacks_crs: bool, lacks_transform: bool) -> str:
        """Say what lies next to the file that gives its place."""
        return place_in_sidecar(self.path, lacks_crs, lacks_transform) if self.is_local else ""

    @property
    def is_local(self) -> bool:
        """Whether it is a file by itself, on a disk."""
        return not self._remote and not self._zipped

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.dataset.shape
        return height, width

    @property
    def transform(self) -> Affine:
        """From pixels to coordinates, where control points do not place it."""
        return self.dataset.transform

    def close(self) -> None:
        """Close the file."""
        self.dataset.close()

    @property
    def said(self) -> list[Said]:
        """What the file says of each of its bands."""
        dataset = self.dataset
        try:
            colours = [colour.name for colour in dataset.colorinterp]
        except ValueError:  # a colour that this rasterio does not know
            colours = [""] * dataset.count
        if dataset.count in (3, 4) and dataset.dtypes[0] == "uint8":
            # GDAL's default for any such file, which nobody chose.
            colours = [""] * dataset.count
        of_file = self._tags_of_file()
        return [
            Said(description, (*self._tags_of_band(band), *of_file[band - 1]), colour)
            for band, description, colour in zip(dataset.indexes, dataset.descriptions, colours, strict=True)
        ]

    def _tags_of_band(self, band: int) -> list[str]:
        texts = [text for key, text in self.dataset.tags(band).items() if BAND_TAG.fullmatch(key)]
        micrometres = self.dataset.tags(band, ns="IMAGERY").get("CENTRAL_WAVELENGTH_UM")
        return [*texts, *([f"{micrometres} um"] if micrometres else [])]

    def _tags_of_file(self) -> list[list[str]]:
        """Return, of each band, what tags of the file say: of the only one, or in a list of all."""
        count = self.dataset.count
        texts: list[list[str]] = [[] for _ in range(count)]
        for key, text in self.dataset.tags().items():
            if count == 1 and _FILE_TAG.fullmatch(key):
                texts[0].append(text)
            elif (numbered := NUMBERED_TAG.fullmatch(key)) and 0 < int(numbered[1]) <= count:
                texts[int(numbered[1]) - 1].append(text)
            elif count > 1 and LIST_TAG.fullmatch(key):
                inner = text.strip(" ()[]{}")
                between = r"[,;|]" if re.search(r"[,;|]", inner) else " +"
                listed = [part.strip(" '\"") for part in re.split(between, inner)]
                if len(listed) == count:
                    for band, part in zip(texts, listed, strict=True):
                        band.append(part)
        return texts

    @cached_property
    def alphas(self) -> tuple[int, ...]:
        """Numbers of bands that tell where there is data, and are no measurement."""
        return tuple(band for band, said in enumerate(self.said, 1) if said.is_alpha)

    @property
    def tags(self) -> dict[str, str]:
        """The file's tags, those of its bands among them."""
        dataset = self.dataset
        bands = {f"{key}_{band}": value for band in dataset.indexes for key, value in dataset.tags(band).items()}
        return {**bands, **dataset.tags()}

    def read(self, bands: Sequence[int], window: Window) -> NDArray[Any]:
        """Read bands as stored, shape (B, H, W), in the file's data type.

        Raises
        ------
        InputError
            If a block cannot be read; says which band and window.
        """
        try:
            return np.asarray(self.dataset.read(list(bands), window=raster_window(window)))
        except RasterioError:
            for band in bands:
                with self.naming(f"is damaged: band {band} is unreadable in {window}", window):
                    self.dataset.read(band, window=raster_window(window))
            raise

    def read_valid(self, bands: Sequence[int], window: Window) -> tuple[Float32, int]:
        """Read bands as float32, declared scale and offset applied, with NaN wherever there is no measurement.

        That is: declared nodata, or 0 in all bands if none is declared; a mask's holes; 0 in an alpha band;
        saturated, NaN and infinite values.

        Returns
        -------
        values : float32 array, shape (B, H, W)
        non_finite : int
            Number of NaN and infinite values that were not declared nodata.
        """
        dataset = self.dataset
        with self.naming(f"is damaged: {window} is unreadable", window), np.errstate(over="ignore", invalid="ignore"):
            stored = self.read(bands, window)
            values = stored.astype(np.float32)
            absent = np.zeros(stored.shape, bool)
            for layer, raw, hole, band in zip(values, stored, absent, bands, strict=True):
                nodata = dataset.nodatavals[band - 1]
                if nodata is not None:
                    hole[:] = np.isnan(raw) if np.isnan(nodata) else raw == nodata
                if raw.dtype == np.uint16:
                    hole |= raw == 65_535
                if self.scaling(band) != (1.0, 0.0):
                    scale, offset = self.scaling(band)
                    layer[:] = raw * scale + offset
            zero = self.sensor is not None and self.sensor.zero_is_nodata
            if zero or all(dataset.nodatavals[band - 1] is None for band in bands):
                absent |= (stored == 0).all(axis=0)
            flags = [dataset.mask_flag_enums[band - 1] for band in bands]
            if any(MaskFlags.per_dataset in each and MaskFlags.alpha not in each for each in flags):
                absent |= dataset.dataset_mask(window=raster_window(window)) == 0
            for alpha in self.alphas:
                # GDAL takes alpha bands of fractions for no masks, and those of files with nodata neither.
                absent |= np.nan_to_num(self.read([alpha], window)) == 0
        wrong = ~np.isfinite(values)
        non_finite = int(np.count_nonzero(wrong & ~absent))
        absent |= wrong
        # Masked copies are slow, and seldom is there anything to mask.
        if absent.any():
            np.copyto(values, np.nan, where=absent)
        return values, non_finite

    def read_measured(self, bands: Sequence[int], window: Window) -> tuple[Float32, int]:
        """Read bands as `read_valid` does, with NaN in all bands where `fills` say that nothing was measured."""
        values, non_finite = self.read_valid(bands, window)
        if self.fills.values:
            rim = self.fills.rim
            around = Window(window.row - rim, window.column - rim, window.height + 2 * rim, window.width + 2 * rim)
            around = around.clip(*self.shape)
            wide = values if around == window else self.read_valid(bands, around)[0]
            top, left = window.row - around.row, window.column - around.column
            mask = self.fills.mask(wide)[top : top + window.height, left : left + window.width]
            values[:, mask] = np.nan
        return values, non_finite

    def read_near(self, bands: Sequence[int], window: Window, margin: int) -> tuple[Float32, NDArray[np.bool_]]:
        """Read bands as `read_measured` does, and tell which pixels are in a hole or at most ``margin`` from one."""
        values, _ = self.read_measured(bands, window)
        return values, grow(np.asarray(~np.isfinite(values).all(axis=0)), margin)

    def read_pieces(self, bands: Sequence[int], window: Window) -> Iterator[Float32]:
        """Read bands as `read_valid` does, from one file after another where several have the window."""
        yield self.read_valid(bands, window)[0]

    def cut(self, window: Window) -> Iterator[Window]:
        """Yield the parts of a window that are read one by one, so that a damaged one spoils no other."""
        yield window

    def scaling(self, band: int) -> tuple[float, float]:
        """Return the declared scale and offset of a band."""
        return float(self.dataset.scales[band - 1]), float(self.dataset.offsets[band - 1])


def north_up_grid(raster: Raster) -> GeoBox:
    """Return the grid of a file whose grid is to be the result's.

    Raises
    ------
    InputError
        If it is not north-up.
    """
    transform = raster.transform
    if transform.b or transform.d or transform.a <= 0 or transform.e >= 0:
        raise InputError(
            f"The {raster.what} file {raster.path} is rotated, sheared or not north-up "
            f"(transform {tuple(transform)[:6]}), but its grid is to be the result's: "
            "warp it to north-up first, for instance with gdalwarp"
            + (", or name a grid with --grid." if raster.what == "optical" else ".")
        )
    return GeoBox(raster.shape, transform, raster.dataset.crs)
