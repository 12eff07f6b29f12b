"""Change between two maps: against obvious oracles, and a published worked example of Olofsson et al. 2014."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine

from refnet_cli.classes.crosswalk import CROSSWALKS
from refnet_cli.classes.schemes import SCHEMES, ClassScheme
from refnet_cli.cli.main import run
from refnet_cli.errors import InputError, OptionsError, StorageError
from refnet_cli.evaluation.change import compare as flow
from refnet_cli.evaluation.change.change_map import transition_scheme
from refnet_cli.evaluation.change.compare import Zones, compare
from refnet_cli.evaluation.change.maps import MapSchemes
from refnet_cli.evaluation.change.sample import ChangeSample, Strata
from refnet_cli.evaluation.change.transitions import TransitionCounter, number_transitions
from refnet_cli.outputs.areas.pixel_areas import CELL, PixelAreas
from refnet_cli.outputs.verify import verify_map
from tests.helpers.pages import blocks_of, page
from tests.helpers.quick import examples
from tests.helpers.scenes import PLACE, write

ESRI = SCHEMES["esri-io"]
LAND = [code for code, name in ESRI.by_code.items() if name != "Clouds"]
CRS = "EPSG:32633"


def write_map(path: Path, codes: np.ndarray, scheme: ClassScheme = ESRI, tags: Any = None, **place: Any) -> Path:
    """A class map (H, W) that names its scheme."""
    write(path, codes[None].astype(np.uint8), ("land cover class",), **place)
    names = {f"CLASS_{code}": name for code, name in scheme.by_code.items()}
    with rasterio.open(path, "r+") as file:
        file.update_tags(1, CLASS_SCHEME=scheme.name, **names)
        file.update_tags(**tags or {})
    return path


def draw(seed: int, shape: tuple[int, int] = (300, 200)) -> np.ndarray:
    return np.random.default_rng(seed).choice([0, *LAND], shape).astype(np.uint8)


@pytest.fixture
def codes() -> tuple[np.ndarray, np.ndarray]:
    old = draw(0)
    return old, np.where(np.random.default_rng(1).random(old.shape) < 0.3, draw(2), old)


@pytest.fixture
def maps(codes: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> tuple[Path, Path]:
    return write_map(tmp_path / "old.tif", codes[0]), write_map(tmp_path / "new.tif", codes[1])


def slow_hectares(old: np.ndarray, new: np.ndarray, grid: GeoBox) -> np.ndarray:
    """Pixel by pixel: the area of each pair of codes, from 0."""
    areas = PixelAreas(grid)
    total = np.zeros((256, 256))
    for row in range(grid.shape[0]):
        of_row = areas.of_row(row // CELL)
        for column in range(grid.shape[1]):
            total[old[row, column], new[row, column]] += of_row[column // CELL] / 10_000
    return total


INDEXES = arrays(np.uint8, (4, 5), elements=st.integers(0, 7))


@given(old=INDEXES, new=INDEXES)
@settings(max_examples=examples(50), deadline=None)
def test_transitions_are_numbered_by_the_pair(old: np.ndarray, new: np.ndarray) -> None:
    numbers = number_transitions(old, new, 7)
    for one, other, number in zip(old.flat, new.flat, numbers.flat, strict=True):
        assert number == ((int(one) - 1) * 7 + int(other) if one and other else 0)


def test_the_last_transition_of_the_largest_scheme_fits() -> None:
    most = np.array([255], np.uint8)
    assert number_transitions(most, most, 255).tolist() == [255**2]


def test_areas_are_those_of_single_pixels(maps: tuple[Path, Path], codes: tuple[np.ndarray, np.ndarray]) -> None:
    found = compare(*maps)
    oracle = slow_hectares(*codes, GeoBox((300, 200), PLACE, CRS))
    assert np.allclose(found.whole.hectares, oracle[np.ix_(ESRI.codes, ESRI.codes)], rtol=1e-9)
    assert found.whole.no_data == pytest.approx(oracle[0].sum() + oracle[1:, 0].sum())
    assert found.whole.compared + found.whole.no_data == pytest.approx(oracle.sum())
    off_diagonal = oracle[1:, 1:].sum() - np.trace(oracle[1:, 1:])
    assert found.whole.changed == pytest.approx(off_diagonal)
    for entry in found.by_class():
        code = entry["code"]
        assert entry["net_hectares"] == pytest.approx(oracle[1:, code].sum() - oracle[code, 1:].sum())
        assert entry["lost_hectares"] == pytest.approx(oracle[code, 1:].sum() - oracle[code, code])


def test_areas_are_true_ones_where_the_projection_is_not(tmp_path: Path) -> None:
    """In a geographic grid the same change covers half as much at 60 degrees north as at the equator."""
    found = []
    for latitude in (0, 60):
        place = Affine(0.001, 0, 10, 0, -0.001, latitude)
        old, new = np.ones((50, 50)), np.full((50, 50), 2)
        paths = [
            write_map(tmp_path / f"{latitude}-{name}.tif", values, transform=place, crs="EPSG:4326")
            for name, values in (("old", old), ("new", new))
        ]
        found.append(compare(*paths).whole.changed)
    assert found[1] / found[0] == pytest.approx(0.5, rel=0.02)


def test_swapped_maps_have_the_transposed_matrix(maps: tuple[Path, Path]) -> None:
    assert np.array_equal(compare(*maps).whole.hectares, compare(*maps[::-1]).whole.hectares.T)


def test_equal_maps_have_no_change(maps: tuple[Path, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.tif"
    copy.write_bytes(maps[0].read_bytes())
    assert compare(maps[0], copy).whole.changed == 0
    with pytest.raises(OptionsError, match="are the same file"):
        compare(maps[0], maps[0])


@pytest.mark.parametrize("rows", [CELL, 3 * CELL, 512])
def test_areas_do_not_depend_on_how_many_rows_are_read(
    rows: int, maps: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compare(*maps).whole.hectares
    monkeypatch.setattr(flow, "ROWS", rows)
    assert np.array_equal(compare(*maps).whole.hectares, whole)


def test_memory_is_that_of_some_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts of a tall grid take as much as those of a low one, and wide rows are counted in pieces."""
    sizes = [TransitionCounter(GeoBox((height, 300), PLACE, CRS), 9)._bins for height in (1_000, 10_000_000)]
    assert sizes[0] == sizes[1]
    counter = TransitionCounter(GeoBox((CELL, 300), PLACE, CRS), 9)
    numbers = np.random.default_rng(0).integers(0, 82, (CELL, 300)).astype(np.uint16)
    at_once = counter._count(numbers)
    monkeypatch.setattr("refnet_cli.evaluation.change.transitions._PIXELS_AT_ONCE", 1000)
    assert np.array_equal(counter._count(numbers), at_once)


def test_the_change_map_has_a_code_for_each_pair(
    maps: tuple[Path, Path], codes: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    output = tmp_path / "change.tif"
    compare(*maps, output=output)
    verify_map(output)
    with rasterio.open(output) as file:
        values, tags, colours = file.read(1), file.tags(1), file.colormap(1)
        pairs = {int(code): tuple(pair) for code, pair in json.loads(file.tags()["REFNET_TRANSITIONS"]).items()}
        assert (file.transform, file.crs.to_epsg(), file.nodata) == (PLACE, 32633, 0)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.tags()["REFNET_OLD_MAP"] == "old.tif"
    old, new = codes
    names = ESRI.by_code
    for value, one, other in zip(values.flat, old.flat, new.flat, strict=True):
        if not (one and other):
            assert value == 0
            continue
        assert pairs[int(value)] == (one, other)
        assert tags[f"CLASS_{value}"] == (f"stable {names[one]}" if one == other else f"{names[one]} -> {names[other]}")
    assert len({colours[code] for code in pairs}) == len(pairs)
    assert colours[0][3] == 0


def test_the_change_map_can_be_scored_as_a_class_map(maps: tuple[Path, Path], tmp_path: Path) -> None:
    compare(*maps, output=tmp_path / "change.tif")
    assert run(["evaluate", str(tmp_path / "change.tif"), str(tmp_path / "change.tif"), "--json", "-q"]) == 0


def test_too_many_classes_make_no_map_but_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corine = SCHEMES["corine"]
    old, new = (np.random.default_rng(seed).integers(1, 45, (60, 50)) for seed in (0, 1))
    paths = [write_map(tmp_path / f"{n}.tif", x, corine) for n, x in (("old", old), ("new", new))]
    with pytest.raises(OptionsError, match=r"44 classes.*1,936 transitions.*limit 15"):
        compare(*paths, output=tmp_path / "change.tif")
    oracle = slow_hectares(old, new, GeoBox((60, 50), PLACE, CRS))
    zones = write_zones(tmp_path / "all.gpkg", [shapely.box(-10, -10, 60, 70)], ["all"])
    found = compare(*paths, zones=Zones(zones))
    assert np.allclose(found.whole.hectares, oracle[1:45, 1:45])
    assert np.allclose(found.zones["1"].hectares, found.whole.hectares)
    assert run(["compare", *map(str, paths), "--scheme", "corine-level1", "-o", str(tmp_path / "change.tif")]) == 0
    assert "compared" in capsys.readouterr().out
    assert transition_scheme(SCHEMES["corine-level1"]).classes == 26


def write_zones(path: Path, shapes: list[Any], names: list[str]) -> Path:
    """Zones in pixels of `PLACE`, x to the right and y down."""
    ground = shapely.transform(np.array(shapes), lambda points: np.column_stack(PLACE @ tuple(points.T)))
    pyogrio.raw.write(
        path, shapely.to_wkb(ground), [np.array(names, object)], ["name"], crs=CRS, geometry_type="Polygon"
    )
    return path


def test_zones_that_divide_the_map_add_up_to_it(
    maps: tuple[Path, Path], codes: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    shapes = [shapely.box(0, 0, 200, 130), shapely.box(0, 130, 70, 300), shapely.box(70, 130, 200, 300)]
    zones = write_zones(tmp_path / "zones.gpkg", [*shapes, shapely.box(900, 900, 950, 950)], ["a", "b", "c", "off"])
    found = compare(*maps, zones=Zones(zones, "name"), table=tmp_path / "change.csv")
    assert list(found.zones) == ["a", "b", "c", "off"]
    assert np.allclose(sum(part.hectares for part in found.zones.values()), found.whole.hectares)
    assert sum(part.no_data for part in found.zones.values()) == pytest.approx(found.whole.no_data)
    assert found.zones["off"].changed_share is None
    assert any("zone off" in warning for warning in found.warnings)
    masked = [np.where(np.arange(300)[:, None] < 130, one, 0) for one in codes]
    oracle = slow_hectares(*masked, GeoBox((300, 200), PLACE, CRS))
    assert np.allclose(found.zones["a"].hectares, oracle[np.ix_(ESRI.codes, ESRI.codes)])
    lines = list(csv.DictReader((tmp_path / "change.csv").read_text(encoding="utf-8").splitlines()))
    for zone, part in {"": found.whole, **found.zones}.items():
        of_zone = [line for line in lines if line["zone"] == zone]
        assert sum(float(line["hectares"]) for line in of_zone if line["share"]) == pytest.approx(part.compared)
        assert sum(float(line["share"] or 0) for line in of_zone) == pytest.approx(1 if part.compared else 0)


def test_clouds_are_no_data(tmp_path: Path, codes: tuple[np.ndarray, np.ndarray]) -> None:
    old, new = codes
    clouded, blank = new.copy(), new.copy()
    clouded[:50], blank[:50] = 10, 0
    first = write_map(tmp_path / "old.tif", old)
    found = compare(first, write_map(tmp_path / "clouded.tif", clouded))
    assert np.array_equal(
        found.whole.hectares, compare(first, write_map(tmp_path / "blank.tif", blank)).whole.hectares
    )
    assert any("10,000 pixels of class Clouds are no data" in warning for warning in found.warnings)


def test_the_warning_that_errors_add_up(maps: tuple[Path, Path]) -> None:
    found = compare(*maps)
    accuracy = np.sqrt(1 - (found.whole.changed_share or 0))
    assert f"each right on {100 * accuracy:.1f} %" in found.warnings[-1]


def test_maps_of_two_schemes(maps: tuple[Path, Path], codes: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """They are refused, and with a scheme to compare in the same as maps that were translated before."""
    cover = SCHEMES["worldcover"]
    new = np.random.default_rng(3).choice([0, *cover.codes], codes[1].shape)
    path = write_map(tmp_path / "cover.tif", new, cover)
    with pytest.raises(OptionsError, match=r"different class schemes.*--scheme with .*worldcover"):
        compare(maps[0], path)
    table = CROSSWALKS["esri-io", "worldcover"]
    translated = np.vectorize(lambda code: table.get(code, 0))(codes[0])
    found = compare(maps[0], path, schemes=MapSchemes("worldcover"), output=tmp_path / "one.tif")
    before = compare(write_map(tmp_path / "translated.tif", translated, cover), path, output=tmp_path / "two.tif")
    assert np.array_equal(found.whole.hectares, before.whole.hectares)
    with rasterio.open(tmp_path / "one.tif") as one, rasterio.open(tmp_path / "two.tif") as two:
        assert np.array_equal(one.read(), two.read())
    assert any("cannot have these classes" in warning and "Shrubland" in warning for warning in found.warnings)
    assert not any("cannot have these classes" in warning for warning in before.warnings)


def test_both_maps_in_an_own_scheme(maps: tuple[Path, Path], tmp_path: Path) -> None:
    groups = "\n".join(f'"{name}" = "{"Forest" if name == "Trees" else "Other"}"' for name in ESRI.names)
    file = tmp_path / "forest.toml"
    file.write_text(f'name = "forest"\n[classes]\n1 = "Forest"\n2 = "Other"\n[mapping]\n{groups}\n')
    found, all_classes = compare(*maps, schemes=MapSchemes(str(file))), compare(*maps)
    trees = ESRI.names.index("Trees")
    forest = all_classes.whole.hectares[trees]
    assert found.whole.hectares[0] == pytest.approx([forest[trees], forest.sum() - forest[trees]])
    assert found.whole.compared == pytest.approx(all_classes.whole.compared)


def test_maps_without_tags(codes: tuple[np.ndarray, np.ndarray], maps: tuple[Path, Path], tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.tif", codes[1][None], ("map",))
    with pytest.raises(OptionsError, match="with --new-scheme"):
        compare(maps[0], plain)
    found = compare(maps[0], plain, schemes=MapSchemes(new="esri-io"))
    assert np.array_equal(found.whole.hectares, compare(*maps).whole.hectares)
    with pytest.raises(OptionsError, match=r"Remove --old-scheme"):
        compare(*maps, schemes=MapSchemes(old="worldcover"))
    with pytest.raises(InputError, match=r"new map file .* Give the map's scheme: --new-scheme"):
        compare(maps[0], plain, schemes=MapSchemes("worldcover", new="worldcover"))


def test_a_map_of_other_pixels_is_resampled_only_if_asked(
    maps: tuple[Path, Path], codes: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    place = PLACE @ Affine.translation(0.3, 0.3)
    shifted = write_map(tmp_path / "shifted.tif", codes[1], transform=place)
    with pytest.raises(InputError, match=r"shifted.tif \(10 x 10 in EPSG:32633, .* are not those of .*--resample"):
        compare(maps[0], shifted)
    found = compare(maps[0], shifted, resample=True)
    assert found.resampled
    assert any("was resampled" in warning for warning in found.warnings)
    assert np.array_equal(found.whole.hectares, compare(*maps).whole.hectares)  # every centre is in its pixel still
    assert not compare(*maps, resample=True).resampled


def test_a_map_of_a_part_is_compared_on_it(
    maps: tuple[Path, Path], codes: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    part = codes[1][100:250, 40:]
    path = write_map(tmp_path / "part.tif", part, transform=PLACE @ Affine.translation(40, 100))
    blank = np.zeros_like(codes[1])
    blank[100:250, 40:] = part
    found = compare(maps[0], path)
    expected = compare(maps[0], write_map(tmp_path / "blank.tif", blank))
    assert np.array_equal(found.whole.hectares, expected.whole.hectares)
    assert any("have none in one of the maps" in warning for warning in found.warnings)
    away = write_map(tmp_path / "away.tif", part, transform=PLACE @ Affine.translation(5000, 0))
    with pytest.raises(InputError, match="does not overlap"):
        compare(maps[0], away, resample=True)
    empty = write_map(tmp_path / "empty.tif", np.zeros_like(codes[1]))
    with pytest.raises(InputError, match="nothing to compare"):
        compare(maps[0], empty)


def test_maps_of_different_weights(codes: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    paths = [
        write_map(tmp_path / f"{name}.tif", codes[0], tags={"REFNET_WEIGHTS": name, "REFNET_WEIGHTS_SHA256": name})
        for name in ("mine", "yours")
    ]
    assert any("different weights (mine, yours)" in warning for warning in compare(*paths).warnings)


# The worked example of Olofsson et al. 2014, "Good practices for estimating area and assessing accuracy of land
# change", Remote Sensing of Environment 148, table 8 and page 54: rows are map classes, columns reference classes. The
# R package mapaccuracy has the same sample in R/olofsson.R.
CHANGES = ("loss of Forest", "gain of Forest", "stable Forest", "stable without Forest")
PAIRS = ((1, 2), (2, 1), (1, 1), (2, 2))
SAMPLED = ((66, 0, 5, 4), (0, 55, 8, 12), (1, 0, 153, 11), (2, 1, 9, 313))
MAPPED = (2_000, 1_500, 32_000, 64_500)
"""Pixels of 30 m: a hundredth of the example's."""
EQUAL_AREA = {"transform": Affine(30, 0, 0, 0, -30, 0), "crs": "EPSG:6933"}


@pytest.fixture
def example(tmp_path: Path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """Maps of forest and other land with the example's strata, and true classes at the sampled pixels, else 0."""
    scheme = ClassScheme("forest", (1, 2), ("Forest", "Other"), ((0, 99, 0), (200, 200, 99)))
    random = np.random.default_rng(0)
    strata = random.permutation(np.repeat(np.arange(4), MAPPED))
    true_old, true_new = np.zeros((2, len(strata)), np.uint8)
    for stratum, counts in enumerate(SAMPLED):
        chosen = random.choice(np.flatnonzero(strata == stratum), sum(counts), replace=False)
        true_old[chosen], true_new[chosen] = np.repeat(PAIRS, counts, axis=0).T
    pairs, shape = np.array(PAIRS)[strata], (250, 400)
    old, new = (
        write_map(tmp_path / f"{name}.tif", pairs[:, date].reshape(shape), scheme, **EQUAL_AREA)
        for date, name in enumerate(("old", "new"))
    )
    return old, new, true_old.reshape(shape), true_new.reshape(shape)


def write_points(path: Path, true_old: np.ndarray, true_new: np.ndarray) -> Path:
    rows, columns = np.nonzero(true_old | true_new)
    points = shapely.points(30 * columns + 15, -30 * rows - 15)
    fields = [np.array([None, "Forest", "Other"], object)[true[rows, columns]] for true in (true_old, true_new)]
    pyogrio.raw.write(
        path, shapely.to_wkb(points), fields, ["before", "after"], crs="EPSG:6933", geometry_type="Point"
    )
    return path


def test_the_worked_example_of_olofsson_from_files(
    example: tuple[Path, Path, np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, true_old, true_new = example
    points = write_points(tmp_path / "points.gpkg", true_old, true_new)
    words = ["compare", str(old), str(new), "--strata", "forest", "--sample", str(points), "--json"]
    assert run([*words, "--old-field", "before", "--new-field", "after"]) == 0
    found = json.loads(capsys.readouterr().out)
    sample = found["sample"]
    assert tuple(sample["names"]) == CHANGES
    assert np.array_equal(sample["error_matrix"], np.array(SAMPLED).T)
    estimates = sample["area_estimates"]
    # The paper: 21,158 ha ± 6,158 ha of deforestation; overall accuracy 0.947 ± 0.018.
    for name, area, margin in zip(
        CHANGES, (21_158, 11_686, 285_770, 581_386), (6_158, 3_756, 15_510, 16_282), strict=True
    ):
        assert 100 * estimates["area"][name]["value"] == pytest.approx(area, rel=1e-4)
        assert 100 * estimates["area"][name]["margin"] == pytest.approx(margin, rel=1e-4)
    assert [round(part, 3) for part in estimates["overall_accuracy"].values()] == [0.947, 0.018]
    assert [round(estimates["precision"][name]["value"], 2) for name in CHANGES] == [0.88, 0.73, 0.93, 0.96]
    assert [round(estimates["precision"][name]["margin"], 2) for name in CHANGES] == [0.07, 0.10, 0.04, 0.02]
    assert [round(estimates["recall"][name]["value"], 2) for name in CHANGES] == [0.75, 0.85, 0.93, 0.96]
    assert round(estimates["recall"][CHANGES[0]]["margin"], 2) == 0.21
    assert estimates["mapped"] == pytest.approx(dict(zip(CHANGES, np.array(MAPPED) * 0.09, strict=True)), rel=1e-4)


def test_rasters_of_both_dates_are_the_same_sample(
    example: tuple[Path, Path, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    old, new, true_old, true_new = example
    points = write_points(tmp_path / "points.gpkg", true_old, true_new)
    rasters = tuple(
        write(tmp_path / f"true-{name}.tif", values[None], ("labels",), **EQUAL_AREA)
        for name, values in (("old", true_old), ("new", true_new))
    )
    by_points = compare(old, new, sample=ChangeSample((points,), "before", "after", strata="Forest"))
    by_rasters = compare(old, new, sample=ChangeSample(rasters, strata="1"))
    assert by_points.estimates is not None
    assert by_rasters.estimates is not None
    assert by_rasters.estimates.estimates == by_points.estimates.estimates
    by_pair = compare(old, new, sample=ChangeSample(rasters))
    assert by_pair.estimates is not None
    pairs = {"Forest -> Other": 0, "Other -> Forest": 1, "stable Forest": 2, "stable Other": 3}
    for name, place in pairs.items():
        expected = by_points.estimates.estimates.area[CHANGES[place]]
        assert by_pair.estimates.estimates.area[name] == pytest.approx(expected)


def test_labels_of_one_date_are_counted(
    example: tuple[Path, Path, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    old, new, true_old, true_new = example
    true_new[tuple(np.argwhere(true_new)[0])] = 0
    points = write_points(tmp_path / "points.gpkg", true_old, true_new)
    found = compare(old, new, sample=ChangeSample((points,), "before", "after", strata="Forest"))
    assert found.estimates is not None
    assert found.estimates.pixels == np.sum(SAMPLED) - 1
    assert any("1 sampled pixel with a label of one date only is ignored" in text for text in found.warnings)


@pytest.mark.parametrize("given", ["transitions", "change", "Trees", "2, crops", "5"])
def test_strata_hold_each_transition_once(given: str) -> None:
    strata = Strata.of(given, ESRI)
    chosen = {"Trees": {1}, "2, crops": {1, 3}, "5": {3}}.get(given, set())
    for old in range(9):
        for new in range(9):
            name = strata.names[strata.table[old + 1, new + 1] - 1]
            if given == "change":
                assert name == ("no change" if old == new else "change")
            elif chosen:
                prefix = {(1, 0): "loss of", (0, 1): "gain of", (1, 1): "stable", (0, 0): "stable without"}
                title = " + ".join(ESRI.names[index] for index in sorted(chosen))
                assert name == f"{prefix[old in chosen, new in chosen]} {title}"
            else:
                names = ESRI.names[old], ESRI.names[new]
                assert name == (f"stable {names[0]}" if old == new else f"{names[0]} -> {names[1]}")
    assert not strata.table[0].any()
    assert not strata.table[:, 0].any()


def test_samples_that_estimate_nothing(
    example: tuple[Path, Path, np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, true_old, true_new = example
    points = write_points(tmp_path / "points.gpkg", true_old, true_new)
    with pytest.raises(OptionsError, match="--old-field and --new-field"):
        ChangeSample((points,), "before", "before")
    with pytest.raises(OptionsError, match="one date only"):
        ChangeSample((old,))
    with pytest.raises(OptionsError, match="neither 'transitions' nor 'change' nor classes"):
        compare(old, new, sample=ChangeSample((points,), "before", "after", strata="Moss"))
    few = write_points(tmp_path / "few.gpkg", true_old * (np.arange(400) < 5), true_new * (np.arange(400) < 5))
    with pytest.raises(InputError, match=r"fewer than 2 pixels in these strata of the maps: .*--strata change"):
        compare(old, new, sample=ChangeSample((few,), "before", "after"))
    moved = {**EQUAL_AREA, "transform": Affine(30, 0, 7, 0, -30, 0)}
    off = write(tmp_path / "off.tif", true_old[None], ("labels",), **moved)
    with pytest.raises(InputError, match="is not on the grid"):
        compare(old, new, sample=ChangeSample((off, off)))
    for words, said in (
        (["--strata", "change"], "--strata needs --sample"), (["--zone-field", "a"], "--zone-field needs --zones"),
    ):  # fmt: skip
        assert run(["compare", str(old), str(new), *words]) == 64
        assert said in capsys.readouterr().err


def test_files_appear_together_or_not_at_all(
    maps: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, table = tmp_path / "out" / "change.tif", tmp_path / "tables" / "change.csv"

    def fail(*arguments: Any) -> str:
        raise StorageError("full")

    with monkeypatch.context() as patch:
        patch.setattr("refnet_cli.evaluation.change.result.Comparison.table", fail)
        with pytest.raises(StorageError):
            compare(*maps, output=output, table=table)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"old.tif", "new.tif"}
    compare(*maps, output=output, table=table)
    assert output.exists()
    assert table.exists()


def test_only_files_of_refnet_are_replaced(
    maps: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, table = tmp_path / "change.tif", tmp_path / "change.csv"
    words = ["compare", *map(str, maps), "-o", str(output), "--table", str(table)]
    assert [run(words), run(words)] == [0, 0]
    before = output.read_bytes(), table.read_bytes()
    table.write_text("my,own\n1,2\n")
    assert run(words) == 73
    assert run([*words, "--overwrite"]) == 0
    assert (output.read_bytes(), table.read_bytes()) == before
    assert run(["compare", *map(str, maps), "-o", str(maps[1])]) == 64
    assert run(["compare", *map(str, maps), "-o", str(tmp_path / "change.png")]) == 64
    assert run(["compare", str(maps[0]), str(tmp_path / "none.tif")]) == 66
    capsys.readouterr()


def test_results_go_to_stdout_and_messages_to_stderr(
    maps: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zones = write_zones(tmp_path / "zones.gpkg", [shapely.box(0, 0, 100, 100)], ["north"])
    words = ["compare", *map(str, maps), "--zones", str(zones), "--zone-field", "name"]
    assert run(words) == 0
    shown = capsys.readouterr()
    assert "Errors of both maps add up" in shown.err
    assert all(part in shown.out for part in (" -> Crops", "36 more, all in --table", "north", "net ha"))
    assert max(map(len, shown.out.splitlines())) <= 80
    assert run([*words, "-q", "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    found = json.loads(shown.out)
    assert found["zones"][0]["zone"] == "north"
    assert np.allclose(found["hectares"], compare(*maps).whole.hectares)


def test_the_program_of_the_page(codes: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: Any) -> None:
    maps = write_map(tmp_path / "2020.tif", codes[0]), write_map(tmp_path / "2024.tif", codes[1])
    write_zones(tmp_path / "districts.gpkg", [shapely.box(0, 0, 200, 130)], ["north"])
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(blocks_of(page("how-to/compare"), "python")[0], names)
    np.testing.assert_array_equal(names["found"].whole.hectares, compare(*maps).whole.hectares)
    assert (tmp_path / "change.tif").stat().st_size > 0
