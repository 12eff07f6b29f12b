"""Labels: onto a grid, into a class scheme."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from refnet_cli.errors import InputError, InputMissingError, OptionsError
from refnet_cli.labels import Labels
from refnet_cli.products import SCHEMES
from refnet_cli.tiling import Window

PLACE = Affine(10, 0, 600_000, 0, -10, 5_000_000)
SIDE = 560
GRID = GeoBox((SIDE, SIDE), PLACE, "EPSG:32631")
ESRI = SCHEMES["esri-io"]


def write(path: Path, values: Any, transform: Affine = PLACE, crs: str = "EPSG:32631", **profile: Any) -> Path:
    height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=height, width=width, dtype=values.dtype, crs=crs,
        transform=transform, **profile,
    ) as file:  # fmt: skip
        file.write(values, 1)
    return path


def codes(height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 10, (height, width)).astype(np.uint8)


def whole(labels: Labels) -> np.ndarray:
    return labels.read(Window(0, 0, SIDE, SIDE))


def test_same_grid_is_passed_through(tmp_path: Path) -> None:
    with Labels.open(write(tmp_path / "a.tif", codes()), GRID, ESRI) as labels:
        assert whole(labels).dtype == np.uint8
        np.testing.assert_array_equal(whole(labels), codes())


def test_codes_become_indexes(tmp_path: Path) -> None:
    scheme = SCHEMES["worldcover"]
    values = np.array((0, *scheme.codes), np.uint8)[codes()]
    with Labels.open(write(tmp_path / "a.tif", values), GRID, scheme) as labels:
        np.testing.assert_array_equal(whole(labels), codes())


def test_mapping_and_nodata(tmp_path: Path) -> None:
    values = np.where(codes() > 4, 300, np.where(codes() > 2, -1, 7)).astype(np.int16)
    path = write(tmp_path / "a.tif", values, nodata=-1)
    with Labels.open(path, GRID, SCHEMES["worldcover"], {300: 100, 7: 0}) as labels:
        np.testing.assert_array_equal(whole(labels), np.where(codes() > 4, 11, 0))
    with pytest.raises(OptionsError, match="77"):
        Labels.open(path, GRID, SCHEMES["worldcover"], {300: 77})


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32632"])
def test_each_pixel_reads_the_label_at_its_place(tmp_path: Path, crs: str) -> None:
    """Labels that tell in which 100 m wide stripe of the grid they lie, at 5 m."""
    corners = Transformer.from_crs("EPSG:32631", crs, always_xy=True).transform(
        [600_000, 605_600] * 2, [5_000_000] * 2 + [4_994_400] * 2
    )
    step = 5 / 111_320 if crs == "EPSG:4326" else 5
    west, north = min(corners[0]) - 9 * step, max(corners[1]) + 9 * step
    width, height = int((max(corners[0]) - west) / step) + 9, int((north - min(corners[1])) / step) + 9
    down, across = np.mgrid[:height, :width] + 0.5
    x, _ = Transformer.from_crs(crs, "EPSG:32631", always_xy=True).transform(west + across * step, north - down * step)
    stripes = (1 + ((x - 600_000) // 100) % 9).astype(np.uint8)
    path = write(tmp_path / "a.tif", stripes, Affine(step, 0, west, 0, -step, north), crs)
    with Labels.open(path, GRID, ESRI) as labels:
        found = whole(labels)
    expected = 1 + (np.arange(SIDE) // 10) % 9
    inner = (np.arange(SIDE) % 10 > 0) & (np.arange(SIDE) % 10 < 9)
    assert (found[:, inner] == expected[inner]).all()
    assert (found == expected).mean() > 0.95


def test_fine_labels_take_the_most_frequent(tmp_path: Path) -> None:
    fine = np.repeat(np.repeat(codes(), 4, axis=0), 4, axis=1)
    fine[1::4, 1::4] = 1  # in each grid pixel one of 16
    fine[2::4, 2::4] = 2
    path = write(tmp_path / "a.tif", fine, PLACE @ Affine.scale(0.25))
    with Labels.open(path, GRID, ESRI) as labels:
        np.testing.assert_array_equal(whole(labels), codes())


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    path = write(tmp_path_factory.mktemp("labels") / "a.tif", codes(300, 400), PLACE @ Affine.translation(100.3, 80.7))
    return Labels.open(path, GRID, ESRI)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1), st.integers(1, SIDE), st.integers(1, SIDE))
def test_same_labels_whatever_the_window(shifted: Labels, row: int, column: int, height: int, width: int) -> None:
    window = Window(row, column, height, width).clip(SIDE, SIDE)
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[81:381, 100:500] = codes(300, 400)
    inside = np.s_[row : row + window.height, column : column + window.width]
    np.testing.assert_array_equal(shifted.read(window), expected[inside])


def test_refusals(tmp_path: Path, shifted: Labels) -> None:
    with pytest.raises(InputError, match=r"codes 42, 77, which mean nothing.*esri-io"):
        Labels.open(write(tmp_path / "a.tif", np.where(codes() > 5, 42, 77).astype(np.uint8)), GRID, ESRI)
    with pytest.raises(InputError, match="overlap"):
        Labels.open(write(tmp_path / "b.tif", codes(), PLACE @ Affine.translation(SIDE, 0)), GRID, ESRI)
    with pytest.raises(InputMissingError):
        Labels.open(tmp_path / "none.tif", GRID, ESRI)
    with pytest.raises(ValueError, match="not inside"):
        shifted.read(Window(0, 0, SIDE + 1, 1))


def test_real_labels(shared: Path) -> None:
    for path in sorted((shared / "data" / "terramind" / "LULC").glob("*.tif")):
        with rasterio.open(path) as file:
            grid, expected = GeoBox(file.shape, file.transform, file.crs), file.read(1)
        with Labels.open(path, grid, ESRI) as labels:
            np.testing.assert_array_equal(labels.read(Window(0, 0, *expected.shape)), expected)
