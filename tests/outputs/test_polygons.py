"""Polygons of the class map: their outlines, the sieve, the files; each against a slow and obvious twin."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pyogrio
import pytest
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.errors import InputError, OptionsError, StorageError, UnavailableError
from refnet_cli.outputs.areas.areas import AreaCounter
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.polygons import polygons
from refnet_cli.outputs.polygons import vector_files as vectors
from refnet_cli.outputs.polygons.polygonize import Tracer
from refnet_cli.outputs.polygons.polygons import Polygons
from refnet_cli.outputs.polygons.sieve import SCRAMBLE, Sieve, apply_sieve
from refnet_cli.outputs.rows import PROBABILITY_NODATA, STEPS, Rows
from tests.helpers.limits import file_size_limit
from tests.helpers.quick import each_once, examples, few

UInt8 = NDArray[np.uint8]
Ints = NDArray[np.int64]

SCHEME = SCHEMES["esri-io"]
TAGS = {"REFNET_VERSION": "1.2.3", "REFNET_OPTIONS": '{"note": "größer & <kleiner>"}'}
UTM = "EPSG:32633"
ENDINGS = [".gpkg", ".fgb", ".parquet"]


@st.composite
def maps(draw: st.DrawFn, most: int = 12, classes: int = 3) -> UInt8:
    """Codes of few classes, so that all ways in which pixels can touch are met."""
    shape = draw(st.tuples(st.integers(1, most), st.integers(1, most)))
    return draw(arrays(np.uint8, shape, elements=st.integers(0, draw(st.integers(1, classes)))))


def grid_of(shape: tuple[int, ...], affine: Affine | None = None, crs: str = UTM) -> GeoBox:
    return GeoBox((shape[0], shape[1]), affine or Affine(10, 0, 399_960, 0, -10, 5_300_040), crs)


def sums_of(weights: Ints) -> Ints:
    return np.concatenate([np.zeros((len(weights), 1), np.int64), np.cumsum(weights, axis=1)], axis=1)


def traced(
    codes: UInt8, values: UInt8, weights: Ints, rows: int, clockwise: bool = True
) -> list[tuple[shapely.Polygon, int, int, int, int]]:
    """Polygon in pixels, code, pixels, weight and value of every component, in strips of so many rows."""
    tracer, done = Tracer(codes.shape[1], clockwise), []
    for row in range(0, len(codes), rows):
        strip = slice(row, row + rows)
        done.append(tracer.add(codes[strip], values[strip], sums_of(weights[strip])))
    done.append(tracer.finish())
    assert tracer.count == 0
    found = []
    for outlined in done:
        if len(outlined.component):
            rings = shapely.linearrings(np.stack([outlined.x, outlined.y], 1).astype(float), indices=outlined.ring)
            sums = outlined.sums
            found += zip(
                shapely.polygons(rings, indices=outlined.component).tolist(), sums.codes.tolist(),
                sums.pixels.tolist(), sums.weights.tolist(), sums.values.tolist(), strict=True,
            )  # fmt: skip
    return found


def components(codes: UInt8) -> list[list[tuple[int, int]]]:
    """Pixels of each 4-connected component, by first pixel: a fire that spreads."""
    found, seen = [], codes == 0
    for start in zip(*(places.tolist() for places in np.nonzero(codes)), strict=True):
        if seen[start]:
            continue
        pixels, burning = [], [start]
        seen[start] = True
        while burning:
            pixels.append(pixel := burning.pop())
            for other in beside(pixel, codes.shape):
                if not seen[other] and codes[other] == codes[pixel]:
                    seen[other] = True
                    burning.append(other)
        found.append(sorted(pixels))
    return found


def beside(pixel: tuple[int, int], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    row, column = pixel
    around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    return [(y, x) for y, x in around if 0 <= y < shape[0] and 0 <= x < shape[1]]


def has_straight_corners(polygon: shapely.Polygon) -> bool:
    for ring in (polygon.exterior, *polygon.interiors):
        across, down = np.diff(shapely.get_coordinates(ring), axis=0).T
        if (across * np.roll(down, 1) == down * np.roll(across, 1)).any():
            return True
    return False


@settings(max_examples=examples(300), deadline=None)
@given(codes=maps(), rows=st.integers(1, 12), clockwise=st.booleans(), seed=st.integers(0, 9))
def test_outlines_against_a_fire_and_gdal(codes: UInt8, rows: int, clockwise: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.integers(0, 251, codes.shape).astype(np.uint8)
    weights = random.integers(0, 2**40, codes.shape)
    found = traced(codes, values, weights, rows, clockwise)
    shapes = [polygon for polygon, *_ in found]
    assert shapely.is_valid(shapes).all()
    assert not any(has_straight_corners(polygon) for polygon in shapes)
    assert all(polygon.exterior.is_ccw == clockwise for polygon in shapes)
    assert not any(hole.is_ccw == clockwise for polygon in shapes for hole in polygon.interiors)

    expected = sorted(components(codes), key=lambda pixels: (pixels[-1][0], pixels[0]))
    assert [part[1:] for part in found] == [
        (int(codes[pixels[0]]), len(pixels), *(sum(int(of[pixel]) for pixel in pixels) for of in (weights, values)))
        for pixels in expected
    ]
    for polygon, pixels in zip(shapes, expected, strict=True):
        assert polygon.area == len(pixels)
        inside = rasterio.features.rasterize([polygon], codes.shape, transform=Affine.identity()).astype(bool)
        assert list(zip(*np.nonzero(inside), strict=True)) == pixels

    gdal = rasterio.features.shapes(codes, codes > 0, connectivity=4)
    others = [shapely.geometry.shape(shape) for shape, _ in gdal]
    assert {shapely.normalize(shapely.make_valid(other)).wkt for other in others} == {
        shapely.normalize(polygon).wkt for polygon in shapes
    }


def test_two_holes_and_a_shell_that_touch() -> None:
    codes = np.array([[1, 1, 1, 1, 0], [1, 2, 1, 1, 1], [1, 1, 2, 1, 0], [1, 1, 1, 0, 1], [1, 1, 1, 1, 1]], np.uint8)
    for rows in range(1, 6):
        polygon, *rest = traced(codes, codes, np.ones(codes.shape, np.int64), rows)[-1]
        assert polygon.is_valid
        assert (len(polygon.interiors), rest) == (3, [1, 20, 20, 20])


def sieve(codes: UInt8, weights: Ints, least: int, rows: int) -> UInt8:
    sieve = Sieve(codes.shape[1], least)
    strips = [codes[row : row + rows] for row in range(0, len(codes), rows)]
    for number, strip in enumerate(strips):
        sieve.add(strip, sums_of(weights[number * rows :][: len(strip)]))
    table, start, done = sieve.solve(), 0, []
    for strip in strips:
        strip, start = apply_sieve(strip, table, start)
        done.append(strip)
    assert start == len(table)
    return np.concatenate(done)


def slow_sieve(codes: UInt8, weights: Ints, least: int) -> UInt8:
    """The rule as it is told, on the whole map."""
    codes = codes.copy()
    while True:
        found = components(codes)
        number = {pixel: index for index, pixels in enumerate(found) for pixel in pixels}
        around = [
            {number[other] for pixel in pixels for other in beside(pixel, codes.shape) if other in number} - {index}
            for index, pixels in enumerate(found)
        ]
        order = [
            (sum(int(weights[p]) for p in pixels), (pixels[0][0] * codes.shape[1] + pixels[0][1]) * SCRAMBLE % 2**64)
            for pixels in found
        ]
        small = [weight < least and bool(near) for (weight, _), near in zip(order, around, strict=True)]
        changed = codes.copy()
        for index, pixels in enumerate(found):
            if small[index] and all(order[index] < order[other] for other in around[index] if small[other]):
                largest = max(around[index], key=lambda other: order[other])
                changed[tuple(np.transpose(pixels))] = codes[found[largest][0]]
        if not any(small):
            return codes
        codes = changed


@settings(max_examples=examples(200), deadline=None)
@given(codes=maps(classes=5), rows=st.integers(1, 12), least=st.integers(1, 30), data=st.data())
def test_the_sieve_against_its_rule(codes: UInt8, rows: int, least: int, data: st.DataObject) -> None:
    weights = data.draw(arrays(np.int64, codes.shape, elements=st.integers(1, 3)))
    done = sieve(codes, weights, least, rows)
    np.testing.assert_array_equal(done, slow_sieve(codes, weights, least))
    np.testing.assert_array_equal(done > 0, codes > 0)
    for pixels in components(done):
        alone = all(done[other] in (0, done[pixels[0]]) for pixel in pixels for other in beside(pixel, codes.shape))
        assert alone or sum(int(weights[pixel]) for pixel in pixels) >= least


@pytest.mark.parametrize(("least", "expected"), [(2, [1, 1, 1, 1, 2, 2]), (3, [1] * 6)])
def test_one_that_is_as_large_as_the_minimum_stays(least: int, expected: list[int]) -> None:
    codes = np.array([[1, 1, 1, 3, 2, 2]], np.uint8)
    assert sieve(codes, np.ones(codes.shape, np.int64), least, 1).tolist() == [expected]


@pytest.mark.parametrize("pattern", ["chequered", "stripes"])
def test_the_sieve_of_many_equal_ones(pattern: str) -> None:
    """Each of them would wait for the one before it, if the order of equal ones were that of the map."""
    rows, columns = np.indices((300, 300))
    codes = (((rows + columns) if pattern == "chequered" else rows) % 2 + 1).astype(np.uint8)
    rounds = 0
    recode = Sieve.solve.__globals__["_recode"]

    def counted(*arguments: Any) -> UInt8:
        nonlocal rounds
        rounds += 1
        return recode(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Sieve.solve.__globals__, "_recode", counted)
        done = sieve(codes, np.ones(codes.shape, np.int64), 301, 64)
    assert min(map(len, components(done))) >= 301
    assert rounds < 60


def rows_of(row: int, codes: UInt8, steps: UInt8) -> Rows:
    confidence = np.where(codes > 0, np.stack([steps, steps // 2, steps // 3]), PROBABILITY_NODATA).astype(np.uint8)
    return Rows(row, None, codes > 0, SCHEME, found={"codes": codes, "confidence": confidence})


def write(path: Path, codes: UInt8, cuts: list[int] | None = None, grid: GeoBox | None = None, **options: Any) -> Path:
    steps = steps_of(codes)
    with Polygons(path, MapContext(path, grid or grid_of(codes.shape), SCHEME, TAGS, **options)) as output:
        for top, bottom in pairwise([0, *sorted(cuts or []), len(codes)]):
            output.write(rows_of(top, codes[top:bottom], steps[top:bottom]))
    return path


def steps_of(codes: UInt8) -> UInt8:
    return np.random.default_rng(3).integers(0, STEPS + 1, codes.shape).astype(np.uint8)


def patches(height: int, width: int, side: int = 6, seed: int = 0) -> UInt8:
    """Squares of the scheme's classes and no data, with single pixels of others."""
    random = np.random.default_rng(seed)
    every = np.array((0, *SCHEME.codes), np.uint8)
    codes = np.kron(random.choice(every, (height // side + 1, width // side + 1)), np.ones((side, side), np.uint8))
    codes = codes[:height, :width]
    return np.where(random.random(codes.shape) < 0.05, random.choice(every, codes.shape), codes)


def read(path: Path) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        columns = {name: table[name].to_numpy() for name in table.column_names}
        return shapely.from_wkb(columns.pop("geometry")), columns
    about, _, wkb, values = pyogrio.raw.read(path, layer="land_cover")
    return shapely.from_wkb(wkb), dict(zip(about["fields"], values, strict=True))


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_say_what_the_map_does(ending: str, tmp_path: Path) -> None:
    codes = patches(150, 170)
    grid = grid_of(codes.shape)
    shapes, fields = read(write(tmp_path / f"map{ending}", codes, [7, 80]))
    assert list(fields) == ["class_code", "class_name", "area_ha", "pixels", "confidence"]
    assert [fields[name].dtype.kind for name in fields] == ["i", "O", "f", "i", "f"]
    assert (shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON).all()
    assert shapely.is_valid(shapes).all()
    assert all(shape.exterior.is_ccw for shape in shapes)
    assert len(shapes) == len(components(codes))
    names = dict(zip(SCHEME.codes, SCHEME.names, strict=True))
    assert fields["class_name"].tolist() == [names[code] for code in fields["class_code"]]

    classes = zip(shapes, fields["class_code"], strict=True)
    drawn = rasterio.features.rasterize(classes, codes.shape, transform=grid.affine)
    np.testing.assert_array_equal(drawn, codes)
    np.testing.assert_allclose(shapely.area(shapes), fields["pixels"] * 100)
    number = rasterio.features.rasterize(
        zip(shapes, range(1, len(shapes) + 1), strict=True), codes.shape, transform=grid.affine, dtype="int32"
    )
    steps = np.bincount(number.ravel(), steps_of(codes).ravel())[1:]
    np.testing.assert_allclose(fields["confidence"], steps / STEPS / fields["pixels"])


GRIDS = {
    "utm": grid_of((300, 400)),
    "geographic": GeoBox((300, 200), Affine(0.1 / 3, 0, 11.123456789, 0, -0.1 / 7, 48.987654321), "EPSG:4326"),
    "web mercator": GeoBox((300, 400), Affine(500, 0, 1_113_194.9, 0, -500, 9_446_275.8), "EPSG:3857"),
    "rotated": GeoBox((300, 400), Affine(8, 3, 5e5, 3, -8, 5e6), UTM),
    "south up": GeoBox((300, 400), Affine(10, 0, 5e5, 0, 10, 5e6), UTM),
    "no authority": GeoBox(
        (30, 40), Affine(10, 0, 1e4, 0, -10, 2e4), "+proj=tmerc +lat_0=47.3 +lon_0=11.9 +k=1 +ellps=GRS80 +units=m"
    ),
}


@pytest.mark.parametrize(("name", "ending"), each_once(GRIDS, ENDINGS))
def test_areas_are_the_maps(name: str, ending: str, tmp_path: Path) -> None:
    grid = GRIDS[name]
    codes = patches(*grid.shape, side=20)
    shapes, fields = read(write(tmp_path / f"map{ending}", codes, grid=grid))
    counter = AreaCounter(grid, SCHEME)
    counter.add(0, codes)
    for code, expected in zip(SCHEME.codes, counter.hectares().values(), strict=True):
        assert fields["area_ha"][fields["class_code"] == code].sum() == pytest.approx(expected, rel=1e-9)
    assert all(shape.exterior.is_ccw and shape.is_valid for shape in shapes)
    back = np.linalg.inv(np.array(grid.affine).reshape(3, 3))
    corners = shapely.get_coordinates(shapes) @ back[:2, :2].T + back[:2, 2]
    np.testing.assert_allclose(corners, np.rint(corners), atol=1e-4)
    assert shapely.area(shapes).sum() == pytest.approx((codes > 0).sum() * abs(grid.affine.determinant))


def test_coordinate_systems_are_the_grids(tmp_path: Path) -> None:
    for name, grid in GRIDS.items():
        path = write(tmp_path / f"{name}.gpkg", patches(*grid.shape), grid=grid)
        stored = pyogrio.read_info(path)["crs"]
        assert GeoBox(grid.shape, grid.affine, stored).crs.proj.equals(grid.crs.proj, ignore_axis_order=True), name
    about = geo_of(write(tmp_path / "map.parquet", patches(30, 40)))
    assert about["columns"]["geometry"]["crs"]["id"] == {"authority": "EPSG", "code": 32633}


def geo_of(path: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(pyarrow.parquet.read_schema(path).metadata[b"geo"])
    return about


def test_geoparquet_tells_of_its_column(tmp_path: Path) -> None:
    path = write(tmp_path / "map.parquet", patches(30, 40))
    about = geo_of(path)
    assert (about["version"], about["primary_column"], list(about["columns"])) == ("1.1.0", "geometry", ["geometry"])
    column = about["columns"]["geometry"]
    assert (column["encoding"], column["geometry_types"]) == ("WKB", ["Polygon"])
    shapes, _ = read(path)
    assert column["bbox"] == shapely.total_bounds(shapes).tolist()


def test_provenance(tmp_path: Path) -> None:
    codes = patches(30, 40)
    assert pyogrio.read_info(write(tmp_path / "map.gpkg", codes))["layer_metadata"] == TAGS
    about = pyogrio.read_info(write(tmp_path / "map.fgb", codes))["layer_metadata"]
    assert json.loads(about["DESCRIPTION"]) == TAGS
    stored = pyarrow.parquet.read_schema(write(tmp_path / "map.parquet", codes)).metadata
    assert TAGS.items() <= {key.decode(): text.decode() for key, text in stored.items()}.items()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_map_without_data(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"map{ending}", np.zeros((20, 30), np.uint8))
    shapes, fields = read(path)
    assert len(shapes) == 0
    assert len(fields) == 5


@pytest.mark.parametrize(
    ("min_area", "ending"), few(product((0.0, 0.35), ENDINGS), (0.0, ".fgb"), (0.35, ".gpkg"), (0.35, ".parquet"))
)
def test_same_bytes_however_the_rows_arrive_and_whatever_the_strips(
    ending: str, min_area: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = patches(150, 90)
    monkeypatch.setattr(Polygons, "_BATCH", (100, 2000))
    one = write(tmp_path / f"one{ending}", codes, min_area=min_area).read_bytes()
    assert write(tmp_path / f"cuts{ending}", codes, [1, 2, 70, 149], min_area=min_area).read_bytes() == one
    for rows in (1, 7, 64):
        monkeypatch.setattr(Polygons, "_STRIP", 90 * rows)
        assert write(tmp_path / f"{rows}{ending}", codes, [33], min_area=min_area).read_bytes() == one


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_bear_no_time(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day later, as far as GDAL can be told."""
    codes = patches(50, 40)
    one = write(tmp_path / f"one{ending}", codes).read_bytes()
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2031-05-06T07:08:09.000Z"})
    try:
        assert write(tmp_path / f"two{ending}", codes).read_bytes() == one
        assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") == "2031-05-06T07:08:09.000Z"
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") is None


def test_the_spatial_index_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "map.gpkg", patches(50, 40))
    with sqlite3.connect(path) as database:
        extensions = database.execute("SELECT extension_name FROM gpkg_extensions").fetchall()
        assert ("gpkg_rtree_index",) in extensions
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


def test_small_ones_are_merged_by_their_true_area(tmp_path: Path) -> None:
    """At 60 degrees north, a hectare of Web Mercator's is a quarter of one."""
    codes = np.full((30, 30), SCHEME.codes[0], np.uint8)
    codes[5:10, 5:10] = SCHEME.codes[1]
    grid = GeoBox((30, 30), Affine(10, 0, 1_000_000, 0, -10, 8_399_738), "EPSG:3857")
    for min_area, expected in ((0.0, 2), (0.06, 2), (0.064, 1)):
        shapes, fields = read(write(tmp_path / "map.gpkg", codes, grid=grid, min_area=min_area))
        assert len(shapes) == expected, min_area
    assert fields["pixels"].tolist() == [900]
    assert fields["confidence"][0] == pytest.approx(steps_of(codes).mean() / STEPS)


@pytest.mark.parametrize("min_area", [1e9, 1e300])
def test_everything_may_be_too_small(min_area: float, tmp_path: Path) -> None:
    codes = patches(40, 30)
    codes[codes == 0] = SCHEME.codes[0]
    shapes, _ = read(write(tmp_path / "map.gpkg", codes, min_area=min_area))
    assert len(shapes) == 1


@pytest.mark.parametrize("name", ["map", "map.shp", "map.gpkg.zip", "map.geojson"])
def test_other_formats_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=r"\.gpkg .*\.fgb .*\.parquet"):
        Polygons(tmp_path / name, MapContext(tmp_path / "map.tif", grid_of((3, 4)), SCHEME, TAGS))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("min_area", [-1.0, float("nan"), float("inf")])
def test_impossible_areas_are_refused(min_area: float, tmp_path: Path) -> None:
    context = MapContext(tmp_path / "map.tif", grid_of((3, 4)), SCHEME, TAGS, min_area=min_area)
    with pytest.raises(OptionsError, match="0 or more"):
        Polygons(tmp_path / "map.gpkg", context)


@pytest.mark.parametrize("min_area", [0.0, 0.5])
def test_too_many_polygons_are_refused(min_area: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = patches(60, 60)
    monkeypatch.setattr(polygons, "MAX_POLYGONS", len(components(codes)) - 1)
    with pytest.raises(InputError, match=r"--smooth.*--min-area"):
        write(tmp_path / "map.gpkg", codes, min_area=min_area)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(polygons, "MAX_POLYGONS", len(components(codes)))
    write(tmp_path / "map.gpkg", codes, min_area=min_area)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UnavailableError, match=r"refnet-cli\[parquet\]"):
        Polygons(tmp_path / "map.parquet", MapContext(tmp_path / "map.tif", grid_of((3, 4)), SCHEME, TAGS))
    for ending in (".gpkg", ".fgb"):
        write(tmp_path / f"map{ending}", patches(30, 40))


def complete(output: Polygons, codes: UInt8) -> None:
    output.write(rows_of(0, codes, steps_of(codes)))
    output.finish()


@pytest.mark.parametrize(("ending", "min_area"), each_once(ENDINGS, [0.0, 0.3]))
def test_a_full_disk_is_told(ending: str, min_area: float, tmp_path: Path) -> None:
    codes = patches(200, 200)
    path = write(tmp_path / f"map{ending}", codes, min_area=min_area)
    size = path.stat().st_size
    path.write_text("old")
    for limit in (0, 300, size // 4, size // 2, size - 1000, size - 1):
        output = Polygons(path, MapContext(path, grid_of(codes.shape), SCHEME, TAGS, min_area=min_area))
        with file_size_limit(limit), pytest.raises(StorageError, match="Free some space"):
            complete(output, codes)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ENDINGS)
def test_damage_is_found(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One number that changed on its way."""
    kind = vectors.VECTORS[ending]
    append: Callable[..., None] = kind._append

    def changing(self: vectors.VectorFile, features: vectors.Features) -> None:
        numbers = features.confidence.copy()
        numbers[-1:] += 1e-9
        append(self, features._replace(confidence=numbers))

    monkeypatch.setattr(kind, "_append", changing)
    with pytest.raises(StorageError, match="differ from what was written"):
        write(tmp_path / f"map{ending}", patches(50, 40))
    assert list(tmp_path.iterdir()) == []


def test_memory_grows_with_the_width_and_what_is_open_alone() -> None:
    held = []
    for height in (200, 2000):
        codes = patches(height, 100, side=5)
        codes[::40] = 0
        tracer = Tracer(100)
        for row in range(0, height, 20):
            weights = np.zeros((20, 101), np.int64)
            tracer.add(codes[row : row + 20], codes[row : row + 20], weights)
            held.append((height, tracer.count, len(tracer._corners.x)))
    assert max(part[1:] for part in held if part[0] == 2000)[0] <= 100
    assert max(part[2] for part in held if part[0] == 2000) < 2 * max(part[2] for part in held if part[0] == 200)
