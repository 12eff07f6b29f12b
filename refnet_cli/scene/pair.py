"""A scene pair on one grid: what both files are, and their pixels as reflectance x 10,000 and dB.

The optical file's grid is the result's grid; only SAR is warped, in linear power. Both are served in blocks anchored
at the grid's origin, from which every window is cut, so that values never depend on the window that was asked for.
Threads may make the blocks ahead of time, each with files of its own, since GDAL's open files bear one thread only.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from rasterio._err import CPLE_BaseError
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.warp import reproject
from rasterio.windows import Window as RasterWindow

from refnet_cli.errors import InputError, InputMissingError, OptionsError, RefnetError
from refnet_cli.products import (
    SAR_SCALES,
    SarScale,
    band_names,
    choose_bands,
    judge_optical_level,
    judge_optical_offset,
    judge_optical_scale,
    judge_sar_order,
    judge_sar_scale,
)
from refnet_cli.tiling import Window

BLOCK = 512  # side of the blocks in which pixels are served
DB_RANGE = (-60.0, 40.0)
_POSSIBLE_DB = 100.0  # a level beyond this is no measurement but a fill value or damage
_POSSIBLE_REFLECTANCE = (-5000.0, 65_534.0)  # x 10,000; 65,535 marks saturated pixels
_MASKED = {MaskFlags.per_dataset, MaskFlags.alpha}
_MARGIN = 16  # source pixels around a block's footprint: the kernel's, and differences between datum shifts
_SAMPLE = 300_000  # pixels from which a file is judged
_STRIP = 128  # columns of the grid warped at once
_PIECE = 1 << 24  # source pixels warped at once
# Nothing beside the files themselves is looked for, and no network is touched.
_GDAL: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_GEOREF_SOURCES": "INTERNAL",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_CACHEMAX": 64 * 2**20,  # bytes, of the whole process
}

Float32 = NDArray[np.float32]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class SceneOptions:
    """What the user says about the files instead of leaving it to be found out."""

    optical_bands: tuple[str, ...] | None = None
    """Names or 1-based numbers of the optical file's bands, in the order of the wanted bands."""
    sar_bands: tuple[str, ...] | None = None
    """The same for the SAR file."""
    optical_offset: float | None = None
    """Number to subtract from reflectance x 10,000."""
    sar_scale: SarScale | None = None
    """Unit of the SAR values: db, db100, power or amplitude."""

    def __post_init__(self) -> None:
        if self.sar_scale is not None and self.sar_scale not in SAR_SCALES:
            raise OptionsError(f"--sar-scale is {self.sar_scale!r}, but must be one of {', '.join(SAR_SCALES)}.")
        if self.optical_offset is not None and not np.isfinite(self.optical_offset):
            raise OptionsError(f"--optical-offset is {self.optical_offset}, but must be a finite number.")


class Decision(NamedTuple):
    """One thing found out about the files: what, the value, and the evidence in a sentence."""

    what: str
    value: Any
    how: str


class Patch(NamedTuple):
    """Pixels of both modalities on the same window of the grid.

    Parameters
    ----------
    optical : float32 array, shape (Bo, H, W)
        Reflectance x 10,000; NaN where invalid.
    sar : float32 array, shape (Bs, H, W)
        Backscatter in dB; NaN where invalid.
    """

    optical: Float32
    sar: Float32

    @property
    def optical_valid(self) -> NDArray[np.bool_]:
        """Where all optical bands are known, shape (H, W)."""
        return np.asarray(np.isfinite(self.optical).all(axis=0))

    @property
    def sar_valid(self) -> NDArray[np.bool_]:
        """Where all SAR bands are known, shape (H, W)."""
        return np.asarray(np.isfinite(self.sar).all(axis=0))

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where all bands of both modalities are known, shape (H, W)."""
        return self.optical_valid & self.sar_valid


class _Block(NamedTuple):
    """A block of the grid, where both modalities are known in it, and what was set aside while making it."""

    patch: Patch
    valid: NDArray[np.bool_]
    counts: Counter[str]


def local_file(path: str | Path, what: str) -> str:
    """Return a path as text once it is known to lead to a file on this machine that may be read.

    Raises
    ------
    InputMissingError, InputError
        If it does not; ``what`` says what the file is to the user.
    """
    text = os.fspath(path)
    # A path keeps one slash of a URL's two.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text) or text.startswith("/vsi"):
        raise InputError(f"The {what} input {text} is not a local file: download it and give its path.")
    if not Path(text).is_file() or not os.access(text, os.R_OK):
        state = "cannot be read" if Path(text).exists() else "does not exist"
        raise InputMissingError(f"The {what} file {text} {state}: check the path and its permissions.")
    return text


class Raster:
    """A raster file opened with care: known drivers only, bounded sizes, a usable place on Earth.

    Parameters
    ----------
    path : str or Path
        A local GeoTIFF or JPEG 2000 file.
    what : str
        What the file is to the user, for messages: "optical", "SAR", "label".

    Raises
    ------
    InputMissingError
        If there is no such file or it may not be read.
    InputError
        If it is no raster that can be used.
    """

    def __init__(self, path: str | Path, what: str) -> None:
        self.path, self.what = path, what
        text = local_file(path, what)
        with Path(text).open("rb") as file:
            driver = "GTiff" if file.read(2) in (b"II", b"MM") else "JP2OpenJPEG"  # and no other of GDAL's many
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with self.naming("cannot be opened as GeoTIFF or JPEG 2000"):
                self.dataset = rasterio.open(text, driver=driver)
            try:
                with self.naming("cannot be used"):
                    self._check_size()
                    self._check_place()
            except RefnetError:
                self.dataset.close()
                raise

    @contextmanager
    def naming(self, problem: str) -> Iterator[None]:
        """Set GDAL up, and turn its errors, and refusals that do not say so yet, into errors that name the file."""
        try:
            with rasterio.Env(**_GDAL):
                yield
        except RefnetError as refusal:
            if str(self.path) in str(refusal):
                raise
            raise type(refusal)(f"{self.path}: {refusal}") from refusal.__cause__
        except (RasterioError, ProjError, CPLE_BaseError) as cause:
            reason = str(cause.__cause__ or cause).strip().rstrip(".").replace("\n", " ")
            raise InputError(
                f"The {self.what} file {self.path} {problem} ({reason}): give an intact GeoTIFF or JPEG 2000 file."
            ) from cause

    def _check_size(self) -> None:
        dataset = self.dataset
        if dataset.count > 64 or dataset.width * dataset.height > 1 << 34:
            raise InputError(
                f"The {self.what} file claims {dataset.count} bands of {dataset.width} x {dataset.height} pixels: "
                "at most 64 bands and 2^34 pixels can be read."
            )
        for dtype, (rows, columns) in zip(dataset.dtypes, dataset.block_shapes, strict=True):
            if dtype.startswith("complex"):
                raise InputError(
                    f"The {self.what} file holds complex numbers ({dtype}): give detected, terrain-corrected values."
                )
            if rows * columns * np.dtype(dtype).itemsize > 256 << 20:
                raise InputError(
                    f"The {self.what} file is stored in blocks of {columns} x {rows} pixels, over 256 MB each: "
                    "rewrite it with tiles, for instance with gdal_translate -co TILED=YES."
                )

    def _check_place(self) -> None:
        dataset, transform = self.dataset, self.dataset.transform
        placed = abs(transform.determinant) not in (0.0, 1.0) or (transform.c, transform.f) != (0.0, 0.0)
        if (dataset.gcps[0] or dataset.rpcs) and not (dataset.crs and placed):
            raise InputError(
                f"The {self.what} file is placed by ground control points only, so it is not terrain-corrected: "
                "terrain-correct it first, for instance with SNAP or sarsen."
            )
        if not dataset.crs:
            raise InputError(f"The {self.what} file has no coordinate reference system: assign the right one first.")
        self.crs = CRS.from_wkt(dataset.crs.to_wkt()).to_2d()
        if not (self.crs.is_projected or self.crs.is_geographic):
            raise InputError(
                f"The {self.what} file has the local coordinate system {self.crs.name!r}: assign a geographic or "
                "projected one first."
            )
        if not placed or not np.isfinite(transform.determinant):
            raise InputError(
                f"The {self.what} file has no place on the ground (transform {tuple(transform)[:6]}): "
                "georeference it first."
            )

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
            return np.asarray(self.dataset.read(list(bands), window=_box(window)))
        except RasterioError:
            for band in bands:
                with self.naming(f"is damaged: band {band} is unreadable in {window}"):
                    self.dataset.read(band, window=_box(window))
            raise

    def read_valid(self, bands: Sequence[int], window: Window) -> tuple[Float32, int]:
        """Read bands as float32, declared scale and offset applied, with NaN wherever there is no measurement.

        That is: declared nodata, or 0 in all bands if none is declared; a mask's holes; saturated, NaN and infinite
        values.

        Returns
        -------
        values : float32 array, shape (B, H, W)
        non_finite : int
            Number of NaN and infinite values that were not declared nodata.
        """
        dataset = self.dataset
        with self.naming(f"is damaged: {window} is unreadable"), np.errstate(over="ignore", invalid="ignore"):
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
            # Sentinel-2 products are 0 where nothing was seen, whatever a file declares.
            if self.what == "optical" or all(dataset.nodatavals[band - 1] is None for band in bands):
                absent |= (stored == 0).all(axis=0)
            if any(set(dataset.mask_flag_enums[band - 1]) & _MASKED for band in bands):
                absent |= dataset.dataset_mask(window=_box(window)) == 0
        wrong = ~np.isfinite(values)
        non_finite = int(np.count_nonzero(wrong & ~absent))
        absent |= wrong
        # Masked copies are slow, and seldom is there anything to mask.
        if absent.any():
            np.copyto(values, np.nan, where=absent)
        return values, non_finite

    def scaling(self, band: int) -> tuple[float, float]:
        """Return the declared scale and offset of a band."""
        return float(self.dataset.scales[band - 1]), float(self.dataset.offsets[band - 1])

    def sample(self, bands: Sequence[int]) -> Float32:
        """Read blocks spread over the file, shape (B, n); more, until something is valid, where all of them are not.

        Raises
        ------
        InputError
            If the whole file is invalid.
        """
        windows = list(self._spread_windows())
        # An odd step, so that not the same columns are taken in every row.
        step = sum(window.height * window.width for window in windows) // _SAMPLE | 1
        taken = [self.read_valid(bands, window)[0].reshape(len(bands), -1)[:, ::step] for window in windows]
        if not any(np.isfinite(values).any() for values in taken):
            taken = [self._first_valid(bands).reshape(len(bands), -1)]
        return np.concatenate(taken, axis=1)

    def _first_valid(self, bands: Sequence[int]) -> Float32:
        height, width = self.dataset.shape
        for row in range(0, height, BLOCK):
            for column in range(0, width, 8 * BLOCK):
                values, _ = self.read_valid(bands, Window(row, column, BLOCK, 8 * BLOCK).clip(height, width))
                if np.isfinite(values).any():
                    return values
        raise InputError(f"The {self.what} file has no valid pixel: give one that holds measurements.")

    def _spread_windows(self) -> Iterator[Window]:
        height, width = self.dataset.shape
        rows, columns = self.dataset.block_shapes[0]
        if height * width <= 1 << 20:
            rows, columns = height, width
        down, across = -(-height // rows), -(-width // columns)
        budget = 2_400_000 // (rows * columns)
        many = int(np.clip(budget, 4, 64)) if across == 1 else int(np.clip(budget**0.5, 2, 6))
        for row in np.unique((np.arange(many) + 0.5) * down // many).astype(int):
            for column in np.unique((np.arange(many) + 0.5) * across // many).astype(int):
                yield Window(int(row) * rows, int(column) * columns, rows, columns).clip(height, width)


class Alignment:
    """Where a grid's pixels lie in a raster file, and how the file's values come onto the grid.

    Parameters
    ----------
    raster : Raster
        The file to warp.
    grid : GeoBox
        The grid to warp it to.

    Raises
    ------
    InputError
        If file and grid do not overlap.
    """

    def __init__(self, raster: Raster, grid: GeoBox) -> None:
        self.grid = grid
        self._shape: tuple[int, int] = raster.dataset.shape
        self._transform: Affine = raster.dataset.transform
        self._grid_crs = CRS.from_user_input(grid.crs).to_2d()
        self._same = raster.crs == self._grid_crs
        self._to_source = Transformer.from_crs(self._grid_crs, raster.crs, always_xy=True)
        source_crs, self._wrap = raster.dataset.crs, math.nan
        longitudes = _apply(self._transform, *_lattice(Window(0, 0, *self._shape), 2))[0]
        if raster.crs.is_geographic and not -180 <= longitudes.min() <= longitudes.max() <= 180:
            # Transformed longitudes would break at 180 degrees, in the midst of such a file.
            self._wrap = float(longitudes.min() + longitudes.max()) / 2
            source_crs = rasterio.CRS.from_string(f"{raster.dataset.crs.to_proj4()} +lon_wrap={self._wrap!r}")
        self._wkt = source_crs.to_wkt(), self._grid_crs.to_wkt()
        self._shift = self._whole_shift()
        place = self._overlap(raster)
        columns, rows = np.array(place)[:, None] + [[0, 1, 0], [0, 0, 1]]
        x, y = self.source_pixels(columns, rows)
        self.ratio = float(np.sqrt(abs((x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0]))))
        """Size of a grid pixel in pixels of the file, where they overlap."""

    @property
    def same_pixels(self) -> bool:
        """Whether the file's pixels are the grid's, so that nothing is resampled."""
        return self._shift is not None

    def _whole_shift(self) -> tuple[int, int] | None:
        """How many columns and rows the grid's pixels lie off the file's, if they are the same pixels."""
        columns, rows = _lattice(Window(0, 0, *self.grid.shape), 2)
        x, y = self.source_pixels(columns, rows)
        if not self._same or not (np.isfinite(x).all() and np.isfinite(y).all()):
            return None
        across, down = round(x[0] - columns[0]), round(y[0] - rows[0])
        off = max(np.abs(x - columns - across).max(), np.abs(y - rows - down).max())
        return (across, down) if off < 1e-6 else None

    def source_pixels(self, columns: Points, rows: Points) -> tuple[Points, Points]:
        """Transform fractional pixel places (pixel corners are whole) on the grid to such places in the file."""
        x, y = _apply(self.grid.transform, columns, rows)
        if not self._same:
            x, y = self._to_source.transform(x, y)
        if not math.isnan(self._wrap):
            x = (x - self._wrap + 180) % 360 - 180 + self._wrap
        return _apply(~self._transform, x, y)

    def _overlap(self, raster: Raster) -> tuple[float, float]:
        height, width = self.grid.shape
        columns, rows = _lattice(Window(0, 0, height, width), 65, inset=0.5)
        x, y = self.source_pixels(columns, rows)
        inside = (x > 0) & (x < self._shape[1]) & (y > 0) & (y < self._shape[0])
        self.share = float(inside.mean())
        if inside.any():
            return float(columns[inside].mean()), float(rows[inside].mean())
        # The file may be smaller than the lattice's mesh.
        columns, rows = _apply(
            ~self.grid.transform, *self._to_grid(*_lattice(Window(0, 0, *self._shape), 65, inset=0.5))
        )
        inside = (columns > 0) & (columns < width) & (rows > 0) & (rows < height)
        if inside.any():
            return float(columns[inside].mean()), float(rows[inside].mean())
        raise InputError(
            f"The {raster.what} file {raster.path} does not overlap the optical grid: it covers "
            f"{_bounds(*self._to_grid(*_lattice(Window(0, 0, *self._shape), 65)))}, the grid "
            f"{_bounds(*_apply(self.grid.transform, *_lattice(Window(0, 0, height, width), 2)))} in "
            f"{_name(self._grid_crs)}; give two files of the same place."
        )

    def _to_grid(self, columns: Points, rows: Points) -> tuple[Points, Points]:
        """Transform places in the file to coordinates of the grid's reference system."""
        x, y = _apply(self._transform, columns, rows)
        return (x, y) if self._same else self._to_source.transform(x, y, direction="INVERSE")

    def source_window(self, window: Window) -> Window:
        """Return the file's window that the warp of a grid window needs; empty where they do not meet."""
        x, y = self.source_pixels(*_lattice(window, 33))
        known = np.isfinite(x) & np.isfinite(y)
        if not known.any():
            return Window(0, 0, 0, 0)
        margin = _MARGIN + int(np.ceil(self.ratio))
        limits = self._shape[1] + margin, self._shape[0] + margin
        left, right = (int(edge) for edge in np.clip([x[known].min(), x[known].max()], -margin, limits[0]))
        top, bottom = (int(edge) for edge in np.clip([y[known].min(), y[known].max()], -margin, limits[1]))
        box = Window(top - margin, left - margin, bottom - top + 2 * margin + 1, right - left + 2 * margin + 1)
        return box.clip(*self._shape)

    def warp(self, window: Window, source: Window, layers: NDArray[Any], out: NDArray[Any], method: Resampling) -> None:
        """Resample layers of the file's window ``source`` into ``out``, the grid's ``window``; NaN is nodata."""
        if self._shift:
            self._cut(window, source, layers, out)
            return
        # Objects of this thread's own, which GDAL may change while it uses them.
        source_crs, grid_crs = (rasterio.CRS.from_wkt(text) for text in self._wkt)
        # GDAL interpolates the transformation along rows to an eighth of a pixel; along short ones it is exact enough.
        strips = [
            window._replace(column=window.column + start, width=min(_STRIP, window.width - start))
            for start in range(0, window.width, _STRIP)
        ]
        for together in _of_one_validity(layers):
            part, bands = layers[together], list(range(1, len(layers[together]) + 1))
            real = part.dtype.kind == "f"
            # Where nothing is missing and nothing declared so, GDAL takes half the time, to the same values.
            nodata = np.nan if real and np.isnan(part).any() else None
            with _in_memory(part.shape, out.dtype, _moved(self._transform, source), source_crs, nodata) as stored:
                stored.write(part)
                for strip in strips:
                    shape, transform = (len(part), strip.height, strip.width), _moved(self.grid.transform, strip)
                    with _in_memory(shape, out.dtype, transform, grid_crs, nodata) as warped:
                        warped.write(np.full(shape, np.nan if real else 0, out.dtype))
                        reproject(
                            rasterio.band(stored, bands),
                            rasterio.band(warped, bands),
                            resampling=method,
                            init_dest_nodata=False,
                            warp_mem_limit=1024,  # one piece: GDAL would split it depending on its size
                            XSCALE=1,  # the plain kernel, which GDAL would widen depending on the piece's outline
                            YSCALE=1,
                        )
                        start = strip.column - window.column
                        out[together, :, start : start + strip.width] = warped.read()

    def _cut(self, window: Window, source: Window, layers: NDArray[Any], out: NDArray[Any]) -> None:
        """Copy pixels that are the same in file and grid."""
        across, down = self._shift or (0, 0)
        row, column = window.row + down, window.column + across
        top, left = max(row, source.row), max(column, source.column)
        bottom = min(row + window.height, source.row + source.height)
        right = min(column + window.width, source.column + source.width)
        if top < bottom and left < right:
            out[:, top - row : bottom - row, left - column : right - column] = layers[
                :, top - source.row : bottom - source.row, left - source.column : right - source.column
            ]


def _in_memory(
    shape: tuple[int, ...], dtype: np.dtype[Any], transform: Affine, crs: rasterio.CRS, nodata: float | None
) -> Any:
    """Make a raster in memory; `reproject` would make one of an array, but with filters of warnings for all threads."""
    return rasterio.open(
        "/vsimem/refnet", "w+", driver="MEM", count=shape[0], height=shape[1], width=shape[2], dtype=dtype,
        transform=transform, crs=crs, nodata=nodata,
    )  # fmt: skip


def _of_one_validity(layers: NDArray[Any]) -> list[slice]:
    """Layers that may be warped in one go: all, or each by itself to keep its own validity."""
    absent = np.isnan(layers) if layers.dtype.kind == "f" else np.zeros_like(layers, bool)
    if (absent == absent[:1]).all():
        return [slice(None)]
    return [slice(layer, layer + 1) for layer in range(len(layers))]


class ScenePair:
    """An optical and a SAR file of the same place, served on the optical file's grid.

    Use ``ScenePair.open`` and, best, a ``with`` statement. One thread at a time may read from it.

    Attributes
    ----------
    grid : GeoBox
        The optical file's grid, which is the result's.
    decisions : list of Decision
        What was found out about the files, and how.
    counts : Counter of str
        Values set aside so far: ``optical_non_finite``, ``optical_impossible``, ``sar_non_finite``,
        ``sar_impossible`` (both in the file's pixels, those that neighbouring blocks share more than once) and
        ``sar_clamped`` (in the grid's).
    """

    def __init__(
        self,
        files: Sequence[tuple[Raster, Raster]],
        optical_bands: Sequence[str],
        sar_bands: Sequence[str],
        options: SceneOptions,
        kept_blocks: int | None,
    ) -> None:
        optical, sar = files[0]
        self.decisions: list[Decision] = []
        self.counts: Counter[str] = Counter()
        self.grid = north_up_grid(optical)
        self._decide("grid", [*self.grid.shape], f"tag: the optical file's own grid is kept, {_name(optical.crs)}.")
        self._alignment = Alignment(sar, self.grid)
        share, ratio = self._alignment.share, self._alignment.ratio
        self._decide("overlap", round(share, 4), f"values: the SAR file covers {share:.1%} of the grid.")
        self._method = Resampling.bilinear if ratio < 1.5 else Resampling.average
        self._decide("sar.resampling", self._method.name, f"values: a grid pixel spans {ratio:.3g} SAR pixels.")
        with optical.naming("cannot be understood"):
            self._judge_optical(optical, optical_bands, options)
        with sar.naming("cannot be understood"):
            self._judge_sar(sar, sar_bands, options)
        self._blocks: OrderedDict[tuple[int, int], _Block] = OrderedDict()
        self._kept = kept_blocks or 2 * -(-self.grid.shape[1] // BLOCK) + 2
        self._counted: set[tuple[int, int]] = set()
        self._files: SimpleQueue[tuple[Raster, Raster]] = SimpleQueue()
        for pair in files:
            self._files.put(pair)
        self._threads = ThreadPoolExecutor(len(files), "refnet-read")
        self._most_ahead = 2 * len(files)
        self._ahead: dict[tuple[int, int], Future[_Block]] = {}
        self._expected: Iterator[tuple[int, int]] = iter(())
        self._opened = ExitStack()

    @classmethod
    def open(
        cls,
        optical: str | Path,
        sar: str | Path,
        optical_bands: Sequence[str],
        sar_bands: Sequence[str],
        options: SceneOptions | None = None,
        kept_blocks: int | None = None,
        read_threads: int = 1,
    ) -> Self:
        """Open both files and decide what they are.

        Parameters
        ----------
        optical, sar : str or Path
            Local GeoTIFF or JPEG 2000 files.
        optical_bands, sar_bands : sequence of str
            Bands the network wants, in its order, such as ["B02", "B03"] and ["VV", "VH"].
        options : SceneOptions, optional
            What the user says about the files.
        kept_blocks : int, optional
            How many blocks of 512 x 512 pixels to keep in memory; by default two rows of the grid's width, which
            suits reading from north to south.
        read_threads : int
            How many threads make blocks of windows announced by `expect`; each opens both files for itself. Two blocks
            a thread are kept in memory besides ``kept_blocks``. Values are the same for any number.

        Raises
        ------
        InputMissingError
            If a file is missing or may not be read.
        InputError
            If a file cannot be used or understood, or they do not overlap.
        OptionsError
            If the options do not fit the files.
        """
        with ExitStack() as opened:

            def raster(path: str | Path, what: str) -> Raster:
                file = Raster(path, what)
                opened.callback(file.dataset.close)
                return file

            files = [(raster(optical, "optical"), raster(sar, "SAR")) for _ in range(read_threads)]
            pair = cls(files, optical_bands, sar_bands, options or SceneOptions(), kept_blocks)
            pair._opened = opened.pop_all()
        return pair

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and close the files."""
        self._threads.shutdown(cancel_futures=True)
        files = [self._files.get() for _ in range(self._most_ahead // 2)]  # once nobody reads any more
        self._opened.close()
        for pair in files:
            self._files.put(pair)
        self._ahead.clear()
        self._blocks.clear()

    def _decide(self, what: str, value: Any, how: str) -> None:
        self.decisions.append(Decision(what, value, how))

    def _judge_optical(self, raster: Raster, wanted: Sequence[str], options: SceneOptions) -> None:
        descriptions = raster.dataset.descriptions
        self._optical_bands, how = choose_bands(wanted, descriptions, "optical", options.optical_bands)
        self._decide("optical.bands", list(self._optical_bands), how)
        names, _ = band_names(descriptions, "optical")
        self._decide("optical.level", *judge_optical_level(names, raster.tags))
        self._decide("optical.nodata", *_nodata(raster, self._optical_bands))
        dark = {names.index(name) + 1: name for name in ("B02", "B03", "B04", "B10", "B11", "B12") if name in names}
        judged = {**dark, **dict(zip(self._optical_bands, wanted, strict=True))}
        dtype = _dtype(raster, self._optical_bands)
        sample = raster.sample(list(judged))
        self._optical_scale, how = judge_optical_scale(sample, dtype)
        self._decide("optical.scale", self._optical_scale, how)
        sample *= self._optical_scale
        if options.optical_offset is not None:
            self._optical_offset, how = options.optical_offset, f"option: --optical-offset {options.optical_offset:g}."
        elif any(raster.scaling(band)[1] for band in self._optical_bands):
            self._optical_offset, how = 0.0, "tag: the file declares its own offset, which has been applied."
        else:
            self._optical_offset, how = judge_optical_offset(sample, list(judged.values()), raster.tags)
        self._decide("optical.offset", self._optical_offset, how)

    def _judge_sar(self, raster: Raster, wanted: Sequence[str], options: SceneOptions) -> None:
        self._sar_bands, bands_how = choose_bands(wanted, raster.dataset.descriptions, "sar", options.sar_bands)
        sample = raster.sample(self._sar_bands)
        if options.sar_scale is None:
            self._sar_scale, how = judge_sar_scale(sample, _dtype(raster, self._sar_bands))
        else:
            self._sar_scale, how = options.sar_scale, f"option: --sar-scale {options.sar_scale}."
        if bands_how.startswith("count"):
            order = judge_sar_order(_decibels(_power(sample, self._sar_scale)), wanted)
            bands_how = f"{bands_how} {order}".strip()
        self._decide("sar.bands", list(self._sar_bands), bands_how)
        self._decide("sar.scale", self._sar_scale, how)
        self._decide("sar.nodata", *_nodata(raster, self._sar_bands))

    def read(self, window: Window) -> Patch:
        """Read a window of the grid.

        Parameters
        ----------
        window : Window
            Any rectangle inside the grid.

        Returns
        -------
        Patch
            The same values for a pixel whatever the window.

        Raises
        ------
        ValueError
            If the window is empty or leaves the grid.
        InputError
            If a file cannot be read there.
        """
        optical = np.empty((len(self._optical_bands), window.height, window.width), np.float32)
        sar = np.empty((len(self._sar_bands), window.height, window.width), np.float32)
        for block, there, here in self._parts(window):
            optical[:, *here] = block.patch.optical[:, *there]
            sar[:, *here] = block.patch.sar[:, *there]
        return Patch(optical, sar)

    def read_valid(self, window: Window) -> NDArray[np.bool_]:
        """Read where all bands of both modalities are known, shape (H, W); `read` tells window and errors."""
        valid = np.empty((window.height, window.width), bool)
        for block, there, here in self._parts(window):
            valid[here] = block.valid[there]
        return valid

    def expect(self, windows: Iterable[Window]) -> None:
        """Announce the windows to be read next, in their order, so that threads make them ready.

        Parameters
        ----------
        windows : iterable of Window
            Taken one by one as reading goes on; what lies beyond the grid is passed over. Other windows may be read
            too, and take the time they would take without threads.
        """
        for future in self._ahead.values():
            future.cancel()
        self._ahead.clear()
        self._expected = (key for window in windows for key in _keys(window.clip(*self.grid.shape)))
        self._look_ahead()

    def _look_ahead(self) -> None:
        while len(self._ahead) < self._most_ahead and (key := next(self._expected, None)):
            if key not in self._blocks and key not in self._ahead:
                self._ahead[key] = self._threads.submit(self._make_block, key)

    def _parts(self, window: Window) -> Iterator[tuple[_Block, tuple[slice, slice], tuple[slice, slice]]]:
        """Yield each block that a window needs, the part of it, and this part's place in the window."""
        if window != window.clip(*self.grid.shape) or window.height < 1 or window.width < 1:
            raise ValueError("{} is not inside the grid of {} x {} pixels.".format(window, *self.grid.shape))
        row, column = window.row, window.column
        for key in _keys(window):
            top, left = key[0] * BLOCK, key[1] * BLOCK
            low, high = max(row, top), min(row + window.height, top + BLOCK)
            west, east = max(column, left), min(column + window.width, left + BLOCK)
            there = slice(low - top, high - top), slice(west - left, east - left)
            here = slice(low - row, high - row), slice(west - column, east - column)
            yield self._block(key), there, here

    def _block(self, key: tuple[int, int]) -> _Block:
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key]
        ahead = self._ahead.pop(key, None)
        # Makes room first, so that kept and expected blocks together stay within bounds.
        while len(self._blocks) >= self._kept:
            self._blocks.popitem(last=False)
        block = ahead.result() if ahead else self._make_block(key)
        if key not in self._counted:
            self._counted.add(key)
            self.counts += block.counts
        self._blocks[key] = block
        self._look_ahead()
        return block

    def _make_block(self, key: tuple[int, int]) -> _Block:
        """Read and warp a block; any thread may, each with files of its own."""
        window = Window(key[0] * BLOCK, key[1] * BLOCK, BLOCK, BLOCK).clip(*self.grid.shape)
        counts: Counter[str] = Counter()
        optical, sar = files = self._files.get()
        try:
            patch = Patch(self._read_optical(optical, window, counts), self._read_sar(sar, window, counts))
        finally:
            self._files.put(files)
        return _Block(patch, patch.valid, counts)

    def _read_optical(self, raster: Raster, window: Window, counts: Counter[str]) -> Float32:
        values, counts["optical_non_finite"] = raster.read_valid(self._optical_bands, window)
        values *= np.float32(self._optical_scale)
        values -= np.float32(self._optical_offset)
        impossible = (values < _POSSIBLE_REFLECTANCE[0]) | (values > _POSSIBLE_REFLECTANCE[1])
        counts["optical_impossible"] = int(np.count_nonzero(impossible))
        if counts["optical_impossible"]:
            values[impossible] = np.nan
        return values

    def _read_sar(self, raster: Raster, window: Window, counts: Counter[str]) -> Float32:
        power = np.full((len(self._sar_bands), window.height, window.width), np.nan, np.float32)
        self._warp_sar(raster, window, power, counts)
        level = _decibels(power)
        counts["sar_clamped"] = int(np.count_nonzero((level < DB_RANGE[0]) | (level > DB_RANGE[1])))
        return np.clip(level, *DB_RANGE)

    def _warp_sar(self, raster: Raster, window: Window, out: Float32, counts: Counter[str]) -> None:
        source = self._alignment.source_window(window)
        if not source.height * source.width:
            return
        if source.height * source.width > _PIECE and window.height * window.width > 1:
            for part in _halves(window):
                top, left = part.row - window.row, part.column - window.column
                self._warp_sar(raster, part, out[:, top : top + part.height, left : left + part.width], counts)
            return
        values, non_finite = raster.read_valid(self._sar_bands, source)
        power = _power(values, self._sar_scale)
        counts["sar_non_finite"] += non_finite
        counts["sar_impossible"] += int(np.count_nonzero(np.isfinite(values) & np.isnan(power)))
        with raster.naming(f"cannot be warped to {window} of the grid"):
            self._alignment.warp(window, source, power, out, self._method)


def _keys(window: Window) -> Iterator[tuple[int, int]]:
    """Yield row and column of the blocks that a window needs."""
    rows = range(window.row // BLOCK, -(-(window.row + window.height) // BLOCK))
    columns = range(window.column // BLOCK, -(-(window.column + window.width) // BLOCK))
    return product(rows, columns)


def _box(window: Window) -> RasterWindow:
    return RasterWindow(window.column, window.row, window.width, window.height)


def _apply(transform: Affine, x: Points | np.float64, y: Points | np.float64) -> tuple[Points, Points]:
    with np.errstate(invalid="ignore"):
        across = transform.a * x + transform.b * y + transform.c
        down = transform.d * x + transform.e * y + transform.f
    return np.asarray(across), np.asarray(down)


def _moved(transform: Affine, window: Window) -> Affine:
    """Return the transform of a window cut from a raster."""
    x, y = _apply(transform, np.float64(window.column), np.float64(window.row))
    return Affine(transform.a, transform.b, float(x), transform.d, transform.e, float(y))


def _halves(window: Window) -> tuple[Window, Window]:
    row, column, height, width = window
    if height >= width:
        return Window(row, column, height // 2, width), Window(row + height // 2, column, height - height // 2, width)
    return Window(row, column, height, width // 2), Window(row, column + width // 2, height, width - width // 2)


def _lattice(window: Window, points: int, inset: float = 0.0) -> tuple[Points, Points]:
    """Spread points over a window, its edges among them, or its outermost pixels' centres with an inset of 0.5."""
    rows = np.linspace(window.row + inset, window.row + window.height - inset, points)
    columns = np.linspace(window.column + inset, window.column + window.width - inset, points)
    across, down = np.meshgrid(columns, rows)
    return across.ravel(), down.ravel()


def _bounds(x: Points, y: Points) -> str:
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return "an unknown place"
    edges = x[known].min(), y[known].min(), x[known].max(), y[known].max()
    return f"({', '.join(f'{edge:.10g}' for edge in edges)})"


def _name(crs: CRS) -> str:
    epsg = crs.to_epsg()
    return str(crs.name) if epsg is None else f"EPSG:{epsg}"


def north_up_grid(raster: Raster) -> GeoBox:
    """Return the grid of a file whose grid is to be the result's.

    Raises
    ------
    InputError
        If it is not north-up.
    """
    transform = raster.dataset.transform
    if transform.b or transform.d or transform.a <= 0 or transform.e >= 0:
        raise InputError(
            f"The {raster.what} file {raster.path} is rotated, sheared or not north-up "
            f"(transform {tuple(transform)[:6]}), but its grid is to be the result's: "
            "warp it to north-up first, for instance with gdalwarp."
        )
    return GeoBox(raster.dataset.shape, transform, raster.dataset.crs)


def _nodata(raster: Raster, bands: Sequence[int]) -> tuple[float | str | None, str]:
    declared = raster.dataset.nodatavals[bands[0] - 1]
    if declared is None:
        return 0, "values: none is declared; pixels that are 0 in all bands count as nodata."
    return (declared if np.isfinite(declared) else str(declared)), "tag: declared in the file."


def _dtype(raster: Raster, bands: Sequence[int]) -> str:
    """Name the data type of what ``read_valid`` returns before it is made float32."""
    scaled = any(raster.scaling(band) != (1.0, 0.0) for band in bands)
    return "float32" if scaled else str(np.result_type(*(raster.dataset.dtypes[band - 1] for band in bands)))


def _power(values: Float32, scale: str) -> Float32:
    """Turn SAR values of any unit into linear power; NaN where they are no measurement."""
    limit = np.float32(_POSSIBLE_DB)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if scale in ("db", "db100"):
            level = values / np.float32(100 if scale == "db100" else 1)
            return np.where(np.abs(level) <= limit, np.float32(10) ** (level / np.float32(10)), np.float32(np.nan))
        power = values**2 if scale == "amplitude" else values
        possible = (values > 0) & (power > 0) & (power <= np.float32(10 ** (_POSSIBLE_DB / 10)))
        return np.where(possible, power, np.float32(np.nan))


def _decibels(power: Float32) -> Float32:
    """Turn linear power into dB; NaN where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(power > 0, 10 * np.log10(power), np.float32(np.nan)).astype(np.float32)
