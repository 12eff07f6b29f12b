"""Objects of xarray as images: bands by name, grid, nodata and scale as odc-stac, rioxarray and xee state them."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import odc.geo.xr  # noqa: F401  registers the accessor .odc
import rasterio
import xarray as xr
from pyproj import CRS
from rasterio.transform import Affine

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.raster.arrays import ArrayImage
from refnet_cli.raster.georeference import crs_name
from refnet_cli.raster.spool import SpooledArray, is_lazy

Y_NAMES, X_NAMES = ("y", "lat", "latitude", "northing"), ("x", "lon", "longitude", "easting")
_TIMES = ("time", "date", "datetime", "step")
_NODATA = ("nodata", "_FillValue", "missing_value", "nodatavals")
_SCALES, _OFFSETS = ("scale_factor", "scales"), ("add_offset", "offsets")
_UNCLEAR = {"scale": "scale_factor", "offset": "add_offset"}  # what writers mean by them differs
_UNEVEN = 0.01  # pixels by which coordinates may miss a regular grid
_MOST_ROUNDING = 0.1  # pixels by which coordinates of float32 may miss it
_MOST_DEGREES = 540.0  # longitudes may go on beyond the antimeridian
_UNNAMED = re.compile(r"band_data|band_\d+")  # rioxarray's names of variables, whose long_name is the band's
_ASSIGN = 'Assign the right one, for instance with .odc.assign_crs("EPSG:32633") or .rio.write_crs("EPSG:32633").'


@dataclass(frozen=True)
class XarrayImages:
    """The bands of one sensor, and where the result belongs."""

    images: tuple[ArrayImage, ...]
    """One for each variable, with the first row in the north and the first column in the west."""
    dims: tuple[Hashable, Hashable]
    """Names of the vertical and the horizontal dimension."""
    coords: Mapping[Hashable, xr.DataArray]
    """Their coordinates, in the order of the object."""
    flipped: tuple[bool, bool]
    """Whether the object's first row is in the south, and its first column in the east."""

    def close(self) -> None:
        """Delete what was computed of lazy arrays."""
        for image in self.images:
            if isinstance(image.pixels, SpooledArray):
                image.pixels.close()


def read_images(given: xr.Dataset | xr.DataArray, what: str) -> XarrayImages:
    """Read a sensor's bands.

    Parameters
    ----------
    given : Dataset or DataArray
        A variable for each band, or one variable with a dimension of bands. Other dimensions must have the size 1.
    what : str
        The role of the object, for messages: "optical", "SAR".

    Raises
    ------
    InputError
        If there is no reference system, no regular grid, or more than one date.
    OptionsError
        If it is no object of xarray.
    """
    if isinstance(given, xr.DataArray):
        variables = {str(given.name) if given.name is not None else f"the {what} array": given}
    elif isinstance(given, xr.Dataset):
        variables = {str(name): each for name, each in given.data_vars.items() if _find(each.dims, Y_NAMES)}
    else:
        raise OptionsError(
            f"The {what} input is of type {type(given).__name__}; expected an xarray Dataset or DataArray. Use "
            "predict_arrays for NumPy arrays, and predict for files."
        )
    if not variables:
        listed = ", ".join(map(str, given.data_vars)) or "none"
        raise InputError(f"The {what} Dataset has no variable with the dimensions y and x (variables: {listed}).")
    first = next(iter(variables.values()))
    dims = _dims(first, what)
    transform, flipped = _transform(given, dims, what)
    crs = _crs(given, first, dims, what)
    if len(variables) > 1:
        _check_dims(variables, dims, what)
    images = tuple(
        _image(name, each, dims, transform, flipped, crs, given.attrs, what) for name, each in variables.items()
    )
    return XarrayImages(images, dims, {dim: given[dim] for dim in dims}, flipped)


def _find(dims: tuple[Hashable, ...], names: tuple[str, ...]) -> Hashable:
    return next((dim for dim in dims if str(dim).lower() in names), None)


def _dims(array: xr.DataArray, what: str) -> tuple[Hashable, Hashable]:
    y, x = _find(array.dims, Y_NAMES), _find(array.dims, X_NAMES)
    if y is None or x is None:
        raise InputError(
            f"The {what} array has the dimensions {', '.join(map(str, array.dims))}; expected y and x, or latitude and "
            "longitude. Rename them with .rename()."
        )
    return y, x


def _transform(
    given: xr.Dataset | xr.DataArray, dims: tuple[Hashable, Hashable], what: str
) -> tuple[Affine, tuple[bool, bool]]:
    """Return the transform of the north-up pixels, and which axes run the other way."""
    (y0, dy, down), (x0, dx, right) = (_axis(given, dim, what) for dim in dims)
    flipped = dy > 0, dx < 0
    north = y0 + dy * (down - 1) if flipped[0] else y0
    west = x0 + dx * (right - 1) if flipped[1] else x0
    dy, dx = abs(dy), abs(dx)
    found = Affine(dx, 0.0, west - dx / 2, 0.0, -dy, north + dy / 2)
    stated = _stated_transform(given)
    # Coordinates of degrees are rounded; the transform that they were made from is not.
    if stated is not None and not any(flipped):
        corners = ((0, 0), (right, down))
        moved = [np.subtract(~found @ (stated @ corner), corner) for corner in corners]
        if np.abs(moved).max() < _UNEVEN:
            return stated, flipped
    return found, flipped


def _axis(given: xr.Dataset | xr.DataArray, dim: Hashable, what: str) -> tuple[float, float, int]:
    """Return the first coordinate of an axis, its step, and its size."""
    curved = [str(name) for name, each in given.coords.items() if each.ndim == 2 and dim in each.dims]
    if dim not in given.coords:
        if curved:
            raise InputError(
                f"The {what} array has two-dimensional coordinates ({', '.join(curved)}), so its pixels are on no "
                "regular grid. Warp it first, for instance with pyresample or gdalwarp -geoloc."
            )
        raise InputError(f"The {what} array has no coordinates along {dim}, so its place is unknown. Assign them.")
    values = np.asarray(given[dim].values)
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise InputError(f"The {what} array has coordinates along {dim} that are not all finite numbers.")
    values = values.astype(np.float64)
    if len(values) < 2:
        step = _stated_step(given, dim)
        if step is None:
            raise InputError(f"The {what} array has 1 pixel along {dim}, so the pixel size is unknown.")
        return float(values[0]), step, 1
    step = float(values[-1] - values[0]) / (len(values) - 1)
    even = values[0] + step * np.arange(len(values))
    # Coordinates of xee before 0.1 are rounded to float32: at 5,800 km to half a metre.
    rounding = np.spacing(np.abs(values).max().astype(np.float32)) if given[dim].dtype == np.float32 else 0.0
    allowed = max(_UNEVEN * abs(step), min(float(rounding), _MOST_ROUNDING * abs(step)))
    if step == 0 or np.abs(values - even).max() > allowed:
        worst = np.abs(np.diff(values))
        raise InputError(
            f"The {what} array's coordinates along {dim} are not evenly spaced (steps from {worst.min():.6g} to "
            f"{worst.max():.6g}). Resample it to a regular grid, for instance with .odc.reproject()."
        )
    return float(values[0]), step, len(values)


def _stated_transform(given: xr.Dataset | xr.DataArray) -> Affine | None:
    """Return the GeoTransform of the reference system's coordinate, as rioxarray and odc-geo write it."""
    for coordinate in given.coords.values():
        text = coordinate.attrs.get("GeoTransform")
        if coordinate.ndim == 0 and isinstance(text, str):
            try:
                numbers = [float(part) for part in text.split()]
            except ValueError:
                continue
            if len(numbers) == 6 and numbers[1] and numbers[5]:
                return Affine.from_gdal(*numbers)
    return None


def _stated_step(given: xr.Dataset | xr.DataArray, dim: Hashable) -> float | None:
    stated = _stated_transform(given)
    if stated is None:
        return None
    return float(stated.e if str(dim).lower() in Y_NAMES else stated.a)


def _crs(
    given: xr.Dataset | xr.DataArray, first: xr.DataArray, dims: tuple[Hashable, Hashable], what: str
) -> rasterio.CRS:
    """Return the reference system that a coordinate, an accessor or attributes state."""
    located = [each for each in (first, given) if any(_states_crs(one) for one in each.coords.values())]
    if located:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what cannot be read as reference system, which is refused below
            found = {"": located[0].odc.crs or (located[0].rio.crs if hasattr(located[0], "rio") else None)}
    else:
        found = _attributes_of_crs(given, first, what)
    systems = {name: _parse_crs(value, what) for name, value in found.items() if value}
    if not systems:
        raise InputError(f"The {what} array has no coordinate reference system. {_ASSIGN}")
    crs = next(iter(systems.values()))
    if any(other != crs for other in systems.values()):
        listed = ", ".join(f"{crs_name(one)} ({name})" for name, one in systems.items())
        raise InputError(
            f"The {what} object states different reference systems: {listed}. With xee before 0.1, bands state that of "
            f"their source. {_ASSIGN}"
        )
    _check_names(given, crs, dims, what)
    epsg = crs.to_epsg()
    return rasterio.CRS.from_epsg(epsg) if epsg else rasterio.CRS.from_wkt(crs.to_wkt())


def _states_crs(coordinate: xr.DataArray) -> bool:
    """Return whether a coordinate is that of a reference system, as odc-geo and rioxarray write it."""
    return coordinate.ndim == 0 and bool({"spatial_ref", "crs_wkt"} & coordinate.attrs.keys())


def _attributes_of_crs(given: xr.Dataset | xr.DataArray, first: xr.DataArray, what: str) -> dict[str, Any]:
    """Return what the attributes of an object and its variables state, each value once, by who states it."""
    if isinstance(given, xr.DataArray):
        if "crs_transform" in given.attrs and not {"x", "y"} <= {*given.dims}:  # of xee before 0.1
            raise InputError(
                f"The attribute crs of the {what} array, {given.attrs.get('crs')}, is that of its source in Earth "
                f"Engine, which xee may have resampled. Pass the Dataset, or update xee. {_ASSIGN}"
            )
        stated = {f"the {what} array": given.attrs.get("crs")}
    else:
        variables = {str(name): each.attrs.get("crs") for name, each in given.data_vars.items()}
        stated = {"the Dataset": given.attrs.get("crs")} | variables
    stated |= {str(dim): first[dim].attrs.get("crs") for dim in first.dims if dim in first.coords}
    once = {str(value): name for name, value in reversed(stated.items()) if value}
    return {name: value for value, name in reversed(once.items())}


def _parse_crs(value: Any, what: str) -> CRS:
    try:
        return CRS.from_user_input(str(value))
    except Exception as cause:  # pyproj's own errors, of several kinds
        raise InputError(f"The {what} array states the unknown CRS {str(value)[:80]!r}.") from cause


def _check_names(given: xr.Dataset | xr.DataArray, crs: CRS, dims: tuple[Hashable, Hashable], what: str) -> None:
    """Refuse a reference system that the names or the values of the coordinates contradict."""
    names = " and ".join(map(str, dims))
    named = {str(dim).lower() for dim in dims}
    if crs.is_projected and named & {"lat", "latitude", "lon", "longitude"}:
        raise InputError(
            f"The {what} array has coordinates {names}, but its CRS {crs_name(crs)} is projected. {_ASSIGN}"
        )
    largest = max(float(np.abs(given[dim].values).max()) for dim in dims)
    if crs.is_geographic and (named & {"northing", "easting"} or largest > _MOST_DEGREES):
        raise InputError(
            f"The {what} array has coordinates {names} up to {largest:.6g}, but its CRS {crs_name(crs)} is in degrees. "
            f"{_ASSIGN}"
        )


def _image(
    name: str,
    array: xr.DataArray,
    dims: tuple[Hashable, Hashable],
    transform: Affine,
    flipped: tuple[bool, bool],
    crs: rasterio.CRS,
    shared: Mapping[Any, Any],
    what: str,
) -> ArrayImage:
    """Return one variable as image."""
    if not {*dims} <= {*array.dims}:
        listed = ", ".join(map(str, array.dims))
        raise InputError(f"The {what} variable {name} has the dimensions {listed}; expected {dims[0]} and {dims[1]}.")
    band = _band_dim(name, array, dims, what)
    lazy = array.chunks is not None and is_lazy(array.data)
    if not lazy:
        array = array.compute()  # now, because not all backends of xarray can flip what they have not read
    elif array.dtype.kind in "iu" and "crs_transform" in array.attrs:
        array = array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)  # xee masks integers with NaN
    array = array.squeeze([dim for dim in array.dims if dim not in (*dims, band)])
    array = array.expand_dims("refnet_band") if band is None else array
    array = array.transpose(band or "refnet_band", *dims)
    names = _band_names(name, array, band)
    array = array[:, :: -1 if flipped[0] else 1, :: -1 if flipped[1] else 1]
    count = len(names)
    return ArrayImage(
        name,
        SpooledArray(array.data, f"the {what} variable {name}") if lazy else array.values,
        transform,
        crs,
        names,
        _nodata(name, array, count, what),
        tuple(_numbers(array.attrs, _SCALES, count, 1.0, name)),
        tuple(_numbers(array.attrs, _OFFSETS, count, 0.0, name)),
        (str(array.attrs["units"]),) * count if isinstance(array.attrs.get("units"), str) else (),
        _tags({**shared, **array.attrs}),
    )


def _check_dims(variables: Mapping[str, xr.DataArray], dims: tuple[Hashable, Hashable], what: str) -> None:
    """Refuse bands in variables that have a further dimension, such as images by their names."""
    for name, each in variables.items():
        more = [dim for dim in each.dims if dim not in dims and each.sizes[dim] > 1]
        if more and each[more[0]].dtype.kind not in "mM" and str(more[0]).lower() not in _TIMES:
            raise InputError(
                f"The {what} variable {name} has {each.sizes[more[0]]} layers along {more[0]}, but the Dataset has a "
                f"variable for each of {len(variables)} bands. Choose one with .isel({more[0]}=0)."
            )


def _band_dim(name: str, array: xr.DataArray, dims: tuple[Hashable, Hashable], what: str) -> Hashable:
    """Return the dimension of the bands; None if there is none."""
    others = [dim for dim in array.dims if dim not in dims and array.sizes[dim] > 1]
    times = [dim for dim in others if str(dim).lower() in _TIMES or array[dim].dtype.kind in "mM"]
    if times:
        dim = times[0]
        raise InputError(
            f"The {what} variable {name} has {array.sizes[dim]} dates along {dim}; a map is of one. Choose one with "
            f".isel({dim}=0), or reduce them, for instance with .median({dim!r})."
        )
    if len(others) > 1:
        raise InputError(
            f"The {what} variable {name} has the dimensions {', '.join(map(str, others))} besides y and x; expected "
            "one dimension of bands at most. Choose with .isel()."
        )
    if others:
        return others[0]
    return next((dim for dim in array.dims if str(dim).lower() in ("band", "bands") and dim not in dims), None)


def _band_names(name: str, array: xr.DataArray, band: Hashable) -> tuple[str | None, ...]:
    """Return the bands' names: those of the dimension, those of rioxarray's attribute, or the variable's."""
    count = array.shape[0]
    if band is not None and band in array.coords and array[band].dtype.kind in "OUST":
        return tuple(map(str, array[band].values))
    listed = array.attrs.get("long_name")
    if isinstance(listed, tuple | list) and len(listed) == count:
        return tuple(map(str, listed))
    if count == 1:
        return (listed if isinstance(listed, str) and _UNNAMED.fullmatch(name) else name,)
    return (None,) * count


def _nodata(name: str, array: xr.DataArray, count: int, what: str) -> tuple[float | None, ...]:
    """Return each band's nodata value; NaN where values were masked on loading; empty if there is none."""
    stated = {key: values for key in _NODATA if (values := _number_list(array.attrs.get(key), count)) is not None}
    if stated:
        first = next(iter(stated.values()))
        for key, values in stated.items():
            if not np.array_equal(values, first, equal_nan=True):
                listed = " and ".join(f"{each} {numbers[0]:g}" for each, numbers in stated.items())
                raise InputError(
                    f"The {what} variable {name} states different nodata values ({listed}). Remove the wrong one from "
                    f"its attrs: {key!r} differs."
                )
        return tuple(first)
    loaded = _number_list(array.encoding.get("_FillValue"), count)
    if loaded is None:
        return ()
    return (math.nan,) * count if array.dtype.kind == "f" else tuple(loaded)


def _numbers(attrs: Mapping[Any, Any], keys: tuple[str, ...], count: int, default: float, name: str) -> list[float]:
    """Return the scales or offsets that attributes state. Those of the encoding have been applied."""
    for key, clear in _UNCLEAR.items():
        if clear in keys and clear not in attrs and isinstance(attrs.get(key), int | float | np.number):
            raise InputError(
                f"The variable {name} has the attribute {key} {attrs[key]:g}, which may have been applied or not. "
                f"Rename it to {clear} to have it applied, or remove it."
            )
    for key in keys:
        if key in attrs:
            found = _number_list(attrs[key], count)
            if found is None:
                raise InputError(f"The variable {name} states {key} {attrs[key]!r}; expected a number for each band.")
            return found
    return [default] * count


def _number_list(value: Any, count: int) -> list[float] | None:
    """Return a number, or one for each band, as list; None if it is neither."""
    try:
        numbers = np.ravel(np.asarray(value, np.float64))
    except (TypeError, ValueError):
        return None
    if value is None or len(numbers) not in (1, count):
        return None
    return [float(number) for number in np.broadcast_to(numbers, count)]


def _tags(attrs: Mapping[Any, Any]) -> dict[str, str]:
    """Return what a file would have as tags."""
    used = {*_NODATA, *_SCALES, *_OFFSETS, *_UNCLEAR, "units", "crs", "grid_mapping"}
    return {
        str(key): str(value)
        for key, value in attrs.items()
        if str(key) not in used and isinstance(value, str | int | float | np.number)
    }
