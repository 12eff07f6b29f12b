"""The sample scene is what its script makes, and what its README says."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.warp import reproject, transform
from scipy.ndimage import gaussian_filter, map_coordinates

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.evaluation.class_map import describe_map
from refnet_cli.training.regions_file import read_regions

SAMPLE = Path(__file__).resolve().parents[2] / "sample_data"
SCRIPT = SAMPLE / "simulate.py"
CLASSES = [1, 2, 4, 5, 7, 8, 11]


def simulate(*arguments: object) -> None:
    subprocess.run([sys.executable, "-W", "error", str(SCRIPT), *map(str, arguments)], check=True)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


@pytest.fixture(scope="module")
def remade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    simulate(folder)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("name", ["s2.tif", "s1.tif", "labels.tif"])
def test_files_are_what_the_script_makes(remade: Path, name: str) -> None:
    with rasterio.open(SAMPLE / name) as kept, rasterio.open(remade / name) as new:
        # Another processor or library may round another way: what lies on a class border or on half a step may differ.
        assert (kept.crs, kept.shape, kept.dtypes, kept.descriptions) == (
            new.crs,
            new.shape,
            new.dtypes,
            new.descriptions,
        )
        assert kept.transform.almost_equals(new.transform, precision=1e-9)
        a, b = kept.read().astype(np.float64), new.read().astype(np.float64)
    tolerance = {"s2.tif": 1.0, "s1.tif": 0.005 * np.nan_to_num(np.abs(b)), "labels.tif": 0.0}[name]
    same = (np.abs(a - b) <= tolerance) | (np.isnan(a) & np.isnan(b))
    assert same.mean() > 0.999


def test_files_are_small() -> None:
    assert sum((SAMPLE / name).stat().st_size for name in ("s2.tif", "s1.tif", "labels.tif")) < 6e6


def test_products_are_described_and_lie_on_unlike_grids() -> None:
    with (
        rasterio.open(SAMPLE / "s2.tif") as optical,
        rasterio.open(SAMPLE / "s1.tif") as sar,
        rasterio.open(SAMPLE / "labels.tif") as labels,
    ):
        assert optical.descriptions == ("B02", "B03", "B04", "B08")
        assert sar.descriptions == ("VV", "VH")
        assert (optical.dtypes[0], sar.dtypes[0], labels.dtypes[0]) == ("uint16", "float32", "uint8")
        assert (optical.nodata, labels.nodata) == (0, 0)
        assert np.isnan(sar.nodata)
        assert optical.shape == labels.shape == (768, 768)
        assert optical.transform == labels.transform
        assert optical.crs == labels.crs
        assert optical.crs.is_projected
        assert sar.crs != optical.crs
        assert labels.colormap(1)[CLASSES[0]] == (65, 155, 223, 255)
    assert describe_map(SAMPLE / "labels.tif")[1] == SCHEMES["esri-io"]


def test_every_class_has_its_share() -> None:
    labels = read(SAMPLE / "labels.tif")
    assert set(np.unique(labels)) == set(CLASSES)
    shares = [(labels == code).mean() for code in CLASSES]
    assert min(shares) >= 0.03
    assert max(shares) <= 0.35


def test_optical_has_a_wedge_without_data_at_one_edge() -> None:
    missing = read(SAMPLE / "s2.tif") == 0
    assert (missing.all(axis=0) == missing.any(axis=0)).all()
    widths = missing[0].sum(axis=1)
    assert widths.min() > 5
    assert widths.max() < 80
    assert (np.diff(widths) >= 0).all()
    assert widths[-1] > widths[0] + 10
    assert missing[0][:, [0, -1]].all(axis=0).sum() == 1


def places_in_labels() -> tuple[np.ndarray, np.ndarray]:
    """Fractional rows and columns of the label raster at the centres of the SAR pixels, worked out by GDAL."""
    with rasterio.open(SAMPLE / "s1.tif") as sar, rasterio.open(SAMPLE / "labels.tif") as labels:
        row, column = np.mgrid[: sar.height : 2, : sar.width : 2]
        x = sar.transform.c + sar.transform.a * (column + 0.5)
        y = sar.transform.f + sar.transform.e * (row + 0.5)
        x, y = (np.array(each) for each in transform(sar.crs, labels.crs, x.ravel(), y.ravel()))
        grid = labels.transform
        return ((y - grid.f) / grid.e - 0.5).reshape(row.shape), ((x - grid.c) / grid.a - 0.5).reshape(row.shape)


def test_sar_misses_a_strip_and_reaches_beyond_the_other_edges() -> None:
    rows, columns = places_in_labels()
    seen = np.isfinite(read(SAMPLE / "s1.tif")).all(axis=0)[::2, ::2]
    overhang = np.array([-rows[seen].min(), rows[seen].max() - 767, -columns[seen].min(), columns[seen].max() - 767])
    assert sorted(overhang)[1] > 3
    middle = seen & (abs(rows - 384) < 100)
    core = np.array([
        -rows[seen & (abs(columns - 384) < 100)].min(),
        rows[seen & (abs(columns - 384) < 100)].max() - 767,
        -columns[middle].min(),
        columns[middle].max() - 767,
    ])  # fmt: skip
    assert core.min() < -5


def test_sar_is_where_the_labels_say() -> None:
    """Backscatter as the classes have it fits best where it is, to a tenth of a pixel."""
    labels = read(SAMPLE / "labels.tif")[0]
    sar = np.log(read(SAMPLE / "s1.tif")[:, ::2, ::2])
    rows, columns = places_in_labels()
    inside = np.isfinite(sar).all(axis=0) & (np.minimum(rows, columns) > 4) & (np.maximum(rows, columns) < 763)
    nearest = labels[rows[inside].round().astype(int), columns[inside].round().astype(int)]
    observed = sar[:, inside]

    def agreement(down: float, right: float) -> float:
        place = [rows[inside] + down, columns[inside] + right]
        return sum(
            np.corrcoef(observed[band], np.log(map_coordinates(image, place, order=1)))[0, 1]
            for band, image in enumerate(expected)
        )

    levels = np.zeros((2, 256))
    for code in CLASSES:
        levels[:, code] = np.exp(observed[:, nearest == code]).mean(axis=1)
    expected = [gaussian_filter(band[labels], 0.7) for band in levels]
    for direction in ((1.0, 0.0), (0.0, 1.0)):
        before, here, after = (agreement(step * direction[0], step * direction[1]) for step in (-1, 0, 1))
        peak = 0.5 * (before - after) / (before - 2 * here + after)
        assert here > max(before, after)
        assert abs(peak) < 0.1


@pytest.mark.long
def test_many_scenes_differ_and_are_listed(tmp_path: Path) -> None:
    simulate(tmp_path, "--count", 2, "--size", 128, "--seed", 5)
    assert read_regions(tmp_path / "regions.toml").classes == SCHEMES["esri-io"]
    scenes = tomllib.loads((tmp_path / "regions.toml").read_text())["scenes"]
    assert [scene["name"] for scene in scenes] == ["scene-000", "scene-001"]
    for scene in scenes:
        for key in ("optical", "sar", "labels"):
            assert (tmp_path / scene[key]).is_file()
    first, second = (read(tmp_path / scene["optical"]) for scene in scenes)
    assert first.shape == (4, 128, 128)
    assert (first != second).mean() > 0.5


def test_signatures_are_what_their_script_distils(shared: Path, tmp_path: Path) -> None:
    script = SAMPLE / "make_signatures.py"
    measurements = shared / "data" / "signatures.json"
    subprocess.run([sys.executable, str(script), str(measurements), str(tmp_path / "new.json")], check=True)
    assert json.loads((tmp_path / "new.json").read_text()) == json.loads((SAMPLE / "signatures.json").read_text())


def made_up_measurements(seed: int) -> dict[str, Any]:
    """Measurements of random numbers, of all that `make_signatures.py` looks for; two of each class and season."""
    random = np.random.default_rng(seed)
    features = ["VH", "B03", "B02", "B11", "B04", "VV", "B08"]
    kinds = [(name, "world pixels", season) for name in (*CLASS_NAMES, "rangeland (grass)", "rangeland (shrub)")
             for season in ("djf", "mam", "jja", "son")]  # fmt: skip
    kinds += [(name, "terramind", "place") for name in (*CLASS_NAMES, "rangeland", "flooded vegetation")]
    entries = []
    for name, source, group in [*kinds, *kinds, ("bare", "canada pixels", "djf")]:
        median = random.uniform(100, 3000, len(features))
        square = random.uniform(-1, 1, (2, len(features), len(features)))
        entries.append({
            "class": name, "source": source, "group": group, "n": int(random.integers(50, 500)),
            "p5": (median * 0.6).tolist(), "p50": median.tolist(), "p95": (median * 1.7).tolist(),
            "std": (median * 0.3).tolist(), "correlation": (square[0] @ square[1]).tolist(),
        })  # fmt: skip
    return {"features": features, "entries": entries}


CLASS_NAMES = ("water", "trees", "crops", "built", "bare")


def distilled(measurements: dict[str, Any], folder: Path) -> Any:
    source, target = folder / "measured.json", folder / "new.json"
    source.write_text(json.dumps(measurements))
    subprocess.run([sys.executable, str(SAMPLE / "make_signatures.py"), str(source), str(target)], check=True)
    return json.loads(target.read_text())


def test_signatures_are_means_weighted_by_pixels(tmp_path: Path) -> None:
    measured = made_up_measurements(1)
    found = distilled(measured, tmp_path)
    at = [measured["features"].index(band) for band in found["bands"]]
    assert found["bands"] == ["B02", "B03", "B04", "B08", "VV", "VH"]
    kinds = [("crops", ("crops",)), ("rangeland", ("rangeland (grass)", "rangeland (shrub)"))]
    for name, measured_as in kinds:
        entries = [entry for entry in measured["entries"] if entry["class"] in measured_as and entry["group"] == "jja"]
        pixels = sum(entry["n"] for entry in entries)
        expected = [sum(entry["n"] * entry["p50"][band] for entry in entries) / pixels for band in at]
        assert found["between_places"][name]["jja"]["median"] == pytest.approx(expected, abs=0.01)
        # of reflectance, the logarithm; of SAR, decibels
        spreads = [math.log(1.7 / 0.6) / 3.29] * 4
        assert found["between_places"][name]["jja"]["spread"][:4] == pytest.approx(spreads, abs=1e-3)
    (winter,) = (entry for entry in measured["entries"] if entry["source"].startswith("canada"))
    assert found["snow"]["p95"] == pytest.approx([winter["p95"][band] for band in at], abs=0.01)


def test_entries_may_be_split_and_come_in_any_order(tmp_path: Path) -> None:
    measured = made_up_measurements(2)
    entries = [entry for entry in measured["entries"] if entry["source"].startswith("world")]
    others = [entry for entry in measured["entries"] if not entry["source"].startswith("world")]
    whole = measured | {"entries": [entry | {"n": 2 * entry["n"]} for entry in entries] + others}
    split = measured | {"entries": (others + entries + entries)[::-1]}
    assert distilled(whole, tmp_path) == distilled(split, tmp_path)


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("varied")
    simulate(folder, "--varied", "--count", 24, "--size", 128, "--seed", 3)
    return folder


def varied_scenes(folder: Path) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Optical, SAR in dB on the optical grid by nearest neighbour, NaN elsewhere, and labels of each scene."""
    scenes = []
    for place in sorted(folder.glob("scene-*")):
        with rasterio.open(place / "s2.tif") as file:
            optical, grid = file.read(), {"dst_crs": file.crs, "dst_transform": file.transform}
        sar = np.full((2, *optical.shape[1:]), np.nan, np.float32)
        with rasterio.open(place / "s1.tif") as file:
            for band in (1, 2):
                reproject(rasterio.band(file, band), sar[band - 1], dst_nodata=np.nan, **grid)
        scenes.append((optical, 10 * np.log10(sar), read(place / "labels.tif")[0]))
    return scenes


@pytest.mark.long
def test_varied_scenes_are_listed_with_legal_codes_and_values(varied: Path) -> None:
    assert len(tomllib.loads((varied / "regions.toml").read_text())["scenes"]) == 24
    scenes = varied_scenes(varied)
    codes = [set(np.unique(labels)) for _, _, labels in scenes]
    assert set.union(*codes) == {*CLASSES, 9}
    assert min(map(len, codes)) <= 3  # some places have few classes
    for optical, sar, labels in scenes:
        assert (optical.dtype, labels.dtype) == (np.uint16, np.uint8)
        assert optical.max() <= 20_000
        assert np.isfinite(sar).mean() > 0.9
        assert -60 < np.nanmin(sar) < np.nanmax(sar) < 50


@pytest.mark.long
def test_varied_scenes_are_the_same_for_the_same_seed(varied: Path, tmp_path: Path) -> None:
    simulate(tmp_path, "--varied", "--count", 2, "--size", 128, "--seed", 3)
    for path in tmp_path.glob("scene-*/*.tif"):
        np.testing.assert_array_equal(read(path), read(varied / path.relative_to(tmp_path)))


@pytest.mark.long
def test_varied_scenes_do_not_know_the_places_held_out(
    varied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was measured inside a scene was measured at the places of the scores."""
    monkeypatch.syspath_prepend(SAMPLE)
    module = importlib.import_module("vary")
    signatures = json.loads((SAMPLE / "signatures.json").read_text()) | {"inside_scene": None}
    monkeypatch.setattr(module, "read_signatures", lambda: signatures)
    module.simulate_varied(np.random.default_rng([3, 0]), tmp_path, 128)
    for name in ("s2.tif", "s1.tif", "labels.tif"):
        np.testing.assert_array_equal(read(tmp_path / name), read(varied / "scene-000" / name))


@pytest.mark.long
def test_both_sensors_of_varied_scenes_see_what_the_labels_say(varied: Path) -> None:
    """Over many scenes: water is dark in NIR and to the radar, snow is bright, trees darker in red than bare ground."""
    pixels = {code: [] for code in (1, 2, 8, 9)}
    for optical, sar, labels in varied_scenes(varied):
        known = (optical > 0).all(axis=0) & np.isfinite(sar).all(axis=0)
        for code, values in pixels.items():
            if (known & (labels == code)).sum() > 100:
                values.append(np.median(np.concatenate([optical, sar])[:, known & (labels == code)], axis=1))
    water, trees, bare, snow = (np.median(values, axis=0) for values in pixels.values())
    assert water[3] < 0.6 * trees[3]
    assert water[4] < trees[4] - 6
    assert trees[2] < bare[2]
    assert snow[:4].min() > 3500
