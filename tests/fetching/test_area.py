"""Areas: bounding boxes, tiles, features, zones and 180 degrees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import shapely

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.fetching.area import area_of_bbox, area_of_tile, areas_of_file, epsg_of


def test_a_box_lies_on_the_lattice_and_is_covered() -> None:
    (area,) = area_of_bbox("13.2,52.4,13.5,52.6")
    assert (area.name, area.epsg) == ("scene", 32633)
    transform = area.grid.affine
    assert (transform.a, transform.e, transform.c % 10, transform.f % 10) == (10, -10, 0, 0)
    assert area.outline().contains(shapely.box(13.2, 52.4, 13.5, 52.6))


def test_a_box_across_zones_is_divided() -> None:
    west, east = area_of_bbox("11.9,50,12.1,50.1")
    assert (west.name, west.epsg, east.name, east.epsg) == ("scene_32N", 32632, "scene_33N", 32633)
    assert west.region == east.region == "scene"


def test_a_box_across_180_degrees_is_divided() -> None:
    areas = area_of_bbox("179.9,-17,-179.9,-16.9")
    assert [area.epsg for area in areas] == [32701, 32760]
    assert all(-180 <= edge <= 180 for area in areas for edge in (area.outline().bounds[0], area.outline().bounds[2]))


@pytest.mark.parametrize(
    "text", ["1,2,3", "a,b,c,d", "13,52,14,51", "0,0,181,1", "0,80,1,85", "0,0,0.0001,0.0001", "10,10,10,11"]
)
def test_boxes_that_are_none(text: str) -> None:
    with pytest.raises(OptionsError):
        area_of_bbox(text)


def test_a_tile() -> None:
    (area,) = area_of_tile("33uuu")
    assert (area.name, epsg_of(area.grid), area.grid.shape) == ("33UUU", 32633, (10_980, 10_980))


@pytest.mark.parametrize("name", ["33", "33IUU", "61UUU", "33UAU", "33UUUU", "../x"])
def test_tiles_that_are_none(name: str) -> None:
    with pytest.raises(OptionsError):
        area_of_tile(name)


def write(path: Path, *features: tuple[str, Any]) -> Path:
    listed = [
        {"type": "Feature", "properties": {"name": name}, "geometry": shapely.geometry.mapping(shape)}
        for name, shape in features
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": listed}))
    return path


def test_features_give_areas_with_plain_and_unique_names(tmp_path: Path) -> None:
    box = shapely.box(13, 52, 13.1, 52.1)
    path = write(tmp_path / "a.geojson", ("Alt/neu", box), ("alt neu", box), ("..", box))
    assert [area.name for area in areas_of_file(path)] == ["Alt_neu", "alt_neu-2", "area-3"]


def test_a_feature_cut_at_180_degrees(tmp_path: Path) -> None:
    parts = shapely.MultiPolygon([shapely.box(179.99, -17, 180, -16.99), shapely.box(-180, -17, -179.99, -16.99)])
    areas = areas_of_file(write(tmp_path / "a.geojson", ("a", parts)))
    assert [(area.name, area.epsg) for area in areas] == [("a_01S", 32701), ("a_60S", 32760)]


def test_points_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a polygon"):
        areas_of_file(write(tmp_path / "a.geojson", ("a", shapely.Point(13, 52))))
