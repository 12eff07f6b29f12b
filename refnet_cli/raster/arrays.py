"""Arrays in memory as rasters, so that they are read, masked, scaled and warped by the code for files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.transform import Affine
from rasterio.windows import Window as RasterWindow

from refnet_cli.errors import InputError
from refnet_cli.raster.fills import Fills
from refnet_cli.raster.raster import BLOCK, Raster
from refnet_cli.sensors import SENSORS

_SOMEWHERE_CRS, _SOMEWHERE = 32631, (500_000.0, 500_000.0)  # where the zone's metres are true


class Pixels(Protocol):
    """What an image needs of its pixels: a NumPy array, or `refnet_cli.raster.spool.SpooledArray`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Bands, height and width."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of all bands."""

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Return some bands, rows and columns."""


@dataclass(frozen=True, eq=False)
class ArrayImage:
    """Bands in memory on one grid, with what a file would declare of them.

    Raises
    ------
    InputError
        If the pixels are not three-dimensional, empty, or not real numbers.
    """

    label: str
    """Name for messages."""
    pixels: Pixels
    """Shape (B, H, W), the first row in the north. A masked array's masked pixels are nodata."""
    transform: Affine
    """From columns and rows, whose integers are pixel corners, to coordinates."""
    crs: rasterio.CRS | None
    names: tuple[str | None, ...]
    """Description of each band."""
    nodata: tuple[float | None, ...] = ()
    """Nodata value of each band; empty if none is declared."""
    scales: tuple[float, ...] = ()
    """Scale of each band; empty for 1. The measurement is ``stored * scale + offset``."""
    offsets: tuple[float, ...] = ()
    """Offset of each band; empty for 0."""
    units: tuple[str | None, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def without_place(cls, label: str, pixels: Pixels, names: tuple[str | None, ...], pixel_size: float) -> Self:
        """Return an image of pixels of a size in metres, at a place that means nothing."""
        transform = Affine(pixel_size, 0, _SOMEWHERE[0], 0, -pixel_size, _SOMEWHERE[1])
        return cls(label, pixels, transform, rasterio.CRS.from_epsg(_SOMEWHERE_CRS), names)

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"{self.label} has the shape {shape}; expected bands, rows and columns, at least 1 each.")
        if dtype.kind not in "iufc":  # complex numbers are refused with the same words as in files
            raise InputError(f"{self.label} has the data type {dtype}; expected integers or floating-point numbers.")


class _ArrayDataset:
    """The part of rasterio's dataset that `Raster` uses, over an `ArrayImage`."""

    gcps: tuple[list[Any], None] = ([], None)
    rpcs = None
    profile: Mapping[str, Any] = {}

    def __init__(self, image: ArrayImage) -> None:
        self._image = image
        self.count, self.height, self.width = image.pixels.shape
        self.shape = self.height, self.width
        self.indexes = tuple(range(1, self.count + 1))
        self._masked = isinstance(image.pixels, np.ma.MaskedArray)
        dtype = image.pixels.dtype.newbyteorder("=")
        # A masked integer becomes NaN, and an integer of 32 bits has too many digits for float32.
        self._dtype = np.result_type(dtype, np.float32) if self._masked else dtype
        self.dtypes = (str(self._dtype),) * self.count
        self.nodatavals = image.nodata or (np.nan if self._masked else None,) * self.count
        self.scales = image.scales or (1.0,) * self.count
        self.offsets = image.offsets or (0.0,) * self.count
        self.units = image.units or (None,) * self.count
        self.descriptions = image.names
        self.colorinterp = (ColorInterp.undefined,) * self.count
        self.transform, self.crs = image.transform, image.crs
        self.block_shapes = ((min(BLOCK, self.height), min(BLOCK, self.width)),) * self.count
        own = MaskFlags.all_valid if self.nodatavals[0] is None else MaskFlags.nodata
        self.mask_flag_enums = ([own],) * self.count

    def tags(self, band: int | None = None, ns: str | None = None) -> dict[str, str]:
        """Return the tags of the image; bands have none."""
        return dict(self._image.tags) if band is None and ns is None else {}

    def read(self, bands: int | Sequence[int], window: RasterWindow) -> NDArray[Any]:
        """Return a window of some bands, in C order."""
        chosen = [bands] if isinstance(bands, int) else list(bands)
        rows, columns = window.toslices()
        out = np.empty((len(chosen), int(window.height), int(window.width)), self._dtype)
        for layer, band in zip(out, chosen, strict=True):
            part = self._image.pixels[band - 1, rows, columns]
            layer[:] = np.ma.filled(np.ma.asarray(part).astype(self._dtype), np.nan) if self._masked else part
        return out[0] if isinstance(bands, int) else out

    def close(self) -> None:
        """Do nothing: the arrays are the caller's."""


class ArrayRaster(Raster):
    """An `ArrayImage` as a raster; see `Raster`.

    Parameters
    ----------
    image : ArrayImage
    what : str
        The role of the image, for messages: "optical", "SAR".

    Raises
    ------
    InputError
        If the image has no valid georeferencing, or declares an invalid scale.
    """

    def __init__(self, image: ArrayImage, what: str) -> None:
        self.path, self.what = image.label, what
        self.sensor = next((sensor for sensor in SENSORS.values() if sensor.name == what), None)
        self.fills = Fills()
        self._remote, self._zipped = None, False
        self.dataset = _ArrayDataset(image)
        with self.error_context("cannot be used"):
            self._check_size(self.dataset)
            self._check_scaling()
            self._check_georeference(allow_gcps=False)

    @property
    def is_local(self) -> bool:
        """False: there are no files next to arrays."""
        return False

    def _settings(self) -> dict[str, Any]:
        """Return none: blocks are computed by the caller's code, which may read remote files by its own settings."""
        return {}
