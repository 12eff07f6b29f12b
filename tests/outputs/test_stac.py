"""STAC Items: what pystac reads in them, and whether they tell the truth about files and places."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

import numpy as np
import pyproj
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pystac.errors import STACValidationError
from pystac.extensions.classification import SCHEMA_URI_PATTERN as CLASSIFICATION
from pystac.extensions.classification import Classification
from pystac.extensions.file import SCHEMA_URI as FILE
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import SCHEMA_URI as PROJECTION
from pystac.extensions.projection import ProjectionExtension
from pystac.validation import JsonSchemaSTACValidator
from shapely.geometry import shape
from shapely.geometry.polygon import LinearRing

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.outputs import OUTPUTS
from refnet_cli.outputs.cog import REASONS
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.footprint import footprint
from refnet_cli.outputs.stac import _classes
from refnet_cli.sensors.quality import QUALITY
from tests.helpers.quick import each_once, examples
from tests.outputs.test_outputs import DATES, GRIDS, SCHEME, TAGS, feed, random_codes, utm_grid

DRAFT = "http://json-schema.org/draft-07/schema#"
FACTS: dict[str, Any] = {
    "version": "1.2.3",
    "weights": {"name": "refnet-base", "sha256": "ab" * 32, "notice": "Apache-2.0"},
    "optical": "T32TQM_20200701T101031.tif",
    "sar": "S1A_IW_20200703T050912.tif",
}


def facts_of(*paths: Path) -> list[dict[str, Any]]:
    contents = [(path.name, path.read_bytes()) for path in paths]
    return [
        {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in contents
    ]


def write_item(path: Path, context: MapContext, facts: dict[str, Any] | None = None) -> dict[str, Any]:
    output = OUTPUTS["stac"].make(path, context)
    feed(output, random_codes(*context.grid.shape), [])
    output.complete(facts)
    output.finish()
    item: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return item


def small_item(folder: Path, grid: GeoBox | None = None, **options: Any) -> dict[str, Any]:
    context = MapContext(folder / "lulc.tif", grid or utm_grid(4, 5), SCHEME, TAGS, **{"acquired": DATES} | options)
    return write_item(folder / "lulc.stac.json", context, FACTS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Item of a map with all other outputs, and some of other kinds."""
    folder = tmp_path_factory.mktemp("größer 1")
    context = MapContext(folder / "lulc.tif", utm_grid(60, 50), SCHEME, TAGS, quality=True, acquired=DATES)
    files: dict[str, list[dict[str, Any]]] = {}
    for kind in ("classes", "probabilities", "confidence", "quality", "preview", "style"):
        with OUTPUTS[kind].make(folder / f"lulc{OUTPUTS[kind].ending}", context) as output:
            feed(output, random_codes(60, 50), [])
        files[kind] = facts_of(*output.files)
    for kind, name in {"polygons": "lulc.gpkg", "report": "lulc report 100%.html", "other": "lulc.xyz"}.items():
        (folder / name).write_text(kind)
        files[kind] = facts_of(folder / name)
    write_item(folder / "lulc.stac.json", context, FACTS | {"files": files})
    return folder / "lulc.stac.json"


@pytest.mark.parametrize("name", ["lulc.tiff", "lulc", "classes.map"])
def test_what_outputs_are_does_not_hang_on_their_names(name: str, tmp_path: Path) -> None:
    context = MapContext(tmp_path / name, utm_grid(4, 5), SCHEME, TAGS, acquired=DATES)
    given = {"classes": name, "confidence": "sure", "preview": "look.PNG24", "report": "page", "areas": "table.txt"}
    files = {kind: [{"name": name}] for kind, name in given.items()}
    assets = write_item(tmp_path / "item.json", context, FACTS | {"files": files})["assets"]
    raster = {"type": "image/tiff; application=geotiff; profile=cloud-optimized", "roles": ["data"]}
    for kind in ("classes", "confidence"):
        assert {key: assets[kind].get(key) for key in raster} == raster
    assert [assets[kind]["type"] for kind in ("preview", "report", "areas")] == ["image/png", "text/html", "text/csv"]


@pytest.fixture
def validator(monkeypatch: pytest.MonkeyPatch) -> JsonSchemaSTACValidator:
    """STAC's own schemas, which pystac brings along; those of extensions would be fetched, and pass everything here."""

    def refuse(*arguments: object, **options: object) -> NoReturn:
        raise AssertionError(f"{arguments} is fetched")

    monkeypatch.setattr("socket.socket.connect", refuse)
    return JsonSchemaSTACValidator()


def check(item: dict[str, Any], validator: JsonSchemaSTACValidator) -> None:
    validator.schema_cache |= {uri: {"$schema": DRAFT, "$id": uri} for uri in item["stac_extensions"]}
    pystac.Item.from_dict(item).validate(validator)


@pytest.mark.parametrize(("name", "dates"), each_once(GRIDS, [DATES, (DATES[0], DATES[0])]))
def test_items_are_valid(
    name: str, dates: tuple[str, str], validator: JsonSchemaSTACValidator, tmp_path: Path
) -> None:
    grid = GRIDS[name]
    item = small_item(tmp_path, GeoBox((3, 4), grid.affine, grid.crs), acquired=dates)
    assert item["stac_version"] == "1.1.0"
    check(item, validator)
    for damage in ({"bbox": [1, 2]}, {"geometry": {"type": "Polygon"}}, {"properties": {}}, {"links": None}):
        with pytest.raises(STACValidationError):
            validator.validate_core(item | damage, pystac.STACObjectType.ITEM, "1.1.0")


def test_an_item_of_everything_is_valid(made: Path, validator: JsonSchemaSTACValidator) -> None:
    check(json.loads(made.read_text()), validator)


def test_an_item_needs_a_date_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="--date 2020-07-01"):
        OUTPUTS["stac"].make(tmp_path / "item.json", MapContext(tmp_path / "lulc.tif", utm_grid(4, 5), SCHEME, TAGS))
    assert list(tmp_path.iterdir()) == []


def test_dates_and_making(tmp_path: Path) -> None:
    item = pystac.Item.from_dict(small_item(tmp_path))
    assert item.id == "lulc"
    assert item.datetime is None
    assert (item.properties["start_datetime"], item.properties["end_datetime"]) == DATES
    assert item.properties["processing:software"] == {"refnet": "1.2.3"}
    assert item.properties["processing:level"] == "L4"
    lineage = item.properties["processing:lineage"]
    assert all(text in lineage for text in ("refnet-base", "ab" * 32, FACTS["optical"], FACTS["sar"], SCHEME.name))
    item = pystac.Item.from_dict(small_item(tmp_path, acquired=(DATES[1], DATES[1])))
    assert item.datetime is not None
    assert item.datetime.isoformat() == "2020-07-03T05:09:12+00:00"
    assert not {"start_datetime", "end_datetime"} & set(item.properties)


def test_without_facts_less_is_said(validator: JsonSchemaSTACValidator, tmp_path: Path) -> None:
    context = MapContext(tmp_path / "lulc.tif", utm_grid(4, 5), SCHEME, TAGS, acquired=DATES)
    item = write_item(tmp_path / "lulc.stac.json", context)
    check(item, validator)
    assert set(item["assets"]) == {"classes"}
    assert "processing:software" not in item["properties"]
    assert not any(key.startswith("file:") for key in item["assets"]["classes"])


def test_extensions_are_those_that_pystac_reads(tmp_path: Path) -> None:
    declared = small_item(tmp_path)["stac_extensions"]
    assert {CLASSIFICATION.format(version="2.0.0"), FILE, PROJECTION} < set(declared)
    prefix = "https://stac-extensions.github.io/"
    assert {uri for uri in declared if uri.startswith(prefix)} == set(declared)
    used = set(re.findall(r'"(\w+):\w+":', json.dumps(small_item(tmp_path))))
    names = {"proj": "projection", "classification": "classification", "raster": "raster", "processing": "processing"}
    assert {names[prefix] for prefix in used} | {"file"} == {uri.split("/")[3] for uri in declared}


def test_files_are_told_with_size_and_checksum(made: Path) -> None:
    item = pystac.Item.from_file(made)
    files = {path for path in made.parent.iterdir() if path != made}
    assert {made.parent / unquote(asset.href) for asset in item.assets.values()} == files
    for asset in item.assets.values():
        data = (made.parent / unquote(asset.href)).read_bytes()
        about = FileExtension.ext(asset)
        assert about.size == len(data)
        assert about.checksum == "1220" + hashlib.sha256(data).hexdigest()
        assert asset.href.startswith("./")
        assert not set(asset.href) & set(' #?"<>')
        assert asset.title
        assert asset.roles
    kinds = {key: (asset.media_type, asset.roles) for key, asset in item.assets.items()}
    assert kinds["classes"] == (pystac.MediaType.COG, ["data"])
    assert kinds["preview"] == (pystac.MediaType.PNG, ["overview", "thumbnail"])
    assert kinds["polygons"] == (pystac.MediaType.GEOPACKAGE, ["data"])
    assert kinds["report"] == (pystac.MediaType.HTML, ["metadata"])
    assert kinds["other"] == (None, ["metadata"])
    assert [kinds[key][0] for key in ("style", "style-2", "style-3")] == [
        "application/xml", "application/vnd.ogc.sld+xml", "application/xml",
    ]  # fmt: skip


def test_an_item_elsewhere_points_to_the_maps_folder(tmp_path: Path) -> None:
    for folder in ("maps", "catalogue/items"):
        (tmp_path / folder).mkdir(parents=True)
    context = MapContext(tmp_path / "maps" / "lulc.tif", utm_grid(4, 5), SCHEME, TAGS, acquired=DATES)
    item = write_item(tmp_path / "catalogue" / "items" / "one.json", context)
    assert item["assets"]["classes"]["href"] == "../../maps/lulc.tif"
    assert item["id"] == "lulc"


def test_bands_are_those_of_the_files(made: Path) -> None:
    item = pystac.Item.from_file(made)
    rasters = {key: asset for key, asset in item.assets.items() if asset.media_type == pystac.MediaType.COG}
    assert set(rasters) == {"classes", "probabilities", "confidence", "quality"}
    for asset in rasters.values():
        with rasterio.open(made.parent / unquote(asset.href)) as raster:
            bands = asset.extra_fields["bands"]
            assert tuple(band["name"] for band in bands) == raster.descriptions
            assert tuple(band["data_type"] for band in bands) == raster.dtypes
            assert [float(band.get("nodata", "-1")) for band in bands] == pytest.approx(
                [-1 if value is None else value for value in raster.nodatavals], nan_ok=True
            )
            assert tuple(band.get("raster:scale", 1) for band in bands) == raster.scales
            assert {band["raster:sampling"] for band in bands} == {raster.tags()["AREA_OR_POINT"].lower()}
            assert ProjectionExtension.ext(item).transform == list(raster.transform)[:6]
            assert ProjectionExtension.ext(item).shape == list(raster.shape)
            assert ProjectionExtension.ext(item).bbox == list(raster.bounds)
            assert ProjectionExtension.ext(item).code == raster.crs.to_string()
    assert not any("bands" in asset.extra_fields for key, asset in item.assets.items() if key not in rasters)


def classes_of(band: dict[str, Any]) -> list[Classification]:
    return [Classification(entry) for entry in band["classification:classes"]]


def test_classes_are_those_of_the_map(made: Path) -> None:
    assets = pystac.Item.from_file(made).assets
    classes, quality = map(classes_of, assets["classes"].extra_fields["bands"])
    assert [entry.value for entry in classes] == [0, *SCHEME.codes]
    assert [entry.value for entry in classes if entry.nodata] == [0]
    assert [entry.title for entry in classes[1:]] == list(SCHEME.names)
    assert [entry.color_hint for entry in classes[1:]] == [bytes(colour).hex().upper() for colour in SCHEME.colours]
    sensors, reasons = map(classes_of, assets["quality"].extra_fields["bands"])
    assert [(entry.value, entry.title) for entry in quality] == list(enumerate(QUALITY))
    assert [(entry.value, entry.title) for entry in sensors] == list(enumerate(QUALITY))
    assert [(entry.value, entry.title) for entry in reasons] == list(enumerate(REASONS))
    for listed in (classes, quality, reasons):
        assert all(re.fullmatch("[0-9A-Za-z_-]+", entry.name) for entry in listed)
        assert len({entry.name for entry in listed}) == len(listed)


@settings(max_examples=examples(200))
@given(st.lists(st.sampled_from(["no data", "A", "a", "a-2", "class 3", "森"]) | st.text(), min_size=1, max_size=9))
def test_machines_can_tell_any_classes_apart(names: list[str]) -> None:
    scheme = ClassScheme("own", tuple(range(1, len(names) + 1)), tuple(names), ((1, 2, 3),) * len(names))
    made = [entry["name"] for entry in _classes(scheme)]
    assert len(set(made)) == len(names) + 1
    assert all(re.fullmatch("[0-9A-Za-z_-]+", name) for name in made)


def test_a_reference_system_without_a_code_is_written_out(tmp_path: Path) -> None:
    for name, code in {"utm": "EPSG:32633", "LAEA, one long row": "EPSG:3035", "no authority": None}.items():
        grid = GeoBox((3, 4), GRIDS[name].affine, GRIDS[name].crs)
        about = ProjectionExtension.ext(pystac.Item.from_dict(small_item(tmp_path, grid)))
        assert about.code == code
        assert (about.wkt2 is None) == (about.projjson is None) == (code is not None)
        if about.wkt2:
            assert pyproj.CRS.from_wkt(about.wkt2) == pyproj.CRS.from_user_input(grid.crs)
            assert pyproj.CRS.from_json_dict(about.projjson) == pyproj.CRS.from_user_input(grid.crs)
    moved = "+proj=utm +zone=33 +ellps=bessel +units=m"
    assert small_item(tmp_path, GeoBox((3, 4), utm_grid(3, 4).affine, moved))["properties"]["proj:code"] is None


PLACES = {
    "utm": ("EPSG:32633", 400_000, 5_300_000, 100_000),
    "fiji": ("EPSG:32760", 830_000, 8_180_000, 60_000),
    "fiji, geographic": ("EPSG:4326", 180, -17, 3),
    "north pole": ("EPSG:3413", 0, 0, 400_000),
    "south pole": ("EPSG:3031", 0, 0, 400_000),
    "south pole, far": ("EPSG:3031", 0, 0, 5_000_000),
    "bering strait": ("EPSG:3338", -1_100_000, 1_300_000, 900_000),
    "europe": ("EPSG:3035", 4_321_000, 3_210_000, 2_500_000),
    "beyond 180": ("EPSG:4326", 200, 10, 30),
}


def in_footprint(geometry: dict[str, Any], longitude: Any, latitude: Any, margin: float) -> Any:
    """Tell for points whether they are inside, outside (1 and 0), or too near the edge to tell (-1)."""
    area = shape(geometry)
    points = shapely.points((np.asarray(longitude) + 180) % 360 - 180, latitude)
    near = shapely.dwithin(area.boundary, points, margin)
    return np.where(near, -1, shapely.contains_properly(area, points).astype(int))


@settings(max_examples=examples(60), deadline=None)
@given(
    place=st.sampled_from(sorted(PLACES)), east=st.floats(-1, 1), north=st.floats(-1, 1), size=st.floats(0.05, 1),
    turn=st.floats(0, 360), seed=st.integers(0, 99),
)  # fmt: skip
def test_footprints_hold_the_grids_pixels_and_no_others(
    place: str, east: float, north: float, size: float, turn: float, seed: int
) -> None:
    """Random points of the Earth are inside if and only if they are inside the grid."""
    crs, x, y, reach = PLACES[place]
    cosine, sine = (size * reach / 100 * function(math.radians(turn)) for function in (math.cos, math.sin))
    left, top = x + east * reach - 50 * cosine - 40 * sine, y + north * reach - 50 * sine + 40 * cosine
    affine = Affine(cosine, sine, left, sine, -cosine, top)
    grid = GeoBox((80, 100), affine, crs)
    geometry, bbox = footprint(grid)
    random = np.random.default_rng(seed)
    to_earth = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    columns, rows = random.uniform(-100, 200, 300), random.uniform(-80, 160, 300)
    xs, ys = affine.a * columns + affine.b * rows + affine.c, affine.d * columns + affine.e * rows + affine.f
    longitude, latitude = to_earth.transform(xs, ys)
    sensible = (np.abs(latitude) < 89.9) & np.isfinite(longitude)
    # What projections or 360 degrees more bring to the same place twice tells nothing.
    back = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(longitude, latitude)
    sensible &= np.hypot(back[0] - xs, back[1] - ys) < 1e-6 * reach
    inside = (columns > 0) & (columns < 100) & (rows > 0) & (rows < 80)
    margin = max(0.02, 3e-7 * size * reach) if "EPSG:4326" not in crs else 1e-4
    found = in_footprint(geometry, longitude, latitude, margin)
    wrong = sensible & (found >= 0) & (found != inside)
    assert not wrong.any(), (longitude[wrong], latitude[wrong], inside[wrong])
    assert_shape(geometry, bbox)


def assert_shape(geometry: dict[str, Any], bbox: list[float]) -> None:
    """What RFC 7946 asks for."""
    area = shape(geometry)
    assert area.is_valid
    parts = getattr(area, "geoms", [area])
    for part in parts:
        west, south, east, north = part.bounds
        assert -180 <= west < east <= 180
        assert -90 <= south < north <= 90
        assert part.exterior.is_ccw
        assert not any(LinearRing(hole).is_ccw for hole in part.interiors)
    west, south, east, north = bbox
    assert south == pytest.approx(area.bounds[1]), bbox
    assert north == pytest.approx(area.bounds[3]), bbox
    assert -180 <= west <= 180 >= east >= -180
    touches = {round(part.bounds[0], 6) for part in parts} | {round(part.bounds[2], 6) for part in parts}
    assert west > east or (west, east) == pytest.approx((area.bounds[0], area.bounds[2]))
    if west > east:
        assert {-180, 180} <= touches


@pytest.mark.parametrize(
    ("crs", "affine", "size", "expected", "parts"),
    [
        ("EPSG:4326", Affine(0.01, 0, 178.5, 0, -0.01, -16), (200, 300), [178.5, -18, -178.5, -16], 2),
        ("EPSG:4326", Affine(0.01, 0, 179, 0, -0.01, 10), (100, 100), [179, 9, 180, 10], 1),
        ("EPSG:4326", Affine(0.01, 0, -180, 0, -0.01, 10), (100, 100), [-180, 9, -179, 10], 1),
        ("EPSG:4326", Affine(1, 0, -180, 0, -1, 90), (180, 360), [-180, -90, 180, 90], 1),
        ("EPSG:4326", Affine(1, 0, 0, 0, -1, 90), (180, 360), [-180, -90, 180, 90], 1),
        ("EPSG:4326", Affine(1, 0, 100, 0, -1, 90), (20, 200), [100, 70, -60, 90], 2),
        ("EPSG:3413", Affine(1000, 0, 0, 0, -1000, 200_000), (200, 200), [45, 87.3894327, 135, 90], 1),
        ("EPSG:3413", Affine(1000, 0, -100_000, 0, -1000, 0), (100, 200), [-135, 88.6945538, 45, 90], 1),
        ("EPSG:3413", Affine(4000, 0, -300_000, 0, -4000, 160_000), (80, 100), [-180, 86.8621171, 180, 90], 1),
        ("EPSG:6931", Affine(1000, 0, -100_000, 0, -1000, 100_000), (200, 200), [-180, 88.7338219, 180, 90], 1),
        ("EPSG:3031", Affine(1000, 0, -10_000, 0, -1000, 70_000), (200, 200), [-180, -90, 180, -87.8813903], 1),
    ],
)
def test_footprints_at_the_edges_of_the_world(
    crs: str, affine: Affine, size: tuple[int, int], expected: list[float], parts: int
) -> None:
    geometry, bbox = footprint(GeoBox(size, affine, crs))
    assert bbox == pytest.approx(expected, abs=2e-6)
    assert geometry["type"] == ("MultiPolygon" if parts > 1 else "Polygon")
    assert len(shapely.get_parts(shape(geometry))) == parts
    assert_shape(geometry, bbox)


def test_small_grids_have_few_points() -> None:
    assert len(footprint(utm_grid(100, 100))[0]["coordinates"][0]) <= 9
    assert len(footprint(utm_grid(10_980, 10_980))[0]["coordinates"][0]) > 20


def test_a_grid_without_a_place_on_the_earth_is_refused() -> None:
    local = 'LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    with pytest.raises(InputError, match="cannot be converted to WGS 84"):
        footprint(GeoBox((2, 2), Affine(1, 0, 0, 0, -1, 0), local))
    with pytest.raises(InputError, match="outside the area where its projection is defined"):
        footprint(GeoBox((2, 2), Affine(1, 0, 1e9, 0, -1, 1e9), "EPSG:3035"))


def test_items_of_equal_maps_are_equal_files(tmp_path: Path) -> None:
    contents = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        small_item(tmp_path / folder)
        contents.append((tmp_path / folder / "lulc.stac.json").read_bytes())
    assert contents[0] == contents[1]
    assert str(tmp_path).encode() not in contents[0]


def test_the_model_is_told_where_the_facts_tell_of_it(tmp_path: Path) -> None:
    context = MapContext(tmp_path / "lulc.tif", utm_grid(4, 5), SCHEME, TAGS, acquired=DATES)
    network = {"optical": ["B02", "B03"], "sar": ["VV", "VH"], "classes": 10, "tile": 256}
    item = write_item(tmp_path / "lulc.stac.json", context, FACTS | {"network": network})
    assert any("/mlm/" in extension for extension in item["stac_extensions"])
    told = item["properties"]
    assert (told["mlm:name"], told["mlm:architecture"]) == ("refnet-base", "REF-Net")
    assert [entry["name"] for entry in told["mlm:input"]] == ["optical: B02, B03", "SAR: VV, VH"]
    assert [entry["input"]["shape"] for entry in told["mlm:input"]] == [[-1, 2, 256, 256], [-1, 2, 256, 256]]
    assert told["mlm:output"][0]["result"]["shape"] == [-1, 10, 256, 256]
    assert len(told["mlm:output"][0]["classification:classes"]) == 10
    assert item["assets"]["model"]["href"] == f"urn:sha256:{'ab' * 32}"
    assert "mlm:model" in item["assets"]["model"]["roles"]
    translated = write_item(tmp_path / "b.stac.json", context, FACTS | {"network": network, "translation": {"a": 1}})
    assert "classification:classes" not in translated["properties"]["mlm:output"][0]
    assert not any("/mlm/" in extension for extension in small_item(tmp_path)["stac_extensions"])
