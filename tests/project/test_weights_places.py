"""The scripts that read real places and score forest and weights on them, with places made here."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weights import save_weights
from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window
from refnet_cli.training.dataset import SceneFiles
from refnet_cli.training.regions_file import read_regions
from tests.helpers.scenes import CARD, PLACE, PlaceEngine, write

sys.path.append(str(Path(__file__).resolve().parents[2] / "weights"))
import draw_places
import forest
import places
import pooled
import score

NAMES = SCHEMES["esri-io"].names
WATER, TREES, CROPS, BARE = 1, 2, 5, 8  # codes
CLASSES = len(NAMES)
STRIPE = 24  # pixels wide, so that few pixels have another class within the forest's neighbourhood
MADE = (
    # name, country, group, sensors, level, codes of the stripes, rest of about.json
    ("a1", "Austria", "AT", ("S1", "S2"), "L2A", (WATER, TREES), {}),
    ("a2", "Austria", "S2-only", ("S2",), "L1C", (TREES, CROPS), {"teacher": True}),
    ("f1", "Finland", "FI", ("S1", "S2"), "L2A", (WATER, TREES, CROPS), {"teacher": True}),
    ("f2", "Finland", "FI", ("S1", "S2"), "L2A", (TREES, CROPS), {"teacher": True, "notes": "bare ground by eye"}),
    ("k1", "Cambodia (Mekong)", "S1-only water", ("S1",), None, (WATER, 0), {}),
    ("l1", "Lithuania", "LT", ("S1", "S2"), "L2A", (WATER, CROPS, BARE), {}),
)


def make_place(folder: Path, number: int) -> None:
    """Stripes of classes that optical and SAR show, with unknown pixels and a corner that SAR did not see."""
    name, country, group, sensors, level, codes, more = MADE[number]
    here = folder / name
    here.mkdir(parents=True)
    ground = Affine.translation(100_000 * number, 0) @ PLACE
    random = np.random.default_rng(number)
    labels = np.asarray(codes)[np.indices((64, 72))[1] // STRIPE % len(codes)]
    labels[:3] = 0
    optical = 300 * labels + random.integers(0, 60, (4, *labels.shape)) + 300
    sar = -20 + 1.5 * labels + random.normal(0, 0.2, (2, *labels.shape))
    sar[:, -10:, -10:] = np.nan
    if "S2" in sensors:
        write(here / "s2.tif", optical.astype(np.uint16), places.OPTICAL_BANDS, ground)
    if "S1" in sensors:
        write(here / "s1.tif", sar.astype(np.float32), places.SAR_BANDS, ground, nodata=None)
    write(here / "labels.tif", labels[None].astype(np.uint8), ("labels",), ground)
    if more.get("teacher"):
        write(here / "teacher.tif", np.stack([labels, np.full_like(labels, 70)]).astype(np.uint8), ("a", "b"), ground)
    about = {
        "id": name, "country": country, "group": group, "sensors": sensors, "level": level, "notes": "",
        "label_source": "corine2018", "source": "made", "licence": "none",
    }  # fmt: skip
    (here / "about.json").write_text(json.dumps(about | {key: more[key] for key in more.keys() & about.keys()}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("data") / 'places "ä"'
    for number in range(len(MADE)):
        make_place(found, number)
    return found


@pytest.fixture(scope="module")
def made(folder: Path) -> list[places.Place]:
    return places.read_places(folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_weights(REFNet(CARD.network), replace(CARD, tile=128), path)
    return path


def labelled(name: str, both: bool = True) -> np.ndarray:
    """Labelled pixels of a made place by class, shape (classes,), all or those that both sensors saw."""
    codes = next(place[5] for place in MADE if place[0] == name)
    labels = np.asarray(codes)[np.indices((64, 72))[1] // STRIPE % len(codes)]
    labels[:3] = 0
    if both:
        labels[-10:, -10:] = 0
    return np.array([(labels == code).sum() for code in SCHEMES["esri-io"].codes])


# Places and folds


def test_a_place_is_what_its_files_are(made: list[places.Place]) -> None:
    by_name = {place.name: place for place in made}
    assert [*by_name] == [name for name, *_ in MADE]
    assert by_name["a1"].sensors == ("optical", "sar")
    assert by_name["a2"].sensors == ("optical",)
    assert by_name["k1"].sensors == ("sar",)
    assert by_name["k1"].country == "Cambodia"
    assert by_name["f1"].teacher
    assert by_name["f2"].teacher is None  # a person chose these labels
    assert by_name["a1"].alone("sar").sensors == ("sar",)


@pytest.mark.parametrize("broken", ["s2.tif", "labels.tif"])
def test_files_that_contradict_their_description_are_refused(tmp_path: Path, broken: str) -> None:
    make_place(tmp_path, 0)
    (tmp_path / "a1" / broken).unlink()
    with pytest.raises(ValueError, match="states the sensors"):
        places.read_places(tmp_path)


def test_a_folder_without_places_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no place"):
        places.read_places(tmp_path)


def test_a_fold_holds_out_all_that_lies_in_its_country(made: list[places.Place]) -> None:
    everything = [*made, *places.read_terramesh(Path("terramesh"))]
    assert places.countries(everything) == ["Austria", "Finland", "Lithuania"]
    for country in [*places.countries(everything), "Canada"]:
        learned, held_out = places.split_by_country(everything, country)
        assert {place.country for place in held_out} == {country}
        assert country not in {place.country for place in learned}
        assert sorted([*learned, *held_out], key=everything.index) == everything
    _, austria = places.split_by_country(everything, "Austria")
    assert [place.name for place in austria] == ["a1", "a2"]
    assert [place.name for place in places.scored(austria)] == ["a1"]
    _, canada = places.split_by_country(everything, "Canada")
    assert [place.name for place in canada] == ["609U"]
    assert not places.scored(canada)


def test_a_regions_file_says_what_is_known_of_the_places(tmp_path: Path, made: list[places.Place]) -> None:
    both = [place for place in made if place.both]
    path = tmp_path / "regions.toml"
    path.write_text(places.regions_text('name = "x"\nsteps = 7', both, {"f2"}, {"l1": 3}), encoding="utf-8")
    config = read_regions(path)
    assert (config.name, config.steps, config.scheme) == ("x", 7, "esri-io")
    by_name = {scene.name: scene for scene in config.scenes}
    assert [*by_name] == ["a1", "f1", "f2", "l1-0", "l1-1", "l1-2"]
    assert {name for name, scene in by_name.items() if scene.split == "validation"} == {"f2"}
    for place in both:
        scene = by_name["l1-2" if place.name == "l1" else place.name]
        assert (scene.optical, scene.sar, scene.labels) == (place.optical, place.sar, place.labels)
        assert (scene.region, scene.optical_offset, scene.sar_scale) == (place.country, 0, "db")


def test_the_teacher_weighs_labels_where_that_is_asked_for(made: list[places.Place]) -> None:
    for confidence in (False, True):
        scenes = tomllib.loads(places.regions_text("", made, confidence=confidence))["scenes"]
        weighed = {scene["name"] for scene in scenes if "confidence" in scene}
        assert weighed == ({"a2", "f1"} if confidence else set())
        assert all(scene["confidence_band"] == 2 for scene in scenes if "confidence" in scene)
        assert [scene["name"] for scene in scenes if "optical" not in scene] == ["k1"]
        assert [scene["name"] for scene in scenes if "sar" not in scene] == ["a2"]


@pytest.mark.long
def test_terramesh_is_read_with_the_offset_and_the_codes_it_has(shared: Path) -> None:
    darkest = {}
    for level in ("L1C", "L2A"):
        samples = places.read_terramesh(shared / "data" / "terramind", level)
        config = places.read_config(places.regions_text("", samples))
        for place, scene in zip(samples, config.scenes, strict=True):
            with SceneFiles.open(scene, config) as region:
                patch, labels = region.read(Window(0, 0, *region.pair.grid.shape))
            assert set(np.unique(labels)) - {0} == places.label_classes([place])
            darkest[level, place.name] = float(np.nanpercentile(patch.optical[3], 1))  # near infrared, clear of haze
    # Had the offset stayed in one level of a place, the two levels would differ by it.
    for name in places.TERRAMESH_PLACES:
        assert abs(darkest["L1C", name] - darkest["L2A", name]) < 500


def test_the_open_places_have_the_countries_to_hold_out(shared: Path) -> None:
    found = places.read_places(shared / "data" / "places")
    assert len(found) == 117
    assert len(places.scored(found)) == 92
    assert places.countries(found) == [
        "Austria", "Belgium", "Canada", "Finland", "Germany", "Ireland", "Lithuania", "Portugal",
    ]  # fmt: skip
    _, canada = places.split_by_country(found, "Canada")
    assert {place.sensors for place in canada} == {("optical", "sar"), ("optical",)}


# Scores


def matrices_of(random: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    return {f"p{number}": random.integers(0, 3000, (CLASSES, CLASSES)) for number in range(count)}


def test_pooled_scores_are_those_of_the_pixels() -> None:
    matrices = matrices_of(np.random.default_rng(1), 4)
    country = dict(zip(matrices, ("x", "x", "y", "z"), strict=True))
    found = pooled.summarise(matrices, country)
    total = sum(matrices.values())
    rows, columns = np.indices(total.shape)
    labels, predicted = (np.repeat(indexes.ravel(), total.ravel()) for indexes in (rows, columns))
    assert found["pooled"]["overall_accuracy"] == pytest.approx((labels == predicted).mean())
    recalls = [(predicted[labels == index] == index).mean() for index in range(CLASSES)]
    assert found["pooled"]["recall"] == pytest.approx(dict(zip(NAMES, recalls, strict=True)))
    assert found["pooled"]["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    ious = [((labels == index) & (predicted == index)).sum() / ((labels == index) | (predicted == index)).sum()
            for index in range(CLASSES)]  # fmt: skip
    assert found["pooled"]["mean_iou"] == pytest.approx(np.mean(ious))
    by_place = [np.trace(matrix) / matrix.sum() for matrix in matrices.values()]
    assert found["pooled"]["mean_over_places"] == pytest.approx(np.mean(by_place))
    assert found["by_country"]["x"]["mean_over_places"] == pytest.approx(np.mean(by_place[:2]))
    assert found["by_country"]["y"]["overall_accuracy"] == pytest.approx(by_place[2])


@pytest.mark.parametrize(
    ("pixels", "balanced"),
    [((1000, 1000), [0]), ((1000, 999), []), ((500_000, 0), []), ((1000, 1000, 5), [0])],
)  # fmt: skip
def test_a_class_is_balanced_over_if_two_countries_have_enough_of_it(
    pixels: tuple[int, ...], balanced: list[int]
) -> None:
    found = {str(number): np.array([count, 7]) for number, count in enumerate(pixels)}
    assert pooled.balanced_classes(found) == balanced


def test_accuracy_of_some_classes_is_over_their_labels_alone() -> None:
    matrix = np.array([[3, 1], [5, 5]])
    assert pooled.accuracy_of(matrix, [1]) == 0.75
    assert pooled.accuracy_of(matrix, [1, 2]) == pytest.approx(8 / 14)
    assert pooled.accuracy_of(matrix, []) is None


# The forest


def test_means_of_the_neighbourhood_are_of_what_is_known_there() -> None:
    random = np.random.default_rng(2)
    bands = random.normal(0, 10, (3, 20, 24)).astype(np.float32)
    bands[random.random(bands.shape) < 0.6] = np.nan
    bands[:, 4:14, 4:14] = np.nan
    found = forest.neighbourhood_means(bands)
    for band, row, column in np.ndindex(bands.shape):
        near = bands[band, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
        known = near[np.isfinite(near)]
        expected = known.mean() if known.size else np.nan
        assert found[band, row, column] == pytest.approx(expected, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("sensors", ["both", "optical", "sar"])
def test_a_forest_knows_of_a_country_what_the_others_teach(
    made: list[places.Place], sensors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forest, "TREES", 10)
    both = [place for place in made if place.both]
    known = forest.read_pixels(both)
    found = {}
    for country in places.countries(both):
        found |= forest.score_country(country, both, known, sensors, more=False)
    assert [*found] == ["a1", "f1", "f2", "l1"]
    bare = NAMES.index("Bare ground")
    for name, matrix in found.items():
        assert matrix.sum(1).tolist() == labelled(name).tolist()
        taught = np.delete(matrix, bare, axis=0)  # only Lithuania has it
        assert np.trace(np.delete(taught, bare, axis=1)) > 0.85 * taught.sum()
    assert found["l1"][bare].sum() > 500
    assert found["l1"][bare, bare] == 0


def test_scores_of_a_forest_are_taken_up_unless_their_pixels_are_others(
    made: list[places.Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forest, "TREES", 2)
    both = [place for place in made if place.both]
    known = forest.read_pixels(both)
    forest.Results(tmp_path / "out", both, known).score_variant("v", "both", False)
    first = forest.Results(tmp_path / "out", both, known).matrices("v")
    assert [*first] == ["a1", "f1", "f2", "l1"]

    scored: list[str] = []
    score_country = forest.score_country

    def recorded(country: str, *rest: Any) -> Any:
        scored.append(country)
        return score_country(country, *rest)

    monkeypatch.setattr(forest, "score_country", recorded)
    forest.Results(tmp_path / "out", both, known).score_variant("v", "both", False)
    assert not scored
    fewer = {**known, "f2": forest.Pixels(known["f2"].features[1:], known["f2"].labels[1:])}
    results = forest.Results(tmp_path / "out", both, fewer)
    results.score_variant("v", "both", False)
    assert scored == ["Finland"]
    assert results.found["v"]["scores"]["pooled"]["pixels"] == sum(len(pixels.labels) for pixels in fewer.values())


def test_a_forest_draws_no_more_pixels_than_it_may(made: list[places.Place]) -> None:
    known = forest.read_pixels([place for place in made if place.both])
    for pixels in known.values():
        drawn = forest.draw(pixels)
        assert len(drawn.labels) == min(2000, len(pixels.labels))
        assert len(np.unique(drawn.features.reshape(len(drawn.labels), -1), axis=0)) == len(drawn.labels)


def test_the_forest_is_described_with_what_it_found(made: list[places.Place]) -> None:
    matrices = matrices_of(np.random.default_rng(3), 3)
    scores = pooled.summarise(matrices, dict.fromkeys(matrices, "Austria"))
    text = forest.describe({"both sensors": {"scores": scores}})
    assert f"{scores['pooled']['overall_accuracy']:.3f}" in text
    widths = {line.count("|") for line in text.split("## both sensors")[1].splitlines() if line.startswith("|")}
    assert len(widths) == 1


# Weights


@given(
    size=st.integers(1, 900), tile=st.sampled_from([32, 64, 256]), share=st.sampled_from([4, 8])
)  # fmt: skip
def test_moved_tiles_cover_a_grid_and_begin_elsewhere(size: int, tile: int, share: int) -> None:
    usual, moved = (kind(size, size, tile, tile // share).row_starts for kind in (Tiling, score.MovedTiling))
    assert moved[0] == usual[0] - tile // 2
    seen = np.zeros(size, bool)
    for start in moved:
        seen[max(start, 0) : max(start + tile, 0)] = True
    assert seen.all()
    assert (np.diff(moved) == tile - tile // share).all()


def test_tiles_that_move_change_nothing_where_a_pixel_is_mapped_by_itself(made: list[places.Place]) -> None:
    config = places.read_config(places.regions_text("", [place for place in made if place.name == "a1"]))
    engine: Any = PlaceEngine()
    engine.card = replace(CARD, tile=64)
    maps = []
    for moved in (False, True):
        with SceneFiles.open(config.scenes[0], config) as region:
            maps.append(score.map_region(region, engine, moved))
    assert score.share_alike(maps[0].predicted, maps[1].predicted) == 1
    assert (maps[0].predicted > 0).mean() > 0.9
    assert maps[0].matrix.sum(1).tolist() == labelled("a1").tolist()


def test_maps_are_alike_where_both_have_data_and_the_same_class() -> None:
    first, second = np.array([[1, 2, 3, 0]], np.uint8), np.array([[1, 2, 4, 4]], np.uint8)
    assert score.share_alike(first, second) == pytest.approx(2 / 3)


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory, made: list[places.Place], weights: Path) -> Path:
    found = tmp_path_factory.mktemp("folds")
    for country in ("Austria", "Finland"):
        score.score_fold(weights, made, country, found)
    return found


@pytest.mark.long
def test_a_fold_scores_what_both_sensors_saw_of_its_country(folds: Path) -> None:
    read = score.read_folds(folds)
    assert [*read] == ["Austria", "Finland"]
    assert [*read["Finland"].matrices["both"]] == ["f1", "f2"]
    for fold in read.values():
        for name, (logs, labels, thinned) in fold.pixels.items():
            for sensors in ("both", "optical", "sar"):
                assert fold.matrices[sensors][name].sum(1).tolist() == labelled(name).tolist()
            assert np.exp(logs).sum(1) == pytest.approx(1, abs=1e-4)
            assert np.exp(thinned).sum(1) == pytest.approx(1, abs=1e-4)
            right = int((1 + logs[:, 1:].argmax(1) == labels).sum())
            assert right == np.trace(fold.matrices["both"][name])


@pytest.mark.long
def test_a_sensor_that_is_blanked_tells_nothing(made: list[places.Place], weights: Path, tmp_path: Path) -> None:
    (place,) = (place for place in made if place.name == "f1")
    assert place.sar
    random = np.random.default_rng(4)
    # Valid in the same places, of values that have nothing to do with the ground.
    sar = random.uniform(-25, 0, (2, 64, 72)).astype(np.float32)
    sar[:, -10:, -10:] = np.nan
    other = write(tmp_path / "s1.tif", sar, places.SAR_BANDS, Affine.translation(200_000, 0) @ PLACE, nodata=None)
    net, card = score.load_weights(weights)
    found = [
        {sensors: score.score_places(net, card, [replace(place, sar=path)], without)[1]["f1"][0]
         for sensors, without in score.WITHOUT.items()}
        for path in (place.sar, other)
    ]  # fmt: skip
    np.testing.assert_array_equal(found[0]["optical"], found[1]["optical"])
    assert not np.array_equal(found[0]["both"], found[1]["both"])
    assert not np.array_equal(found[0]["sar"], found[1]["sar"])


@pytest.mark.long
def test_folds_are_pooled_next_to_the_forest(folds: Path, made: list[places.Place], tmp_path: Path) -> None:
    read = score.read_folds(folds)
    perfect = {name: np.diag(labelled(name)).tolist() for name in ("a1", "f1", "f2", "l1")}
    stored = tmp_path / "forest.json"
    stored.write_text(json.dumps({"both sensors": {"matrices": perfect}}))
    found = score.pool_folds(folds, made, stored)
    assert found["forest"]["pooled"]["overall_accuracy"] == 1
    total = sum(matrix for fold in read.values() for matrix in fold.matrices["both"].values())
    assert found["both"]["pooled"]["overall_accuracy"] == pytest.approx(np.trace(total) / total.sum())
    assert found["forest"]["pooled"]["pixels"] == found["both"]["pooled"]["pixels"]
    assert found["countries"] == ["Austria", "Finland"]
    text = score.describe(found)
    assert "| Finland |" in text
    assert "| 1.000 |" in text

    perfect["f2"][TREES - 1][TREES - 1] -= 1
    stored.write_text(json.dumps({"both sensors": {"matrices": perfect}}))
    with pytest.raises(ValueError, match="other pixels for f2"):
        score.pool_folds(folds, made, stored)


def drawn_fold(random: np.random.Generator, sharpness: float) -> score.Fold:
    """A fold whose labels are drawn by the true probabilities, and whose logits are ``sharpness`` times too large."""
    logits = random.normal(0, 1.5, (20_000, CLASSES + 1))
    logits[:, 0] = -20
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (shares.cumsum(1) < random.random((len(shares), 1))).sum(1).clip(1, CLASSES)
    logs = (sharpness * logits).astype(np.float32)
    return score.Fold({}, {"place": score.Pixels(logs, labels.astype(np.uint8), logs)})


@pytest.mark.long
def test_a_temperature_comes_from_the_other_countries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "FITTED", 20_000)
    random = np.random.default_rng(5)
    found = score.calibration_of({name: drawn_fold(random, 2.0) for name in "abc"})
    assert found["temperature"] == pytest.approx(2, rel=0.05)
    assert found["pooled"] < 0.02 < 0.1 < found["uncalibrated"]
    assert all(entry["expected_calibration_error"] < 0.02 for entry in found["by_country"].values())

    # A country with its own sharpness changes the temperature of the others, and not its own.
    mixed = {"a": drawn_fold(random, 4.0), "b": drawn_fold(random, 2.0)}
    found = score.calibration_of(mixed)["by_country"]
    assert found["a"]["temperature"] == pytest.approx(2, rel=0.05)
    assert found["b"]["temperature"] == pytest.approx(4, rel=0.05)
    assert min(entry["expected_calibration_error"] for entry in found.values()) > 0.05


@pytest.mark.long
def test_the_sample_scene_is_scored(weights: Path) -> None:
    found = score.score_sample(weights)
    assert all(0 <= found[sensors] <= 1 for sensors in ("both", "optical", "sar"))
    assert set(found["recall"]) <= set(NAMES)
    assert 0 < found["changed_by_moved_tiles"] < 1


@pytest.mark.long
def test_a_terramesh_sample_is_scored_in_both_levels(shared: Path, weights: Path) -> None:
    found = score.score_terramesh(weights, shared / "data" / "terramind", "637U", {CLASSES})
    assert found["L2A"]["sar"] == found["L1C"]["sar"]  # the same SAR file
    assert set(found["same_class"]) == {"both", "optical"}
    for level in ("L2A", "L1C"):
        for scores in found[level].values():
            assert 0 <= scores["overall_accuracy"] <= 1
            assert 0 <= scores["overall_accuracy_of_known"] <= 1


# Pictures


def colours_of(picture: Image.Image, box: tuple[int, int, int, int]) -> Iterator[tuple[int, ...]]:
    part = np.asarray(picture.crop(box)).reshape(-1, 3)
    return (tuple(colour) for colour in np.unique(part, axis=0).tolist())


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.copy()


def test_places_are_drawn_with_their_labels_the_worst_first(
    made: list[places.Place], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draw_places, "SHEET", 4)
    assert {place.sensors for place in made} == {("optical", "sar"), ("optical",), ("sar",)}
    sheets = draw_places.draw_places(weights, made, tmp_path / "out" / "places")
    assert [sheet.name for sheet in sheets] == ["sheet-00.png", "sheet-01.png"]
    side, gap, line = draw_places.SIDE, draw_places.GAP, draw_places.LINE
    scheme = SCHEMES["esri-io"]
    for place in made:
        picture = opened(tmp_path / "out" / "places" / f"{place.name}.png")
        left, top = gap + 2 * (side + gap), 2 * line
        # 64 x 72 pixels: the panel's lower ninth is empty.
        shown = set(colours_of(picture, (left, top, left + side, top + side * 64 // 72 - 1)))
        classes = places.label_classes([place])
        assert shown == {draw_places.UNKNOWN, *(scheme.colours[index - 1] for index in classes)}
    heights = [opened(sheet).height for sheet in sheets]
    assert heights[0] - heights[1] == 2 * (side + gap + line)


@pytest.mark.long
def test_contact_sheets_begin_with_the_worst(
    made: list[places.Place], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[list[float]] = []
    draw = draw_places.draw_sheet

    def record(drawn: Any) -> Image.Image:
        pages.append([place.accuracy for place in drawn])
        return draw(drawn)

    monkeypatch.setattr(draw_places, "draw_sheet", record)
    draw_places.draw_places(weights, [place for place in made if place.both], tmp_path)
    assert pages[-1] == sorted(accuracy for (accuracy,) in pages[:-1])
    assert len(set(pages[-1])) > 1
