"""A probability sample in the held-out places: where its points lie, what it estimates, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.errors import InputError
from tests.weights.test_make_world import load

SCHEME = SCHEMES["esri-io"]
GRIDS = {
    "one": GeoBox((40, 40), Affine(10, 0, 400_000, 0, -10, 5_800_000), "EPSG:32633"),
    "two": GeoBox((40, 40), Affine(10, 0, 500_000, 0, -10, 6_900_000), "EPSG:32735"),
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]) + "\n")
    return path


def draw(seed: int, strata: bool) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Points of 200 pixels of each place, and the maps, of which 80 % are right."""
    random = np.random.default_rng(seed)
    maps = {name: random.integers(1, 4, (40, 40)).astype(np.uint8) for name in GRIDS}
    rows: list[dict[str, Any]] = []
    for name, grid in GRIDS.items():
        for pixel in random.choice(1600, 200, replace=False):
            row, column = divmod(int(pixel), 40)
            x, y = grid.affine.c + 10 * column + 5, grid.affine.f - 10 * row - 5
            label = int(maps[name][row, column]) if random.random() < 0.8 else 1
            rows.append({"place": name, "x": x, "y": y, "crs": grid.crs, "class": SCHEME.names[label - 1]})
            if strata:
                rows[-1] |= {"stratum": f"in {name}", "weight": {"one": 0.7, "two": 0.3}[name]}
    return rows, maps


def estimate(path: Path, maps: dict[str, np.ndarray]) -> Any:
    module = load("world_sample")
    sample = module.Sample.read(path, SCHEME)
    mapped = module.SampleMap(sample, sample.locate(GRIDS, [], 400.0), SCHEME)
    for name, codes in maps.items():
        mapped.add(name, GRIDS[name], codes)
    return mapped


@pytest.mark.parametrize("strata", [False, True])
def test_estimates_are_those_of_a_loop_over_the_points(tmp_path: Path, strata: bool) -> None:
    rows, maps = draw(1, strata)
    found = estimate(write(tmp_path / "sample.csv", rows), maps)
    predicted = []
    for row in rows:
        place = GRIDS[row["place"]].affine
        column, line = (row["x"] - place.c) / 10, (place.f - row["y"]) / 10
        predicted.append(SCHEME.names[maps[row["place"]][int(line), int(column)] - 1])
    groups: dict[Any, list[float]] = {}
    for row, name in zip(rows, predicted, strict=True):
        groups.setdefault(row["place"] if strata else name, []).append(float(row["class"] == name))
    share = {"one": 0.7, "two": 0.3} if strata else {
        name: float(sum((codes == number).sum() for codes in maps.values())) / 3200
        for number, name in enumerate(SCHEME.names, 1)
    }  # fmt: skip
    value = sum(share[group] * sum(hits) / len(hits) for group, hits in groups.items())
    variance = sum(share[group] ** 2 * np.var(hits, ddof=1) / len(hits) for group, hits in groups.items())
    overall = found.estimate().overall_accuracy
    assert overall.value == pytest.approx(value, rel=1e-3)  # pixels of the two zones differ a little in area
    assert overall.margin == pytest.approx(1.96 * math.sqrt(variance), rel=1e-3)
    areas = found.estimate().area.values()
    assert sum(area.value for area in areas) == pytest.approx(found.hectares.sum())
    assert found.hectares.sum() == pytest.approx(32, rel=3e-3)
    page = "\n".join(load("world_sample").sample_page({"both": found.to_dict()}, {"both": "both sensors"}))
    assert f"Both sensors: overall accuracy {overall.value:.3f} ± {overall.margin:.3f}." in page


def change(**values: Any) -> Any:
    return lambda rows: rows[0].update(values)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (change(x=390_000.0), "1 of 400 points of the sample lie outside the held-out places"),
        (change(place="two"), "1 of 400 points of the sample lie outside the held-out places"),
        (change(**{"class": "Lawn"}), "has classes that esri-io lacks: 'Lawn'"),
        (change(stratum=""), "1 of 400 points of .* have no stratum"),
        (change(weight=0.2), "needs one weight above 0"),
        (change(x="far"), "has the x 'far', which is no number"),
        (lambda rows: rows.__setitem__(slice(200, None), []), "sum to 0.700, not to 1: a stratum is missing"),
        (lambda rows: rows.append(rows[0]), "1 points of the sample lie in the pixel of another one"),
        (lambda rows: [row.pop("class") for row in rows], "needs the columns class and"),
    ],
)
def test_samples_that_would_mislead_are_refused(tmp_path: Path, edit: Any, says: str) -> None:
    rows, maps = draw(2, strata=True)
    edit(rows)
    with pytest.raises(InputError, match=says):
        estimate(write(tmp_path / "sample.csv", rows), maps)


def test_points_of_a_vector_file(tmp_path: Path) -> None:
    rows, maps = draw(3, strata=True)
    features = []
    for row in rows:
        lonlat = Transformer.from_crs(str(row["crs"]), 4326, always_xy=True).transform(row["x"], row["y"])
        fields = {name: row[name] for name in ("place", "class", "stratum", "weight")}
        features.append({"type": "Feature", "properties": fields, "geometry": {"type": "Point", "coordinates": lonlat}})
    (path := tmp_path / "sample.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    one, other = (estimate(path, maps), estimate(write(tmp_path / "sample.csv", rows), maps))
    assert one.to_dict() == other.to_dict()


def test_dropped_places_are_left_out_and_counted(tmp_path: Path) -> None:
    rows, maps = draw(4, strata=False)
    module, scenes = load("world_sample"), load("world_scenes")
    lon, lat = Transformer.from_crs(32735, 4326, always_xy=True).transform(500_200, 6_899_800)
    place = scenes.Place("two", lon, lat, "a", "b", True)
    sample = module.Sample.read(write(tmp_path / "sample.csv", rows), SCHEME)
    mapped = module.SampleMap(sample, sample.locate({"one": GRIDS["one"]}, [place], 500.0), SCHEME)
    mapped.add("one", GRIDS["one"], maps["one"])
    assert (mapped.to_dict()["without_map"], mapped.to_dict()["points"]) == (200, 400)


@pytest.mark.parametrize("strata", [False, True])
def test_intervals_hold_the_true_area_as_often_as_they_say(strata: bool) -> None:
    """Of many samples of one ground truth, and of a map that overstates a class."""
    module, random = load("world_sample"), np.random.default_rng(5)
    truth = {name: 1 + (random.random((40, 40)) < {"one": 0.1, "two": 0.5}[name]) for name in GRIDS}
    maps = {name: np.where(random.random((40, 40)) < 0.3, 2, codes).astype(np.uint8) for name, codes in truth.items()}
    drawn = {"one": 140, "two": 60} if strata else {"one": 100, "two": 100}  # of 1600 each, which weights make up for
    held = []
    for _ in range(100):
        located = []
        pixels = random.choice(3200, 200, replace=False)
        for number, name in enumerate(GRIDS):
            simple = pixels[pixels // 1600 == number] % 1600
            mine = random.choice(1600, drawn[name], replace=False) if strata else simple
            located += [(name, *divmod(int(pixel), 40)) for pixel in mine]
        points = tuple(
            module.Point(0, 0.0, 0.0, int(truth[name][row, column]), name, name * strata)
            for name, row, column in located
        )
        mapped = module.SampleMap(module.Sample(points, {"one": 0.5, "two": 0.5} if strata else {}), located, SCHEME)
        for name, codes in maps.items():
            mapped.add(name, GRIDS[name], codes)
        area = mapped.estimate().area[SCHEME.names[1]]
        held.append(abs(area.value - sum((codes == 2).sum() for codes in truth.values()) / 100) < area.margin)
    assert 0.88 < np.mean(held) <= 1
