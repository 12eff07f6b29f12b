"""Scores against obvious oracles, and maps that must not be compared."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch
import torchmetrics.functional.classification as metrics
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.transform import Affine

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.cli.main import commands, run
from refnet_cli.errors import ConfigError, InputError, InputMissingError, OptionsError
from refnet_cli.evaluation.areas import estimate_areas, estimate_areas_by_strata
from refnet_cli.evaluation.evaluate import evaluate
from refnet_cli.evaluation.scores import confusion_matrix, score
from refnet_cli.types import Int64
from tests.helpers.quick import examples
from tests.helpers.scenes import write

CODES = arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 3))


@given(labels=CODES, seed=st.integers(0, 99))
@settings(max_examples=examples(50), deadline=None)
def test_confusion_matrix_counts_every_known_pair(labels: np.ndarray, seed: int) -> None:
    predicted = np.random.default_rng(seed).integers(0, 4, labels.shape).astype(np.uint8)
    counted = np.zeros((3, 3), int)
    for a, b in zip(labels.flat, predicted.flat, strict=True):
        if a and b:
            counted[a - 1, b - 1] += 1
    assert np.array_equal(confusion_matrix(labels, predicted, 4), counted)


def test_scores_by_hand() -> None:
    # Rows are labels. Class 3 occurs nowhere and counts in no mean.
    found = score(np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]]), ("water", "trees", "crops"))
    assert found.overall_accuracy == pytest.approx(17 / 20)
    assert found.iou == pytest.approx({"water": 8 / 11, "trees": 9 / 12})
    assert found.mean_iou == pytest.approx((8 / 11 + 9 / 12) / 2)
    assert found.mean_f1 == pytest.approx((16 / 19 + 18 / 21) / 2)
    chance = (10 * 9 + 10 * 11) / 400
    assert found.kappa == pytest.approx((17 / 20 - chance) / (1 - chance))
    assert found.pixels == 20


@given(matrix=arrays(np.int64, (4, 4), elements=st.integers(0, 30)).filter(np.any))
@settings(max_examples=examples(30), deadline=None)
def test_scores_are_those_of_torchmetrics(matrix: Int64) -> None:
    labels, predicted = (torch.from_numpy(np.repeat(part.ravel(), matrix.ravel())) for part in np.indices((4, 4)))
    found = score(matrix, tuple("abcd"))
    assert found.overall_accuracy == pytest.approx(float((labels == predicted).float().mean()), abs=1e-6)
    if np.trace(matrix) < matrix.sum():  # else torchmetrics divides by zero where all is of one class
        kappa = float(metrics.multiclass_cohen_kappa(predicted, labels, 4))
        assert found.kappa == pytest.approx(kappa, abs=1e-5) or math.isnan(kappa)
    for ours, theirs in (
        (found.precision, metrics.multiclass_precision(predicted, labels, 4, average="none")),
        (found.recall, metrics.multiclass_recall(predicted, labels, 4, average="none")),
        (found.f1, metrics.multiclass_f1_score(predicted, labels, 4, average="none")),
        (found.iou, metrics.multiclass_jaccard_index(predicted, labels, 4, average="none")),
    ):
        assert ours == pytest.approx({name: float(theirs["abcd".index(name)]) for name in ours}, abs=1e-6)
    assert found.labelled == {name: int((labels == "abcd".index(name)).sum()) for name in found.labelled}
    balanced = np.mean([value for name, value in found.recall.items() if found.labelled[name]])
    assert found.balanced_accuracy == pytest.approx(balanced)


def test_perfect_and_hopeless_maps() -> None:
    perfect = score(np.diag([3, 4]), ("a", "b"))
    assert (perfect.overall_accuracy, perfect.mean_iou, perfect.mean_f1, perfect.kappa) == (1, 1, 1, 1)
    hopeless = score(np.array([[0, 5], [5, 0]]), ("a", "b"))
    assert (hopeless.overall_accuracy, hopeless.mean_iou, hopeless.kappa) == (0, 0, -1)
    with pytest.raises(InputError, match="No labelled pixel has a class in the map"):
        score(np.zeros((2, 2), int), ("a", "b"))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    codes = np.random.default_rng(0).choice([0, 1, 2, 5, 11], (1, 40, 30)).astype(np.uint8)
    noisy = np.where(np.random.default_rng(1).random(codes.shape) < 0.2, 7, codes).astype(np.uint8)
    return write(tmp_path / "map.tif", codes, ("map",)), write(tmp_path / "labels.tif", noisy, ("labels",))


def test_files_of_one_grid(files: tuple[Path, Path]) -> None:
    found = evaluate(*files, "esri-io")
    assert found.overall_accuracy == pytest.approx(0.8, abs=0.04)
    assert found.iou.keys() == {"Water", "Trees", "Crops", "Built area", "Rangeland"}


def test_the_second_band_of_a_map_is_no_class(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Maps with --missing use-other have a second band, quality."""
    with rasterio.open(files[0]) as one:
        both = write(tmp_path / "two.tif", np.stack([one.read(1), np.full(one.shape, 3, np.uint8)]), ("map", "quality"))
    with pytest.raises(InputError, match="2 bands"):
        evaluate(both, files[1], "esri-io")
    names = {f"CLASS_{code}": name for code, name in SCHEMES["esri-io"].by_code.items()}
    with rasterio.open(both, "r+") as dataset:
        dataset.update_tags(1, CLASS_SCHEME="esri-io", **names)
    assert evaluate(both, files[1], "esri-io") == evaluate(*files, "esri-io")


def test_labels_of_another_grid_are_brought_onto_the_map(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).choice([1, 2, 5], (1, 20, 20)).astype(np.uint8)
    finer = codes.repeat(2, 1).repeat(2, 2)
    map_path = write(tmp_path / "map.tif", codes, ("map",))
    labels = write(tmp_path / "labels.tif", finer, ("labels",), Affine(5, 0, 500_000, 0, -5, 5_300_000))
    assert evaluate(map_path, labels, "esri-io").overall_accuracy == 1


def test_what_cannot_be_compared_is_refused(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionsError, match="Give it with --scheme"):
        evaluate(*files)
    with pytest.raises(OptionsError, match="is unknown"):
        evaluate(*files, "mine")
    with pytest.raises(InputError, match="are not in class scheme 'worldcover'"):
        evaluate(*files, "worldcover")
    assert run(["evaluate", *map(str, files), "--scheme", "esri-io"]) == 0
    assert "overall_accuracy" in capsys.readouterr().out


@pytest.fixture
def recoded(files: tuple[Path, Path]) -> tuple[Path, Path, Path]:
    """The map, the labels, and the labels with other codes: 11 for 1, 12 for 2, ... and 255 for none."""
    with rasterio.open(files[1]) as file:
        codes = file.read()
    other = np.where(codes > 0, codes + 10, 255).astype(np.uint8)
    return *files, write(files[1].with_name("other.tif"), other, ("labels",), nodata=None)


NAMES = dict(zip(SCHEMES["esri-io"].codes, SCHEMES["esri-io"].names, strict=True))
MEANINGS = {str(code + 10): NAMES[code] if code % 2 else str(code) for code in (1, 2, 5, 7, 11)} | {"255": "0"}


@pytest.mark.parametrize("head", ["[mapping]", "[label_codes]", ""])
def test_labels_of_other_codes_are_mapped(
    head: str, recoded: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a TOML file with a table as in predict's or train's files or the pairs alone, and from Python by a dict."""
    map_path, labels, other = recoded
    expected = evaluate(map_path, labels, "esri-io")
    file = tmp_path / "codes.toml"
    file.write_text(head + "".join(f'\n{code} = "{meaning}"' for code, meaning in MEANINGS.items()))
    assert evaluate(map_path, other, "esri-io", meanings=MEANINGS) == expected
    assert evaluate(map_path, other, "esri-io", meanings=file) == expected
    words = ["evaluate", str(map_path), str(other), "--scheme", "esri-io", "--json"]
    assert run([*words, "--mapping", str(file)]) == 0
    assert json.loads(capsys.readouterr().out) == expected.to_dict()
    assert run(words) == 65
    said = capsys.readouterr().err
    assert "--mapping codes.toml" in said
    assert "--mapping" in CliRunner().invoke(commands, ["evaluate", "--help"]).output


def test_codes_that_are_no_label_are_ignored(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the message about them advises, to the letter."""
    with rasterio.open(files[1]) as file:
        codes = file.read()
    other = write(tmp_path / "other.tif", np.where(codes > 0, codes, 255).astype(np.uint8), ("labels",), nodata=None)
    words = ["evaluate", str(files[0]), str(other), "--scheme", "esri-io"]
    assert run(words) == 65
    advice = re.search(r"--mapping codes\.toml\): (ignore = \[.*?\])", capsys.readouterr().err)
    assert advice
    (tmp_path / "codes.toml").write_text(advice[1])
    assert run([*words, "--mapping", str(tmp_path / "codes.toml")]) == 0
    meanings = {code: code for code in ("1", "2", "5", "7", "11")} | {"255": "0"}
    assert evaluate(files[0], other, "esri-io", meanings=meanings) == evaluate(*files, "esri-io")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not say what the labels' codes mean"),
        ("mapping = 3", "mapping is 3; it must be a table"),
        ("[mapping]\n1 = 1.5", "is 1.5; it must be a text or a whole number"),
        ("ignore = 255", "ignore is 255; it must be a list"),
        ("[mapping]\n1 = 1\n[label_codes]\n1 = 1", "both"),
        ("[mapping]\n11 = \"Moss\"", "has the targets Moss"),
    ],
)
def test_mappings_that_say_nothing(text: str, said: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "codes.toml").write_text(text)
    with pytest.raises(OptionsError, match=said):
        evaluate(*files, "esri-io", meanings=tmp_path / "codes.toml")


OWN = '1 = "Vineyard"\n2 = { name = "Other", colour = "#aa0077" }\n'
FILES = {
    "own": f'name = "vineyards"\n[classes]\n{OWN}',
    "with a mapping": f'name = "vineyards"\n[classes]\n{OWN}[mapping]\nWater = 2\nTrees = 1\n',
    "of a regions file": f'steps = 5\n[scheme]\nname = "vineyards"\n[scheme.classes]\n{OWN}',
    "a known one": 'scheme = "worldcover"\n',
}


@pytest.mark.parametrize("kind", FILES)
def test_a_scheme_from_a_file(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `refnet predict` or a regions file takes it; for maps whose tags another program has dropped."""
    known = kind == "a known one"
    (tmp_path / "own.toml").write_text(FILES[kind])
    codes = np.random.default_rng(0).choice([10, 20] if known else [1, 2], (1, 20, 20)).astype(np.uint8)
    labels = codes.copy()
    labels[0, 0] = codes[0, 0] ^ 30 if known else 3 - codes[0, 0]
    paths = [write(tmp_path / f"{name}.tif", values, (name,)) for name, values in (("map", codes), ("labels", labels))]
    found = evaluate(*paths, str(tmp_path / "own.toml"))
    assert found.overall_accuracy == pytest.approx(0.95)
    assert set(found.iou) == ({"Tree cover", "Shrubland"} if known else {"Vineyard", "Other"})
    assert run(["evaluate", *map(str, paths), "--scheme", str(tmp_path / "own.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found.to_dict()


@pytest.mark.parametrize("file", ["[scheme]\nignore = [9]\n[scheme.classes]\n", "ignore = [9]\n[classes]\n"])
def test_a_scheme_that_ignores_codes(file: str, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(file + OWN)
    codes = np.random.default_rng(0).choice([1, 2], (1, 20, 20)).astype(np.uint8)
    unknown = codes.copy()
    unknown[0, 0] = 9
    map_path, labels = (write(tmp_path / f"{n}.tif", x, (n,)) for n, x in (("map", codes), ("labels", unknown)))
    assert evaluate(map_path, labels, str(tmp_path / "own.toml")).pixels == 380
    assert evaluate(map_path, labels, str(tmp_path / "own.toml"), meanings={"1": "1", "2": "Other"}).pixels == 380
    with pytest.raises(InputError, match=r"map file .* has the codes 9.*--scheme"):
        evaluate(labels, map_path, str(tmp_path / "own.toml"))


def test_a_scheme_file_that_cannot_be_used(files: tuple[Path, Path], tmp_path: Path) -> None:
    for text, error in (('scheme = "mine"', OptionsError), ("name = 3", OptionsError), ("[classes", ConfigError)):
        (tmp_path / "own.toml").write_text(text)
        with pytest.raises(error):
            evaluate(*files, str(tmp_path / "own.toml"))
    with pytest.raises(InputMissingError):
        evaluate(*files, str(tmp_path / "none.toml"))


def test_shapes_without_a_class_are_told(files: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    with rasterio.open(files[0]) as file:
        rows, columns = (at[:3] for at in np.nonzero(file.read(1)))
    points = shapely.points(500_005 + 10.0 * columns, 5_299_995 - 10.0 * rows)
    pyogrio.raw.write(
        tmp_path / "p.gpkg", shapely.to_wkb(points), [np.array(["Trees", None, "Water"], object)], ["class"],
        crs="EPSG:32633", geometry_type="Point",
    )  # fmt: skip
    assert run(["evaluate", str(files[0]), str(tmp_path / "p.gpkg"), "--scheme", "esri-io"]) == 0
    assert "! 1 of the 3 shapes" in capsys.readouterr().err


def test_options_of_labels_are_for_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--mapping", "--layer", "--field", "--scheme"):
        words = ["evaluate", "--weights", "w.safetensors", "--regions", "r.toml", option, "x"]
        assert run(words) == 2
        assert "label_codes, label_field, label_layer" in capsys.readouterr().err


# The worked example of Olofsson et al. 2014: pixels of 30 m; rows of the paper's matrix are map classes.
CHANGES = ("deforestation", "forest gain", "stable forest", "stable non-forest")
SAMPLE = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]).T
MAPPED = np.array([200_000, 150_000, 3_200_000, 6_450_000]) * 0.09


def test_the_worked_example_of_olofsson_to_its_digits() -> None:
    found = estimate_areas(SAMPLE, MAPPED, CHANGES)
    assert [round(area.value) for area in found.area.values()] == [21_158, 11_686, 285_770, 581_386]
    assert [round(area.margin) for area in found.area.values()] == [6_158, 3_756, 15_510, 16_282]
    assert round(found.area["deforestation"].margin / 1.96 / MAPPED.sum(), 4) == 0.0035
    assert [round(part, 2) for part in found.overall_accuracy] == [0.95, 0.02]
    assert [round(value.value, 2) for value in found.precision.values()] == [0.88, 0.73, 0.93, 0.96]
    assert [round(value.margin, 2) for value in found.precision.values()] == [0.07, 0.10, 0.04, 0.02]
    assert [round(value.value, 2) for value in found.recall.values()] == [0.75, 0.85, 0.93, 0.96]


@pytest.mark.parametrize("seed", range(5))
def test_the_margins_are_those_of_a_stratified_sample(seed: int) -> None:
    """Pixel by pixel: every estimate is a ratio of totals, whose linear part has the variance of stratified means."""
    random = np.random.default_rng(seed)
    matrix, mapped = random.integers(0, 20, (3, 3)) + 1, random.uniform(10, 1000, 3)

    def margin(linear: Callable[[np.ndarray, int], np.ndarray]) -> float:
        """Half an interval of the total of ``linear(labels, stratum)`` over the map."""
        strata = [np.repeat(np.arange(3), matrix[:, stratum]) for stratum in range(3)]
        return 1.96 * math.sqrt(
            sum(
                mapped[stratum] ** 2 * linear(labels, stratum).var(ddof=1) / len(labels)
                for stratum, labels in enumerate(strata)
            )
        )

    found = estimate_areas(matrix, mapped, tuple("abc"))
    assert found.overall_accuracy.margin == pytest.approx(margin(lambda x, i: 1.0 * (x == i)) / mapped.sum())
    for j, name in enumerate("abc"):
        area, recall = found.area[name], found.recall[name]
        assert area.margin == pytest.approx(margin(lambda x, i, j=j: 1.0 * (x == j)))
        rest = margin(lambda x, i, j=j, share=recall.value: (x == j) * ((i == j) - share))
        assert recall.margin == pytest.approx(rest / area.value)


def test_the_margins_hold_what_they_promise() -> None:
    """Of many samples of a made-up truth, 95 % have the true area and accuracy within their margins."""
    random = np.random.default_rng(0)
    pixels = np.array([[4000, 300, 100], [200, 2500, 400], [100, 200, 2200]])  # labels by row, map classes by column
    mapped = pixels.sum(0).astype(float)
    inside = []
    for _ in range(600):
        matrix = np.array([random.multinomial(1000, column / column.sum()) for column in pixels.T]).T
        found = estimate_areas(matrix, mapped, tuple("abc"))
        truth = [np.trace(pixels) / pixels.sum(), *pixels.sum(1), *(np.diag(pixels) / pixels.sum(1))]
        guesses = [found.overall_accuracy, *found.area.values(), *found.recall.values()]
        inside.append([abs(guess.value - true) <= guess.margin for guess, true in zip(guesses, truth, strict=True)])
    assert np.all(np.abs(np.mean(inside, axis=0) - 0.95) < 0.035)


def test_a_class_that_the_sample_never_found_has_no_recall() -> None:
    found = estimate_areas(np.array([[5, 5], [0, 0]]), np.array([10.0, 10.0]), ("a", "b"))
    assert math.isnan(found.recall["b"].value)
    assert found.to_dict()["recall"]["b"] == {"value": None, "margin": None}
    assert found.area["b"] == (0, 0)


def test_too_small_a_sample_is_refused() -> None:
    with pytest.raises(InputError, match="fewer than 2 pixels in these classes of the map: b"):
        estimate_areas(np.array([[5, 1], [0, 0]]), np.array([10.0, 10.0]), ("a", "b"))


def test_the_worked_example_of_stehman_to_its_digits() -> None:
    """40 samples in four strata that are not the map's classes."""
    strata = np.repeat(np.arange(4), 10)
    predicted = "A" * 7 + "B" * 3 + "A" + "B" * 11 + "C" * 6 + "BB" + "D" * 10
    labels = "AAAAACBABC" + "ABBBBBAABB" + "CCCCCDDBBA" + "DDDDDDDCCB"
    indexes = (np.array(["ABCD".index(one) + 1 for one in text], np.uint8) for text in (labels, predicted))
    weights = np.array([40_000, 30_000, 20_000, 10_000.0])
    found = estimate_areas_by_strata(strata, weights, *indexes, np.full(4, 0.25), tuple("ABCD"))
    for estimate, value, error in (
        (found.overall_accuracy, 0.63, 0.085), (found.area["A"], 0.35, 0.082), (found.area["C"], 0.20, 0.064),
        (found.precision["B"], 0.574, 0.125), (found.recall["B"], 0.794, 0.117),
    ):  # fmt: skip
        assert estimate.value == pytest.approx(value, abs=5e-4)
        assert estimate.margin / 1.96 == pytest.approx(error, abs=5e-4)


@pytest.mark.parametrize("seed", range(3))
def test_strata_that_are_the_classes_of_the_map_give_the_same_estimates(seed: int) -> None:
    random = np.random.default_rng(seed)
    matrix, mapped = random.integers(0, 20, (3, 3)) + 1, random.uniform(10, 1000, 3)
    label, stratum = (np.repeat(axis.ravel(), matrix.ravel()) for axis in np.indices((3, 3)))
    indexes = (np.uint8(label + 1), np.uint8(stratum + 1))
    one = estimate_areas(matrix, mapped, tuple("abc"))
    other = estimate_areas_by_strata(stratum, mapped, *indexes, mapped, tuple("abc"))
    assert one.overall_accuracy == pytest.approx(other.overall_accuracy)
    for kind in ("precision", "recall", "area"):
        for name in "abc":
            assert getattr(one, kind)[name] == pytest.approx(getattr(other, kind)[name])


def test_samples_off_the_map_are_another_domain() -> None:
    """A single stratum: what lies off the map says nothing of the accuracy on it."""
    labels, predicted = np.array([1, 2, 1, 1, 2], np.uint8), np.array([1, 2, 2, 0, 0], np.uint8)
    strata, one, mapped = np.zeros(5, int), np.ones(1), np.ones(2)
    found = estimate_areas_by_strata(strata, one, labels, predicted, mapped, ("a", "b"))
    assert found.overall_accuracy.value == pytest.approx(2 / 3)
    assert found.area["a"].value == pytest.approx(4 / 3)
    with pytest.raises(InputError, match="1 of 2 strata have fewer than 2 samples"):
        estimate_areas_by_strata(strata, np.ones(2), labels, predicted, mapped, ("a", "b"))


def test_a_sample_on_the_pixels_of_the_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    codes = random.choice([1, 2, 5], (1, 200, 200), p=[0.6, 0.3, 0.1]).astype(np.uint8)
    truth = np.where(random.random(codes.shape) < 0.1, 7, codes).astype(np.uint8)
    sampled = np.where(random.random(codes.shape) < 0.05, truth, 0).astype(np.uint8)
    map_path, labels = (write(tmp_path / f"{n}.tif", x, (n,)) for n, x in (("map", codes), ("labels", sampled)))
    estimates = evaluate(map_path, labels, "esri-io", sample=True).area_estimates
    assert estimates is not None
    assert sum(estimates.mapped.values()) == pytest.approx(400, rel=2e-3)  # on the ground, not in the projection
    assert sum(area.value for area in estimates.area.values()) == pytest.approx(sum(estimates.mapped.values()))
    assert abs(estimates.overall_accuracy.value - 0.9) < 2 * estimates.overall_accuracy.margin
    assert estimates.mapped["Crops"] > 0 == estimates.mapped["Built area"]
    assert run(["evaluate", str(map_path), str(labels), "--scheme", "esri-io", "--sample"]) == 0
    shown = capsys.readouterr().out
    assert "estimated from the sample" in shown
    rows, columns = np.nonzero(sampled[0])
    points = shapely.points(500_000 + 10 * columns + 5, 5_300_000 - 10 * rows - 5)
    pyogrio.raw.write(
        tmp_path / "points.gpkg", shapely.to_wkb(points), [sampled[0, rows, columns].astype(np.int32)], ["class"],
        crs="EPSG:32633", geometry_type="Point",
    )  # fmt: skip
    again = evaluate(map_path, tmp_path / "points.gpkg", "esri-io", sample=True, field="class").area_estimates
    assert again == estimates
    moved = write(tmp_path / "moved.tif", sampled, ("labels",), Affine(10, 0, 500_003, 0, -10, 5_300_000))
    with pytest.raises(InputError, match="is not on the grid of"):
        evaluate(map_path, moved, "esri-io", sample=True)


def test_json_holds_the_confusion_matrix(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", *map(str, files), "--scheme", "esri-io", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    matrix = np.array(found["confusion_matrix"])
    assert matrix.sum() == found["pixels"]
    assert matrix.sum(1).tolist() == list(found["labelled"].values())
    assert "area_estimates" not in found
    assert np.trace(matrix) / matrix.sum() == pytest.approx(found["overall_accuracy"])


def test_map_and_labels_in_the_wrong_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    codes = np.ones((1, 20, 20), np.uint8)
    made, labels = (write(tmp_path / f"{name}.tif", codes, (name,)) for name in ("made", "labels"))
    with rasterio.open(made, "r+") as dataset:
        dataset.update_tags(REFNET_WEIGHTS="refnet-base")
    evaluate(made, labels, "esri-io")
    assert "swapped" not in caplog.text
    evaluate(labels, made, "esri-io")
    assert "are they swapped" in caplog.text
