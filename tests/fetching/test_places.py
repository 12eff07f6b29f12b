"""Many places at once, and places where zones and the longitudes end."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from shapely.geometry import box, mapping

from tests.fetching.harness import FEW, TENS, Fetched, Site, left_behind, plane, write_area
from tests.helpers.programs import refnet
from tests.helpers.stac_items import ANTIMERIDIAN, EPSG, TWELVE, Border, World, across, lonlat, part
from tests.helpers.stac_servers import catalogue, store, write_source

NAMES = ("Tempelhof", "../escape", "a/b", "CON", "Straße 1", "Straße_1", ".hidden", "x" * 300, "", "café\n")


def squares(count: int, size: int = 60) -> dict[str, tuple[float, float, float, float]]:
    """Places next to each other."""
    return {f"place {number}": part(*(left := (number % 5 * size, number // 5 * size)), left[0] + size, left[1] + size)
            for number in range(count)}  # fmt: skip


def scenes_in(out: Path) -> list[Path]:
    """Folders of scenes."""
    return sorted(path.parent for path in out.rglob("s2.tif"))


def test_several_features_give_several_scenes(site: Site, tmp_path: Path) -> None:
    """One table for batch, and one regions file whose regions are the features."""
    areas, out = squares(3), tmp_path / "places"
    site.fetch(out, *FEW, "--workers", "2", area=write_area(tmp_path / "areas.geojson", areas))
    folders = scenes_in(out)
    assert len(folders) == 3
    for folder in folders:
        fetched = Fetched(folder)
        assert fetched.grid[0][0] in range(60, 63)
        found = fetched.match(site.world.optical.values())
        assert (found >= 0).mean() > 0.97
        number = next(number for number in range(3) if f"{number}" in folder.name)
        bounds = areas[f"place {number}"]
        x, y = fetched.places
        assert (round(x.min()) // 60 * 60, round(y.max() + 59) // 60 * 60) == (bounds[0], bounds[3])
    with open(out / "regions.toml", "rb") as file:
        regions = tomllib.load(file)
    assert len({scene.get("region", scene["name"]) for scene in regions["scenes"]}) == 3
    with open(out / "scenes.csv", newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 3
    done = refnet("batch", "plan", out / "scenes.csv", "-o", tmp_path / "maps")
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_many_places_of_several_dates_are_seasons_of_a_batch_and_a_training(site: Site, tmp_path: Path) -> None:
    """What is fetched goes into predict, batch and train as it is; again, and from items.json, it is the same."""
    areas, out = squares(2, 120), tmp_path / "places"
    where, how = write_area(tmp_path / "areas.geojson", areas), ("--optical", "all", "--min-clear", "0.3", *FEW)
    site.fetch(out, *how, "--workers", "2", area=where)
    places = [name.replace(" ", "_") for name in areas]
    tables = ("seasons.csv", "regions.toml", *(f"{place}/scenes.csv" for place in places))
    texts = {name: (out / name).read_text() for name in tables}
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.tif")}
    (out / "seasons.csv").unlink()
    (out / "place_1" / "scenes.csv").unlink()
    site.fetch(out, *how, area=where)
    assert {name: (out / name).read_text() for name in tables} == texts
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.tif")} == times
    site.fetch(again := tmp_path / "again", "--items", str(out / "items.json"), area=None, dates=None)
    assert {name: (again / name).read_text() for name in tables} == texts
    done = refnet("batch", "plan", out / "seasons.csv", "-o", tmp_path / "tasks.jsonl")
    assert done.returncode == 0, done.stderr
    done = refnet("batch", "run", tmp_path / "tasks.jsonl", seconds=500)
    assert done.returncode == 0, done.stderr
    for place in places:
        days = [folder.name[-10:] for folder in scenes_in(out) if folder.name.startswith(place)]
        assert len(days) > 1
        with rasterio.open(out / place / "lulc.tif") as file:
            assert all(day in str(file.tags()) for day in days)
            assert file.read(1).any()
    done = refnet("train", out / "regions.toml", "--dry-run", "--json", seconds=500)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_names_of_features_stay_in_the_folder(site: Site, tmp_path: Path) -> None:
    areas = dict(zip(NAMES, squares(len(NAMES)).values(), strict=True))
    out = tmp_path / "deep" / "places"
    site.fetch(out, *FEW, "--workers", "3", "--labels", "none", area=write_area(tmp_path / "areas.geojson", areas))
    assert len(scenes_in(out)) == len(NAMES)
    assert sorted(path.name for path in (tmp_path / "deep").iterdir() if not path.name.startswith(".")) == ["places"]
    assert [folder for folder in scenes_in(out) if folder.parent != out] == []


@pytest.mark.long
def test_a_feature_that_fails_does_not_stop_the_others(site: Site, tmp_path: Path) -> None:
    """And only what failed is fetched again."""
    areas = squares(3) | {"far away": (300_000, 5_300_000, 300_600, 5_300_600)}
    out, where = tmp_path / "places", write_area(tmp_path / "areas.geojson", areas)
    done = refnet(*site.words(out, *FEW, "--labels", "none", area=where))
    assert done.returncode in (1, 66), done.stderr
    assert "far" in done.stderr
    assert len(scenes_in(out)) == 3
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.tif")}
    site.files.reset()
    done = refnet(*site.words(out, *FEW, "--labels", "none", area=where))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.tif")} == times
    assert not [path for path in site.files.served() if "_B0" in path]


@pytest.mark.long
def test_hundreds_of_features_and_workers_give_the_same(site: Site, tmp_path: Path) -> None:
    areas = {f"{number:03d}": part(number % 15 * 20, number // 15 * 20, number % 15 * 20 + 20, number // 15 * 20 + 20)
             for number in range(120)}  # fmt: skip
    where, hashes = write_area(tmp_path / "areas.geojson", areas), []
    for workers in ("1", "4"):
        out = tmp_path / workers
        site.fetch(out, *FEW, "--labels", "none", "--workers", workers, area=where)
        assert len(scenes_in(out)) == 120
        hashes.append({folder.name: Fetched(folder).hashes(("s2.tif", "s1.tif")) for folder in scenes_in(out)})
    assert hashes[0] == hashes[1]


def hold_across(border: Border, world: World, folders: list[Path]) -> None:
    """One scene a zone; each pixel lies where one of the acquisitions has it; together they cover the area."""
    epsgs = []
    for folder in folders:
        fetched = Fetched(folder)
        epsg = fetched.grid[2]
        epsgs.append(epsg)
        x, y = np.broadcast_arrays(*fetched.places)
        right = np.zeros(fetched.grid[0], bool)
        for one in world.optical.values():
            ox, oy = Transformer.from_crs(epsg, one.epsg, always_xy=True).transform(x, y)
            near = np.ones(fetched.grid[0], bool)
            for band in TENS:
                value, allowed = plane(one, band, ox, oy)
                near &= np.abs(fetched.optical[band] - value) <= allowed
            if one.epsg == epsg:
                exact = np.all([fetched.optical[band] == one.reflectance(band, x, y) for band in TENS], axis=0)
                assert exact.mean() > 0.45
            right |= near
        lon, _ = Transformer.from_crs(epsg, 4326, always_xy=True).transform(x, y)
        west = (lon < border.lon) & (lon > 0)
        mine = west if epsg == border.zones[0] else ~west
        assert mine.mean() > 0.8
        assert right[mine].mean() > 0.999
        assert np.isfinite(fetched.sar["VV"][mine]).all()
    assert sorted(epsgs) == sorted(border.zones)


@pytest.mark.parametrize("border", [TWELVE, pytest.param(ANTIMERIDIAN, marks=pytest.mark.long)], ids=["12E", "180"])
@pytest.mark.parametrize("how", ["bbox", pytest.param("area", marks=pytest.mark.long)])
def test_an_area_across_zones_gives_a_scene_a_zone(border: Border, how: str, tmp_path: Path) -> None:
    with store(tmp_path / "files") as files:
        world = across(border, tmp_path / "files", files.url)
        with catalogue(world.items, tmp_path / "items") as front:
            source = write_source(tmp_path / "s.toml", front.url, [files.host])
            site = Site(world, files, front, source, tmp_path)
            east = border.lon + 0.008 - 360 * (border.lon == 180)
            west, south, north = border.lon - 0.01, border.lat - 0.008, border.lat + 0.008
            if how == "bbox":
                words = ["--bbox", f"{west},{south},{east},{north}"]
            else:
                pieces = [box(west, south, border.lon, north), box(east - 0.008, south, east, north)]
                geometry = {"type": "MultiPolygon", "coordinates": [mapping(piece)["coordinates"] for piece in pieces]}
                feature = {"type": "Feature", "properties": {}, "geometry": geometry}
                (tmp_path / "a.geojson").write_text(json.dumps(feature))
                words = ["--area", str(tmp_path / "a.geojson")]
            site.fetch(tmp_path / "out", *words, *FEW, "--labels", "none", area=None)
    hold_across(border, world, scenes_in(tmp_path / "out"))
    assert (tmp_path / "out" / "scenes.csv").is_file()


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [
        ["--bbox", "13,52,12,53"], ["--bbox", "13,52,13,53"], ["--bbox", "0,0,400,1"], ["--bbox", "a,b,c,d"],
        ["--bbox", "1,2,3"], ["--bbox", "nan,0,1,1"], ["--bbox", "11,48,11.1,48.1", "--tile", "32UPU"], [],
        ["--tile", "99XXX"], ["--tile", "32upu1"], ["--bbox", "-180,-90,180,90"], ["--bbox", "0,89.5,1,90"],
    ],
)  # fmt: skip
def test_areas_that_are_none(words: list[str], site: Site, tmp_path: Path) -> None:
    """Refused before anything is asked of the catalogue, or at least before a pixel is read."""
    done = refnet(*site.words(tmp_path / "place", *words, area=None))
    assert done.returncode in (2, 64, 65, 66), done.stderr
    assert "bug" not in done.stderr
    assert left_behind(tmp_path / "place") == []


@pytest.mark.long
@pytest.mark.parametrize("dates", ["2021-09-30/2021-05-01", "2021-13-01/2021-14-01", "2021", "a/b", "2021-05-01", ""])
def test_dates_that_are_none(dates: str, site: Site, tmp_path: Path) -> None:
    done = refnet(*site.words(tmp_path / "place", *FEW, "--labels", "none", dates=dates))
    assert done.returncode in (2, 64, 66) or (done.returncode == 0 and dates == "2021"), done.stderr
    assert "bug" not in done.stderr


@pytest.mark.long
def test_a_geopackage(site: Site, tmp_path: Path) -> None:
    import pyogrio
    import shapely

    areas = list(squares(2).values())
    shapes = np.array([shapely.to_wkb(lonlat(bounds, EPSG, 2.0)) for bounds in areas])
    pyogrio.raw.write(
        tmp_path / "areas.gpkg", shapes, [np.array(["north", "south"], object)], ["name"], geometry_type="Polygon",
        crs="EPSG:4326",
    )  # fmt: skip
    site.fetch(tmp_path / "out", *FEW, "--labels", "none", area=tmp_path / "areas.gpkg")
    assert [folder.name for folder in scenes_in(tmp_path / "out")] == ["north", "south"]
