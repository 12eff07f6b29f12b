"""Clouds and cloud shadows that OmniCloudMask finds in the optical image.

The package (MIT) is optional. Its networks take red, green and near infrared at 10 to 50 m and tell thick cloud, thin
cloud and shadow: Wright et al. 2025, https://doi.org/10.1016/j.rse.2025.114694. They standardise each patch by itself,
so the map is divided into cells that do not depend on the windows that are read.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from refnet_cli.errors import OptionsError, UnavailableError
from refnet_cli.raster.georeference import pixel_metres
from refnet_cli.raster.raster import Raster
from refnet_cli.scene.resample import BandGroup, align_bands, read_layers
from refnet_cli.scene.source import Source
from refnet_cli.sensors.quality import CLEAR, CLOUDY, UNKNOWN
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float32, UInt8

PACKAGE = "omnicloudmask"
BANDS = (("B04",), ("B03",), ("B8A", "B08"))
"""Red, green and near infrared; the first that the files have."""
FINEST, COARSEST = 9.9, 50.5  # metres
CELL, MARGIN = 700, 150
"""Pixels of the map that one call decides on, and around them for context: with both sides, the package's patches."""
CLOUD_CODES = (1, 2, 3)
"""Thick cloud, thin cloud and shadow."""
_SMALLEST = 64  # side in pixels to which smaller images are padded with nodata

Predictor = Callable[..., NDArray[Any]]
"""``omnicloudmask.predict_from_array``."""


class ModelClouds:
    """The cloud mask of a model on the grid; see `refnet_cli.scene.clouds.Clouds`.

    Parameters
    ----------
    groups : sequence of BandGroup
        Red, green and near infrared on the grid.
    grid : GeoBox
    predict : callable
        See `Predictor`.
    name : str
        The model and its version.
    """

    def __init__(self, groups: Sequence[BandGroup], grid: GeoBox, predict: Predictor, name: str) -> None:
        self.name = name
        self._groups, self._shape, self._predict = groups, grid.shape, predict
        self._lock = threading.Lock()
        self._cells: OrderedDict[tuple[int, int], UInt8] = OrderedDict()
        self._kept = 3 * (-(-grid.shape[1] // CELL) + 1)

    @classmethod
    def make(cls, source: Source, grid: GeoBox) -> ModelClouds:
        """Prepare the package for an image.

        Raises
        ------
        OptionsError
            If a band is missing, or the map's pixels are too fine or too coarse for the model.
        UnavailableError
            If the package is not installed.
        """
        named = {layer.name: layer for layer in source.layers}
        found = [next((named[name] for name in names if name in named), None) for names in BANDS]
        missing = ["/".join(names) for names, layer in zip(BANDS, found, strict=True) if layer is None]
        if missing:
            raise OptionsError(
                f"--cloud-mask {PACKAGE} needs the bands B04, B03 and B8A or B08, but {source.label} has no band named "
                f"{' and '.join(missing)}. Name the bands in the files, or pass a raster of clouds."
            )
        across, down = pixel_metres(grid)
        if not FINEST <= min(across, down) <= max(across, down) <= COARSEST:
            raise OptionsError(
                f"--cloud-mask {PACKAGE} needs pixels of 10 to 50 m, but those of the map are {across:.3g} x "
                f"{down:.3g} m. Pass another --grid, or a raster of clouds."
            )
        predict, name = load_model()
        return cls(align_bands(source, [layer for layer in found if layer], grid), grid, predict, name)

    @property
    def files(self) -> set[int]:
        """Numbers of the optical files that `read` needs."""
        return {group.file for group in self._groups}

    def read(self, rasters: Mapping[int, Raster], window: Window) -> UInt8:
        """Read a window of the grid; `UNKNOWN` beyond its edge."""
        found = np.full((window.height, window.width), UNKNOWN, np.uint8)
        inside = window.clip(*self._shape)
        for row in range(inside.row // CELL, -(-(inside.row + inside.height) // CELL)):
            for column in range(inside.column // CELL, -(-(inside.column + inside.width) // CELL)):
                cell = Window(row * CELL, column * CELL, CELL, CELL).clip(*self._shape)
                codes = self._cell(rasters, (row, column), cell)
                both = cell.within(inside)
                found[
                    both.row - window.row : both.row - window.row + both.height,
                    both.column - window.column : both.column - window.column + both.width,
                ] = codes[
                    both.row - cell.row : both.row - cell.row + both.height,
                    both.column - cell.column : both.column - cell.column + both.width,
                ]
        return found

    def _cell(self, rasters: Mapping[int, Raster], key: tuple[int, int], cell: Window) -> UInt8:
        with self._lock:  # one call at a time: the networks use all cores, and much memory
            if key not in self._cells:
                self._cells[key] = self._classify(rasters, cell)
                while len(self._cells) > self._kept:
                    self._cells.popitem(last=False)
            self._cells.move_to_end(key)
            return self._cells[key]

    def _classify(self, rasters: Mapping[int, Raster], cell: Window) -> UInt8:
        around = Window(
            cell.row - MARGIN, cell.column - MARGIN, cell.height + 2 * MARGIN, cell.width + 2 * MARGIN
        ).clip(*self._shape)
        image = read_layers(self._groups, rasters, around, _as_stored, Counter())
        top, left = cell.row - around.row, cell.column - around.column
        inside = np.s_[top : top + cell.height, left : left + cell.width]
        nowhere = np.asarray(np.isnan(image).any(axis=0))
        if nowhere[inside].all():
            return np.full((cell.height, cell.width), UNKNOWN, np.uint8)
        codes = self._codes(np.where(nowhere, np.float32(0), np.maximum(image, 1e-6)))
        found = np.where(np.isin(codes, CLOUD_CODES), np.uint8(CLOUDY), np.uint8(CLEAR))
        found[nowhere] = UNKNOWN
        return found[inside]

    def _codes(self, image: Float32) -> UInt8:
        """Classify an image (3, H, W) with 0 for nodata."""
        _, height, width = image.shape
        padded = np.pad(image, ((0, 0), (0, max(_SMALLEST - height, 0)), (0, max(_SMALLEST - width, 0))))
        side = min(padded.shape[1:])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on patches that it makes smaller where there is much nodata
                found = self._predict(
                    padded, patch_size=min(CELL + 2 * MARGIN, side), patch_overlap=min(2 * MARGIN, side // 2)
                )
        except (OSError, RuntimeError, ValueError) as error:
            cause = error.__cause__ or error  # failed downloads only say "due to the above error"
            reason = str(cause).strip().partition("\n")[0].rstrip(".")
            raise UnavailableError(
                f"{PACKAGE} failed ({type(cause).__name__}: {reason}). It fetches its weights from the network on "
                "first use. Run it once where there is one, or copy them from such a machine (on Linux the folder "
                f"~/.local/share/{PACKAGE}, same version), or pass a raster of clouds with --cloud-mask."
            ) from error
        codes = np.asarray(found)
        if codes.shape != (1, *padded.shape[1:]):
            raise UnavailableError(
                f"{PACKAGE} returned an array of shape {codes.shape}; expected {(1, *padded.shape[1:])}. Install "
                "another version of it."
            )
        return np.asarray(codes[0, :height, :width], np.uint8)


def load_model() -> tuple[Predictor, str]:
    """Return ``predict_from_array`` of OmniCloudMask, and the package's name and version.

    Raises
    ------
    UnavailableError
        If the package is not installed.
    """
    try:
        import omnicloudmask
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"--cloud-mask {PACKAGE} needs {error.name}, which is not installed: pip install 'refnet-cli[clouds]'."
        ) from error
    try:
        found = version(PACKAGE)
    except PackageNotFoundError:
        found = str(getattr(omnicloudmask, "__version__", "of unknown version"))
    predict: Predictor = omnicloudmask.predict_from_array
    return predict, f"{PACKAGE} {found}"


def _as_stored(values: Float32, file: int, window: Window) -> Float32:
    return values
