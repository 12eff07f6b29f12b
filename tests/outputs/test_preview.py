"""Previews: which way is up, where north is, and how long the scale bar is."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyproj
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image, ImageDraw

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.geodesy import Ground, orientation_of
from refnet_cli.outputs.pictures.preview import Preview, scale_bar
from tests.helpers.quick import few
from tests.outputs.test_outputs import UTM, feed, random_codes, utm_grid

SCHEME = SCHEMES["esri-io"]
INK = (30, 30, 30, 255)
LOCAL = 'LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'


def draw(path: Path, grid: GeoBox, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    with Preview(path, MapContext(path, grid, SCHEME, {})) as output:
        feed(output, codes, [])
    with Image.open(path) as image:
        return np.asarray(image)


def at(x: float, y: float, turned: float = 0, flip: tuple[int, int] = (1, 1), size: float = 10) -> Affine:
    return Affine.translation(x, y) @ Affine.rotation(turned) @ Affine.scale(size * flip[0], -size * flip[1])


@pytest.mark.parametrize("flip", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_north_is_up_and_east_is_right_however_the_map_is_stored(flip: tuple[int, int], tmp_path: Path) -> None:
    grid = GeoBox((30, 40), at(5e5, 5e6, flip=flip), UTM)
    shown = random_codes(30, 40)
    picture = draw(tmp_path / "a.png", grid, shown[:: flip[1], :: flip[0]])
    colours = np.zeros((256, 4), np.uint8)
    colours[list(SCHEME.codes)] = [(*colour, 255) for colour in SCHEME.colours]
    np.testing.assert_array_equal(picture[: 30 * 15, : 40 * 15], colours[shown].repeat(15, 0).repeat(15, 1))
    assert orientation_of(grid).north == 0


@pytest.mark.parametrize(("height", "width"), [(64, 80), (30, 3000), (3000, 30), (1, 1), (700, 1900)])
def test_nothing_covers_the_map(height: int, width: int, tmp_path: Path) -> None:
    codes = np.full((height, width), SCHEME.codes[0], np.uint8)
    picture = draw(tmp_path / "a.png", utm_grid(height, width), codes)
    cell = math.ceil(max(height, width) / 1000)
    rows, columns = math.ceil(height / cell), math.ceil(width / cell)
    enlarge = max(1, 600 // max(rows, columns))
    assert (picture[: rows * enlarge, : columns * enlarge] == (*SCHEME.colours[0], 255)).all()
    assert (picture[rows * enlarge :, : columns * enlarge, 3] == 0).all()
    beside = (picture[:, columns * enlarge :] == INK).all(axis=2)
    assert beside.sum() > 300
    margin = 10
    assert not beside[-margin:].any()
    assert not beside[:, -margin:].any()


BARS = {
    "UTM": utm_grid(300, 400),
    "web mercator at 60 degrees north": GeoBox((300, 400), at(1_000_000, 8_399_738 + 1500), "EPSG:3857"),
    "degrees": GeoBox((300, 400), at(11, 60, size=0.01), "EPSG:4326"),
    "grads": GeoBox((300, 400), at(2, 52, size=0.001), "EPSG:4807"),
    "across 180 degrees": GeoBox((300, 400), at(178, -16, size=0.01), "EPSG:4326"),
    "the world": GeoBox((180, 360), at(-180, 90, size=1), "EPSG:4326"),
    "large": GeoBox((2500, 1700), at(1_000_000, 8_000_000), "EPSG:3857"),
    "tiny": utm_grid(3, 2),
}


@pytest.mark.parametrize("name", few(BARS, *(name for name in BARS if name != "large")))
def test_the_bar_is_as_long_as_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the length of the middle row as a chain of very short geodesics."""
    grid = BARS[name]
    height, width = grid.shape
    written: list[str] = []
    text = ImageDraw.ImageDraw.text

    def recorded(self: ImageDraw.ImageDraw, place: tuple[float, float], label: str, **options: object) -> None:
        written.append(label)
        text(self, place, label, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", recorded)
    picture = draw(tmp_path / "a.png", grid, np.full((height, width), SCHEME.codes[0], np.uint8))
    number, unit = written[-1].split()
    metres = float(number) * {"m": 1, "km": 1000}[unit]
    assert metres / 10 ** math.floor(math.log10(metres)) in (1, 2, 5)

    crs = pyproj.CRS.from_user_input(grid.crs)
    to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    columns = np.linspace(0, width, 20_001)
    x, y = grid.affine @ (columns, np.full(columns.shape, height / 2))
    length = crs.get_geod().line_length(*to_degrees.transform(x, y))

    cell = math.ceil(max(height, width) / 1000)
    shown = math.ceil(width / cell) * max(1, 600 // math.ceil(max(height, width) / cell))
    dark = (picture[:, shown:] == INK).all(axis=2)
    (bar,) = {int(count) for count in dark.sum(axis=1) if count >= 55}
    assert 60 <= bar <= 150
    in_picture = width / cell * max(1, 600 // math.ceil(max(height, width) / cell))
    assert bar * length / in_picture == pytest.approx(metres, rel=0.01)


def test_web_mercator_at_60_degrees_north_is_twice_too_large() -> None:
    assert orientation_of(BARS["web mercator at 60 degrees north"]).pixel == pytest.approx(5, rel=6e-3)


@given(st.floats(1e-3, 1e6))
def test_bars_are_round_and_fit(pixel: float) -> None:
    bar = scale_bar(pixel)
    number, unit = bar.label.split()
    metres = float(number) * {"m": 1, "km": 1000}[unit]
    assert number.strip("0.")[0] in "125"
    assert len(number.strip("0.")) == 1
    assert 60 <= bar.pixels <= 150
    assert bar.pixels * pixel == pytest.approx(metres, rel=0.0085)


@pytest.mark.parametrize("turned", [-170, -100, -20, 7, 45, 90, 135, 180])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_arrow_of_a_turned_map_points_north(turned: float, mirrored: bool) -> None:
    """Against a step to the north on the map, followed through the flips; on the zone's own meridian."""
    grid = GeoBox((200, 200), at(5e5, 5e6, turned, (1, -1 if mirrored else 1)), UTM)
    view = orientation_of(grid)
    x, y = grid.affine @ (100, 100)
    column, row = ~grid.affine @ (x, y + 10)
    right = (column - 100) * (-1 if view.flip_columns else 1)
    up = (100 - row) * (-1 if view.flip_rows else 1)
    assert view.north == pytest.approx(math.degrees(math.atan2(right, up)), abs=0.1)
    assert abs(view.north) <= 135
    assert (view.flip_rows != view.flip_columns) == mirrored
    assert (view.pixel is None) == (turned != 180)


def test_the_arrow_points_to_the_pole() -> None:
    grid = GeoBox((300, 400), at(1e6, 5e5, size=1000), "EPSG:3413")
    view = orientation_of(grid)
    x, y = grid.affine @ (200, 150)
    assert view.north == pytest.approx(math.degrees(math.atan2(-x, -y)), abs=1e-3)
    assert (view.flip_rows, view.flip_columns) == (False, False)


def test_a_projection_s_own_north_is_up() -> None:
    """In Norway's wide UTM zone, true north is 5 degrees off it."""
    assert orientation_of(GeoBox((300, 400), at(2e5, 7e6), UTM)).north == 0
    assert abs(orientation_of(GeoBox((300, 400), at(2e5, 7e6, 8), UTM)).north or 0) > 5
    assert orientation_of(BARS["across 180 degrees"]).north == 0


def test_a_turned_map_has_an_arrow_and_no_bar(tmp_path: Path) -> None:
    codes = random_codes(300, 300)
    straight = draw(tmp_path / "a.png", GeoBox((300, 300), at(5e5, 5e6), UTM), codes)
    turned = draw(tmp_path / "b.png", GeoBox((300, 300), at(5e5, 5e6, 30), UTM), codes)
    nowhere = draw(tmp_path / "c.png", GeoBox((300, 300), at(0, 0), LOCAL), codes)
    inks = [(picture[:, 600:] == INK).all(axis=2) for picture in (straight, turned, nowhere)]
    assert [int(ink.sum(axis=1).max()) >= 60 for ink in inks] == [True, False, False]
    assert inks[1].sum() > inks[2].sum() + 300


def test_ground_there_and_back() -> None:
    for grid in BARS.values():
        ground = Ground(grid)
        columns, rows = np.array([0.5, 1.25]), np.array([1.5, 0.75])
        there = ground.to_pixels(*ground.to_geographic(columns, rows))
        np.testing.assert_allclose(there, (columns, rows), atol=1e-6)
