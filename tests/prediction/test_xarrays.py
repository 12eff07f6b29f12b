"""xarray in, xarray out: equal to `refnet predict` on files of the same data, for every way to hold and state it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

import refnet_cli
from refnet_cli.errors import InputError, OptionsError, RefnetError
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from tests.helpers.pages import blocks_of, page
from tests.helpers.programs import ROOT
from tests.helpers.quick import few
from tests.helpers.scenes import CARD, make_pair
from tests.prediction.test_arrays import BothEngine

xr = pytest.importorskip("xarray")
pytest.importorskip("odc.geo.xr")
from refnet_cli.prediction.xarrays import predict_xarray  # noqa: E402

Array = NDArray[Any]
# The code of odc-geo, with affine 3 and shapely 2.1.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning"),
]


def load(path: Path, chunks: dict[str, int] | None = None, **attrs: object) -> Any:
    """A Dataset as odc-stac makes it, with a variable for each band."""
    from odc.geo.geobox import GeoBox
    from odc.geo.xr import xr_coords

    with rasterio.open(path) as file:
        values, names, nodata = file.read(), file.descriptions, file.nodata
        coords = xr_coords(GeoBox(file.shape, file.transform, file.crs))
    declared = {} if nodata is None else {"nodata": nodata}
    found = xr.Dataset(
        {name: (tuple(coords)[:2], band, declared | attrs) for name, band in zip(names, values, strict=True)}, coords
    )
    return found if chunks is None else found.chunk(chunks)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    def punch(optical: Array, sar: Array) -> None:
        optical[:, 10:40, 200:] = 0
        sar[:, 45:, 20:40] = np.nan

    return make_pair(tmp_path, 150, 301, sar_pixel=20.0, holes=punch)


def command(files: tuple[Path, Path], **options: object) -> tuple[Array, Any]:
    report = predict(PredictOptions(*files, files[0].with_name("lulc.tif"), **options), BothEngine())  # type: ignore[arg-type]
    with rasterio.open(report.output) as file:
        return file.read(1), report


def test_the_map_of_the_files_whatever_the_blocks(files: tuple[Path, Path]) -> None:
    pytest.importorskip("dask")
    codes, report = command(files)
    for chunks in (None, {"y": 32, "x": 50}, {"y": 150, "x": 64}, {"y": -1, "x": -1}):
        found = predict_xarray(load(files[0], chunks), load(files[1], chunks), engine=BothEngine())
        np.testing.assert_array_equal(found.classes, codes)
        assert json.loads(found.attrs["REFNET_AREAS_HECTARES"]) == report.areas_hectares
        assert 0.5 < found.attrs["REFNET_VALID_SHARE"] == report.valid_share < 1
    ours = {each["what"]: each["value"] for each in json.loads(found.attrs["REFNET_DECISIONS"])}
    theirs = {each["what"]: each["value"] for each in report.decisions}
    assert ours == theirs


def test_the_result_says_what_it_is(files: tuple[Path, Path], tmp_path: Path) -> None:
    optical = load(files[0])
    found = predict_xarray(
        optical, load(files[1]), engine=BothEngine(), probabilities=True, confidence=True, quality=True
    )
    assert found.odc.geobox == optical.odc.geobox
    classes = found.classes
    assert classes.attrs["flag_values"].tolist() == list(CARD.scheme.codes)
    assert len(classes.attrs["flag_meanings"].split()) == len(classes.attrs["flag_colors"].split()) == 9
    assert found.probabilities.dims == ("class", "y", "x")
    best = found.probabilities.fillna(-1).argmax("class").values
    seen = classes.values > 0
    np.testing.assert_array_equal(found["class_code"].values[best][seen], classes.values[seen])
    np.testing.assert_array_equal(np.isnan(found.confidence.sel(measure="probability")), ~seen)
    assert set(np.unique(found.quality).tolist()) == {0, 1, 2, 3}
    classes.odc.write_cog(tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as file:
        np.testing.assert_array_equal(file.read(1), classes)
        assert file.nodata == 0
        assert (file.crs, file.transform) == ("EPSG:32633", optical.odc.geobox.transform)


def stating(one: Any, **attrs: object) -> Any:
    """With further attributes for each variable."""
    return one.assign({name: each.assign_attrs(attrs) for name, each in one.data_vars.items()})


def placeless(one: Any) -> Any:
    """Without any statement of the reference system."""
    found = one.drop_vars("spatial_ref")
    for dim in found.dims:
        found[dim].attrs.clear()
    return found


def stacked(one: Any) -> Any:
    """A DataArray with a dimension of bands, as stackstac and rioxarray make it."""
    return one.to_array("band")


def ascending(one: Any) -> Any:
    return one.isel(y=slice(None, None, -1))


def as_xee(one: Any) -> Any:
    """Dimensions time, X, Y, the reference system as attribute alone, and rows from the south."""
    found = one.isel(y=slice(None, None, -1)).rename(y="Y", x="X").expand_dims("time").transpose("time", "X", "Y")
    return stating(placeless(found), crs="EPSG:32633")


def as_rioxarray(one: Any) -> Any:
    """One variable with numbered bands, long_name and _FillValue."""
    names = tuple(map(str, one.data_vars))
    found = one.to_array("band").assign_coords(band=np.arange(1, len(names) + 1))
    nodata = one[names[0]].attrs.get("nodata")
    found.attrs = {"long_name": names} | ({} if nodata is None else {"_FillValue": nodata})
    return found


def masked(one: Any) -> Any:
    """Nodata replaced by NaN on loading, which leaves it in the encoding."""
    found = one.map(lambda each: each.where(each != each.attrs["nodata"]) if "nodata" in each.attrs else each)
    for name, each in found.data_vars.items():
        each.attrs.clear()
        if "nodata" in one[name].attrs:
            each.encoding["_FillValue"] = one[name].attrs["nodata"]
    return found


def stepped(one: Any) -> Any:
    """Integers with a scale and an offset among the attributes."""
    if "VV" in one:
        return one
    found = one.map(lambda each: (each + np.uint16(1000)).where(each > 0, 0).astype(np.uint16))
    return stating(found, scale_factor=1e-4, add_offset=-0.1, nodata=0)


HELD: dict[str, Callable[[Any], Any]] = {
    "stacked": stacked,
    "ascending": ascending,
    "xee": as_xee,
    "rioxarray": as_rioxarray,
    "masked": masked,
    "transposed": lambda one: one.transpose("x", "y"),
    "Fortran order": lambda one: one.map(lambda each: each.copy(data=np.asfortranarray(each.values)), keep_attrs=True),
    "float64": lambda one: one.map(lambda each: each.astype(np.float64), keep_attrs=True),
    "one date": lambda one: one.expand_dims(time=[np.datetime64("2024-07-01", "ns")]),
    "east to west": lambda one: one.isel(x=slice(None, None, -1)),
    "scaled": stepped,
}


@pytest.mark.parametrize("held", few(HELD, "ascending", "xee", "rioxarray", "masked", "scaled"))
def test_however_it_is_held_the_map_is_the_same(files: tuple[Path, Path], held: str) -> None:
    codes, _ = command(files)
    optical, sar = (HELD[held](load(path)) for path in files)
    found = predict_xarray(optical, sar, engine=BothEngine())
    y, x = found.classes.dims
    np.testing.assert_array_equal(found.sortby(y, ascending=False).sortby(x).classes, codes)
    for dim in (y, x):
        np.testing.assert_array_equal(found[dim], optical[dim])  # in the order of what was given


def test_degrees(tmp_path: Path) -> None:
    files = make_pair(tmp_path, 100, 120)
    for path in files:
        with rasterio.open(path, "r+") as file:
            file.crs, file.transform = "EPSG:4326", rasterio.Affine(1e-4, 0, 13.1, 0, -1e-4, 48.2)
    codes, _ = command(files)
    optical, sar = map(load, files)
    found = predict_xarray(optical, sar, engine=BothEngine())
    np.testing.assert_array_equal(found.classes, codes)
    assert found.classes.dims == optical.B02.dims == ("latitude", "longitude")


def curved(one: Any) -> Any:
    lat, lon = np.meshgrid(np.arange(one.sizes["y"]), np.arange(one.sizes["x"]), indexing="ij")
    return one.drop_vars(["y", "x"]).assign_coords(lat=(("y", "x"), lat * 1.0), lon=(("y", "x"), lon * 1.0))


def uneven(one: Any) -> Any:
    return one.isel(y=[0, 1, 2, *range(5, 100)])


def dates(one: Any) -> Any:
    return xr.concat([one.expand_dims(time=[np.datetime64(day, "ns")]) for day in ("2024-07-01", "2024-07-06")], "time")


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no CRS": (placeless, "no coordinate reference system. Assign"),
    "unknown CRS": (lambda one: stating(placeless(one), crs="nowhere"), "CRS 'nowhere'"),
    "missing band": (lambda one: one.drop_vars("B08"), "no band B08|3 bands, but 4"),
    "no coordinates": (lambda one: one.drop_vars(["y", "x"]), "no coordinates along y"),
    "curvilinear": (curved, "two-dimensional coordinates"),
    "uneven": (uneven, "not evenly spaced"),
    "two dates": (dates, r"2 dates along time.*isel\(time=0\)"),
    "NumPy": (lambda one: one.B02.values, "ndarray.*predict_arrays"),
    "other dimensions": (lambda one: one.B02.rename(y="down"), "dimensions down, x"),
    "no variable": (lambda one: one[[]], "no variable with the dimensions y and x"),
    "text": (lambda one: one.astype(str), "data type <U"),
    "two nodata": (lambda one: stating(one, nodata=0, _FillValue=7), "different nodata values"),
    "unclear scale": (lambda one: stating(one, scale=1e-4), "scale 0.0001, which may have been"),
    "scale of text": (lambda one: stating(one, scale_factor="big"), "scale_factor 'big'"),
    "scale 0": (lambda one: stating(one, scale_factor=0.0), "invalid scale 0"),
    "scale applied": (
        lambda one: stating(one * 1e-4, scale_factor=1e-4), "reflectance|scale",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_bad_objects_are_refused_with_one_clear_error(files: tuple[Path, Path], what: str) -> None:
    change, message = REFUSED[what]
    with pytest.raises((InputError, OptionsError), match=message):
        predict_xarray(change(load(files[0])), load(files[1]), engine=BothEngine())


def test_places_that_do_not_meet_and_swapped_sensors(files: tuple[Path, Path]) -> None:
    optical, sar = map(load, files)
    with pytest.raises(InputError, match="does not overlap"):
        predict_xarray(optical, sar.assign_coords(x=sar.x + 1e5), engine=BothEngine())
    with pytest.raises(RefnetError, match="Swap optical and sar"):
        predict_xarray(sar, optical, engine=BothEngine())


def test_one_sensor_and_a_cloud_mask(files: tuple[Path, Path]) -> None:
    engine = BothEngine(replace(CARD, training={"modality_dropout": 0.2}))
    optical, sar = map(load, files)
    clouds = np.full((150, 301), 4, np.uint8)
    clouds[100:, :50] = 9
    optical["SCL"] = (("y", "x"), clouds)
    found = predict_xarray(optical, None, engine=engine, mask_clouds=True)
    assert not found.classes[100:, :50].any()
    assert found.classes[100:, 50:].all()
    assert predict_xarray(None, sar, engine=engine).classes.shape == sar.VV.shape


def test_blocks_are_computed_once(files: tuple[Path, Path]) -> None:
    da = pytest.importorskip("dask.array")
    computed: list[int] = []

    def note(block: Array) -> Array:
        computed.append(block.size)
        return block

    def lazy(each: Any) -> Any:
        blocks = da.from_array(each.values, chunks=(64, 100)).map_blocks(note, meta=np.empty((0, 0), each.dtype))
        return each.copy(data=blocks)

    optical = load(files[0])
    optical["unused"] = optical.B02 * 0
    predict_xarray(optical.map(lazy, keep_attrs=True), load(files[1]), engine=BothEngine())
    assert sum(computed) == 4 * 150 * 301


PEAK = """
import resource, sys
import dask.array as da, numpy as np, xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rasterio.transform import Affine
from refnet_cli.prediction.xarrays import predict_xarray
from tests.prediction.test_arrays import BothEngine

height, side = map(int, sys.argv[1:])
coords = xr_coords(GeoBox((height, 1024), Affine(10, 0, 500_000, 0, -10, 5_300_000), "EPSG:32633"))
random = da.random.default_rng(3)
size = (height, 1024)

def image(names, low, high):
    bands = {name: (("y", "x"), random.uniform(low, high, size, chunks=side).astype("f4")) for name in names}
    return xr.Dataset(bands, coords)

optical, sar = image(("B02", "B03", "B04", "B08"), 300, 3000), image(("VV", "VH"), -20, -10)
found = predict_xarray(optical, sar, engine=BothEngine(), coreg="off", read_threads=1)
assert (found.classes.values > 0).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak(height: int, side: int) -> float:
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(height), str(side)], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_blocks() -> None:
    pytest.importorskip("dask")
    few, many, small = peak(2048, 512), peak(8192, 512), peak(8192, 256)
    added = 6144 * 1024
    whole = added * 6 * 4  # what the further rows take as float32
    assert many - few < 0.4 * whole
    assert abs(small - many) < 60e6


@pytest.mark.long
def test_the_sample_scene_with_bundled_weights(tmp_path: Path) -> None:
    from refnet_cli.engines.torch_engine import load_torch_engine
    from refnet_cli.model.weight_files import default_weights

    files = ROOT / "sample_data" / "s2.tif", ROOT / "sample_data" / "s1.tif"
    engine = load_torch_engine(default_weights(), "cpu", 4)
    report = predict(PredictOptions(*files, tmp_path / "lulc.tif"), engine)
    with rasterio.open(report.output) as file:
        codes = file.read(1)
    optical, sar = map(load, files)
    for rows, columns in ((256, 256), (300, 500), (768, 768)):
        lazy = [each.chunk(dict(zip(each.B02.dims if "B02" in each else each.VV.dims, (rows, columns), strict=True)))
                for each in (optical, sar)]  # fmt: skip
        found = predict_xarray(*lazy, engine=engine)
        np.testing.assert_array_equal(found.classes, codes)


def test_the_signature_is_that_of_arrays() -> None:
    with pytest.raises(OptionsError, match="option grid is unknown for arrays"):
        predict_xarray(None, xr_of_nothing(), grid="a.tif", engine=BothEngine())


def xr_of_nothing() -> Any:
    return xr.DataArray(
        np.ones((2, 4, 4), np.float32), dims=("band", "y", "x"),
        coords={"band": ["VV", "VH"], "y": [30.0, 20.0, 10.0, 0.0], "x": [0.0, 10.0, 20.0, 30.0]},
    ).odc.assign_crs("EPSG:32633")  # fmt: skip


def item_of(path: Path, names: tuple[str, ...]) -> Any:
    """A STAC Item with one asset for each band of a file, in files of their own."""
    pystac = pytest.importorskip("pystac")
    from datetime import UTC, datetime

    with rasterio.open(path) as file:
        values, profile = file.read(), file.profile
    lon, lat = [14.9, 15.1], [47.8, 47.9]
    ring = [[lon[0], lat[0]], [lon[1], lat[0]], [lon[1], lat[1]], [lon[0], lat[1]], [lon[0], lat[0]]]
    item = pystac.Item(
        path.stem, {"type": "Polygon", "coordinates": [ring]}, [lon[0], lat[0], lon[1], lat[1]],
        datetime(2024, 7, 1, tzinfo=UTC), {},
    )  # fmt: skip
    for name, band in zip(names, values, strict=True):
        own = path.with_name(f"{path.stem}_{name}.tif")
        with rasterio.open(own, "w", **profile | {"count": 1}) as file:
            file.write(band, 1)
        item.add_asset(name, pystac.Asset(str(own), media_type="image/tiff", roles=["data"]))
    item.properties["proj:code"] = "EPSG:32633"
    return item


def test_blocks_are_computed_with_the_callers_settings_of_gdal(files: tuple[Path, Path]) -> None:
    """Not with those for files of strangers, which forbid the network and sidecar files."""
    pytest.importorskip("dask.array")
    from rasterio.env import get_gdal_config

    ours = ("CPL_VSIL_CURL_ALLOWED_FILENAME", "GDAL_DISABLE_READDIR_ON_OPEN", "GDAL_PAM_ENABLED")
    seen = []

    def note(block: Array) -> Array:
        seen.append([get_gdal_config(name, normalize=False) for name in ours])
        return block

    def noting(one: Any) -> Any:
        return one.map(
            lambda each: each.copy(data=each.data.map_blocks(note, meta=np.empty((0, 0), each.dtype)))
        ).chunk(x=64)

    codes, _ = command(files)
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE"):
        found = predict_xarray(*(noting(load(path, {"y": 64})) for path in files), engine=BothEngine())
    assert len(seen) > 6
    assert {*map(tuple, seen)} == {(None, "TRUE", None)}
    np.testing.assert_array_equal(found.classes, codes)


def test_what_odc_stac_loads(files: tuple[Path, Path]) -> None:
    stac = pytest.importorskip("odc.stac")
    from odc.geo.geobox import GeoBox

    codes, _ = command(files)
    names = ("blue", "green", "red", "nir"), ("vv", "vh")
    items = [item_of(path, own) for path, own in zip(files, names, strict=True)]
    loaded = []
    for path, item in zip(files, items, strict=True):
        with rasterio.open(path) as file:
            grid = GeoBox(file.shape, file.transform, file.crs)
        loaded.append(stac.load([item], bands=list(item.assets), geobox=grid, chunks={"y": 64, "x": 64}))
    assert [each.sizes["time"] for each in loaded] == [1, 1]
    found = predict_xarray(*loaded, engine=BothEngine())
    np.testing.assert_array_equal(found.classes, codes)


def test_the_program_of_the_page(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what would be loaded put in its place."""
    import odc

    optical = load(files[0]).expand_dims("time")
    stac = SimpleNamespace(load=lambda items, **how: optical)
    monkeypatch.setitem(sys.modules, "odc.stac", stac)  # type: ignore[arg-type]
    monkeypatch.setattr(odc, "stac", stac, raising=False)
    monkeypatch.setattr("refnet_cli.predict_xarray", partial(predict_xarray, engine=BothEngine()), raising=False)
    folder = tmp_path / "notebook"
    folder.mkdir()
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"items": [], "sar": load(files[1])}
    exec(blocks_of(page("how-to/arrays"), "python")[1], {"refnet_cli": refnet_cli} | names)
    with rasterio.open(folder / "lulc.tif") as file:
        np.testing.assert_array_equal(file.read(1), command(files)[0])
