"""Conventions of xee and rioxarray that a wrong map could come from: each is read right, or refused with one error.

As of xee 0.0.20 and 0.1.2 and rioxarray 0.19. xee before 0.1 has dimensions (time, X, Y) or (time, lon, lat), float32
coordinates, and bands whose attributes crs and crs_transform are those of their source. From 0.1 on dimensions are
(time, y, x), coordinates float64, and crs that of the grid. Both declare integers but fill masked pixels with NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from refnet_cli.errors import InputError, RefnetError
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.raster.spool import SpooledArray
from tests.helpers.quick import few
from tests.helpers.scenes import PLACE, PlaceEngine, make_pair

xr = pytest.importorskip("xarray")
pytest.importorskip("odc.geo.xr")
from refnet_cli.prediction.xarrays import predict_xarray  # noqa: E402

Array = NDArray[Any]
SHAPE = 70, 90
pytestmark = [
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning"),
]
DAY = np.array(["2024-07-01"], "datetime64[ns]")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    def punch(optical: Array, sar: Array) -> None:
        optical[:, 10:30, 50:] = 0

    return make_pair(tmp_path_factory.mktemp("pair"), *SHAPE, holes=punch)


@pytest.fixture(scope="module")
def codes(files: tuple[Path, Path]) -> Array:
    report = predict(PredictOptions(*files, files[0].with_name("map.tif")), PlaceEngine())
    with rasterio.open(report.output) as file:
        return np.asarray(file.read(1))


def bands_of(path: Path) -> dict[str, Array]:
    with rasterio.open(path) as file:
        return dict(zip(file.descriptions, file.read(), strict=True))


def masked(values: Array) -> Array:
    """The values as a block of xee holds them."""
    return np.where(values == 0, np.nan, values) if values.dtype.kind == "u" else values


def lazy(values: Array) -> Any:
    """Blocks of floats in an array that declares integers, as xee's with ``chunks={}``."""
    da = pytest.importorskip("dask.array")
    declared = np.int32 if values.dtype.kind == "u" else values.dtype
    found = da.from_array(masked(values), chunks=(40, 50))
    return da.Array(found.dask, found.name, found.chunks, dtype=declared)


def from_xee(path: Path, new: bool, crs: str = "EPSG:32633", source: str = "EPSG:32633", chunks: bool = False) -> Any:
    """What xee opens: a Dataset, with what Earth Engine says of each band."""
    names = ("time", "y", "x") if new else ("time", "X", "Y")
    if not new and crs == "EPSG:4326":
        names = ("time", "lon", "lat")
    kind = np.float64 if new else np.float32
    height, width = SHAPE
    down = (PLACE.f + PLACE.e * (np.arange(height) + 0.5)).astype(kind)
    right = (PLACE.c + PLACE.a * (np.arange(width) + 0.5)).astype(kind)
    stated = {"data_type": "{'type': 'PixelType'}", "crs_transform": [10, 0, 499_980, 0, -10, 5_300_040]}
    found = {}
    for name, values in bands_of(path).items():
        held = lazy(values) if chunks else masked(values)
        held = held[None] if new else held.T[None]
        found[name] = (names, held, {"id": name, "crs": crs if new else source, **stated})
    coords = {"time": DAY, names[1]: down if new else right, names[2]: right if new else down}
    return xr.Dataset(found, coords, {} if new else {"crs": crs, "coordinates": " ".join(names)})


@pytest.mark.parametrize("chunks", few([False, True], True))
@pytest.mark.parametrize("new", [False, True], ids=["0.0", "0.1"])
def test_what_xee_opens(files: tuple[Path, Path], codes: Array, new: bool, chunks: bool) -> None:
    found = predict_xarray(*(from_xee(path, new, chunks=chunks) for path in files), engine=PlaceEngine())
    np.testing.assert_array_equal(found.classes, codes)
    assert found.classes.dims == (("y", "x") if new else ("Y", "X"))


def test_coordinates_that_are_rounded_to_float32(files: tuple[Path, Path], codes: Array) -> None:
    """Up to half a metre, where the origin is no multiple of the pixel."""

    def moved(one: Any) -> Any:
        return one.assign_coords({dim: (one[dim].astype(np.float64) + 0.37).astype(np.float32) for dim in ("X", "Y")})

    found = predict_xarray(*(moved(from_xee(path, False)) for path in files), engine=PlaceEngine())
    np.testing.assert_array_equal(found.classes, codes)


def band_alone(one: Any) -> Any:
    return one.to_array("band").assign_attrs(one.B02.attrs)


def images(one: Any) -> Any:
    """Images by their names, as with ``primary_dim_name="image"``."""
    named = one.isel(time=0, drop=True)
    return xr.concat([named.expand_dims(image=[name]) for name in ("S2A_1", "S2A_2")], "image")


def renamed(one: Any) -> Any:
    return one.rename(X="lon", Y="lat")


REFUSED: dict[str, tuple[bool, dict[str, str], Callable[[Any], Any], str]] = {
    "resampled by xee": (False, {"crs": "EPSG:32632"}, lambda one: one, r"EPSG:32632 \(the Dataset\), EPSG:32633"),
    "a band alone": (False, {}, band_alone, "that of its source in Earth Engine"),
    "degrees by name": (False, {}, renamed, "coordinates lat and lon, but its CRS EPSG:32633 is projected"),
    "degrees by CRS": (True, {"crs": "EPSG:4326"}, lambda one: one, "up to 5.3e.06, but its CRS EPSG:4326"),
    "several images": (True, {}, images, "2 layers along image"),
    "dates": (True, {}, lambda one: xr.concat([one, one.assign_coords(time=DAY + 1)], "time"), "2 dates along time"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_could_be_misread_is_refused(files: tuple[Path, Path], what: str) -> None:
    new, how, change, match = REFUSED[what]
    with pytest.raises(InputError, match=match):
        predict_xarray(change(from_xee(files[0], new, **how)), from_xee(files[1], True), engine=PlaceEngine())


@pytest.mark.filterwarnings("ignore:Have several candidates for a CRS")  # of odc-geo, before it has the right one
def test_an_assigned_reference_system_settles_it(files: tuple[Path, Path], codes: Array) -> None:
    optical = from_xee(files[0], False, source="EPSG:32632").odc.assign_crs("EPSG:32633")
    found = predict_xarray(optical, from_xee(files[1], False), engine=PlaceEngine())
    np.testing.assert_array_equal(found.classes, codes)


def as_variables(path: Path, order: tuple[str, ...]) -> Any:
    """As rioxarray opens a file with ``band_as_variable=True``: numbered variables with names in long_name."""
    found, bands = from_xee(path, True).isel(time=0), bands_of(path)
    variables = {
        f"band_{number}": (("y", "x"), bands[name], {"long_name": name}) for number, name in enumerate(order, 1)
    }
    return xr.Dataset(variables, {"y": found.y, "x": found.x}).odc.assign_crs("EPSG:32633")


def test_bands_as_variables_of_rioxarray(files: tuple[Path, Path], codes: Array) -> None:
    """In another order than the weights', which the names tell and the numbers would not."""
    optical = as_variables(files[0], ("B08", "B04", "B03", "B02"))
    found = predict_xarray(optical, as_variables(files[1], ("VH", "VV")), engine=PlaceEngine())
    np.testing.assert_array_equal(found.classes, codes)


def test_rioxarray_itself(files: tuple[Path, Path], codes: Array) -> None:
    rioxarray = pytest.importorskip("rioxarray")
    for how in ({}, {"masked": True}, {"band_as_variable": True}, {"chunks": 64}):
        opened = [rioxarray.open_rasterio(path, **how) for path in files]
        np.testing.assert_array_equal(predict_xarray(*opened, engine=PlaceEngine()).classes, codes)


def test_blocks_of_another_type_than_declared() -> None:
    da = pytest.importorskip("dask.array")

    def spooled(block: Array, declared: Any) -> Array:
        array = da.Array(*(getattr(da.from_array(block), name) for name in ("dask", "name", "chunks")), dtype=declared)
        spool = SpooledArray(array, "the variable B02")
        try:
            return spool[0, slice(0, 2), slice(0, 3)]
        finally:
            spool.close()

    values = np.arange(6.0).reshape(1, 2, 3)
    for declared in (np.uint8, np.int32, np.float32):
        assert spooled(values, declared).dtype == declared
        np.testing.assert_array_equal(spooled(values, declared), values[0])
    for wrong in (values + 0.5, values - 1, values + 255, np.where(values == 2, np.nan, values)):
        with pytest.raises(RefnetError, match=r'block of the variable B02 has the data type float64.*astype\("float64'):
            spooled(wrong, np.uint8)
