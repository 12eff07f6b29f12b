"""From objects of xarray to a Dataset of classes."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.outputs.rows import CONFIDENCE
from refnet_cli.prediction.in_memory import LAYERS, ArrayOutputs, predict_images, python_names, resolve
from refnet_cli.prediction.report import Report
from refnet_cli.raster.xarrays import XarrayImages, read_images
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.quality import QUALITY
from refnet_cli.sensors.sensor import Modality
from refnet_cli.types import Progress

if TYPE_CHECKING:
    from refnet_cli.engines.base import Engine

Given = xr.Dataset | xr.DataArray


def predict_xarray(
    optical: Given | None,
    sar: Given | None,
    weights: str | Path | None = None,
    *,
    probabilities: bool = False,
    confidence: bool = False,
    quality: bool = False,
    engine: Engine | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> xr.Dataset:
    """Map the land cover of images that odc-stac, rioxarray, xee or others have loaded with xarray.

    The classes are those that ``refnet predict`` gives for files of the same values.

    Parameters
    ----------
    optical, sar : Dataset or DataArray
        A variable for each band, or one with a dimension of bands; of one date. Names, units, offsets and so on are
        detected as in files. The attributes ``scale_factor`` and ``add_offset`` are applied, ``nodata``,
        ``_FillValue``, NaN and masks are nodata. SAR may be on another grid, and is warped. Rows may run north or
        south, and dimensions have any order. Arrays backed by dask are computed block by block, each block once, into a
        temporary file. None for an absent sensor, if the weights work without it.
    weights : str or Path, optional
        A file, or the name of bundled weights; by default the bundled ones.
    probabilities, confidence, quality : bool
        Whether the result has these variables too.
    engine : Engine, optional
        Use this engine of `refnet_cli.load_engine` instead of loading ``weights``.
    progress : callable, optional
        Called after every batch with the number of finished tiles and of all tiles.
    **options
        Further fields of `PredictOptions`: optical_bands, optical_scale, optical_offset, sar_bands, sar_scale,
        mask_clouds, missing, scheme, smooth, threshold, tta, overlap, coreg, strict, device, batch and so on.

    Returns
    -------
    Dataset
        On the pixels of the optical object, or of the SAR object without one. ``classes``, uint8, with the attributes
        ``flag_values``, ``flag_meanings`` and ``flag_colors``; 0 is nodata. ``probabilities``, float32, with the
        dimension ``class``; ``confidence``, float32, with the dimension ``measure``; ``quality``, uint8. The attributes
        of the Dataset are the tags of a map's file, with all decisions, the warnings and the areas in hectares.

    Raises
    ------
    OptionsError
        If an option is invalid or contradicts the images.
    InputError
        If an image cannot be used: without reference system, on no regular grid, of several dates, without the needed
        bands; or no pixel can be classified.
    RefnetError
        See `refnet_cli.prediction.predict.predict`.
    """
    given: dict[Modality, Given | None] = {"optical": optical, "sar": sar}
    asked = {"probabilities": probabilities, "confidence": confidence, "quality": quality}
    with python_names(), ExitStack() as stack:
        read: dict[Modality, XarrayImages] = {
            sensor: read_images(each, SENSORS[sensor].name) for sensor, each in given.items() if each is not None
        }
        for one in read.values():
            stack.callback(one.close)
        labels: dict[Modality, str] = {sensor: _label(given[sensor], sensor) for sensor in read}
        images = {sensor: one.images for sensor, one in read.items()}
        job = resolve(images, labels, weights, engine, options)
        layers = [name for name in LAYERS if asked[name]]
        outputs, grid, report = predict_images(job, layers, engine, progress)
    place = read["optical" if "optical" in read else "sar"]
    found: xr.Dataset = _as_dataset(outputs, job.scheme, report, place).odc.assign_crs(grid.crs)
    return found


def _label(given: Any, sensor: Modality) -> str:
    """Return what stands in the map's tags in place of a file name."""
    name = getattr(given, "name", None)
    return f"xarray {name}" if name else f"xarray {SENSORS[sensor].name}"


def _as_dataset(outputs: ArrayOutputs, scheme: ClassScheme, report: Report, place: XarrayImages) -> xr.Dataset:
    down, right = (slice(None, None, -1 if flipped else 1) for flipped in place.flipped)
    variables = {
        "classes": xr.Variable(place.dims, outputs.classes[down, right], _describe_classes(scheme)),
    }
    extra: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "probabilities": (("class",), {"long_name": "probability of each class"}),
        "confidence": (("measure",), {"long_name": "confidence of the class"}),
        "quality": ((), _describe_quality()),
    }
    for name, layer in outputs.layers.items():
        first, attrs = extra[name]
        variables[name] = xr.Variable((*first, *place.dims), layer[..., down, right], attrs)
    coords: dict[Any, Any] = dict(place.coords)
    if "probabilities" in outputs.layers:
        coords |= {"class": list(scheme.names), "class_code": ("class", np.array(scheme.codes, np.uint8))}
    if "confidence" in outputs.layers:
        coords["measure"] = list(CONFIDENCE)
    return xr.Dataset(variables, coords, _describe(report))


def _describe_classes(scheme: ClassScheme) -> dict[str, Any]:
    """Return the attributes of the classes, after the conventions CF; the colours as GDAL and ESA write them."""
    return {
        "long_name": "land cover class",
        "flag_values": np.array(scheme.codes, np.uint8),
        "flag_meanings": " ".join("_".join(name.split()) for name in scheme.names),
        "flag_colors": " ".join("#{:02x}{:02x}{:02x}".format(*colour) for colour in scheme.colours),
        "scheme": scheme.name,
        "nodata": 0,
    }


def _describe_quality() -> dict[str, Any]:
    return {
        "long_name": "sensors that saw the pixel",
        "flag_values": np.arange(len(QUALITY), dtype=np.uint8),
        "flag_meanings": " ".join("_".join(name.split()) for name in QUALITY),
    }


def _describe(report: Report) -> dict[str, Any]:
    return {
        "Conventions": "CF-1.11",
        "title": "Land cover",
        **report.provenance.tags,
        "REFNET_WARNINGS": json.dumps(report.warnings),
        "REFNET_AREAS_HECTARES": json.dumps(report.areas_hectares),
        "REFNET_VALID_SHARE": report.valid_share,
    }
