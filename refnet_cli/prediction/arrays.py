"""From NumPy arrays to classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.prediction.in_memory import LAYERS, predict_images, python_names, resolve
from refnet_cli.prediction.report import Report
from refnet_cli.raster.arrays import ArrayImage, Pixels
from refnet_cli.raster.georeference import PIXEL
from refnet_cli.raster.spool import SpooledArray, is_lazy
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.sensor import Modality
from refnet_cli.sensors.sentinel1 import SarScale
from refnet_cli.sensors.sentinel2 import OpticalScale
from refnet_cli.system.html import table
from refnet_cli.types import Float32, Progress, UInt8

if TYPE_CHECKING:
    from refnet_cli.engines.base import Engine
    from refnet_cli.model.card import Card


@dataclass(frozen=True, eq=False)
class ArrayPrediction:
    """Classes of arrays, and what else was asked for."""

    classes: UInt8
    """Codes of `scheme`, shape (H, W); 0 for no class."""
    scheme: ClassScheme
    """Codes, names and colours of the classes."""
    report: Report
    """Decisions on the input, warnings and shares; without areas, because arrays have no place."""
    probabilities: Float32 | None = None
    """Probability of each class of `scheme`, shape (K, H, W); NaN where there is no class."""
    confidence: Float32 | None = None
    """Probability of the pixel's class, entropy relative to its maximum, and margin over the second class, in steps of
    1/250, shape (3, H, W); NaN where there is no class."""
    quality: UInt8 | None = None
    """Sensors that saw each pixel, shape (H, W): 0 none, 1 optical, 2 SAR, 3 both."""

    def _repr_html_(self) -> str:
        """Show legend and shares in a notebook."""
        counts = np.bincount(self.classes.ravel(), minlength=256)
        rows = [
            (colour, code, name, f"{counts[code] / max(counts[1:].sum(), 1):.1%}")
            for code, name, colour in zip(self.scheme.codes, self.scheme.names, self.scheme.colours, strict=True)
            if counts[code]
        ]
        return table(rows, ("", "code", "class", "share"), "Land cover") + self.report.notes_html()


def predict_arrays(
    optical: ArrayLike | None,
    sar: ArrayLike | None,
    weights: str | Path | None = None,
    *,
    optical_scale: OpticalScale | None = "reflectance",
    sar_scale: SarScale | None = "db",
    optical_bands: Sequence[str] | None = None,
    sar_bands: Sequence[str] | None = None,
    pixel_size: float = PIXEL,
    probabilities: bool = False,
    confidence: bool = False,
    quality: bool = False,
    engine: Engine | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> ArrayPrediction:
    """Map the land cover of NumPy arrays.

    The classes are those that ``refnet predict`` gives for files of the same values.

    Parameters
    ----------
    optical, sar : array, shape (C, H, W)
        Any real numbers in any memory order, the first row in the north. Both sensors on the same pixels. NaN, masked
        pixels, and pixels with 0 in all bands are nodata. None for an absent sensor, if the weights work without it.
        Dask arrays are computed block by block.
    weights : str or Path, optional
        A file, or the name of bundled weights; by default the bundled ones.
    optical_scale : {"reflectance", "dn", None}
        Unit of the optical values: from 0 to 1, or x 10,000. None to detect it.
    sar_scale : {"db", "power", "amplitude", ..., None}
        Unit of the SAR values; None to detect it. `refnet_cli.sensors.sentinel1.SarScale` lists the units.
    optical_bands, sar_bands : sequence of str, optional
        Names of the arrays' bands, such as ("B02", "B03", "B04", "B08"). By default these are the weights' bands in the
        weights' order.
    pixel_size : float
        Side of a pixel in metres. It changes no class: other sizes than those that the weights learned are warned of.
    probabilities, confidence, quality : bool
        Whether to return these too.
    engine : Engine, optional
        Use this engine of `refnet_cli.load_engine` instead of loading ``weights``.
    progress : callable, optional
        Called after every batch with the number of finished tiles and of all tiles.
    **options
        Further fields of `PredictOptions`: scheme, smooth, threshold, tta, overlap, missing, coreg, optical_offset,
        strict, device, batch and so on.

    Returns
    -------
    ArrayPrediction
        Its warnings are logged too.

    Raises
    ------
    OptionsError
        If an option is invalid or contradicts the arrays, for example a unit that the values cannot have.
    InputError
        If an array cannot be used, or no pixel can be classified.
    RefnetError
        See `refnet_cli.prediction.predict.predict`.
    """
    given = {"optical": optical, "sar": sar}
    labels: dict[Modality, str] = {"optical": "optical array", "sar": "SAR array"}
    own = {"optical": ("optical_scale", optical_scale), "sar": ("sar_scale", sar_scale)}
    scales = dict(own[sensor] for sensor, values in given.items() if values is not None)
    names = {"optical": optical_bands, "sar": sar_bands}
    arrays = {sensor: _as_pixels(given[sensor], labels[sensor]) for sensor in labels if given[sensor] is not None}
    with python_names():
        job = resolve(dict.fromkeys(arrays, ()), labels, weights, engine, scales | options)
        images = {
            sensor: [_as_image(pixels, labels[sensor], sensor, job.card, names[sensor], pixel_size)]
            for sensor, pixels in arrays.items()
        }
        _check_same_pixels(arrays)
        asked = {"probabilities": probabilities, "confidence": confidence, "quality": quality}
        try:
            outputs, _, report = predict_images(
                replace(job, arrays=images), [name for name in LAYERS if asked[name]], engine, progress
            )
        finally:
            for pixels in arrays.values():
                if isinstance(pixels, SpooledArray):
                    pixels.close()
    grid = report.grid | {"crs": "none", "transform": [pixel_size, 0.0, 0.0, 0.0, -pixel_size, 0.0]}
    about = f"option: the pixels of the arrays, {pixel_size:g} m wide by pixel_size; they have no place."
    decisions = [made | {"how": about} if made["what"] == "grid" else made for made in report.decisions]
    report = replace(report, grid=grid, wkt="", areas_hectares={}, decisions=decisions)
    return ArrayPrediction(outputs.classes, job.scheme, report, **outputs.layers)


def _as_pixels(values: Any, label: str) -> Pixels:
    """Return an array without copying it; masked arrays keep their masks."""
    if type(values).__module__.partition(".")[0] == "xarray":
        raise OptionsError(f"The {label} is an xarray object. Use predict_xarray, which reads its bands and grid.")
    if is_lazy(values):
        return SpooledArray(values, f"The {label}")
    array: NDArray[Any] = np.asanyarray(values)
    return array


def _check_same_pixels(arrays: dict[Modality, Pixels]) -> None:
    shapes = {sensor: tuple(pixels.shape[-2:]) for sensor, pixels in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(
            f"The optical array has {shapes['optical']} rows and columns, the SAR array {shapes['sar']}. Resample SAR "
            "to the optical pixels first, or use predict_xarray, which does it."
        )


def _as_image(
    pixels: Pixels, label: str, sensor: Modality, card: Card, names: Sequence[str] | None, pixel_size: float
) -> ArrayImage:
    needed: tuple[str, ...] = getattr(card, sensor).bands
    names = needed if names is None else tuple(names)
    shape = pixels.shape
    if len(shape) != 3 or shape[0] != len(names):
        listed = ", ".join(names)
        hint = ""
        if len(shape) == 3 and shape[2] == len(names):
            hint = " Its last axis has as many: move it to the front with np.moveaxis(array, -1, 0)."
        raise InputError(
            f"The {label} has the shape {shape}; expected ({len(names)}, H, W) for the bands {listed}.{hint} If it has "
            f"other bands, name them with {sensor}_bands."
        )
    if not 0 < pixel_size < 1e5:
        raise OptionsError(f"pixel_size is {pixel_size}; it must be the side of a pixel in metres, such as 10.")
    unknown = [name for name in names if name not in SENSORS[sensor].bands]
    if unknown and names != needed:
        raise OptionsError(
            f"{sensor}_bands names {', '.join(unknown)}, which {SENSORS[sensor].satellite} does not have. Choose from "
            f"{', '.join(SENSORS[sensor].bands)}."
        )
    return ArrayImage.without_place(label, pixels, names, pixel_size)
