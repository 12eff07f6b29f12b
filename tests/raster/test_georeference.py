"""Where pixels lie: grids, reference systems, parts and holes of scenes, as users call for them.

Images whose values are their own place on the result's grid must read that place after alignment.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.transform import Affine

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.cli.main import run
from refnet_cli.errors import InputError
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.raster.georeference import describe_move
from refnet_cli.raster.raster import Raster
from refnet_cli.raster.warp import Alignment
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import Patch, ScenePair
from refnet_cli.tiles.window import Window
from tests.helpers.quick import each_once
from tests.helpers.scenes import CARD, PLACE, PlaceEngine, grid_of, write

BANDS = ("B02", "B03", "B04", "B08")
SAMPLE = Path(__file__).resolve().parents[2] / "sample_data"
SIDE = 150


# --- tools -----------------------------------------------------------------------------------------------------------


def ground(height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Reflectance x 10,000 with something dark."""
    values = np.random.default_rng(4).integers(100, 3000, (4, height, width))
    values[:, :5, :5] = 20
    return values.astype(np.uint16)


def place_values(grid: GeoBox, transform: Affine, crs: str, height: int, width: int) -> np.ndarray:
    """Column and row on a grid, in pixels, of the middles of an image's pixels (2, H, W)."""
    down, across = np.mgrid[:height, :width] + 0.5
    x, y = transform @ (across, down)
    x, y = Transformer.from_crs(crs, str(grid.crs), always_xy=True).transform(x, y)
    return np.stack(~grid.transform @ (x, y))


def as_power(places: np.ndarray) -> np.ndarray:
    """Linear power that tells places up to 2000 pixels before the grid; 0 where they are none."""
    return np.where(np.isfinite(places) & (places > -1900), 1 + (places + 2000) / 1000, 0).astype(np.float32)


def assert_own_places(patch: Patch, most: float = 0.05) -> None:
    """The SAR bands tell the column and the row at the middle of each pixel, to a part of a pixel, and unbiased."""
    height, width = patch.sar.shape[1:]
    down, across = np.mgrid[:height, :width] + 0.5
    assert patch.sar_valid.all()
    column, row = (10 ** (patch.sar.astype(float) / 10) - 1) * 1000 - 2000
    for error in (column - across, row - down):
        assert abs(error).max() < most
        assert abs(error.mean()) < 0.01


def around(grid: GeoBox, crs: str, step: float, turn: float = 0.0, flip: bool = False, margin: int = 25) -> Any:
    """Transform and shape of an image about a grid, in a reference system that shows no seam there."""
    height, width = grid.shape
    edge = np.array([(0, 0), (width, 0), (0, height), (width, height), (width / 2, height / 2)]).T
    x, y = Transformer.from_crs(str(grid.crs), crs, always_xy=True).transform(*(grid.transform @ (edge[0], edge[1])))
    reach = np.hypot(x - x[4], y - y[4]).max() if turn else max(abs(x - x[4]).max(), abs(y - y[4]).max())
    size = 2 * (int(reach / step) + margin)
    middle = Affine.translation(x[4] + 0.37 * step, y[4] - 0.21 * step) @ Affine.rotation(turn)
    scale = Affine.scale(step, step if flip else -step)
    return middle @ scale @ Affine.translation(-size / 2, -size / 2), size


def open_all(
    optical: Path, sar: Path, options: SceneOptions | None = None, bands: tuple[str, ...] = BANDS
) -> tuple[GeoBox, Patch, dict[str, Any]]:
    with ScenePair.open(optical, sar, bands, ["VV", "VH"], options or SceneOptions(sar_scale="power")) as pair:
        return (
            pair.grid,
            pair.read(Window(0, 0, *pair.grid.shape)),
            {decision.what: decision.value for decision in pair.decisions},
        )


def raw(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


# --- reference systems -----------------------------------------------------------------------------------------------

UTM = "EPSG:32631", Affine(10, 0, 600_000, 0, -10, 5_000_000)
SOUTH = "EPSG:32758", Affine(10, 0, 500_000, 0, -10, 1_340_000)  # 78 degrees south
NORTH = "EPSG:32633", Affine(10, 0, 480_000, 0, -10, 9_000_000)  # 81 degrees north
ARCTIC = "EPSG:3995", Affine(10, 0, 1_000_000, 0, -10, -900_000)
ANTARCTIC = "EPSG:3031", Affine(10, 0, -1_200_000, 0, -10, 700_000)
DEGREES = "EPSG:4326", Affine(1e-4, 0, 12.3, 0, -1e-4, 47.2)
DEGREE = 10 / 111_320


@pytest.mark.parametrize(
    ("place", "crs", "step", "turn", "flip"),
    [
        pytest.param(UTM, "EPSG:32632", 10, 0, False, id="another zone"),
        pytest.param(UTM, "EPSG:32630", 14, 0, False, id="a zone to the west", marks=pytest.mark.long),
        pytest.param(UTM, "EPSG:32731", 10, 0, False, id="the other hemisphere's zone"),
        pytest.param(UTM, "EPSG:32631", 10, 13.6, False, id="rotated"),
        pytest.param(UTM, "EPSG:32632", 10, -77, False, id="rotated in another zone", marks=pytest.mark.long),
        pytest.param(UTM, "EPSG:32631", 10, 0, True, id="south-up", marks=pytest.mark.long),
        pytest.param(UTM, "EPSG:4326", DEGREE, 0, True, id="south-up in degrees", marks=pytest.mark.long),
        pytest.param(UTM, "EPSG:32632", 10, 20, True, id="south-up and rotated in another zone"),
        pytest.param(UTM, "EPSG:3035", 10, 0, False, id="equal areas of Europe"),
        pytest.param(NORTH, "EPSG:3995", 10, 0, False, id="Arctic onto UTM", marks=pytest.mark.long),
        pytest.param(NORTH, "EPSG:3413", 20, 0, False, id="North Polar of NSIDC onto UTM", marks=pytest.mark.long),
        pytest.param(SOUTH, "EPSG:3031", 10, 0, False, id="Antarctic onto UTM"),
        pytest.param(ARCTIC, "EPSG:3995", 10, 40, False, id="rotated in the Arctic", marks=pytest.mark.long),
        pytest.param(ARCTIC, "EPSG:3413", 12, 0, False, id="Arctic onto Arctic", marks=pytest.mark.long),
        pytest.param(ARCTIC, "EPSG:4326", DEGREE, 0, False, id="degrees onto the Arctic"),
        pytest.param(ANTARCTIC, "EPSG:4326", DEGREE, 0, True, id="degrees onto the Antarctic", marks=pytest.mark.long),
        pytest.param(DEGREES, "EPSG:32633", 10, 0, False, id="UTM onto degrees"),
        pytest.param(DEGREES, "EPSG:4326", 1.3e-4, 0, True, id="degrees onto degrees, south-up"),
    ],
)
def test_each_pixel_reads_its_own_place(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    place: tuple[str, Affine],
    crs: str,
    step: float,
    turn: float,
    flip: bool,
) -> None:
    optical = write(tmp_path / "s2.tif", ground(), BANDS, place[1], place[0])
    grid = grid_of(optical)
    transform, size = around(grid, crs, step, turn, flip)
    sar = write(tmp_path / "s1.tif", as_power(place_values(grid, transform, crs, size, size)), ("VV", "VH"), transform,
                crs, nodata=None)  # fmt: skip
    found, patch, decisions = open_all(optical, sar)
    assert found == grid
    assert (decisions["sar.resampling"] == "average") == ("degrees onto the" in request.node.name)
    # a mean of whole pixels, which are five times as high as wide there and askew, lies about its middle
    assert_own_places(patch, 0.15 if decisions["sar.resampling"] == "average" else 0.05)


@pytest.mark.parametrize("half", [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5), (-0.5, 0.5)])
def test_sar_shifted_by_half_a_pixel(tmp_path: Path, half: tuple[float, float]) -> None:
    optical = write(tmp_path / "s2.tif", ground(), BANDS)
    grid = grid_of(optical)
    transform = PLACE @ Affine.translation(half[0] - 10, half[1] - 10)
    power = as_power(place_values(grid, transform, "EPSG:32633", SIDE + 20, SIDE + 20))
    sar = write(tmp_path / "s1.tif", power, ("VV", "VH"), transform, nodata=None)
    _, patch, decisions = open_all(optical, sar)
    assert decisions["sar.resampling"] == "bilinear"
    assert_own_places(patch)


ACROSS = {"EPSG:32660": 52.0, "EPSG:32701": -17.0, "EPSG:3995": 71.0, "EPSG:3031": -78.0}
"""Latitude at which a system is held."""


@pytest.mark.parametrize(("crs", "west_of"), each_once(ACROSS, [180.0, -180.0]))
def test_degrees_across_the_antimeridian(tmp_path: Path, crs: str, west_of: float) -> None:
    """Images whose longitudes go on beyond 180 degrees, or begin before -180."""
    latitude = ACROSS[crs]
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(180, latitude)
    place = Affine(10, 0, round(x) - 5 * SIDE, 0, -10, round(y) + 5 * SIDE)
    optical = write(tmp_path / "s2.tif", ground(), BANDS, place, crs)
    grid = grid_of(optical)
    across = DEGREE / np.cos(np.radians(latitude))
    size = 360
    transform = Affine(across, 0, west_of - across * size / 2, 0, -DEGREE, latitude + DEGREE * size / 2)
    power = as_power(place_values(grid, transform, "EPSG:4326", size, size))
    sar = write(tmp_path / "s1.tif", power, ("VV", "VH"), transform, "EPSG:4326", nodata=None)
    found, patch, decisions = open_all(optical, sar)
    assert found == grid
    assert decisions["overlap"] == 1
    assert_own_places(patch)


@pytest.mark.parametrize("sar_side", [180.0, -180.0])
@pytest.mark.parametrize("optical_side", [180.0, -180.0])
def test_optical_in_degrees_across_the_antimeridian(tmp_path: Path, optical_side: float, sar_side: float) -> None:
    place = Affine(1e-4, 0, optical_side - 1e-4 * SIDE / 2, 0, -1e-4, 50)
    optical = write(tmp_path / "s2.tif", ground(), BANDS, place, "EPSG:4326")
    grid = grid_of(optical)
    size = SIDE + 60
    transform = Affine(1e-4, 0, sar_side - 1e-4 * size / 2 + 3e-5, 0, -1e-4, 50.003)
    moved = Affine.translation(optical_side - sar_side, 0) @ transform
    power = as_power(place_values(grid, moved, "EPSG:4326", size, size))
    sar = write(tmp_path / "s1.tif", power, ("VV", "VH"), transform, "EPSG:4326", nodata=None)
    _, patch, decisions = open_all(optical, sar)
    assert decisions["overlap"] == 1
    assert_own_places(patch)


# --- extent, bounds, grid --------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Optical of 150 x 150 pixels, SAR that covers its columns from 40 and rows to 110, on the same lattice."""
    transform = PLACE @ Affine.translation(40, -20)
    values = np.random.default_rng(5).gamma(5, 0.02, (2, 130, 200)).astype(np.float32)
    values[1] /= 5
    return (write(tmp_path / "s2.tif", ground(), BANDS),
            write(tmp_path / "s1.tif", values, ("VV", "VH"), transform, nodata=None))  # fmt: skip


def told(capsys: pytest.CaptureFixture[str], command: str, pair: tuple[Path, Path], *options: Any) -> Any:
    arguments = [command, "--json", "--optical", pair[0], "--sar", pair[1], *options]
    code = run([*map(str, arguments)])
    streams = capsys.readouterr()
    assert code == 0, streams.err
    return json.loads(streams.out)


def refused(capsys: pytest.CaptureFixture[str], pair: tuple[Path, Path], *options: Any) -> tuple[int, str]:
    out = pair[0].with_name("refused.tif")
    code = run(["predict", "--optical", str(pair[0]), "--sar", str(pair[1]), "-o", str(out), *map(str, options)])
    streams = capsys.readouterr()
    assert code != 0
    assert not out.exists()
    message = streams.err.strip().splitlines()[-1]
    return code, message


def test_extents(pair: tuple[Path, Path], capsys: Any) -> None:
    whole, everything, _ = open_all(*pair, SceneOptions(extent="optical", sar_scale="power"))
    assert whole == grid_of(pair[0])
    assert everything.valid.sum() == 110 * 110
    common, patch, _ = open_all(*pair, SceneOptions(extent="intersection", sar_scale="power"))
    assert common == GeoBox((110, 110), PLACE @ Affine.translation(40, 0), "EPSG:32633")
    assert patch.valid.all()
    np.testing.assert_array_equal(patch.optical, everything.optical[:, :110, 40:])
    np.testing.assert_array_equal(patch.sar, everything.sar[:, :110, 40:])
    found = told(capsys, "inspect", pair, "--extent", "intersection")
    assert (found["grid"]["height"], found["grid"]["width"], found["overlap"]) == (110, 110, 1)
    out = pair[0].with_name("map.tif")
    told(capsys, "predict", pair, "--extent", "intersection", "-o", out)
    assert grid_of(out) == common
    assert (raw(out)[0] > 0).all()


def test_sensors_that_lie_apart(pair: tuple[Path, Path], capsys: Any) -> None:
    far = PLACE @ Affine.translation(5000, 0)
    sar = write(pair[1].with_name("far.tif"), raw(pair[1]), ("VV", "VH"), far, nodata=None)
    for extent in ("optical", "intersection"):
        code, message = refused(capsys, (pair[0], sar), "--extent", extent)
        assert code == 65
        assert "far.tif" in message


WINDOW = np.s_[30:100, 50:130]  # within both


def corners(window: tuple[slice, slice], crs: str = "EPSG:32633", inset: float = 0.0) -> tuple[float, ...]:
    """West, south, east, north of a window of the pair's grid, moved inwards by part of a pixel."""
    rows, columns = window
    west, north = PLACE @ (columns.start + inset, rows.start + inset)
    east, south = PLACE @ (columns.stop - inset, rows.stop - inset)
    x, y = Transformer.from_crs("EPSG:32633", crs, always_xy=True).transform(
        np.array([west, east, west, east]), np.array([south, south, north, north])
    )
    return min(x), min(y), max(x), max(y)


@pytest.mark.parametrize("inset", [0.0, 0.2])
def test_bounds_in_the_maps_own_system(pair: tuple[Path, Path], capsys: Any, inset: float) -> None:
    """The map keeps the optical image's pixels, for any part of it."""
    bounds = ",".join(f"{edge:.3f}" for edge in corners(WINDOW, inset=inset))
    _, whole, _ = open_all(*pair)
    options = SceneOptions(bounds=tuple(bounds.split(",")), sar_scale="power")
    grid, patch, _ = open_all(*pair, options)
    assert grid.shape == (70, 80)
    corner = grid_of(pair[0]).transform @ Affine.translation(WINDOW[1].start, WINDOW[0].start)
    assert grid.transform == corner
    np.testing.assert_array_equal(patch.optical, whole.optical[:, *WINDOW])
    np.testing.assert_array_equal(patch.sar, whole.sar[:, *WINDOW])
    out = pair[0].with_name("map.tif")
    report = told(capsys, "predict", pair, "--bounds", bounds, "-o", out)
    assert grid_of(out) == grid
    assert (report["grid"]["height"], report["grid"]["width"]) == (70, 80)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32632", "EPSG:3857"])
def test_bounds_in_another_system(pair: tuple[Path, Path], capsys: Any, crs: str) -> None:
    """All of what was asked for is in it, and no more than its corners need."""
    bounds = corners(WINDOW, crs)
    found = told(capsys, "inspect", pair, "--bounds", ",".join(map(str, (*bounds, crs))))["grid"]
    west, south, east, north = bounds
    x, y = Transformer.from_crs(crs, "EPSG:32633", always_xy=True).transform([west, west, east, east],
                                                                          [south, north, south, north])  # fmt: skip
    columns, rows = ~PLACE @ (np.array(x), np.array(y))
    transform = Affine(*found["transform"])
    column, row = ~PLACE @ (transform.c, transform.f)
    assert (column, row) == (round(column), round(row))
    assert column <= columns.min() + 0.01
    assert row <= rows.min() + 0.01
    assert columns.max() - 0.01 <= column + found["width"]
    assert rows.max() - 0.01 <= row + found["height"]
    assert column > columns.min() - 3
    assert found["width"] < np.ptp(columns) + 6
    assert found["height"] < np.ptp(rows) + 6


def test_bounds_beyond_the_image(pair: tuple[Path, Path], capsys: Any) -> None:
    outside = corners(np.s_[1000:1100, 1000:1100])
    code, message = refused(capsys, pair, "--bounds", ",".join(map(str, outside)))
    assert code == 64
    assert "--bounds" in message
    assert refused(capsys, pair, "--bounds", "1,2,3")[0] in (2, 64)
    assert refused(capsys, pair, "--bounds", "500000,5300000,501000,5299000")[0] in (2, 64)  # south above north
    assert refused(capsys, pair, "--bounds", "a,b,c,d")[0] in (2, 64)
    assert refused(capsys, pair, "--bounds", "14,46,15,47,EPSG:999999")[0] in (2, 64)


def place_optical(path: Path, grid: GeoBox, transform: Affine, crs: str, size: int) -> Path:
    """Optical image whose first two bands tell its pixels' columns and rows on a grid, doubled."""
    column, row = place_values(grid, transform, crs, size, size)
    values = np.stack([2000 + 2 * column, 2000 + 2 * row, np.full_like(row, 900), np.full_like(row, 3000)])
    return write(path, values.astype(np.float32), BANDS, transform, crs, nodata=None)


@pytest.mark.long
@pytest.mark.parametrize(
    ("crs", "place"),
    [
        ("EPSG:32633", Affine(10, 0, 500_203, 0, -10, 5_299_804)),  # another lattice
        ("EPSG:32633", Affine(7, 0, 500_203, 0, -7, 5_299_804)),  # finer
        ("EPSG:32632", Affine(10, 0, 0, 0, -10, 0)),  # another zone; moved to where the image lies
        ("EPSG:4326", Affine(1e-4, 0, 0, 0, -1e-4, 0)),
        ("EPSG:3035", Affine(12, 0, 0, 0, -12, 0)),
    ],
)
def test_the_grid_of_another_file(tmp_path: Path, crs: str, place: Affine) -> None:
    size, wanted = 300, (90, 80)
    if crs != "EPSG:32633":
        x, y = Transformer.from_crs("EPSG:32633", crs, always_xy=True).transform(501_500, 5_298_500)
        place = Affine.translation(x - 40 * place.a, y - 45 * place.e) @ place
    template = write(tmp_path / "grid.tif", np.ones((1, *wanted), np.uint8), (None,), place, crs)
    grid = grid_of(template)
    optical = place_optical(tmp_path / "s2.tif", grid, PLACE, "EPSG:32633", size)
    transform = PLACE @ Affine.translation(-10.3, -9.6)
    power = as_power(place_values(grid, transform, "EPSG:32633", size + 20, size + 20))
    sar = write(tmp_path / "s1.tif", power, ("VV", "VH"), transform, nodata=None)
    options = SceneOptions(grid=template, sar_scale="power", optical_scale="dn", optical_offset=0)
    found, patch, decisions = open_all(optical, sar, options)
    assert found == grid
    assert decisions["optical.resampling"] != "none"
    assert patch.valid.all()
    assert_own_places(patch)
    down, across = np.mgrid[: wanted[0], : wanted[1]] + 0.5
    assert abs((patch.optical[0] - 2000) / 2 - across).max() < 0.05
    assert abs((patch.optical[1] - 2000) / 2 - down).max() < 0.05
    out = tmp_path / "map.tif"
    predict(
        PredictOptions(
            optical, sar, output=out, grid=template, sar_scale="power", optical_scale="dn", optical_offset=0,
            coreg="off",
        ),
        PlaceEngine(),
    )  # fmt: skip
    assert grid_of(out) == grid


def test_holes_of_an_optical_image_that_is_warped(tmp_path: Path) -> None:
    """A single band of constant reflectance: neither nodata nor saturation mixes in."""
    values = np.full((4, 100, 100), 1500, np.uint16)
    values[:, 30:50, 40:60] = 0
    values[2, 70, 70] = 65_535
    optical = write(tmp_path / "s2.tif", values, BANDS, nodata=0)
    sar = write(tmp_path / "s1.tif", np.full((2, 100, 100), 0.1, np.float32), ("VV", "VH"), nodata=None)
    place = PLACE @ Affine.translation(10.3, 10.2)
    template = write(tmp_path / "grid.tif", np.ones((1, 75, 75), np.uint8), (None,), place)
    options = SceneOptions(grid=template, sar_scale="power", optical_scale="dn", optical_offset=0)
    _, patch, _ = open_all(optical, sar, options)
    np.testing.assert_allclose(patch.optical[:, patch.optical_valid], 1500, atol=0.5)
    nearest = np.floor(np.arange(75) + 0.5 + np.array([[10.2], [10.3]])).astype(int)
    seen = (values[:, nearest[0][:, None], nearest[1]] % 65_535 > 0).all(0)
    np.testing.assert_array_equal(patch.optical_valid, seen)


def test_grids_that_fit_nothing(pair: tuple[Path, Path], capsys: Any, tmp_path: Path) -> None:
    out = tmp_path / "map.tif"
    told(capsys, "predict", pair, "--grid", pair[1], "-o", out)
    assert grid_of(out) == grid_of(pair[1])
    assert refused(capsys, pair, "--grid", tmp_path / "none.tif")[0] == 66
    (tmp_path / "text.tif").write_text("no raster")
    assert refused(capsys, pair, "--grid", tmp_path / "text.tif")[0] == 65
    far = write(tmp_path / "far.tif", np.ones((1, 80, 80), np.uint8), (None,), Affine(10, 0, 0, 0, -10, 100_000))
    code, message = refused(capsys, pair, "--grid", far)
    assert code in (64, 65)
    assert "grid" in message


# --- holes -----------------------------------------------------------------------------------------------------------

DB = 10 * np.log10(0.1)


def hole_kinds() -> dict[str, tuple[str, float, float | None, str]]:
    """Scale, value in the hole, declared nodata and data type."""
    return {
        "power, 0 declared": ("power", 0, 0, "float32"),
        "power, 0 undeclared": ("power", 0, None, "float32"),
        "power, NaN": ("power", np.nan, None, "float32"),
        "power, NaN declared": ("power", np.nan, np.nan, "float32"),
        "power, -9999 declared": ("power", -9999, -9999, "float32"),
        "dB, 0 declared": ("db", 0, 0, "float32"),
        "dB, 0 undeclared": ("db", 0, None, "float32"),
        "dB, NaN": ("db", np.nan, None, "float64"),
        "dB, -9999 declared": ("db", -9999, -9999, "float32"),
        "dB x 100, 0 undeclared": ("db100", 0, None, "int16"),
        "dB x 100, -32768 declared": ("db100", -32_768, -32_768, "int16"),
    }


HELD = {
    "shifted": (PLACE @ Affine.translation(-20.3, -19.8), "EPSG:32633"),
    "coarser": (Affine.translation(-200, 200) @ PLACE @ Affine.scale(1.4), "EPSG:32633"),
    "another zone": (None, "EPSG:32632"),
}
"""Place and system of SAR images with holes."""


@pytest.mark.parametrize(("kind", "name"), each_once(hole_kinds(), HELD))
def test_holes_neither_grow_nor_bleed(tmp_path: Path, kind: str, name: str) -> None:
    (transform, crs), (scale, empty, declared, dtype) = HELD[name], hole_kinds()[kind]
    optical = write(tmp_path / "s2.tif", ground(), BANDS)
    grid = grid_of(optical)
    if transform is None:
        transform, _ = around(grid, crs, 10)
    size = 300
    constant = {"power": 0.1, "db": DB, "db100": 100 * DB}[scale]
    values = np.full((2, size, size), constant, dtype)
    hole = np.zeros((size, size), bool)
    hole[60:80, 70:95] = hole[100, 100] = hole[110:113, 60:120] = True
    values[:, hole] = empty
    sar = write(tmp_path / "s1.tif", values, ("VV", "VH"), transform, crs, nodata=declared)
    _, patch, _ = open_all(optical, sar, SceneOptions(sar_scale=scale))
    np.testing.assert_allclose(patch.sar[:, patch.sar_valid], DB, atol=0.01)
    down, across = np.mgrid[:SIDE, :SIDE] + 0.5
    x, y = Transformer.from_crs("EPSG:32633", crs, always_xy=True).transform(*(PLACE @ (across, down)))
    column, row = ~transform @ (x, y)
    inside = (column >= 0) & (row >= 0) & (column < size) & (row < size)
    assert inside.all()
    expected = ~hole[row.astype(int), column.astype(int)]
    assert (~expected).sum() > 100
    # pixels whose middle lies within a hundredth of the edge of a SAR pixel may go either way
    plain = (abs(column - column.round()) > 0.01) & (abs(row - row.round()) > 0.01)
    np.testing.assert_array_equal(patch.sar_valid[plain], expected[plain])


@pytest.mark.parametrize("empty", [0.0, np.nan])
def test_a_hole_in_one_polarisation_is_no_zero_of_the_other(tmp_path: Path, empty: float) -> None:
    """Where VH alone is missing the pixel is not complete, and nothing of the gap enters its neighbours."""
    optical = write(tmp_path / "s2.tif", ground(), BANDS)
    values = np.full((2, 200, 200), 0.1, np.float32)
    values[1, 60:80, 70:90] = empty
    sar = write(tmp_path / "s1.tif", values, ("VV", "VH"), PLACE @ Affine.translation(-20.3, -19.8), nodata=empty)
    _, patch, _ = open_all(optical, sar)
    np.testing.assert_allclose(patch.sar[np.isfinite(patch.sar)], DB, atol=0.01)
    assert (~patch.sar_valid).sum() == 400


# --- one sensor for both ---------------------------------------------------------------------------------------------


@pytest.fixture
def gaps(tmp_path: Path) -> tuple[Path, Path]:
    """Rows 0 to 49 without SAR, columns 0 to 39 without optical values; their corner has neither."""
    optical = ground(160, 140)
    optical[:, :, :40] = 0
    sar = np.random.default_rng(5).gamma(5, 0.02, (2, 160, 140)).astype(np.float32)
    sar[1] /= 5
    sar[:, :50] = np.nan
    return (write(tmp_path / "s2.tif", optical, BANDS),
            write(tmp_path / "s1.tif", sar, ("VV", "VH"), nodata=None))  # fmt: skip


@pytest.mark.long
def test_missing_sensors(gaps: tuple[Path, Path], capsys: Any, tmp_path: Path) -> None:
    strict, lenient = tmp_path / "a.tif", tmp_path / "b.tif"
    told(capsys, "predict", gaps, "-o", strict)
    told(capsys, "predict", gaps, "-o", lenient, "--missing", "use-other")
    quality = np.full((160, 140), 3)
    quality[:50], quality[:, :40], quality[:50, :40] = 1, 2, 0
    with rasterio.open(strict) as file:
        assert file.count == 1
        np.testing.assert_array_equal(file.read(1) > 0, quality == 3)
    with rasterio.open(lenient) as file:
        assert file.count == 2
        assert file.descriptions[1] == "quality"
        classes, found = file.read()
    np.testing.assert_array_equal(found, quality)
    np.testing.assert_array_equal(classes > 0, quality > 0)


def test_missing_with_a_free_engine_and_clouds(gaps: tuple[Path, Path], tmp_path: Path) -> None:
    """Clouds are a gap of the optical sensor."""
    values = np.concatenate([raw(gaps[0]), np.zeros((1, 160, 140), np.uint16)])
    values[4, 100:120, 100:120] = 1024
    optical = write(tmp_path / "ee.tif", values, (*BANDS, "QA60"), nodata=None)
    out = tmp_path / "map.tif"
    predict(PredictOptions(optical, gaps[1], output=out, mask_clouds=True, missing="use-other"), PlaceEngine())
    quality = raw(out)[1]
    assert (quality[100:120, 100:120] == 2).all()
    assert (quality[125:, 45:] == 3).all()
    assert quality[:50, 40:].max() == 1


# --- registration ----------------------------------------------------------------------------------------------------


def moved_sample(folder: Path, columns: float, rows: float) -> tuple[Path, Path]:
    """The sample's SAR, displaced by pixels of the optical grid, in its own degrees."""
    with rasterio.open(SAMPLE / "s1.tif") as file:
        values, profile = file.read(), file.profile
    middle = 242_880, 6_200_940
    back = Transformer.from_crs("EPSG:32722", "EPSG:4326", always_xy=True)
    here = np.array(back.transform(*middle))
    there = np.array(back.transform(middle[0] + 10 * columns, middle[1] - 10 * rows))
    profile["transform"] = Affine.translation(*(there - here)) @ profile["transform"]
    with rasterio.open(folder / "moved.tif", "w", **profile) as file:
        file.write(values)
        file.descriptions = ("VV", "VH")
    return SAMPLE / "s2.tif", folder / "moved.tif"


def coreg_of(report: Any) -> Any:
    return {decision["what"]: decision for decision in report["decisions"]}.get("coreg")


@pytest.mark.long
def test_a_shift_is_told_and_corrected(tmp_path: Path, capsys: Any) -> None:
    pair = moved_sample(tmp_path, 3, -2)
    part = "--bounds", ",".join(BOUNDS)
    plain = coreg_of(told(capsys, "inspect", (SAMPLE / "s2.tif", SAMPLE / "s1.tif"), *part))["value"]
    found = coreg_of(told(capsys, "inspect", pair, *part))["value"]
    assert found["accepted"] is True
    assert found["applied"] is False
    # what the image must move to fit is the other way round
    assert (found["columns"] - plain["columns"], found["rows"] - plain["rows"]) == pytest.approx((-3, 2), abs=0.3)
    assert coreg_of(told(capsys, "inspect", pair, "--coreg", "off", *part)) is None
    straight = open_all(SAMPLE / "s2.tif", SAMPLE / "s1.tif", SceneOptions(bounds=BOUNDS))[1]
    checked, auto, required = (
        open_all(*pair, SceneOptions(coreg=mode, bounds=BOUNDS)) for mode in ("check", "auto", "require")
    )
    assert auto[2]["coreg"]["applied"] is True
    np.testing.assert_array_equal(auto[1].sar, required[1].sar)
    assert difference(checked[1], straight) > 2 * difference(auto[1], straight)


BOUNDS = ("241000", "6199000", "243560", "6201560")


def difference(one: Patch, other: Patch) -> float:
    return float(np.nanmean(abs(one.sar - other.sar)))


@pytest.mark.long
def test_without_a_certain_shift(tmp_path: Path, capsys: Any) -> None:
    random = np.random.default_rng(7)
    optical = write(tmp_path / "s2.tif", ground(256, 256), BANDS)
    values = 0.1 * random.gamma(4, 0.25, (2, 256, 256))
    values[1] /= 5
    sar = write(tmp_path / "s1.tif", values.astype(np.float32), ("VV", "VH"), nodata=None)
    pair = optical, sar
    code, message = refused(capsys, pair, "--coreg", "require")
    assert code == 65
    assert "--coreg" in message
    out = tmp_path / "map.tif"
    found = coreg_of(told(capsys, "predict", pair, "-o", out))
    assert (found["value"]["accepted"], found["value"]["applied"]) == (False, False)
    assert found["how"]
    found = coreg_of(told(capsys, "predict", pair, "-o", out, "--coreg", "auto"))
    assert found["value"]["applied"] is False
    plain, auto = (open_all(*pair, SceneOptions(coreg=mode))[1] for mode in ("off", "auto"))
    np.testing.assert_array_equal(plain.sar, auto.sar)


# --- class schemes ---------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_map_in_another_scheme(gaps: tuple[Path, Path], capsys: Any, tmp_path: Path) -> None:
    own, other = tmp_path / "own.tif", tmp_path / "other.tif"
    told(capsys, "predict", gaps, "-o", own)
    report = told(capsys, "predict", gaps, "-o", other, "--scheme", "worldcover")
    assert report["translation"]
    with rasterio.open(own) as file:
        assert "REFNET_TRANSLATION" not in file.tags()
        before = file.read(1)
    with rasterio.open(other) as file:
        after, stated = file.read(1), file.tags()["REFNET_TRANSLATION"]
    codes = set(SCHEMES["worldcover"].codes)
    assert set(np.unique(after)) <= codes | {0}
    mapping = json.loads(stated)
    assert (mapping["source"], mapping["target"]) == ("esri-io", "worldcover")
    assert set(mapping["codes"]) == set(map(str, SCHEMES["esri-io"].codes))
    for code in np.unique(before[before > 0]):
        assert (after[before == code] == mapping["codes"][str(code)]).all()
    assert not after[before == 0].any()
    out = tmp_path / "x.tif"
    assert refused(capsys, gaps, "--scheme", "no-such-scheme")[0] in (2, 64, 66)
    assert not out.exists()


def test_a_free_engines_classes_are_translated(tmp_path: Path, gaps: tuple[Path, Path]) -> None:
    """Esri's water and trees become ESA's."""
    values = np.full((4, 100, 100), 200, np.uint16)
    values[0, :, :50], values[1, :, 50:] = 3000, 3000
    optical = write(tmp_path / "plain.tif", values, BANDS)
    out = tmp_path / "map.tif"
    predict(PredictOptions(optical, gaps[1], output=out, scheme="worldcover", optical_offset=0), PlaceEngine())
    classes = raw(out)[0]
    assert (classes[60:, :50] == 80).all()
    assert (classes[60:, 50:] == 10).all()
    assert CARD.scheme.name == "esri-io"


def test_files_apart_are_located_in_degrees(tmp_path: Path) -> None:
    """Of both, in each file's own reference system, and in that of the grid."""
    values, place = np.full((2, 90, 90), 0.1, np.float32), Affine(1e-4, 0, 7, 0, -1e-4, 51)
    far = write(tmp_path / "far.tif", values, ("VV", "VH"), place, "EPSG:4326")
    with pytest.raises(InputError) as refused:
        Alignment(Raster(far, "SAR"), GeoBox((100, 100), PLACE, "EPSG:32633"))
    text = str(refused.value)
    assert "The file covers 7.0000 E to 7.0090 E, 50.9910 N to 51.0000 N; the grid 15.0000 E to 15.01" in text
    assert "In EPSG:32633 these are (-" in text
    assert text.endswith("Use files of the same area.")


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (PLACE, "38 m east, 2.5 m north"),
        (PLACE @ Affine.rotation(20), "38 m right, 2.5 m up"),
        (PLACE @ Affine.scale(1, -1), "38 m right, 2.5 m up"),
    ],
)
def test_moves_have_names_of_the_sky_where_north_is_up(transform: Affine, said: str) -> None:
    assert describe_move(GeoBox((100, 100), transform, "EPSG:32633"), 3.8, -0.25) == said
