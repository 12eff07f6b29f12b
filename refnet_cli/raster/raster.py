"""A safely opened raster file: known drivers only, limited sizes, valid georeferencing."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

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
from refnet_cli.raster.band_tags import describe_bands
from refnet_cli.raster.fills import Fills, dilate
from refnet_cli.raster.gdal import settings_for
from refnet_cli.raster.georeference import AffineGeoreference, GcpGeoreference, Georeference, raster_window
from refnet_cli.raster.guard_tiff import MAX_BYTES
from refnet_cli.raster.headers import ZipMember, check_headers, first_bytes, refuse_other_formats
from refnet_cli.raster.sidecars import georeferencing_in_sidecar
from refnet_cli.raster.vrt import Vrt, is_vrt, raster_driver, read_vrt
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.band_names import BandMetadata
from refnet_cli.system.atomic import local_file
from refnet_cli.system.urls import Remote
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float32

BLOCK = 512  # side of the blocks in which pixels are read and warped
_MIN_GCPS, _MAX_GCPS = 6, 1000  # ground control points
_CODEC = re.compile(r"missing codec (?!of code)(\w+)|(\w+) codec (?:is )?(?:not available|missing)", re.IGNORECASE)
class PictureError(InputError):
    """An 8-bit raster file is not georeferenced."""


class Raster:
    """A safely opened raster file: known drivers only, limited sizes, valid georeferencing.

    Parameters
    ----------
    path : str or Path
        A local GeoTIFF or JPEG 2000 file, a `ZipMember`, or a `Remote`.
    what : str
        The role of the file, for messages: "optical", "SAR", "label".
    allow_gcps : bool
        Whether the file may be georeferenced by ground control points only.
    allow_vrt : bool
        Whether the file may be a virtual raster; see `refnet_cli.raster.vrt`.

    Raises
    ------
    InputMissingError
        If the file is missing or unreadable, or its server does not deliver it.
    InputError
        If the file is not a usable raster.
    """

    def __init__(self, path: str | Path, what: str, allow_gcps: bool = False, allow_vrt: bool = False) -> None:
        self.path, self.what = str(path), what
        self.sensor = next((sensor for sensor in SENSORS.values() if sensor.name == what), None)
        self.fills = Fills()
        self._remote = path if isinstance(path, Remote) else None
        self._zipped = isinstance(path, ZipMember)
        sources: tuple[str, ...] = ()
        # GDAL may only use the driver given here.
        if isinstance(path, Remote):
            text = f"/vsicurl/{path.url}"
            name = re.split("[?#]", path.url)[0].lower()
            driver = "JP2OpenJPEG" if name.endswith((".jp2", ".j2k")) else "GTiff"
        elif isinstance(path, ZipMember):
            text = str(path)
            driver = "GTiff" if text.lower().endswith((".tif", ".tiff")) else "JP2OpenJPEG"
        else:
            text = local_file(path, what)
            driver = "GTiff" if first_bytes(text, what) in (b"II", b"MM") else "JP2OpenJPEG"
            if is_vrt(text):
                (text, sources), driver = self._read_vrt(text, allow_vrt), "VRT"
            elif driver != "GTiff":
                refuse_other_formats(text, what)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with self.error_context("cannot be opened as GeoTIFF or JPEG 2000"):
                for source in sources:
                    check_headers(source, raster_driver(source) or "")
                    with rasterio.open(source, driver=raster_driver(source)) as dataset:
                        self._check_size(dataset)
                if not self._remote:
                    check_headers(ZipMember(text) if isinstance(path, ZipMember) else text, driver)
                self.dataset = rasterio.open(text, driver=driver)
            try:
                with self.error_context("cannot be used"):
                    self._check_size(self.dataset)
                    self._check_scaling()
                    self._check_georeference(allow_gcps)
            except RefnetError:
                self.dataset.close()
                raise

    def _read_vrt(self, path: str, allowed: bool) -> Vrt:
        if allowed:
            return read_vrt(path)
        raise InputError(
            f"The {self.what} file {path} is a virtual raster (VRT), which can expose any raster file of this machine. "
            "Use the files that it refers to"
            + (", or pass --allow-vrt if you trust its origin." if self.sensor else ".")
        )

    @contextmanager
    def error_context(self, problem: str, window: Window | None = None) -> Iterator[None]:
        """Apply the GDAL settings, and add the file's name to GDAL's errors and to refusals that lack it.

        Parameters
        ----------
        problem : str
            What is wrong with the file if GDAL fails.
        window : Window, optional
            The pixels that are read, for the error.
        """
        try:
            with self._named_errors(problem):
                yield
        except RefnetError as error:
            error.window = error.window or window
            raise

    @contextmanager
    def _named_errors(self, problem: str) -> Iterator[None]:
        try:
            with rasterio.Env(**self._settings()):
                yield
        except RefnetError as refusal:
            if self.path in str(refusal):
                raise
            raise type(refusal)(f"{self.path}: {refusal}") from refusal.__cause__
        except UnicodeEncodeError as cause:
            name = ascii(self.path)
            raise InputError(f"The name of the {self.what} file {name} is not valid UTF-8. Rename it.") from cause
        except (RasterioError, ProjError, CPLE_BaseError) as cause:
            reason = str(cause.__cause__ or cause).strip().rstrip(".").replace("\n", " ")
            if self._remote:
                raise self._not_fetched(self._remote, problem, cause) from None  # the cause contains secrets of the URL
            if codec := _CODEC.search(reason):
                raise self._without_codec(codec[1] or codec[2]) from cause
            raise InputError(
                f"The {self.what} file {self.path} {problem} ({reason}). Repair or re-download the file."
            ) from cause

    def _settings(self) -> dict[str, Any]:
        """Return GDAL's settings while the file is read; rasters of other kinds replace them."""
        return settings_for(self._remote)

    def _without_codec(self, codec: str) -> InputError:
        name = Path(self.path).name
        names = f"{shlex.quote(name)} {shlex.quote(f'{Path(name).stem}_deflate.tif')}"
        return InputError(
            f"The {self.what} file {self.path} is compressed with {codec}, which this installation of GDAL cannot "
            "read. The file may be intact. Rewrite it with another compression, using a GDAL that has "
            f"{codec} (`gdalinfo --format GTiff` lists its codecs): "
            f"`gdal_translate -co COMPRESS=DEFLATE {names}`."
        )

    def _not_fetched(self, remote: Remote, problem: str, cause: BaseException) -> RefnetError:
        """Return the error that a server did not deliver an intact raster file."""
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = remote.redact(str(cause)).strip().rstrip(".").replace("\n", " ")
        if "not recognized as" in reason:
            return InputError(f"The {self.what} file {remote} {problem} ({reason}). Use another file.")
        # If a server stops sending, GDAL only reports that a block cannot be read.
        return InputMissingError(
            f"The {self.what} file {remote} cannot be fetched or is damaged ({reason}). Check the URL and the network, "
            "or download the file and pass its path."
        )

    def _check_size(self, dataset: rasterio.DatasetReader) -> None:
        if dataset.count > 64 or dataset.width * dataset.height > 1 << 34:
            raise InputError(
                f"The {self.what} file claims {dataset.count} bands of {dataset.width} x {dataset.height} pixels "
                "(limit 64 bands, 2^34 pixels). Use a smaller file."
            )
        # GDAL would open the other file, or URL, with any of its drivers.
        if dataset.tags(ns="OVERVIEWS"):
            raise InputError(
                f"The {self.what} file refers to another file for its overviews, which refnet does not open. "
                "Rewrite it, for instance with gdal_translate -of COG."
            )
        for dtype, (rows, columns) in zip(dataset.dtypes, dataset.block_shapes, strict=True):
            if dtype.startswith("complex"):
                raise InputError(
                    f"The {self.what} file contains complex numbers ({dtype}). Use detected, terrain-corrected values."
                )
            together = dataset.count if dataset.profile.get("interleave") == "pixel" else 1
            if rows * columns * np.dtype(dtype).itemsize * together > MAX_BYTES:
                raise InputError(
                    f"The {self.what} file is stored in blocks of {columns} x {rows} pixels (limit 256 MB). "
                    "Rewrite it with tiles, for instance with gdal_translate -co TILED=YES."
                )

    def _check_scaling(self) -> None:
        for scale, offset in zip(self.dataset.scales, self.dataset.offsets, strict=True):
            if scale == 0 or not np.isfinite([scale, offset]).all():
                raise InputError(
                    f"The {self.what} file declares the invalid scale {scale:g} and offset {offset:g}. "
                    "Correct them, for instance with gdal_edit.py -scale 1 -offset 0."
                )

    def _check_georeference(self, allow_gcps: bool) -> None:
        dataset, transform = self.dataset, self.dataset.transform
        placed = abs(transform.determinant) not in (0.0, 1.0) or (transform.c, transform.f) != (0.0, 0.0)
        points, points_crs = dataset.gcps
        self.gcps_only = bool(points or dataset.rpcs) and not (dataset.crs and placed)
        if self.gcps_only and not (allow_gcps and points):
            raise InputError(
                f"The {self.what} file is georeferenced by ground control points only, so it is not terrain-corrected: "
                "in relief it is off by hundreds of metres. Terrain-correct it first, for instance with SNAP or sarsen"
                + (", or accept the error with --allow-gcps." if points and self.what == "SAR" else ".")
            )
        distinct = len({(point.row, point.col) for point in points})
        if self.gcps_only and not _MIN_GCPS <= distinct <= len(points) <= _MAX_GCPS:
            raise InputError(
                f"The {self.what} file has {len(points)} ground control points at {distinct} positions "
                f"(limits: {_MAX_GCPS} points, at least {_MIN_GCPS} positions). Terrain-correct it first."
            )
        self.stored_crs = points_crs if self.gcps_only else dataset.crs
        if not self.stored_crs:
            raise self._georeferencing_error(
                f"The {self.what} file has no coordinate reference system. Assign the right one first, for instance "
                f"with gdal_edit.py -a_srs EPSG:32633.{self._sidecar_hint(lacks_crs=True, lacks_transform=not placed)}"
            )
        self.crs = CRS.from_wkt(self.stored_crs.to_wkt()).to_2d()
        if not (self.crs.is_projected or self.crs.is_geographic):
            raise InputError(
                f"The {self.what} file has the local coordinate system {self.crs.name!r}. Assign a geographic or "
                "projected one first."
            )
        self.georeference: Georeference = (
            GcpGeoreference(points, self.crs) if self.gcps_only else AffineGeoreference(transform)
        )
        if not self.gcps_only and (not placed or not np.isfinite(transform.determinant)):
            raise self._georeferencing_error(
                f"The {self.what} file is not georeferenced (transform {tuple(transform)[:6]}). "
                f"Georeference it first.{self._sidecar_hint(lacks_crs=False, lacks_transform=True)}"
            )

    def _georeferencing_error(self, message: str) -> InputError:
        is_picture = all(np.dtype(dtype).itemsize == 1 for dtype in self.dataset.dtypes)
        return PictureError(message) if is_picture else InputError(message)

    def _sidecar_hint(self, lacks_crs: bool, lacks_transform: bool) -> str:
        """Return a sentence on sidecar files with the missing georeferencing; "" if there are none."""
        return georeferencing_in_sidecar(self.path, lacks_crs, lacks_transform) if self.is_local else ""

    @property
    def is_local(self) -> bool:
        """Whether the file is on a disk and not in a zip."""
        return not self._remote and not self._zipped

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.dataset.shape
        return height, width

    @property
    def transform(self) -> Affine:
        """Affine transform from pixels to coordinates, if the file is not georeferenced by ground control points."""
        return self.dataset.transform

    def close(self) -> None:
        """Close the file."""
        self.dataset.close()

    @property
    def band_metadata(self) -> list[BandMetadata]:
        """Description, identifying tags and colour interpretation of each band."""
        return describe_bands(self.dataset)

    @cached_property
    def alphas(self) -> tuple[int, ...]:
        """Numbers of the alpha bands."""
        return tuple(band for band, metadata in enumerate(self.band_metadata, 1) if metadata.is_alpha)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the file and of its bands."""
        dataset = self.dataset
        bands = {f"{key}_{band}": value for band in dataset.indexes for key, value in dataset.tags(band).items()}
        return {**bands, **dataset.tags()}

    def read(self, bands: Sequence[int], window: Window) -> NDArray[Any]:
        """Read bands as stored, shape (B, H, W), in the file's data type.

        Raises
        ------
        InputError
            If a block cannot be read. Names the band and the window.
        """
        try:
            return np.asarray(self.dataset.read(list(bands), window=raster_window(window)))
        except RasterioError:
            for band in bands:
                with self.error_context(f"is damaged: band {band} is unreadable in {window}", window):
                    self.dataset.read(band, window=raster_window(window))
            raise

    def read_valid(self, bands: Sequence[int], window: Window) -> tuple[Float32, int]:
        """Read bands as float32, with declared scale and offset applied, and NaN where there is no measurement.

        These are not measurements: declared nodata, or 0 in all bands if nodata is not declared; masked pixels; 0 in an
        alpha band; saturated, NaN and infinite values.

        Returns
        -------
        values : float32 array, shape (B, H, W)
        non_finite : int
            Number of NaN and infinite values that were not declared nodata.
        """
        dataset = self.dataset
        problem = f"is damaged: {window} is unreadable"
        with self.error_context(problem, window), np.errstate(over="ignore", invalid="ignore"):
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
                # GDAL ignores floating-point alpha bands, and all alpha bands of files with nodata.
                absent |= np.nan_to_num(self.read([alpha], window)) == 0
        wrong = ~np.isfinite(values)
        non_finite = int(np.count_nonzero(wrong & ~absent))
        absent |= wrong
        # Masked copies are slow and rarely needed.
        if absent.any():
            np.copyto(values, np.nan, where=absent)
        return values, non_finite

    def read_masked(self, bands: Sequence[int], window: Window) -> tuple[Float32, int]:
        """Read bands as `read_valid` does, with NaN in all bands of pixels masked by `fills`."""
        values, non_finite = self.read_valid(bands, window)
        if self.fills.values:
            row, column, height, width = window
            buffer = self.fills.buffer
            around = Window(row - buffer, column - buffer, height + 2 * buffer, width + 2 * buffer).clip(*self.shape)
            wide = values if around == window else self.read_valid(bands, around)[0]
            top, left = window.row - around.row, window.column - around.column
            mask = self.fills.mask(wide)[top : top + window.height, left : left + window.width]
            values[:, mask] = np.nan
        return values, non_finite

    def read_near_nodata(self, bands: Sequence[int], window: Window, margin: int) -> tuple[Float32, NDArray[np.bool_]]:
        """Read bands as `read_masked` does, and return which pixels are nodata or at most ``margin`` pixels from it."""
        values, _ = self.read_masked(bands, window)
        return values, dilate(np.asarray(~np.isfinite(values).all(axis=0)), margin)

    def read_pieces(self, bands: Sequence[int], window: Window) -> Iterator[Float32]:
        """Read bands as `read_valid` does, separately from each file of a mosaic that the window intersects."""
        yield self.read_valid(bands, window)[0]

    def split(self, window: Window) -> Iterator[Window]:
        """Yield the parts of a window that are read separately, so that damage in one file affects only its part."""
        yield window

    def scaling(self, band: int) -> tuple[float, float]:
        """Return the declared scale and offset of a band."""
        return float(self.dataset.scales[band - 1]), float(self.dataset.offsets[band - 1])


def north_up_grid(raster: Raster) -> GeoBox:
    """Return the grid of a file that defines the grid of the result.

    Raises
    ------
    InputError
        If it is not north-up.
    """
    transform = raster.transform
    if transform.b or transform.d or transform.a <= 0 or transform.e >= 0:
        raise InputError(
            f"The {raster.what} file {raster.path} is rotated, sheared or not north-up "
            f"(transform {tuple(transform)[:6]}), so its grid cannot be the grid of the result. "
            "Warp it to north-up first, for instance with gdalwarp"
            + (", or name another grid with --grid." if raster.what == "optical" else ".")
        )
    return GeoBox(raster.shape, transform, raster.dataset.crs)
