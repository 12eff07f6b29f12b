"""Tables of areas: the whole map's and those of zones."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.cli.main import commands
from refnet_cli.errors import InputError, InputMissingError, OptionsError
from refnet_cli.outputs.areas.areas import AreaCounter, Areas
from refnet_cli.outputs.areas.pixel_areas import CELL, PixelAreas
from refnet_cli.outputs.areas.zones import ZoneCounter, read_zones
from refnet_cli.outputs.context import MapContext
from tests.helpers.quick import examples
from tests.outputs.test_outputs import TAGS, feed, random_codes, utm_grid

SCHEME = SCHEMES["esri-io"]
GRIDS = {
    "utm": utm_grid(300, 400),
    "geographic": GeoBox((300, 200), Affine(0.01, 0, 11, 0, -0.01, 60), "EPSG:4326"),
    "rotated": GeoBox((150, 260), Affine(8, 3, 5e5, 3, -8, 5e6), "EPSG:32633"),
    "south up": GeoBox((200, 150), Affine(10, 0, 5e5, 0, 10, 5e6), "EPSG:32633"),
    "taller than a band": GeoBox((1500, 20), Affine(100, 0, 4e5, 0, -100, 5e6), "EPSG:32633"),
    "grads": GeoBox((200, 150), Affine(0.001, 0, 2, 0, -0.001, 52), "EPSG:4807"),
    "across 180 degrees": GeoBox((150, 300), Affine(0.01, 0, 178.5, 0, -0.01, -16), "EPSG:4326"),
}
DRIVERS = {".gpkg": "GPKG", ".shp": "ESRI Shapefile", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf"}


def write_zones(path: Path, shapes: list[Any], crs: str = "EPSG:32633", **fields: Any) -> Path:
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(shapes)), [np.array(column) for column in fields.values()], list(fields), crs=crs,
        geometry_type="Unknown", driver=DRIVERS[path.suffix],
    )  # fmt: skip
    return path


def on_map(grid: GeoBox, shape: Any, crs: str | None = None) -> Any:
    """A shape in pixels, in coordinates of the grid's or another reference system."""
    to_map = grid.affine
    there = Transformer.from_crs(grid.crs.to_wkt(), crs or grid.crs.to_wkt(), always_xy=True)

    def move(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x = to_map.a * points[:, 0] + to_map.b * points[:, 1] + to_map.c
        y = to_map.d * points[:, 0] + to_map.e * points[:, 1] + to_map.f
        return np.stack(there.transform(x, y) if crs else (x, y), axis=1)

    return shapely.transform(shape, move)


def areas_of(tmp_path: Path, grid: GeoBox, codes: NDArray[np.uint8], zones: Path | None, **options: Any) -> Any:
    """Lines of the table by zone and code, and the output."""
    path = tmp_path / "areas.csv"
    with Areas(path, MapContext(Path("map.tif"), grid, SCHEME, TAGS, zones=zones, **options)) as output:
        feed(output, codes, [len(codes) // 3])
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    return {(line.get("zone", ""), int(line["class_code"])): line for line in lines}, output


def slow_areas(grid: GeoBox, codes: NDArray[np.uint8], shape: Any) -> dict[int, float]:
    """Hectares of each code where the centres of pixels lie in a shape given in pixels, pixel by pixel."""
    rows, columns = np.indices(grid.shape)
    inside = shapely.contains_xy(shape, columns + 0.5, rows + 0.5)
    cells = np.stack([PixelAreas(grid).of_row(row) for row in range(-(-grid.shape[0] // CELL))])
    areas = cells[rows // CELL, columns // CELL] / 10_000
    return {code: float(areas[inside & (codes == code)].sum()) for code in (0, *SCHEME.codes)}


def some_shapes(grid: GeoBox) -> list[Any]:
    """Zones that overlap, have holes and several parts, reach beyond the map, and lie next to it."""
    height, width = grid.shape
    middle = shapely.Point(width / 2.1, height / 1.9)
    size = min(height, width)
    ring = middle.buffer(size / 2.3).difference(middle.buffer(size / 5))
    parts = shapely.union_all([shapely.box(-9, -9, width / 3.03, height / 4.07), middle.buffer(size / 7.7)])
    beyond = shapely.Point(width, height).buffer(size / 1.7)
    return [ring, parts, beyond, shapely.box(width + 2, 0, width + 9, 9)]


def test_table_of_the_whole_map(tmp_path: Path) -> None:
    grid, codes = utm_grid(300, 400), random_codes(300, 400)
    table, output = areas_of(tmp_path, grid, codes, None)
    counter = AreaCounter(grid, SCHEME)
    counter.add(0, codes)
    hectares = counter.hectares()
    text = (tmp_path / "areas.csv").read_bytes()
    assert text.startswith(b"class_code,class_name,hectares,share\r\n")
    assert text.count(b"\r\n") == text.count(b"\n") == 2 + len(SCHEME.codes)
    assert [code for _, code in table] == [*SCHEME.codes, 0]
    total = sum(hectares.values())
    for code, name in zip(SCHEME.codes, SCHEME.names, strict=True):
        line = table["", code]
        assert line["class_name"] == name
        assert float(line["hectares"]) == hectares[name] > 0
        assert float(line["share"]) == pytest.approx(hectares[name] / total, rel=1e-14)
    assert float(table["", 0]["hectares"]) == pytest.approx((codes == 0).sum() * 0.01, rel=2e-3)
    assert table["", 0]["class_name"] == "no data"
    assert table["", 0]["share"] == ""
    assert output.files == [tmp_path / "areas.csv", tmp_path / "areas.json"]
    assert set(output.sha256) == {"areas.csv", "areas.json"}


def test_the_json_says_the_same_and_more(tmp_path: Path) -> None:
    grid, codes = utm_grid(30, 40), random_codes(30, 40)
    path = write_zones(tmp_path / "z.gpkg", [on_map(grid, shapely.box(3, 4, 20, 25))], name=["Süd, \"rechts\""])
    output = Areas(tmp_path / "a.csv", MapContext(Path("m.tif"), grid, SCHEME, TAGS, zones=path, zone_field="name"))
    feed(output, codes, [])
    output.complete({"files": {"classes": [{"name": "m.tif", "sha256": "12ab", "bytes": 3}]}})
    output.finish()
    told = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert (told["map"], told["map_sha256"], told["crs"], told["tags"]) == ("m.tif", "12ab", "EPSG:32633", TAGS)
    assert (told["zones_from"], told["zone_field"]) == ("z.gpkg", "name")
    by_zone = [("", told["classes"]), *((zone["zone"], zone["classes"]) for zone in told["zones"])]
    assert [name for name, _ in by_zone] == ["", "Süd, \"rechts\""]
    same = [{"zone": name} | line for name, part in by_zone for line in part]
    assert [{key: "" if value is None else str(value) for key, value in line.items()} for line in same] == lines


def test_a_map_that_reaches_beyond_its_projection(tmp_path: Path) -> None:
    """What lies next to the Earth's disk has no class and covers no ground."""
    grid = GeoBox((700, 700), Affine(20_000, 0, -7e6, 0, -20_000, 7e6), "+proj=ortho +lat_0=50 +lon_0=10 +type=crs")
    codes = np.zeros(grid.shape, np.uint8)
    codes[345:355, 345:355] = 1
    zones = write_zones(tmp_path / "z.gpkg", [on_map(grid, shapely.box(300, 300, 400, 400))], grid.crs.to_wkt())
    table, _ = areas_of(tmp_path, grid, codes, zones)
    for zone in ("", "1"):
        assert float(table[zone, 1]["hectares"]) == pytest.approx(100 * 40_000, rel=0.05)
        assert float(table[zone, 2]["hectares"]) == 0
    # Of the half of the Earth that is shown, only cells that lie on it as a whole are counted.
    assert 0 < float(table["", 0]["hectares"]) < 25.5e9


def test_a_map_without_data(tmp_path: Path) -> None:
    grid = utm_grid(30, 40)
    table, _ = areas_of(tmp_path, grid, np.zeros((30, 40), np.uint8), None)
    assert {line["share"] for line in table.values()} == {""}
    assert [float(line["hectares"]) > 0 for line in table.values()] == [False] * len(SCHEME.codes) + [True]


@pytest.mark.parametrize("name", GRIDS)
def test_zones_are_what_lies_under_the_centres_of_pixels(name: str, tmp_path: Path) -> None:
    grid = GRIDS[name]
    codes, shapes = random_codes(*grid.shape), some_shapes(grid)
    path = write_zones(tmp_path / "zones.gpkg", [on_map(grid, shape) for shape in shapes], grid.crs.to_wkt())
    table, output = areas_of(tmp_path, grid, codes, path)
    assert [zone for zone, code in table if code == 0] == ["", "1", "2", "3", "4"]
    for number, shape in enumerate(shapes, 1):
        for code, area in slow_areas(grid, codes, shape).items():
            assert float(table[str(number), code]["hectares"]) == pytest.approx(area, rel=1e-12), (number, code)
    assert sum(slow_areas(grid, codes, shapes[3]).values()) == 0
    assert output.warnings == [f"zone 4 of {path.name} is off the map."]


@pytest.mark.parametrize("ending", DRIVERS)
def test_zones_come_into_the_reference_system_of_the_map(ending: str, tmp_path: Path) -> None:
    grid = utm_grid(300, 400)
    codes, shapes = random_codes(*grid.shape), some_shapes(grid)
    path = write_zones(tmp_path / f"zones{ending}", [on_map(grid, shape, "EPSG:4326") for shape in shapes], "EPSG:4326")
    table, _ = areas_of(tmp_path, grid, codes, path)
    slow = [sum(slow_areas(grid, codes, shape).values()) for shape in shapes]
    made = [sum(float(table[zone, code]["hectares"]) for code in (0, *SCHEME.codes)) for zone in ("1", "2", "3", "4")]
    # FlatGeobuf has its features in an order of its own.
    assert sorted(made) == pytest.approx(sorted(slow), rel=1e-4)


def test_long_edges_bend_as_on_the_ground(tmp_path: Path) -> None:
    """Two halves along a parallel, each with one long edge, on a map 500 km wide."""
    grid = GeoBox((400, 1000), Affine(500, 0, 300_000, 0, -500, 6_700_000), "EPSG:32633")
    to_ground = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    rows, columns = np.indices(grid.shape) + 0.5
    _, latitude = to_ground.transform(300_000 + 500 * columns, 6_700_000 - 500 * rows)
    middle = float(latitude[200, 500])
    halves = [shapely.box(-30, middle, 60, 89), shapely.box(-30, 0, 60, middle)]
    path = write_zones(tmp_path / "z.gpkg", halves, "EPSG:4326")
    codes = np.where(latitude > middle, SCHEME.codes[0], SCHEME.codes[1]).astype(np.uint8)
    table, _ = areas_of(tmp_path, grid, codes, path)
    assert float(table["1", SCHEME.codes[0]]["share"]) > 0.9999
    assert float(table["2", SCHEME.codes[1]]["share"]) > 0.9999
    whole = float(table["", SCHEME.codes[0]]["hectares"])
    assert float(table["1", SCHEME.codes[0]]["hectares"]) == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("grid", [
    GRIDS["across 180 degrees"],
    GeoBox((150, 300), Affine(0.01, 0, -181.5, 0, -0.01, -16), "EPSG:4326"),
    GeoBox((150, 300), Affine(1000, 0, 666_000, 0, -1000, 8_200_000), "EPSG:32760"),
], ids=["beyond 180", "beyond -180", "UTM"])  # fmt: skip
def test_zones_across_the_antimeridian(grid: GeoBox, tmp_path: Path) -> None:
    """As GeoJSON has to cut them, and as others write them on."""
    cut = shapely.union_all([shapely.box(179.503, -17.2, 180, -16.4), shapely.box(-180, -17.2, -179.302, -16.4)])
    path = write_zones(tmp_path / "z.geojson", [cut, shapely.box(179.503, -17.2, 180.698, -16.4)], "EPSG:4326")
    codes = random_codes(*grid.shape)
    table, output = areas_of(tmp_path, grid, codes, path)
    total = [sum(float(table[zone, code]["hectares"]) for code in (0, *SCHEME.codes)) for zone in ("1", "2")]
    assert total[0] == pytest.approx(total[1], rel=1e-6)
    earth = 6371.0
    expected = np.radians(1.195) * earth**2 * (np.sin(np.radians(17.2)) - np.sin(np.radians(16.4))) * 100
    assert total[0] == pytest.approx(expected, rel=0.02)
    assert output.warnings == []


def divided(seed: int, height: int, width: int) -> list[Any]:
    """Triangles that divide a map, with corners, edges and diagonals that meet centres of pixels."""
    random = np.random.default_rng(seed)
    inner = np.stack([random.integers(0, 2 * width + 1, 9), random.integers(0, 2 * height + 1, 9)], axis=1) / 2
    corners = [(0, 0), (0, height), (width, 0), (width, height)]
    return list(shapely.delaunay_triangles(shapely.MultiPoint(np.vstack([inner, corners]))).geoms)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 10**6), st.integers(1, 300), st.integers(1, 300), st.sampled_from(["utm", "rotated", "geographic"]),
    st.booleans(),
)  # fmt: skip
def test_zones_that_divide_the_map_add_up_to_it(
    tmp_path: Path, seed: int, height: int, width: int, name: str, turned: bool
) -> None:
    grid = GeoBox((height, width), GRIDS[name].affine, GRIDS[name].crs)
    shapes = divided(seed, height, width)
    if turned:
        shapes[::2] = [shape.reverse() for shape in shapes[::2]]
    (tmp_path / "z.gpkg").unlink(missing_ok=True)
    path = write_zones(tmp_path / "z.gpkg", [on_map(grid, shape) for shape in shapes], grid.crs.to_wkt())
    table, _ = areas_of(tmp_path, grid, random_codes(height, width, seed), path)
    for code in (0, *SCHEME.codes):
        parts = sum(float(table[str(number), code]["hectares"]) for number in range(1, 1 + len(shapes)))
        assert parts == pytest.approx(float(table["", code]["hectares"]), rel=1e-9)


@pytest.mark.long
def test_zones_of_another_reference_system_that_divide_the_map_add_up_to_it(tmp_path: Path) -> None:
    grid = utm_grid(300, 400)
    shapes = [on_map(grid, shape, "EPSG:3035") for shape in divided(3, 500, 600)]
    shapes = [shapely.transform(shape, lambda points: np.add(points, (-500, 1000))) for shape in shapes]
    table, _ = areas_of(tmp_path, grid, random_codes(300, 400), write_zones(tmp_path / "z.gpkg", shapes, "EPSG:3035"))
    for code in (0, *SCHEME.codes):
        parts = sum(float(table[str(number), code]["hectares"]) for number in range(1, 1 + len(shapes)))
        assert parts == pytest.approx(float(table["", code]["hectares"]), rel=1e-9)


@settings(max_examples=examples(20), deadline=None)
@given(st.integers(1, 2300), st.lists(st.integers(0, 2300), max_size=6))
def test_the_last_bits_do_not_depend_on_how_rows_arrive(height: int, cuts: list[int]) -> None:
    grid, codes = utm_grid(height, 7), random_codes(height, 7)
    zone = shapely.get_parts(shapely.Polygon([(0.3, 0.1), (6.7, height / 3), (2.2, height + 4), (-3, height / 2)]))
    sums = []
    for places in ([0, height], sorted({0, height, *(cut for cut in cuts if cut < height)})):
        counter = ZoneCounter({"a": zone}, grid, SCHEME.codes)
        for top, bottom in pairwise(places):
            counter.add(codes[top:bottom])
        sums.append(counter.by_code()["a"].tobytes())
    assert sums[0] == sums[1]


def test_memory_grows_with_the_width_alone() -> None:
    sizes = [ZoneCounter({}, utm_grid(height, 50), SCHEME.codes)._indexes.nbytes for height in (5_000, 100_000)]
    assert sizes[0] == sizes[1]


def test_a_field_names_zones_only_where_it_is_asked_to(tmp_path: Path) -> None:
    """Which field names features cannot be told for certain, and the help says what happens then."""
    grid = utm_grid(30, 40)
    path = write_zones(tmp_path / "z.gpkg", [on_map(grid, shapely.box(0, 0, 9, 9))], name=["north"])
    assert list(read_zones(path, grid)) == ["1"]
    shown = " ".join(CliRunner().invoke(commands, ["predict", "--help"]).output.split())
    assert "Field with the names of the zones. [default: zones are numbered]" in shown


def test_features_of_one_name_are_one_zone(tmp_path: Path) -> None:
    grid, codes = utm_grid(60, 50), random_codes(60, 50)
    boxes = [shapely.box(0, 0, 9, 9), shapely.box(5, 5, 20, 20), shapely.box(30, 30, 40, 40)]
    shapes = [on_map(grid, box) for box in boxes]
    path = write_zones(tmp_path / "z.gpkg", shapes, place=["a", "a", "b"], number=[7, 8, 7], height=[1.5, 2.0, 2.0])
    table, _ = areas_of(tmp_path, grid, codes, path, zone_field="place")
    assert [zone for zone, code in table if code == 0] == ["", "a", "b"]
    for code, area in slow_areas(grid, codes, shapely.union_all(boxes[:2])).items():
        assert float(table["a", code]["hectares"]) == pytest.approx(area, rel=1e-12)
    assert {zone for zone, _ in areas_of(tmp_path, grid, codes, path, zone_field="number")[0]} == {"", "7", "8"}
    assert {zone for zone, _ in areas_of(tmp_path, grid, codes, path, zone_field="height")[0]} == {"", "1.5", "2"}
    assert {zone for zone, _ in areas_of(tmp_path, grid, codes, path)[0]} == {"", "1", "2", "3"}


def test_invalid_polygons_are_mended_or_told(tmp_path: Path) -> None:
    grid, codes = utm_grid(60, 50), random_codes(60, 50)
    bow = shapely.Polygon([(1, 1.2), (20, 20.9), (20, 1), (1, 20.3)])
    good = on_map(grid, shapely.box(0, 0, 5, 5))
    table, _ = areas_of(tmp_path, grid, codes, write_zones(tmp_path / "a.gpkg", [on_map(grid, bow)]))
    for code, area in slow_areas(grid, codes, shapely.make_valid(bow)).items():
        assert float(table["1", code]["hectares"]) == pytest.approx(area, rel=1e-12)
    flat = on_map(grid, shapely.Polygon([(1, 1), (20, 20), (1, 1)]))
    with pytest.raises(InputError, match=r"Feature 2 of .*b\.gpkg is not a valid polygon"):
        areas_of(tmp_path, grid, codes, write_zones(tmp_path / "b.gpkg", [good, flat]))


def test_a_layer_of_zones_can_be_chosen(tmp_path: Path) -> None:
    """Where several have shapes it has to be; tables without shapes are no layers."""
    grid, codes = utm_grid(60, 50), random_codes(60, 50)
    path = tmp_path / "z.gpkg"
    alone = {}
    for name, right in (("districts", 20), ("parcels", 35)):
        shape = on_map(grid, shapely.box(0, 0, right, 30))
        pyogrio.raw.write(
            path, shapely.to_wkb(np.array([shape])), [], [], crs="EPSG:32633", geometry_type="Polygon", layer=name,
            driver="GPKG", append=path.exists(),
        )  # fmt: skip
        alone[name], _ = areas_of(tmp_path, grid, codes, write_zones(tmp_path / f"{name}.gpkg", [shape]))
    pyogrio.raw.write(path, None, [np.array(["x"])], ["styleName"], layer="layer_styles", driver="GPKG", append=True)
    with pytest.raises(OptionsError, match=r"2 layers with geometries: 'districts', 'parcels'.*--zone-layer"):
        areas_of(tmp_path, grid, codes, path)
    for name, table in alone.items():
        found, output = areas_of(tmp_path, grid, codes, path, zone_layer=name)
        assert found == table
        assert json.loads((output.path.with_suffix(".json")).read_text())["zone_layer"] == name
    with pytest.raises(OptionsError, match="layer 'districts' is for zones"):
        Areas(tmp_path / "new.csv", MapContext(Path("m.tif"), grid, SCHEME, TAGS, zone_layer="districts"))


def test_files_of_zones_that_cannot_be_used(tmp_path: Path) -> None:
    grid = utm_grid(60, 50)
    box = on_map(grid, shapely.box(0, 0, 5, 5))
    two = write_zones(tmp_path / "two.gpkg", [box], name=["a"])
    pyogrio.raw.write(
        two, shapely.to_wkb(np.array([box])), [], [], crs="EPSG:32633", geometry_type="Polygon", layer="more",
        append=True,
    )  # fmt: skip
    (tmp_path / "text.gpkg").write_text("SQLite")
    (tmp_path / "cut.gpkg").write_bytes(two.read_bytes()[:5000])
    (tmp_path / "a.kml").write_text("<kml/>")
    (tmp_path / "a.tif").write_bytes(b"II*")
    names = write_zones(tmp_path / "names.gpkg", [box, box], name=["a", " "])
    nowhere = write_zones(tmp_path / "nowhere.shp", [box], name=["a"])
    nowhere.with_suffix(".prj").unlink()
    cases: list[tuple[Path, str | None, type[Exception], str]] = [
        (tmp_path / "none.gpkg", None, InputMissingError, "does not exist"),
        (tmp_path / "a.kml", None, InputError, r"none of the extensions \.gpkg, \.geojson.*ogr2ogr"),
        (tmp_path / "a.tif", None, InputError, "gdal_polygonize"),
        (tmp_path / "text.gpkg", None, InputError, "despite its extension"),
        (tmp_path / "cut.gpkg", None, InputError, "cannot be read"),
        (two, None, OptionsError, "2 layers"),
        (nowhere, None, InputError, "reference system"),
        (names, "other", OptionsError, "no field 'other'; its fields are 'name'"),
        (names, "name", InputError, "Feature 2 of .* has no name"),
        (write_zones(tmp_path / "empty.gpkg", [], name=[]), None, InputError, "contains no polygons"),
        (write_zones(tmp_path / "line.gpkg", [box, box.boundary]), None, InputError, "Feature 2 .* has a LineString"),
        (write_zones(tmp_path / "gone.gpkg", [box, None]), None, InputError, "Feature 2 of .* has no geometry"),
    ]
    context = MapContext(Path("m.tif"), grid, SCHEME, TAGS)
    for path, field, error, match in cases:
        with pytest.raises(error, match=match):
            Areas(tmp_path / "new.csv", replace(context, zones=path, zone_field=field))
    with pytest.raises(OptionsError, match="field 'name' is for zones"):
        Areas(tmp_path / "new.csv", replace(context, zone_field="name"))
    with pytest.raises(OptionsError, match="would be both"):
        Areas(tmp_path / "new.json", context)
    assert not [path for path in tmp_path.iterdir() if "new" in path.name]
