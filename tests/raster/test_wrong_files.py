"""Files that look right but are wrong: what must be refused, reported or kept separate."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from rasterio.control import GroundControlPoint

from refnet_cli.cli.main import run
from refnet_cli.errors import InputError, InputMissingError, OptionsError
from refnet_cli.prediction.inspection import inspect
from refnet_cli.raster.georeference import GcpGeoreference
from refnet_cli.raster.raster import Raster
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.tiles.window import Window
from tests.helpers.quick import few
from tests.helpers.safe import TILES, make_grd_safe, make_optical_safe
from tests.helpers.scenes import CARD, PLACE, make_pair, write

BANDS = ("B02", "B03", "B04", "B08")
SIDE = 96


def numbers(low: int = 100, high: int = 900) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (4, SIDE, SIDE)).astype(np.uint16)


def band_files(folder: Path, values: np.ndarray, edit: Callable[[Any, str], None] | None = None) -> list[Path]:
    paths = []
    for name, band in zip(BANDS, values, strict=True):
        paths.append(write(folder / f"{name}.tif", band[None], (None,), nodata=None))
        if edit:
            with rasterio.open(paths[-1], "r+") as file:
                edit(file, name)
    return paths


def opened(optical: Any, sar: Any, **options: Any) -> ScenePair:
    return ScenePair.open(optical, sar, BANDS, ("VV", "VH"), SceneOptions(**options))


@pytest.fixture
def sar(tmp_path: Path) -> Path:
    return make_pair(tmp_path, SIDE, SIDE)[1]


def test_the_grid_is_that_of_bands_that_are_used(tmp_path: Path, sar: Path) -> None:
    """Not of a finer SAR image or terrain model that lies in the same folder."""
    folder = tmp_path / "scene"
    folder.mkdir()
    band_files(folder, numbers())
    fine = Affine(5, 0, PLACE.c, 0, -5, PLACE.f)
    degrees = Affine(1e-5, 0, 15, 0, -1e-5, 47.85)
    write(folder / "a_dem.tif", np.ones((1, 50, 50), np.float32), (None,), degrees, "EPSG:4326")
    write(folder / "s1.tif", np.full((2, 200, 200), 0.05, np.float32), ("VV", "VH"), fine)
    with opened(folder, sar) as pair:
        assert pair.grid.shape == (SIDE, SIDE)
        assert pair.grid.transform == PLACE


def test_bands_of_different_products_are_refused(tmp_path: Path, sar: Path) -> None:
    def tag(file: Any, name: str) -> None:
        file.update_tags(PROCESSING_BASELINE="05.09" if name == "B02" else "02.14")

    with pytest.raises(InputError, match="different offsets"):
        opened(band_files(tmp_path, numbers(3000, 5000), tag), sar)


@pytest.mark.parametrize("what", ["scales", "offsets"])
def test_bands_that_are_stored_differently_are_refused(tmp_path: Path, sar: Path, what: str) -> None:
    path = write(tmp_path / "stack.tif", numbers(), BANDS, nodata=None)
    with rasterio.open(path, "r+") as file:
        setattr(file, what, (0.0001, 0.0001, 0.0001, 1.0))
    with pytest.raises(InputError, match="different scales and offsets"):
        opened(path, sar)


def test_a_scale_of_nothing_is_refused(tmp_path: Path, sar: Path) -> None:
    path = write(tmp_path / "stack.tif", numbers(), BANDS, nodata=None)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.0,) * 4, (-0.1,) * 4
    with pytest.raises(InputError, match="declares the invalid scale 0"):
        opened(path, sar)


def test_tags_of_files_that_are_not_used_do_not_count(tmp_path: Path, sar: Path) -> None:
    """And a map that was written next to its bands is none of them."""
    folder = tmp_path / "scene"
    folder.mkdir()
    band_files(folder, numbers(3000, 5000))
    old = write(folder / "lulc.tif", np.ones((1, SIDE, SIDE), np.uint8), ("land cover class",))
    with rasterio.open(old, "r+") as file:
        file.update_tags(REFNET_VERSION="0.1", REFNET_OPTICAL="S2A_MSIL2A_20230101T101010_N0509_R022_T32TQM.tif")
    with opened(folder, sar) as pair:
        (offset,) = (found.value for found in pair.decisions if found.what == "optical.offset")
    assert offset == 0


def test_bands_of_two_dates_are_refused(tmp_path: Path, sar: Path) -> None:
    paths = [
        write(tmp_path / f"T33UUP_2020{month}01T101010_{name}_10m.tif", band[None], (None,), nodata=None)
        for month, name, band in zip(("01", "01", "01", "06"), BANDS, numbers(), strict=True)
    ]
    with pytest.raises(InputError, match="different times"):
        opened(paths, sar)


def test_a_picture_in_wide_numbers_is_refused(tmp_path: Path, sar: Path) -> None:
    path = write(tmp_path / "rgb.tif", numbers(0, 256), BANDS, nodata=None)
    with pytest.raises(InputError, match="8-bit picture"):
        opened(path, sar)
    opened(path, sar, optical_scale="dn").close()


def test_options_that_contradict_the_files(tmp_path: Path, sar: Path) -> None:
    stack = write(tmp_path / "stack.tif", numbers(), BANDS)
    product = make_grd_safe(tmp_path)
    left, top = TILES["32TQS"]
    there = Affine(10, 0, left + 700, 0, -10, top - 700)
    beside = write(tmp_path / "beside.tif", numbers(), BANDS, there, "EPSG:32632")
    for options, paths in (
        ({"sar_scale": "power", "allow_gcps": True}, (beside, product)),
        ({"optical_scale": "reflectance"}, (stack, sar)),
        ({"optical_bands": ("1", "2", "3", "3")}, (stack, sar)),
    ):
        with pytest.raises(OptionsError):
            opened(*paths, **options)


def test_a_name_is_no_satellite(tmp_path: Path, sar: Path) -> None:
    path = write(tmp_path / "stack.tif", numbers(), BANDS)
    with rasterio.open(path, "r+") as file:
        file.update_tags(ARTIST="Oliver Smith")
    opened(path, sar).close()
    with rasterio.open(path, "r+") as file:
        file.update_tags(SENSOR="OLI_TIRS")
    with pytest.raises(InputError, match="Landsat"):
        opened(path, sar)


def test_a_band_that_one_granule_lacks_is_no_band(tmp_path: Path, sar: Path) -> None:
    left, top = TILES["32TQS"]
    folder = make_optical_safe(tmp_path, "L1C", tiles={"32TQS": (left, top), "32TQT": (left, top + 2400)})
    (image,) = (folder / "GRANULE").glob("*TQT*/IMG_DATA/*B03.jp2")
    image.unlink()
    with pytest.raises(InputError, match="no band B03"):
        opened(folder, sar)


def test_granules_of_several_grids_are_refused(tmp_path: Path, sar: Path) -> None:
    left, top = TILES["32TQS"]
    far = make_optical_safe(tmp_path / "a", tiles={"32TQS": (left, top), "32TQT": (left, top + 9e6)})
    beside = make_optical_safe(tmp_path / "b", tiles={"32TQS": (left, top), "32TQT": (left + 3, top + 2400)})
    for product in (far, beside):
        with pytest.raises(InputError, match="are not on one grid"):
            opened(product, sar)


def test_control_points_across_zero_are_not_longitudes(tmp_path: Path) -> None:
    """Of a polar grid, whose coordinates are metres on both sides of the pole."""
    places = [(column, row) for column in range(0, 101, 25) for row in range(0, 101, 25)]
    points = [GroundControlPoint(row=row, col=column, x=40 * column - 2000, y=-40 * row) for column, row in places]
    place = GcpGeoreference(points, Raster(write(tmp_path / "x.tif", numbers(), BANDS, crs="EPSG:3031"), "SAR").crs)
    x, y = place.to_ground(np.array([10.0, 90.0]), np.array([30.0, 60.0]))
    np.testing.assert_allclose(x, [-1600, 1600], atol=0.1)
    np.testing.assert_allclose(y, [-1200, -2400], atol=0.1)


@pytest.mark.parametrize("count", [1, 5, 3600])
def test_control_points_must_be_some_and_not_endless(tmp_path: Path, count: int) -> None:
    places = [divmod(number, 60) for number in range(count)]
    points = [GroundControlPoint(row=row, col=col, x=15 + col / 100, y=48 - row / 100) for row, col in places]
    path = tmp_path / "gcps.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=2, height=60, width=60, dtype="float32", gcps=points, crs="EPSG:4326"
    ) as file:
        file.write(np.full((2, 60, 60), 0.05, np.float32))
    began = time.monotonic()
    with pytest.raises(InputError, match="ground control points at"):
        Raster(path, "SAR", allow_gcps=True)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("sar_crs", "turn"),
    few(
        [(crs, turn) for crs in ("EPSG:32660", "EPSG:32601", "EPSG:4326") for turn in (0, -360)],
        ("EPSG:32601", 0), ("EPSG:4326", -360),
    ),
)
def test_the_intersection_over_180_degrees_is_whole(tmp_path: Path, turn: int, sar_crs: str) -> None:
    """And so are bounds; SAR covers all of a grid in degrees that lies on both sides, whichever way it counts."""
    place = Affine(1e-4, 0, 179.98 + turn, 0, -1e-4, 10.02)
    optical = write(tmp_path / "s2.tif", np.resize(numbers(), (4, 400, 400)), BANDS, place, "EPSG:4326")
    if sar_crs == "EPSG:4326":
        wide = Affine(1e-4, 0, 179.97, 0, -1e-4, 10.03)
    else:
        x, y = Transformer.from_crs("EPSG:4326", sar_crs, always_xy=True).transform(179.97, 10.03)
        wide = Affine(10, 0, x - 100, 0, -10, y + 100)
    power = np.random.default_rng(1).gamma(4, 0.02, (2, 760, 760)).astype(np.float32) * np.array([[[1]], [[0.2]]])
    radar = write(tmp_path / "s1.tif", power.astype(np.float32), ("VV", "VH"), wide, sar_crs, nodata=None)
    for options in ({"extent": "intersection"}, {"bounds": ("179.98", "9.98", "-179.98", "10.02")}):
        with opened(optical, radar, sar_scale="power", **options) as pair:
            assert pair.grid.shape == (400, 400)
            assert pair.read(Window(0, 0, 400, 400)).sar_valid.mean() > 0.99


def test_one_sensor_alone_does_not_fit_weights_that_need_both(tmp_path: Path) -> None:
    optical, sar = make_pair(tmp_path, SIDE, SIDE)
    assert inspect(optical, None, CARD).fits is False
    assert inspect(None, sar, CARD).fits is False
    assert inspect(optical, None).fits is None


@pytest.mark.long
def test_a_map_may_be_made_again_beside_its_bands(tmp_path: Path, sar: Path) -> None:
    folder = tmp_path / "scene"
    folder.mkdir()
    band_files(folder, numbers())
    arguments = ["predict", "--optical", str(folder), "--sar", str(sar), "-o", str(folder / "lulc.tif"), "-q"]
    assert [run(arguments), run(arguments)] == [0, 0]
    assert run([*arguments[:6], str(folder / "B02.tif"), "-q"]) == 64


def test_the_other_sensor_alone_speaks_where_one_band_is_missing(tmp_path: Path) -> None:
    def saturate(optical: np.ndarray, sar: np.ndarray) -> None:
        optical[2, 10:20, 10:20] = 65_535

    optical, sar = make_pair(tmp_path, SIDE, SIDE, holes=saturate)
    with opened(optical, sar, missing="use-other") as pair:
        window = Window(8, 8, 4, 4)
        assert pair.read_seen(window).tolist() == [[3, 3, 3, 3], [3, 3, 3, 3], [3, 3, 2, 2], [3, 3, 2, 2]]
        assert np.isnan(pair.read(window).optical[:, 2:, 2:]).all()
    with opened(optical, sar) as pair:
        assert np.isfinite(pair.read(window).optical[[0, 1, 3]]).all()


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\x89PNG\r\n\x1a\n", "is a PNG picture"),
        (b"\xff\xd8\xff\xe0", "is a JPEG picture"),
        (b"\n<!DOCTYPE html>", "is HTML"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"nothing", "cannot be opened"),
    ],
)
def test_other_formats_are_named(start: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "s2.tif").write_bytes(start)
    with pytest.raises(InputError, match=rf"s2\.tif.* {said}|{said}"):
        Raster(tmp_path / "s2.tif", "optical")


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path, said in (("s2.tif", f"in {tmp_path}"), ("~/s2.tif", "home folder"), (tmp_path / "s2.tif", "exist. C")):
        with pytest.raises(InputMissingError, match=re.escape(said)):
            Raster(path, "optical")
