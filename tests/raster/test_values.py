"""Files with invalid or unscaled values: undeclared fill values, and values derived from measurements."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.shutil import copy
from rasterio.transform import Affine
from rasterio.warp import reproject
from scipy.ndimage import gaussian_filter, zoom

from refnet_cli.cli.main import run
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.raster.fills import COMPLETE, Fill
from refnet_cli.raster.raster import Raster
from refnet_cli.raster.sample import confirm_fills
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.tiles.window import Window
from tests.helpers.quick import each_once, few
from tests.helpers.safe import make_grd_safe, make_optical_safe
from tests.helpers.scenes import PlaceEngine, write

METHODS = (Resampling.bilinear, Resampling.cubic, Resampling.cubic_spline, Resampling.lanczos)
BANDS = ("B02", "B03", "B04", "B08")
SIDE = 160


def smooth(seed: int, side: int = SIDE, scale: float = 3.0) -> np.ndarray:
    """A field of mean 0 and standard deviation 1 in which neighbours are alike."""
    field = gaussian_filter(np.random.default_rng(seed).standard_normal((side, side)), scale, mode="wrap")
    return np.asarray((field - field.mean()) / field.std())


def ground(side: int = SIDE) -> np.ndarray:
    """Reflectance x 10,000 of vegetation and soil, with a lake whose water is dark in all bands."""
    green, noise = smooth(1, side), [smooth(seed, side, 1.0) for seed in range(2, 6)]
    land = np.stack([420 - 60 * green, 700 - 40 * green, 620 - 140 * green, 2900 + 700 * green])
    lake = np.zeros((side, side), bool)
    lake[side // 2 : side // 2 + side // 5, side // 8 : side // 3] = True
    land[:, lake] = np.array([230, 170, 90, 40])[:, None]
    land = gaussian_filter(land, (0, 1, 1))  # as sensors see edges
    rough = np.array([25, 30, 30, 60])[:, None, None] * np.stack(noise) * np.where(lake, 0.1, 1)
    return np.asarray(np.clip(land + rough, 20, None))


def levels(side: int = SIDE) -> np.ndarray:
    """VV and VH in dB, of land with speckle and the same lake."""
    random, texture = np.random.default_rng(9), smooth(7, side)
    land = np.stack([-10 + 2 * texture, -16.5 + 2 * texture])
    land[:, side // 2 : side // 2 + side // 5, side // 8 : side // 3] -= 9
    return np.asarray(land + 10 * np.log10(random.gamma(5, 0.2, land.shape)))


def wedge(side: int = SIDE) -> np.ndarray:
    """A corner beyond a slanted edge, and a hole, which nobody saw."""
    rows, columns = np.indices((side, side))
    return np.asarray((rows + 3 * columns < 0.9 * side) | ((rows - 100) ** 2 + (columns - 110) ** 2 < 90))


Pair = tuple[Any, dict[str, Any], list[str]]


def read(optical: Any, sar: Any, **options: Any) -> Pair:
    with ScenePair.open(optical, sar, BANDS, ("VV", "VH"), SceneOptions(**options)) as pair:
        patch = pair.read(Window(0, 0, *pair.grid.shape))
        return patch, {found.what: found.value for found in pair.decisions}, pair.warnings


@pytest.fixture
def sar(tmp_path: Path) -> Path:
    return write(tmp_path / "s1.tif", levels().astype(np.float32), ("VV", "VH"), nodata=None)


@pytest.fixture
def optical(tmp_path: Path) -> Path:
    return write(tmp_path / "s2.tif", ground().astype(np.uint16), BANDS, nodata=None)


# --- optical fills ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", few([0, 1000], 1000))
@pytest.mark.parametrize(
    ("fill", "dtype"),
    [
        (-9999, "int16"), (-32768, "int16"), (-999, "int16"), (-1, "int16"), (1, "uint16"), (7, "uint16"),
        (65_535, "int32"), (30_000, "uint16"), (5000, "uint16"), (-9999, "float32"), (3.4e38, "float32"),
    ],
)  # fmt: skip
def test_a_repeated_number_is_no_data(tmp_path: Path, sar: Path, fill: float, dtype: str, offset: int) -> None:
    values, hole = np.round(ground() + offset), wedge()
    values[:, hole] = fill
    path = write(tmp_path / "fill.tif", values.astype(dtype), BANDS, nodata=None)
    patch, decisions, warnings = read(path, sar)
    assert decisions["optical.offset"] == offset
    np.testing.assert_array_equal(patch.optical_valid, ~hole)
    np.testing.assert_array_equal(patch.optical[:, ~hole], values[:, ~hole].astype(np.float32) - offset)
    assert decisions["optical.fill"] == pytest.approx(fill, rel=1e-5)
    assert any(f"{hole.mean():.2%}" in warning and "nodata" in warning for warning in warnings)


@pytest.mark.parametrize("fills", [(1, 2), (-9999, 1), (1, 3, 5000)])
def test_more_than_one_fill(tmp_path: Path, sar: Path, fills: tuple[int, ...]) -> None:
    values, hole = np.round(ground() + 1000), wedge()
    values[:, hole] = np.array(fills)[np.arange(np.count_nonzero(hole)) * len(fills) // np.count_nonzero(hole)]
    path = write(tmp_path / "fill.tif", values.astype(np.int16), BANDS, nodata=None)
    patch, decisions, _ = read(path, sar)
    np.testing.assert_array_equal(patch.optical_valid, ~hole)
    assert decisions["optical.offset"] == 1000
    assert sorted(decisions["optical.fill"]) == sorted(fills)


@pytest.mark.parametrize("fill", [-1.0, -0.1, 0.00013, 9.0, -9999.0])
def test_fills_of_fractions(tmp_path: Path, sar: Path, fill: float) -> None:
    values, hole = (ground() / 10_000).astype(np.float32), wedge()
    values[:, hole] = fill
    patch, decisions, _ = read(write(tmp_path / "fill.tif", values, BANDS, nodata=None), sar)
    np.testing.assert_array_equal(patch.optical_valid, ~hole)
    assert (decisions["optical.scale"], decisions["optical.offset"]) == (10_000, 0)


def test_fills_of_scaled_numbers_are_told_as_the_file_holds_them(tmp_path: Path, sar: Path) -> None:
    values, hole = np.round(ground() + 1000), wedge()
    values[:, hole] = -9999
    path = write(tmp_path / "fill.tif", values.astype(np.int16), BANDS, nodata=None)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (1e-4,) * 4, (-0.1,) * 4
    patch, decisions, _ = read(path, sar)
    assert decisions["optical.fill"] == -9999
    np.testing.assert_array_equal(patch.optical_valid, ~hole)
    np.testing.assert_allclose(patch.optical[:, ~hole], values[:, ~hole] - 1000, atol=0.02)


@pytest.mark.parametrize("fill", [-9999, 1])
def test_fills_of_a_file_a_band(tmp_path: Path, sar: Path, fill: int) -> None:
    values, hole = np.round(ground() + 1000), wedge()
    values[:, hole] = fill
    files = [
        write(tmp_path / f"{name}.tif", band[None].astype(np.int16), (None,), nodata=None)
        for name, band in zip(BANDS, values, strict=True)
    ]
    for declared in (0, 1, 3):  # as the advice is followed, file by file
        for path in files[:declared]:
            with rasterio.open(path, "r+") as file:
                file.nodata = fill
        patch, decisions, warnings = read(files, sar)
        assert (decisions["optical.offset"], decisions["optical.fill"]) == (1000, fill)
        np.testing.assert_array_equal(patch.optical_valid, ~hole)
        (warning,) = (text for text in warnings if "undeclared fill" in text)
        assert [path.name in warning for path in files] == [number >= declared for number in range(4)]


def resampled(values: np.ndarray, method: Resampling = Resampling.bilinear, side: int = SIDE) -> np.ndarray:
    """Bands resampled by GDAL to so many pixels a side, fills like measurements."""
    out = np.empty((len(values), side, side), np.float32)
    place = Affine.scale(values.shape[1] / side)
    reproject(
        values.astype(np.float32), out, src_transform=Affine.identity() @ Affine.translation(1e5, 1e5),
        dst_transform=Affine.translation(1e5, 1e5) @ place, src_crs="EPSG:32633", dst_crs="EPSG:32633",
        resampling=method,
    )  # fmt: skip
    return out


@pytest.mark.parametrize(
    ("pixel", "fill", "method"),
    few(
        product((6, 13, 20, 60), (-9999, 1, 0), METHODS),
        (6, -9999, METHODS[0]), (13, 1, METHODS[1]), (20, 0, METHODS[2]), (60, -9999, METHODS[3]),
    ),
)
def test_what_is_blended_with_a_fill_decides_nothing(
    tmp_path: Path, sar: Path, fill: int, pixel: int, method: Resampling
) -> None:
    """Files that were resampled while the fill counted as a number; 0 was declared afterwards."""
    side = round(SIDE * 10 / pixel)
    coarse, hole = ground(side) + 1000, wedge(side)
    share = resampled(hole[None], Resampling.bilinear)[0]
    blended = resampled(np.where(hole, fill, coarse), method)
    blended[:, share == 1] = fill
    path = write(tmp_path / "fill.tif", np.round(blended).astype(np.int16), BANDS, nodata=0 if fill == 0 else None)
    patch, decisions, warnings = read(path, sar)
    assert decisions["optical.offset"] == 1000
    if fill:
        # The tip of a wedge may hold no pixel of fill alone.
        assert np.count_nonzero(patch.optical_valid & (share > 0.05)) <= 2
        assert patch.optical_valid[share == 0].mean() > 0.8
        assert "blended" in " ".join(warnings)
        assert f"gdalwarp -srcnodata {fill} " in " ".join(warnings)
        assert "gdal_edit" not in " ".join(warnings)


def test_what_declares_a_fill_in_files_that_gdal_cannot_change(tmp_path: Path, sar: Path) -> None:
    values = np.round(ground() + 1000)
    values[:, wedge()] = 1
    tiff, path = write(tmp_path / "s2.tif", values.astype(np.uint16), BANDS, nodata=None), tmp_path / "s2.jp2"
    copy(tiff, path, driver="JP2OpenJPEG", QUALITY=100, REVERSIBLE="YES")
    _, _, warnings = read(path, sar, optical_bands=("1", "2", "3", "4"))
    assert "gdal_translate -a_nodata 1 " in " ".join(warnings)
    assert "gdal_edit" not in " ".join(warnings)


def test_a_fill_is_no_guess_once_it_is_declared(tmp_path: Path, sar: Path) -> None:
    values, hole = np.round(ground()), wedge()
    values[:, hole] = 1
    path = write(tmp_path / "fill.tif", values.astype(np.uint16), BANDS, nodata=None)
    options = {"strict": True, "optical_offset": 0.0, "sar_scale": "db"}
    with pytest.raises(OptionsError, match=r"gdal_edit\.py -a_nodata"):
        read(path, sar, **options)
    with rasterio.open(path, "r+") as file:
        file.nodata = 1
    patch, decisions, warnings = read(path, sar, **options)
    assert "optical.fill" not in decisions
    assert not warnings
    np.testing.assert_array_equal(patch.optical_valid, ~hole)


def test_files_that_declare_all_nodata_have_no_undeclared_fills(tmp_path: Path, sar: Path) -> None:
    """Such as what was fetched, where dark ground is clipped to 1."""
    values = np.round(ground())
    values[:, wedge()] = 1
    path = write(tmp_path / "s2.tif", values.astype(np.uint16), BANDS, nodata=0)
    tag, text = COMPLETE
    with rasterio.open(path, "r+") as file:
        file.update_tags(**{tag: text})
    patch, decisions, _ = read(path, sar)
    assert "optical.fill" not in decisions
    assert patch.optical_valid.all()
    np.testing.assert_array_equal(patch.optical, values.astype(np.float32))


def clipped_water(values: np.ndarray) -> None:
    """A lake that is corrected to nothing in all bands; around it, numbers rise slowly."""
    rows, columns = np.indices(values.shape[1:])
    depth = np.hypot(rows - 60, columns - 60)
    lake = depth < 40
    values[:, lake] = np.clip(np.round((depth[lake] - 30) * np.array([20, 15, 9, 4])[:, None]), 1, None)


def bright_snow(values: np.ndarray) -> None:
    values[:, 90:130, 20:60] = 10_000


def dark_patch(values: np.ndarray) -> None:
    values[:, 90:97, 20:27] = 3


@pytest.mark.parametrize("edit", [clipped_water, bright_snow, dark_patch])
def test_measurements_that_are_equal_stay(tmp_path: Path, sar: Path, edit: Callable[[np.ndarray], None]) -> None:
    values = np.round(ground())
    edit(values)
    patch, decisions, warnings = read(write(tmp_path / "s2.tif", values.astype(np.uint16), BANDS, nodata=None), sar)
    np.testing.assert_array_equal(patch.optical, values)
    assert "optical.fill" not in decisions
    assert ("10000 in" in " ".join(warnings)) == (edit is bright_snow) == ("optical.clipped" in decisions)
    assert decisions["optical.offset"] == 0


def test_strict_allows_no_guess_that_bright_numbers_are_ground(tmp_path: Path, sar: Path) -> None:
    values = np.round(ground())
    bright_snow(values)
    path = write(tmp_path / "snow.tif", values.astype(np.uint16), BANDS, nodata=None)
    options = {"strict": True, "optical_offset": 0.0, "sar_scale": "db"}
    with pytest.raises(OptionsError, match=r"optical\.clipped.*declare it as nodata.*omit --strict"):
        read(path, sar, **options)
    with rasterio.open(path, "r+") as file:
        file.nodata = 10_000
    assert read(path, sar, **options)[0].optical_valid.mean() < 0.95


@pytest.mark.parametrize("fill", [-9999, 1])
def test_pixels_around_a_fill_do_not_depend_on_the_window(tmp_path: Path, fill: int) -> None:
    side = 700
    coarse, hole = ground(side // 2) + 1000, wedge(side // 2)
    coarse[:, hole] = fill
    blended = np.stack([zoom(band, 2, order=1, grid_mode=True, mode="nearest") for band in coarse])
    blended[:, 500:530, 480:560] = fill  # across blocks
    optical = write(tmp_path / "s2.tif", np.round(blended).astype(np.int16), BANDS, nodata=None)
    sar = write(tmp_path / "s1.tif", levels(side).astype(np.float32), ("VV", "VH"), nodata=None)
    with ScenePair.open(optical, sar, BANDS, ("VV", "VH"), read_threads=2) as pair:
        whole = pair.read(Window(0, 0, side, side))
    raster = Raster(optical, "optical")
    with raster.dataset as dataset:
        raster.fills = confirm_fills(raster, dataset.indexes, [Fill(fill, fill > 0)])
        for window in (Window(490, 470, 9, 40), Window(531, 470, 20, 100), Window(100, 0, 300, 300)):
            place = np.s_[window.row : window.row + window.height, window.column : window.column + window.width]
            values, _ = raster.read_masked(dataset.indexes, window)
            np.testing.assert_array_equal(np.isfinite(values).all(axis=0), whole.optical_valid[place])
    with rasterio.open(optical) as file:
        fills = (file.read() == fill).all(axis=0)
    rim = ~whole.optical_valid & ~fills
    assert rim[498:500, 490:550].all()
    assert rim[530, 490:550].all()
    assert not whole.optical_valid[fills].any()


@pytest.mark.long
def test_a_wedge_at_the_edge_of_a_large_image_is_found(tmp_path: Path) -> None:
    """Though only a part of it is looked at."""
    side = 1500
    random = np.random.default_rng(0)
    values = np.stack([random.integers(1000 + low, 2500 + low, (side, side)) for low in (200, 300, 250, 1500)])
    rows, columns = np.indices((side, side))
    hole = 4 * rows + columns < 700
    assert hole.mean() < 0.03
    values[:, hole] = 1
    level = np.resize(levels(), (2, side, side)).astype(np.float32)
    optical = write(tmp_path / "s2.tif", values.astype(np.uint16), BANDS, nodata=None)
    patch, decisions, _ = read(optical, write(tmp_path / "s1.tif", level, ("VV", "VH"), nodata=None), sar_scale="db")
    assert (decisions["optical.offset"], decisions["optical.fill"]) == (1000, 1)
    np.testing.assert_array_equal(patch.optical_valid, ~hole)


def test_holes_that_no_sample_meets_are_no_data(tmp_path: Path) -> None:
    """Far below all that is measured, a number needs no repetition that was noticed."""
    repeated = np.s_[:256, 256:512]
    values, level = (np.tile(each, (1, 2, 9)) for each in (np.round(ground(256) + 1000), levels(256)))
    values[:, *repeated], level[:, *repeated] = 1, -50
    optical = write(tmp_path / "s2.tif", values.astype(np.uint16), BANDS, nodata=None)
    sar = write(tmp_path / "s1.tif", level.astype(np.float32), ("VV", "VH"), nodata=None)
    with ScenePair.open(optical, sar, BANDS, ("VV", "VH")) as pair:
        decided = {found.what: found.value for found in pair.decisions}
        patch = pair.read(Window(0, 0, 512, 512))
        counts = dict(pair.counts)
    assert decided["optical.offset"] == 1000
    assert "optical.fill" not in decided  # else this tests nothing
    assert "sar.fill" not in decided
    for valid in (patch.optical_valid, patch.sar_valid):
        assert not valid[repeated].any()
        assert np.count_nonzero(valid) == 512**2 - 256**2
    assert (counts["optical_impossible"], counts["sar_impossible"]) == (4 * 256**2, 2 * 256**2)


def test_a_guess_of_the_offset_warns(tmp_path: Path, sar: Path) -> None:
    bright = np.round(ground() / 4 + 3000)
    _, decisions, warnings = read(write(tmp_path / "s2.tif", bright.astype(np.uint16), BANDS, nodata=None), sar)
    assert decisions["optical.offset"] == 0
    assert any("a guess" in warning and "--optical-offset 1000" in warning for warning in warnings)
    _, _, warnings = read(tmp_path / "s2.tif", sar, optical_offset=1000.0)
    assert not any("guess" in warning for warning in warnings)


@pytest.mark.parametrize(("rows", "fill"), [(3, 1), (5, 300), (3, -9999)])
def test_a_few_equal_dark_pixels_decide_nothing(tmp_path: Path, sar: Path, rows: int, fill: int) -> None:
    values = np.round(ground() + 1000)
    values[:, 20 : 20 + rows, 90:97] = fill
    path = write(tmp_path / "s2.tif", values.astype(np.int16), BANDS, nodata=None)
    assert read(path, sar)[1]["optical.offset"] == 1000


def test_levels_are_told_without_fills(tmp_path: Path, sar: Path) -> None:
    """What is compared with training is the ground."""
    values, hole = np.round(ground()), wedge()
    values[:, hole] = -9999
    with ScenePair.open(
        write(tmp_path / "s2.tif", values.astype(np.int16), BANDS, nodata=None), sar, BANDS, ("VV", "VH")
    ) as pair:
        for name, band in zip(BANDS, values, strict=True):
            assert pair.levels[name] == pytest.approx(band[~hole].mean(), rel=0.1)


# --- SAR fills -------------------------------------------------------------------------------------------------------

UNITS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "db": lambda level: level.astype(np.float32),
    "db100": lambda level: np.round(100 * level).astype(np.int16),
    "power": lambda level: (10 ** (level / 10)).astype(np.float32),
    "amplitude": lambda level: (10 ** (level / 20)).astype(np.float32),
}


@pytest.mark.parametrize("separate", few([False, True], False))
@pytest.mark.parametrize(
    ("unit", "fill"),
    few(
        [
            ("db", -99), ("db", -50), ("db", -40), ("db", -9999), ("db", 99), ("db", -1e30), ("db100", -9900),
            ("db100", -32_768), ("power", 1e-10), ("power", 1e-5), ("power", -9999), ("amplitude", 1e-6),
        ],
        ("db", -40), ("db", 99), ("db100", -32_768), ("power", 1e-5), ("amplitude", 1e-6),
    ),
)  # fmt: skip
def test_a_level_below_all_noise_that_is_repeated_is_no_data(
    tmp_path: Path, optical: Path, unit: str, fill: float, separate: bool
) -> None:
    values, hole = UNITS[unit](levels()), wedge()
    values[:, hole] = fill
    files: Any = write(tmp_path / "s1.tif", values, ("VV", "VH"), nodata=None)
    if separate:
        files = [write(tmp_path / f"s1_{n}.tif", values[[b]], (None,), nodata=None) for b, n in enumerate(("VV", "VH"))]
    patch, decisions, warnings = read(optical, files)
    assert decisions["sar.scale"] == unit
    np.testing.assert_array_equal(patch.sar_valid, ~hole)
    np.testing.assert_allclose(patch.sar[:, ~hole], levels()[:, ~hole], atol=0.006)
    assert decisions["sar.fill"] == pytest.approx(fill, rel=1e-5)
    assert any(f"{hole.mean():.2%}" in warning for warning in warnings)


@pytest.mark.parametrize("fills", [(None, -99), (None, -40), (-60, -70), (99, None)])
@pytest.mark.parametrize("rows", [2, 20])
def test_a_fill_of_one_polarisation(
    tmp_path: Path, optical: Path, rows: int, fills: tuple[float | None, float | None]
) -> None:
    level = levels()
    for band, fill in zip(level, fills, strict=True):
        band[:rows] = band[:rows] if fill is None else fill
    path = write(tmp_path / "s1.tif", level.astype(np.float32), ("VV", "VH"), nodata=None)
    patch, decisions, warnings = read(optical, path)
    assert not patch.sar_valid[:rows].any()
    assert patch.sar_valid[rows:].all()
    assert set(np.atleast_1d(decisions["sar.fill"])) == set(fills) - {None}
    assert any("undeclared fill" in warning for warning in warnings)


@pytest.mark.parametrize(("unit", "fill"), [("db", -99.0), ("db", -50.0), ("power", 1e-10)])
def test_what_is_blended_with_a_fill_of_sar_is_no_data(tmp_path: Path, optical: Path, unit: str, fill: float) -> None:
    hole = wedge(SIDE // 2)
    coarse = UNITS[unit](levels(SIDE // 2)).astype(float)
    coarse[:, hole] = fill
    values = np.stack([zoom(band, 2, order=1, grid_mode=True, mode="nearest") for band in coarse]).astype(np.float32)
    near = zoom(hole.astype(float), 2, order=1, grid_mode=True, mode="nearest")
    values[:, near == 1] = fill
    patch, _, _ = read(optical, write(tmp_path / "s1.tif", values, ("VV", "VH"), nodata=None))
    assert not (patch.sar_valid & (near > 0.05)).any()
    assert patch.sar_valid[near == 0].mean() > 0.9


@pytest.mark.parametrize("floor", [-25.0, -30.0, -36.0])
def test_levels_that_were_clipped_stay(tmp_path: Path, optical: Path, floor: float) -> None:
    level = levels()
    level[:, 80:112, 20:53] -= 6
    level = np.maximum(level, floor)
    patch, decisions, _ = read(optical, write(tmp_path / "s1.tif", level.astype(np.float32), ("VV", "VH"), nodata=None))
    assert patch.sar_valid.all()
    assert "sar.fill" not in decisions


@pytest.mark.parametrize(("unit", "separate"), each_once(UNITS, [False, True]))
def test_a_calm_lake_that_was_clipped_stays_and_is_said(
    tmp_path: Path, optical: Path, unit: str, separate: bool
) -> None:
    level = levels()
    level[:, 70:120, 20:60] = np.random.default_rng(4).normal([[[-28.0]], [[-32.0]]], 0.7, (2, 50, 40))
    level = np.maximum(level, -25)
    values = UNITS[unit](level)
    files: Any = write(tmp_path / "s1.tif", values, ("VV", "VH"), nodata=None)
    if separate:
        files = [write(tmp_path / f"s1_{n}.tif", values[[b]], (None,), nodata=None) for b, n in enumerate(("VV", "VH"))]
    patch, decisions, warnings = read(optical, files)
    assert patch.sar_valid.all()
    assert "sar.fill" not in decisions
    assert decisions["sar.clipped"] == pytest.approx([values.min()], rel=1e-5)
    assert any("clipped ground" in warning for warning in warnings)
    with pytest.raises(OptionsError, match=r"sar\.clipped"):
        read(optical, files, strict=True, sar_scale=unit, optical_offset=0.0)


def test_bright_snow_in_a_file_a_band_stays_and_is_said(tmp_path: Path, sar: Path) -> None:
    values = np.round(ground())
    bright_snow(values)
    files = [
        write(tmp_path / f"{name}.tif", band[None].astype(np.uint16), (None,), nodata=None)
        for name, band in zip(BANDS, values, strict=True)
    ]
    patch, decisions, _ = read(files, sar)
    assert patch.optical_valid.all()
    assert decisions["optical.clipped"] == [10_000]


# --- numbers that are in no unit -------------------------------------------------------------------------------------


def standardised(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean((1, 2), keepdims=True)) / values.std((1, 2), keepdims=True))


def stretched(values: np.ndarray) -> np.ndarray:
    low, high = values.min((1, 2), keepdims=True), values.max((1, 2), keepdims=True)
    return np.asarray((values - low) / (high - low))


def clipped_stretch(values: np.ndarray) -> np.ndarray:
    low, high = (np.percentile(values, share, axis=(1, 2), keepdims=True) for share in (2, 98))
    return np.asarray(np.clip((values - low) / (high - low), 0, 1))


OPTICAL_NUMBERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "standardised": (standardised, "float32"),
    "standardised by other statistics": (lambda values: (values - 1400) / 1100, "float32"),
    "minimum and maximum": (stretched, "float32"),
    "percentiles": (clipped_stretch, "float32"),
    "-1 to 1": (lambda values: 2 * stretched(values) - 1, "float32"),
    "0 to 255": (lambda values: 255 * stretched(values), "float32"),
    "0 to 255, whole": (lambda values: np.round(255 * clipped_stretch(values)), "uint16"),
    "offset subtracted twice": (lambda values: values / 10_000 - 0.1, "float32"),
    "offset subtracted twice, whole": (lambda values: np.round(values - 1000), "int16"),
    "scaled twice": (lambda values: values / 1e8, "float32"),
    "percent": (lambda values: values / 100, "float32"),
    "0 to 65535": (lambda values: np.round(65_000 * clipped_stretch(values) ** 0.3), "uint16"),
    "logarithms": (lambda values: np.log(values), "float32"),
    "two units": (lambda values: values * np.array([1, 1, 1e-4, 1e-4])[:, None, None], "float32"),
    "8 bits": (lambda values: np.round(255 * clipped_stretch(values)), "uint8"),
}


@pytest.mark.parametrize("name", OPTICAL_NUMBERS)
def test_optical_numbers_that_are_no_reflectance_are_refused(tmp_path: Path, sar: Path, name: str) -> None:
    convert, dtype = OPTICAL_NUMBERS[name]
    path = write(tmp_path / "s2.tif", convert(ground()).astype(dtype), BANDS, nodata=None)
    with pytest.raises(InputError, match=r"s2\.tif"):
        read(path, sar)


def scaled_file(path: Path, values: np.ndarray, scale: float, offset: float = 0.0) -> Path:
    write(path, values, BANDS, nodata=None)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (scale,) * len(values), (offset,) * len(values)
    return path


@pytest.mark.parametrize(("scale", "offset"), [(1e-4, 0.0), (1e-4, -0.1), (1e-3, 0.0), (1.0, -0.1), (1e4, 0.0)])
def test_a_scale_that_was_applied_already_is_refused_until_it_is_removed(
    tmp_path: Path, sar: Path, scale: float, offset: float
) -> None:
    values = (ground() / 10_000).astype(np.float32)
    path = scaled_file(tmp_path / "s2.tif", values if scale < 1e4 else values * 1e4, scale, offset)
    with pytest.raises(InputError, match="gdal_translate -a_scale 1 -a_offset 0"):
        read(path, sar)
    if scale == 1e-4:
        with pytest.raises(OptionsError, match="not reflectance"):
            read(path, sar, optical_scale="reflectance")
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (1.0,) * 4, (0.0,) * 4
    np.testing.assert_allclose(read(path, sar)[0].optical, ground(), rtol=1e-5)


def test_an_offset_that_is_not_there_is_not_taken(tmp_path: Path, sar: Path) -> None:
    path = write(tmp_path / "s2.tif", np.round(ground()).astype(np.uint16), BANDS, nodata=None)
    with pytest.raises(OptionsError, match="negative"):
        read(path, sar, optical_offset=1000.0)


LEGITIMATE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "snow": lambda values: values / 3 + 9500,
    "low sun": lambda values: values / 12 + 3,
    "desert": lambda values: values / 4 + np.array([1100, 1900, 2600, 3100])[:, None, None],
    "clouds above 1": lambda values: np.where(smooth(11) > 0.5, 9000 + 2500 * smooth(11), values),
    "dark water": lambda values: np.clip(10 * smooth(12), -28, 28) + np.array([180, 120, 70, 35])[:, None, None],
    "very dark water": lambda values: 4 + smooth(12) + np.array([40, 20, 5, 1])[:, None, None],
    "a little below 0": lambda values: values - 60,
    "water below 0": lambda values: np.clip(10 * smooth(12), -28, 28) + np.array([60, -20, -40, -60])[:, None, None],
}


@pytest.mark.parametrize(("name", "fractions"), each_once(LEGITIMATE, [False, True]))
def test_unusual_ground_is_no_reason_to_refuse(tmp_path: Path, sar: Path, name: str, fractions: bool) -> None:
    values = np.round(LEGITIMATE[name](ground()))
    stored = (values / 10_000).astype(np.float32) if fractions else values.astype(np.int16)
    patch, _, _ = read(write(tmp_path / "s2.tif", stored, BANDS, nodata=None), sar)
    assert patch.optical_valid.mean() > 0.99
    np.testing.assert_allclose(patch.optical, values, atol=0.01)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_dark_water_is_no_picture(tmp_path: Path, sar: Path, dtype: str) -> None:
    """The data type tells a picture, not that no value is above 255."""
    values = np.round(LEGITIMATE["dark water"](ground()))
    assert values.max() < 256
    patch, decisions, _ = read(write(tmp_path / "s2.tif", values.astype(dtype), BANDS, nodata=None), sar)
    assert (decisions["optical.scale"], decisions["optical.offset"]) == (1, 0)
    np.testing.assert_array_equal(patch.optical, values)


SAR_NUMBERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "standardised": standardised,
    "standardised by other statistics": lambda level: (level + 14) / 5,
    "minimum and maximum": stretched,
    "percentiles": clipped_stretch,
    "-25 to 0": lambda level: np.clip((level + 25) / 25, 0, 1),
    "-30 to 0": lambda level: np.clip((level + 30) / 30, 0, 1),
    "-50 to 1": lambda level: np.clip((level + 50) / 51, 0, 1),
    "-1 to 1": lambda level: 2 * stretched(level) - 1,
    "0 to 255": lambda level: 255 * stretched(level),
    "natural logarithms": lambda level: level * np.log(10) / 10,
    "dB without sign": lambda level: np.abs(level),
    "uncalibrated": lambda level: 400 * 10 ** (level / 20),
}


@pytest.mark.parametrize("name", SAR_NUMBERS)
def test_sar_numbers_that_are_no_backscatter_are_refused(tmp_path: Path, optical: Path, name: str) -> None:
    path = write(tmp_path / "s1.tif", SAR_NUMBERS[name](levels()).astype(np.float32), ("VV", "VH"), nodata=None)
    with pytest.raises(InputError, match=r"s1\.tif"):
        read(optical, path)


@pytest.mark.parametrize("options", [{}, {"sar_scale": "db"}])
def test_standardised_decibels_are_refused_under_any_name(
    tmp_path: Path, optical: Path, options: dict[str, Any]
) -> None:
    numbers = (levels() + 12) / 5
    numbers -= np.median(numbers) + 0.05  # most are negative, as dB are
    path = write(tmp_path / "s1.tif", numbers.astype(np.float32), ("VV_dB", "VH_dB"), nodata=None)
    with pytest.raises((InputError, OptionsError), match="median"):
        read(optical, path, **options)


# --- a sensor that saw nothing ---------------------------------------------------------------------------------------

NOTHING: dict[str, tuple[float, float | None]] = {
    "NaN": (np.nan, None), "declared": (-9999, -9999), "zeros": (0, None), "-9999": (-9999, None), "-99": (-99, None),
    "1e-10": (1e-10, None),
}  # fmt: skip


@pytest.mark.parametrize("name", NOTHING)
def test_sar_without_any_measurement(tmp_path: Path, optical: Path, name: str) -> None:
    value, nodata = NOTHING[name]
    path = write(tmp_path / "s1.tif", np.full((2, SIDE, SIDE), value, np.float32), ("VV", "VH"), nodata=nodata)
    with pytest.raises(InputError, match=r"has no valid pixel.*--missing use-other"):
        read(optical, path)
    patch, _, warnings = read(optical, path, missing="use-other", coreg="check")
    assert patch.optical_valid.all()
    assert not patch.sar_valid.any()
    assert any("the optical image alone" in warning for warning in warnings)


def test_a_map_without_any_sar(tmp_path: Path, optical: Path) -> None:
    path = write(tmp_path / "s1.tif", np.full((2, SIDE, SIDE), np.nan, np.float32), ("VV", "VH"), nodata=None)
    options = PredictOptions(optical, path, output=tmp_path / "map.tif", missing="use-other")
    report = predict(options, PlaceEngine())
    assert report.valid_share == 1
    assert any("the optical image alone" in warning for warning in report.warnings)
    with pytest.raises(InputError, match="--missing use-other"):
        predict(PredictOptions(optical, path, output=tmp_path / "other.tif"), PlaceEngine())


def test_inspect_takes_a_pair_without_any_sar(tmp_path: Path, optical: Path) -> None:
    path = write(tmp_path / "s1.tif", np.full((2, SIDE, SIDE), np.nan, np.float32), ("VV", "VH"), nodata=None)
    given = ["inspect", "--optical", str(optical), "--sar", str(path), "--coreg", "off"]
    assert run(given) == 65
    assert run([*given, "--missing", "use-other"]) == 0


def test_nothing_that_any_sensor_saw(tmp_path: Path) -> None:
    optical = write(tmp_path / "s2.tif", np.full((4, SIDE, SIDE), np.nan, np.float32), BANDS, nodata=None)
    sar = write(tmp_path / "s1.tif", np.full((2, SIDE, SIDE), np.nan, np.float32), ("VV", "VH"), nodata=None)
    with pytest.raises(InputError, match="no pixel with data from either sensor"):
        predict(PredictOptions(optical, sar, output=tmp_path / "map.tif", missing="use-other"), PlaceEngine())


@pytest.mark.parametrize("name", ["declared", "zeros", "-9999"])
def test_an_optical_image_without_any_measurement(tmp_path: Path, sar: Path, name: str) -> None:
    value, nodata = NOTHING[name]
    path = write(tmp_path / "s2.tif", np.full((4, SIDE, SIDE), value, np.int16), BANDS, nodata=nodata)
    with pytest.raises(InputError):
        read(path, sar)
    patch, _, warnings = read(path, sar, missing="use-other", coreg="check", strict=name != "-9999", sar_scale="db")
    assert patch.sar_valid.all()
    assert not patch.optical_valid.any()
    assert any("the SAR image alone" in warning for warning in warnings)


# --- exchanged options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("unit", ["db", "power"])
def test_exchanged_options_are_recognised(tmp_path: Path, names: bool, unit: str) -> None:
    optical = write(
        tmp_path / "a.tif", np.round(ground()).astype(np.uint16), BANDS if names else (None,) * 4, nodata=None
    )
    sar = write(tmp_path / "b.tif", UNITS[unit](levels()), ("VV", "VH") if names else (None,) * 2, nodata=None)
    with pytest.raises(InputError, match=r"exchange.*--optical and --sar|--optical and --sar.*exchange") as refusal:
        read(sar, optical)
    assert "a.tif" in str(refusal.value) or "b.tif" in str(refusal.value)
    read(optical, sar)


def test_exchanged_folders_are_recognised(tmp_path: Path) -> None:
    for name, files, values in (("s2", BANDS, ground()), ("s1", ("VV", "VH"), levels())):
        (tmp_path / name).mkdir()
        for file, band in zip(files, values, strict=True):
            write(tmp_path / name / f"{file}.tif", band[None].astype(np.float32), (None,), nodata=None)
    with pytest.raises(InputError, match="--optical and --sar are swapped"):
        read(tmp_path / "s1", tmp_path / "s2")


@pytest.mark.parametrize("given", [("s1", "s2"), ("s2", "s2"), ("s1", "s1")])
def test_exchanged_products_are_recognised(tmp_path: Path, given: tuple[str, str]) -> None:
    (tmp_path / "s1").mkdir()
    products = {"s2": make_optical_safe(tmp_path), "s1": make_grd_safe(tmp_path / "s1")}
    with pytest.raises(InputError, match="Perhaps --optical and --sar are swapped"):
        read(products[given[0]], products[given[1]], allow_gcps=True)


def test_names_of_numbers_are_no_evidence_of_a_sensor(tmp_path: Path, optical: Path) -> None:
    read(optical, write(tmp_path / "s1.tif", levels().astype(np.float32), ("B1", "B2"), nodata=None))


def test_one_image_given_twice(tmp_path: Path, sar: Path, optical: Path) -> None:
    with pytest.raises(InputError, match=r"--optical .*s1\.tif is a SAR image .*\. Pass it with --sar"):
        read(sar, sar)
    with pytest.raises(InputError, match=r"--sar .*s2\.tif is an optical image .*\. Pass it with --optical"):
        read(optical, optical)
