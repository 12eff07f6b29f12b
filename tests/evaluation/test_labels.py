"""Labels: onto a grid, into a class scheme."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.errors import InputError, InputMissingError, OptionsError
from refnet_cli.evaluation.labels import Labels, open_labels
from refnet_cli.evaluation.raster_labels import RasterLabels
from refnet_cli.tiles.window import Window
from tests.helpers.quick import each_once, examples

PLACE = Affine(10, 0, 600_000, 0, -10, 5_000_000)
SIDE = 560
GRID = GeoBox((SIDE, SIDE), PLACE, "EPSG:32631")
ESRI = SCHEMES["terramesh"]  # whose codes have no gaps


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
    with RasterLabels.open(write(tmp_path / "a.tif", codes()), GRID, ESRI) as labels:
        assert whole(labels).dtype == np.uint8
        np.testing.assert_array_equal(whole(labels), codes())


def test_codes_become_indexes(tmp_path: Path) -> None:
    scheme = SCHEMES["worldcover"]
    values = np.array((0, *scheme.codes), np.uint8)[codes()]
    with RasterLabels.open(write(tmp_path / "a.tif", values), GRID, scheme) as labels:
        np.testing.assert_array_equal(whole(labels), codes())


def test_mapping_and_nodata(tmp_path: Path) -> None:
    values = np.where(codes() > 4, 300, np.where(codes() > 2, -1, 7)).astype(np.int16)
    path = write(tmp_path / "a.tif", values, nodata=-1)
    for moss in ("100", "Moss and lichen"):
        with open_labels(path, GRID, SCHEMES["worldcover"], meanings={"300": moss, "7": "0"}) as labels:
            np.testing.assert_array_equal(whole(labels), np.where(codes() > 4, 11, 0))
    with pytest.raises(OptionsError, match="77"):
        open_labels(path, GRID, SCHEMES["worldcover"], meanings={"300": "77"})
    with pytest.raises(InputError, match="has the codes 7, which are not in class scheme"):
        open_labels(path, GRID, SCHEMES["worldcover"], meanings={"300": "100"})


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
    with RasterLabels.open(path, GRID, ESRI) as labels:
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
    with RasterLabels.open(path, GRID, ESRI) as labels:
        np.testing.assert_array_equal(whole(labels), codes())


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    path = write(tmp_path_factory.mktemp("labels") / "a.tif", codes(300, 400), PLACE @ Affine.translation(100.3, 80.7))
    return RasterLabels.open(path, GRID, ESRI)


@settings(max_examples=examples(25), deadline=None)
@given(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1), st.integers(1, SIDE), st.integers(1, SIDE))
def test_same_labels_whatever_the_window(shifted: Labels, row: int, column: int, height: int, width: int) -> None:
    window = Window(row, column, height, width).clip(SIDE, SIDE)
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[81:381, 100:500] = codes(300, 400)
    inside = np.s_[row : row + window.height, column : column + window.width]
    np.testing.assert_array_equal(shifted.read(window), expected[inside])


def test_refusals(tmp_path: Path, shifted: Labels) -> None:
    with pytest.raises(InputError, match=r"codes 42, 77, which are not in class scheme.*terramesh"):
        RasterLabels.open(write(tmp_path / "a.tif", np.where(codes() > 5, 42, 77).astype(np.uint8)), GRID, ESRI)
    with pytest.raises(InputError, match="overlap"):
        RasterLabels.open(write(tmp_path / "b.tif", codes(), PLACE @ Affine.translation(SIDE, 0)), GRID, ESRI)
    with pytest.raises(InputMissingError):
        RasterLabels.open(tmp_path / "none.tif", GRID, ESRI)
    with pytest.raises(ValueError, match="exceeds the grid"):
        shifted.read(Window(0, 0, SIDE + 1, 1))


@pytest.mark.parametrize("data", ["simulated", "real"], indirect=True)
def test_labels_of_the_same_grid_are_read_as_they_are(data: Path) -> None:
    paths = sorted((data / "terramind" / "LULC").glob("*.tif"))
    assert len(paths) == 5
    for path in paths:
        with rasterio.open(path) as file:
            grid, expected = GeoBox(file.shape, file.transform, file.crs), file.read(1)
        with RasterLabels.open(path, grid, ESRI) as labels:
            np.testing.assert_array_equal(labels.read(Window(0, 0, *expected.shape)), expected)


def write_shapes(
    path: Path, shapes: Any, values: Any, crs: str = "EPSG:32631", field: str = "class", **fields: Any
) -> Path:
    columns = {field: np.array(values)} | {name: np.array(column) for name, column in fields.items()}
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(shapes)), list(columns.values()), list(columns), crs=crs, geometry_type="Unknown",
        driver={".gpkg": "GPKG", ".shp": "ESRI Shapefile", ".fgb": "FlatGeobuf"}.get(path.suffix, "GeoJSON"),
    )  # fmt: skip
    return path


def fields(count: int = 40, seed: int = 0) -> tuple[list[Any], list[int]]:
    """Circles on the grid, apart from each other, with classes from 1 to 9."""
    random = np.random.default_rng(seed)
    shapes: list[Any] = []
    while len(shapes) < count:
        x, y = random.uniform(0, SIDE * 10, 2)
        circle = shapely.Point(600_000 + x, 5_000_000 - y).buffer(random.uniform(30, 300))
        if not any(circle.distance(other) < 25 for other in shapes):
            shapes.append(circle)
    return shapes, random.integers(1, 10, count).tolist()


def burned(shapes: list[Any], values: list[int]) -> np.ndarray:
    return rasterio.features.rasterize(zip(shapes, values, strict=True), (SIDE, SIDE), transform=PLACE, dtype="uint8")


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.shp", "a.fgb"])
def test_polygons_are_the_raster_of_the_same_shapes(tmp_path: Path, name: str) -> None:
    shapes, values = fields()
    crs = "EPSG:4326" if name.endswith("json") else "EPSG:32631"
    if crs == "EPSG:4326":
        lonlat = Transformer.from_crs("EPSG:32631", crs, always_xy=True)
        moved = [shapely.transform(shape, lambda xy: np.stack(lonlat.transform(*xy.T), 1)) for shape in shapes]
    else:
        moved = shapes
    raster = write(tmp_path / "a.tif", burned(shapes, values))
    with (
        open_labels(write_shapes(tmp_path / name, moved, values, crs), GRID, ESRI) as polygons,
        open_labels(raster, GRID, ESRI) as pixels,
    ):
        ours, theirs = whole(polygons), whole(pixels)
        assert not polygons.on_grid
    edges = shapely.unary_union([shape.boundary for shape in shapes]).buffer(0.5)  # half a metre
    edge = rasterio.features.rasterize([edges], (SIDE, SIDE), transform=PLACE, all_touched=True)
    assert (theirs > 0).mean() > 0.1
    assert np.array_equal(ours[edge == 0], theirs[edge == 0])
    assert (ours != theirs).mean() < 1e-4


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32630", "EPSG:3035"])
def test_long_edges_bend_as_on_the_ground(tmp_path: Path, crs: str) -> None:
    """A rectangle of another reference system, much larger than the grid in one direction, cuts the grid in two."""
    there = Transformer.from_crs("EPSG:32631", crs, always_xy=True)
    rows, columns = np.indices((SIDE, SIDE)) + 0.5
    x, y = there.transform(600_000 + 10 * columns, 5_000_000 - 10 * rows)
    middle, length = float(y[SIDE // 2, SIDE // 2]), 30 * (x.max() - x.min())
    half = shapely.box(x.min() - length, middle, x.max() + length, middle + length)
    with open_labels(write_shapes(tmp_path / "a.gpkg", [half], [3], crs), GRID, ESRI) as labels:
        found = whole(labels)
    assert 0.3 < (found > 0).mean() < 0.7
    assert ((found > 0) != (y > middle)).mean() < 1e-4


def test_windows_are_cut_from_one_image(tmp_path: Path) -> None:
    with open_labels(write_shapes(tmp_path / "a.gpkg", *fields()), GRID, ESRI) as labels:
        image = whole(labels)
        for window in (Window(0, 0, 1, 1), Window(37, 101, 200, 33), Window(SIDE - 9, SIDE - 300, 9, 300)):
            there = np.s_[window.row : window.row + window.height, window.column : window.column + window.width]
            assert np.array_equal(labels.read(window), image[there])
        with pytest.raises(ValueError, match="exceeds the grid"):
            labels.read(Window(SIDE - 1, 0, 2, 2))


def test_pixels_that_two_classes_claim_have_no_label(tmp_path: Path) -> None:
    def square(left: int, right: int) -> Any:
        return shapely.box(600_000 + left, 4_999_900, 600_000 + right, 5_000_000)

    shapes = [square(0, 300), square(200, 500), square(250, 500)]
    with open_labels(write_shapes(tmp_path / "a.gpkg", shapes, [1, 2, 2]), GRID, ESRI) as labels:
        row = whole(labels)[5, :50]
    assert row.tolist() == [1] * 20 + [0] * 10 + [2] * 20


def test_points_label_their_pixels(tmp_path: Path) -> None:
    points = [shapely.Point(600_000 + 10 * column + 3, 5_000_000 - 10 * column - 8) for column in (0, 7, 559)]
    with open_labels(write_shapes(tmp_path / "a.geojson", points, ["trees", "Water", "2"]), GRID, ESRI) as labels:
        found = whole(labels)
        assert labels.on_grid
    assert {(int(r), int(c)): int(found[r, c]) for r, c in np.argwhere(found)} == {(0, 0): 2, (7, 7): 1, (559, 559): 2}


def test_the_field_of_the_class(tmp_path: Path) -> None:
    shapes, values = fields(5)
    path = write_shapes(tmp_path / "a.gpkg", shapes, values, year=[2020] * 5)
    with pytest.raises(OptionsError, match=r"has 2 fields \('class', 'year'\)\. Give the one"):
        open_labels(path, GRID, ESRI)
    with pytest.raises(OptionsError, match=r"has no field 'kind'; its fields are 'class', 'year'"):
        open_labels(path, GRID, ESRI, "kind")
    with pytest.raises(InputError, match=r"has the classes 2020, which are not in class scheme 'terramesh'"):
        open_labels(path, GRID, ESRI, "year")
    assert whole(open_labels(path, GRID, ESRI, "class")).any()
    with pytest.raises(OptionsError, match="is a raster file"):
        open_labels(write(tmp_path / "a.tif", codes()), GRID, ESRI, "class")


def test_vector_files_that_cannot_be_used(tmp_path: Path) -> None:
    shapes, values = fields(5)
    with pytest.raises(InputMissingError, match="does not exist"):
        open_labels(tmp_path / "none.gpkg", GRID, ESRI)
    lines = [shape.boundary for shape in shapes]
    with pytest.raises(InputError, match="geometries other than polygons and points"):
        open_labels(write_shapes(tmp_path / "lines.gpkg", lines, values), GRID, ESRI)
    far = [shapely.transform(shape, lambda xy: xy + 1e5) for shape in shapes]
    with pytest.raises(InputError, match="No shape of the label file"):
        open_labels(write_shapes(tmp_path / "far.gpkg", far, values), GRID, ESRI)
    disguised = tmp_path / "vrt.gpkg"
    disguised.write_text("<OGRVRTDataSource><OGRVRTLayer name='a'/></OGRVRTDataSource>")
    with pytest.raises(InputError, match=r"is not a \.gpkg file"):
        open_labels(disguised, GRID, ESRI)
    broken = tmp_path / "broken.geojson"
    broken.write_text('{"type": "FeatureCollection", "features": [')
    with pytest.raises(InputError, match="cannot be read"):
        open_labels(broken, GRID, ESRI)


def test_shapes_that_reach_round_the_world(tmp_path: Path) -> None:
    """Far corners have no place in the scene's reference system, and the edges would make millions of points."""
    world = shapely.box(-180, -90, 180, 90).difference(shapely.box(4.0, 45.05, 5.0, 45.10))
    with open_labels(write_shapes(tmp_path / "a.geojson", [world], [2], "EPSG:4326"), GRID, ESRI) as labels:
        found = whole(labels)
    there = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)
    rows, columns = np.indices((SIDE, SIDE)) + 0.5
    latitude = there.transform(600_000 + 10 * columns, 5_000_000 - 10 * rows)[1]
    hole = (latitude > 45.05) & (latitude < 45.10)
    assert 0.05 < hole.mean() < 0.95
    assert ((found == 0) != hole).mean() < 1e-4


def test_a_scene_across_the_antimeridian(tmp_path: Path) -> None:
    """Longitudes that go on beyond 180 degrees, and those that start again there, are the same."""
    grid = GeoBox((90, 900), Affine(100, 0, 735_000, 0, -100, 5_000_000), "EPSG:32660")
    split = shapely.union_all([shapely.box(179.5, 44, 180, 46), shapely.box(-180, 44, -179.5, 46)])
    for number, shape in enumerate((split, shapely.box(179.5, 44, 180.5, 46))):
        path = write_shapes(tmp_path / f"{number}.gpkg", [shape], [2], "EPSG:4326")
        with open_labels(path, grid, ESRI) as labels:
            found = labels.read(Window(0, 0, 90, 900)) > 0
        rows, columns = np.indices(found.shape) + 0.5
        there = Transformer.from_crs("EPSG:32660", "EPSG:4326", always_xy=True)
        longitude = there.transform(735_000 + 100 * columns, 5_000_000 - 100 * rows)[0] % 360
        expected = (longitude > 179.5) & (longitude < 180.5)
        assert 0.2 < expected.mean() < 0.95
        assert (found != expected).mean() < 1e-4


def add_layer(path: Path, name: str, shapes: Any = None, values: Any = (1,), field: str = "class") -> Path:
    """Add a layer to a GeoPackage; without shapes, a table as QGIS keeps styles in."""
    columns = [np.array(values)]
    if shapes is None:
        pyogrio.raw.write(path, None, columns, [field], layer=name, driver="GPKG", append=path.exists())
    else:
        pyogrio.raw.write(
            path, shapely.to_wkb(np.array(shapes)), columns, [field], crs="EPSG:32631", geometry_type="Unknown",
            layer=name, driver="GPKG", append=path.exists(),
        )  # fmt: skip
    return path


def test_tables_without_shapes_are_no_layers(tmp_path: Path) -> None:
    shapes, values = fields()
    alone = write_shapes(tmp_path / "alone.gpkg", shapes, values)
    path = add_layer(tmp_path / "a.gpkg", "layer_styles")
    add_layer(path, "fields", shapes, values)
    add_layer(path, "owners", values=["a", "b"], field="name")
    np.testing.assert_array_equal(whole(open_labels(path, GRID, ESRI)), whole(open_labels(alone, GRID, ESRI)))
    tables = add_layer(tmp_path / "tables.gpkg", "layer_styles")
    with pytest.raises(InputError, match="has no layer with geometries, only 'layer_styles'"):
        open_labels(tables, GRID, ESRI)


def test_files_without_any_shape_are_called_so(tmp_path: Path) -> None:
    empty = tmp_path / "empty.geojson"
    empty.write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(InputError, match=r"empty\.geojson has no features"):
        open_labels(empty, GRID, ESRI)
    rasters = tmp_path / "rasters.gpkg"
    with rasterio.open(
        rasters, "w", driver="GPKG", count=1, height=8, width=8, dtype="uint8", crs="EPSG:32631",
        transform=Affine(10, 0, 5e5, 0, -10, 5e6),
    ) as file:  # fmt: skip
        file.write(np.ones((1, 8, 8), np.uint8))
    with pytest.raises(InputError, match=r"no layer with geometries.* rasters"):
        open_labels(rasters, GRID, ESRI)


def test_a_layer_can_be_chosen_and_has_to_be_among_several(tmp_path: Path) -> None:
    path, layers = tmp_path / "a.gpkg", {"2020": fields(seed=1), "2021": fields(seed=2)}
    for name, (shapes, values) in layers.items():
        add_layer(path, name, shapes, values)
    add_layer(path, "layer_styles")
    with pytest.raises(OptionsError, match=r"2 layers with geometries: '2020', '2021'.*--layer, or label_layer"):
        open_labels(path, GRID, ESRI)
    for name, (shapes, values) in layers.items():
        alone = write_shapes(tmp_path / f"{name}.gpkg", shapes, values)
        expected = whole(open_labels(alone, GRID, ESRI))
        np.testing.assert_array_equal(whole(open_labels(path, GRID, ESRI, layer=name)), expected)
    for name, said in (("2022", "has no layer '2022'"), ("layer_styles", "only as a table without geometries")):
        with pytest.raises(OptionsError, match=f"{said}.*'2020', '2021'"):
            open_labels(path, GRID, ESRI, layer=name)
    with pytest.raises(OptionsError, match=r"layer is '2020', but .* is a raster file\. Remove the layer"):
        open_labels(write(tmp_path / "a.tif", codes()), GRID, ESRI, layer="2020")


@pytest.mark.parametrize(
    ("name", "kind"), each_once(["a.gpkg", "a.geojson", "a.shp", "a.fgb"], ["numbers", "names"])
)
def test_shapes_without_a_class_are_unlabelled_and_counted(tmp_path: Path, name: str, kind: str) -> None:
    shapes, values = fields()
    if name.endswith("json"):
        lonlat = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)
        shapes = [shapely.transform(shape, lambda xy: np.stack(lonlat.transform(*xy.T), 1)) for shape in shapes]
    crs = "EPSG:4326" if name.endswith("json") else "EPSG:32631"
    empty = [np.nan, np.nan, np.nan] if kind == "numbers" else [None, "", " "]
    full: list[Any] = values if kind == "numbers" else [ESRI.names[value - 1] for value in values]
    column = np.array([*empty, *full[3:]], float if kind == "numbers" else object)
    without = open_labels(write_shapes(tmp_path / name, shapes, column, crs), GRID, ESRI)
    (tmp_path / "rest").mkdir()
    rest = open_labels(write_shapes(tmp_path / "rest" / name, shapes[3:], column[3:], crs), GRID, ESRI)
    np.testing.assert_array_equal(whole(without), whole(rest))
    (warning,) = without.warnings
    assert "3 of the 40 shapes" in warning
    assert "have no class in field" in warning
    assert not rest.warnings
    if not (name == "a.shp" and kind == "names"):  # in which no text is as good as none
        nothing = write_shapes(tmp_path / "rest" / f"none{name[1:]}", shapes[:3], column[:3], crs)
        with pytest.raises(InputError, match=r"None of the 3 shapes .* has a class.*--field"):
            open_labels(nothing, GRID, ESRI)


def test_whole_numbers_with_gaps_stay_codes(tmp_path: Path) -> None:
    """A GeoPackage's NULL among whole numbers makes them floats on the way."""
    shapes, values = fields()
    path = tmp_path / "a.gpkg"
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(shapes)), [np.array(values)], ["class"], crs="EPSG:32631",
        geometry_type="Unknown", driver="GPKG", field_mask=[np.array([True] + [False] * (len(values) - 1))],
    )  # fmt: skip
    labels = open_labels(path, GRID, ESRI)
    assert "1 of the 40 shapes" in labels.warnings[0]
    np.testing.assert_array_equal(np.unique(whole(labels))[1:], np.unique(values[1:]))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.kml", "ogr2ogr {0}.gpkg {0}.kml"), ("a.gml", "ogr2ogr {0}.gpkg {0}.gml"), ("a.zip", "Unpack it"),
        ("a.parquet", "ogr2ogr {0}.gpkg {0}.parquet"), ("a.KMZ", "ogr2ogr {0}.gpkg {0}.KMZ"),
        ("a.csv", "KEEP_GEOM_COLUMNS=NO {0}.gpkg {0}.csv"), ("a.xlsx", "Save it as CSV"), ("a.dbf", "Use {0}.shp"),
        ("a.img", "gdal_translate {0}.img {0}.tif"), ("a", "ogr2ogr {0}.gpkg {0}"),
    ],
)  # fmt: skip
def test_other_formats_are_told_what_to_become(tmp_path: Path, name: str, advice: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"what is this")
    with pytest.raises(InputError) as refused:
        open_labels(path, GRID, ESRI)
    for part in ("GeoTIFF", ".gpkg", ".geojson", ".shp", ".fgb", advice.format(tmp_path / "a")):
        assert part in str(refused.value)


def test_a_raster_of_any_name_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", codes()).rename(tmp_path / "labels.dat")
    with open_labels(path, GRID, ESRI) as labels:
        np.testing.assert_array_equal(whole(labels), codes())
    with pytest.raises(InputMissingError, match="does not exist"):
        open_labels(tmp_path / "none.kml", GRID, ESRI)


def ogr2ogr(words: list[str]) -> None:
    """Do what the program does with the options that messages advise, through the library that it is made of."""
    options, srs = {}, None
    while words[0].startswith("-"):
        name, value, *words = words
        if name == "-oo":
            key, _, setting = value.partition("=")
            options[key] = setting
        else:
            assert name == "-a_srs"
            srs = value
    target, source = words
    about, _, shapes, values = pyogrio.raw.read(source, **options)
    pyogrio.raw.write(
        target, shapes, values, about["fields"], crs=srs or about["crs"], geometry_type=about["geometry_type"],
        driver="GPKG",
    )  # fmt: skip


def test_the_advice_to_convert_leads_to_labels(tmp_path: Path) -> None:
    """The very words of the message, carried out, give labels where the file had them."""
    lonlat = Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)
    at = [(5, 7, 4), (300, 20, 2), (41, 500, 9)]
    places = [lonlat.transform(600_005 + 10 * column, 4_999_995 - 10 * row) for row, column, _ in at]
    table = [f"{x:.9f},{y:.9f},{code}" for (x, y), (*_, code) in zip(places, at, strict=True)]
    (tmp_path / "points a.csv").write_text("\n".join(["Longitude,Latitude,class", *table]))
    marks = "".join(
        f"<Placemark><name>{code}</name><Point><coordinates>{x:.9f},{y:.9f}</coordinates></Point></Placemark>"
        for (x, y), (*_, code) in zip(places, at, strict=True)
    )
    (tmp_path / "marks.kml").write_text(
        f'<?xml version="1.0"?><kml xmlns="http://www.opengis.net/kml/2.2"><Document>{marks}</Document></kml>'
    )
    for name, field in (("points a.csv", None), ("marks.kml", "Name")):
        with pytest.raises(InputError) as refused:
            open_labels(tmp_path / name, GRID, ESRI)
        command = str(refused.value).partition("ogr2ogr ")[2].partition(" (")[0]
        ogr2ogr(shlex.split(command))
        found = whole(open_labels((tmp_path / name).with_suffix(".gpkg"), GRID, ESRI, field))
        assert {(int(r), int(c), int(found[r, c])) for r, c in np.argwhere(found)} == set(at)
