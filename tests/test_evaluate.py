"""Scores against obvious oracles, and maps that must not be compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.transform import Affine

from refnet_cli.cli import run
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.evaluate import confusion_matrix, evaluate, score
from tests.scenes import write

CODES = arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 3))


@given(labels=CODES, seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
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


def test_perfect_and_hopeless_maps() -> None:
    perfect = score(np.diag([3, 4]), ("a", "b"))
    assert (perfect.overall_accuracy, perfect.mean_iou, perfect.mean_f1, perfect.kappa) == (1, 1, 1, 1)
    hopeless = score(np.array([[0, 5], [5, 0]]), ("a", "b"))
    assert (hopeless.overall_accuracy, hopeless.mean_iou, hopeless.kappa) == (0, 0, -1)
    with pytest.raises(InputError, match="no labelled pixel in common"):
        score(np.zeros((2, 2), int), ("a", "b"))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    codes = np.random.default_rng(0).choice([0, 1, 2, 4, 9], (1, 40, 30)).astype(np.uint8)
    noisy = np.where(np.random.default_rng(1).random(codes.shape) < 0.2, 5, codes).astype(np.uint8)
    return write(tmp_path / "map.tif", codes, ("map",)), write(tmp_path / "labels.tif", noisy, ("labels",))


def test_files_of_one_grid(files: tuple[Path, Path]) -> None:
    found = evaluate(*files, "esri-io")
    assert found.overall_accuracy == pytest.approx(0.8, abs=0.04)
    assert found.iou.keys() == {"Water", "Trees", "Crops", "Built area", "Rangeland"}


def test_labels_of_another_grid_are_brought_onto_the_map(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).choice([1, 2, 4], (1, 20, 20)).astype(np.uint8)
    finer = codes.repeat(2, 1).repeat(2, 2)
    map_path = write(tmp_path / "map.tif", codes, ("map",))
    labels = write(tmp_path / "labels.tif", finer, ("labels",), Affine(5, 0, 500_000, 0, -5, 5_300_000))
    assert evaluate(map_path, labels, "esri-io").overall_accuracy == 1


def test_what_cannot_be_compared_is_refused(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionsError, match="give one with --scheme"):
        evaluate(*files)
    with pytest.raises(OptionsError, match="is unknown"):
        evaluate(*files, "mine")
    with pytest.raises(InputError, match="mean nothing in class scheme 'worldcover'"):
        evaluate(*files, "worldcover")
    assert run(["evaluate", *map(str, files), "--scheme", "esri-io"]) == 0
    assert "overall_accuracy" in capsys.readouterr().out
