"""Pixels without data are filled by the nearest ones: by distance, within a tile, and alike for all that predicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from benchmarks import gaps
from refnet_cli.engines.load import load_engine
from refnet_cli.engines.onnx_engine import OnnxEngine
from refnet_cli.engines.options import EngineOptions
from refnet_cli.model.weight_files import default_weights
from refnet_cli.tiles.gaps import fill_gaps
from tests.helpers.quick import examples
from tests.helpers.scenes import CARD, PlaceEngine, make_labelled_scene, name_classes
from tests.helpers.small_models import write_model

Floats = NDArray[np.float32]
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def own_places(height: int, width: int) -> Floats:
    """An image whose two bands are each pixel's own row and column."""
    return np.indices((height, width), np.float32)


@given(arrays(bool, SHAPES), st.data())
@settings(max_examples=examples(150), deadline=None)
def test_every_gap_takes_all_bands_of_a_pixel_than_which_none_is_nearer(
    gaps: NDArray[np.bool_], data: st.DataObject
) -> None:
    image = own_places(*gaps.shape)
    lacking = data.draw(arrays(np.uint8, gaps.shape, elements=st.integers(1, 3)), label="bands that lack, as bits")
    image[0, gaps & (lacking & 1 > 0)] = np.nan
    image[1, gaps & (lacking & 2 > 0)] = np.nan
    given_image = image.copy()
    (filled,) = fill_gaps(image[None])
    np.testing.assert_array_equal(image, given_image)
    if gaps.all():
        np.testing.assert_array_equal(filled, image)
        return
    places = np.argwhere(~gaps)
    for row, column in np.ndindex(gaps.shape):
        found = filled[:, row, column]
        distances = ((places - (row, column)) ** 2).sum(1)
        assert not gaps[tuple(found.astype(int))]
        assert ((found - (row, column)) ** 2).sum() == distances.min()


def make_holes(count: int = 3, bands: int = 4, side: int = 64) -> Floats:
    random = np.random.default_rng(5)
    images = random.uniform(100, 3000, (count, bands, side, side)).astype(np.float32)
    for image in images[1:]:  # the first is whole
        rows, columns = np.indices((side, side))
        image[:, rows * random.uniform(0.3, 1) + columns > 1.2 * side] = np.nan
        image[random.integers(bands), 9:20, 5:14] = np.nan
    return images


def test_where_nothing_is_missing_nothing_is_copied() -> None:
    images = make_holes()[:1]
    assert fill_gaps(images) is images


def test_each_image_is_filled_by_itself_and_once_for_all() -> None:
    images = make_holes()
    filled = fill_gaps(images)
    assert not np.isnan(filled).any()
    assert fill_gaps(filled) is filled
    for number in range(len(images)):
        np.testing.assert_array_equal(filled[number], fill_gaps(images[number : number + 1])[0])
    np.testing.assert_array_equal(filled[0], images[0])


def test_a_sensor_without_any_pixel_in_one_image_stays_without_data_there() -> None:
    images = make_holes()
    images[1] = np.nan
    filled = fill_gaps(images)
    assert np.isnan(filled[1]).all()
    assert not np.isnan(filled[[0, 2]]).any()


def test_onnx_models_see_what_is_filled(tmp_path: Path) -> None:
    engine = OnnxEngine(write_model(tmp_path / "model.onnx"))
    optical, sar = make_holes(), make_holes(bands=2) / -200
    found = engine.predict(optical, sar)
    np.testing.assert_array_equal(found, engine.predict(fill_gaps(optical), fill_gaps(sar)))
    rows, columns = np.nonzero(np.isnan(optical[2]).any(0) & np.isnan(sar[2]).any(0))
    mean = engine.predict(np.nan_to_num(optical), np.nan_to_num(sar))  # this model's mean is 0
    assert np.abs(found - mean)[2][:, rows, columns].max() > 0.01


@pytest.mark.parametrize("sensor", ["optical", "sar"])
def test_an_absent_sensor_is_the_mean_to_onnx_models(tmp_path: Path, sensor: str) -> None:
    engine = OnnxEngine(write_model(tmp_path / "model.onnx"))
    seen = {"optical": make_holes()[:1], "sar": make_holes(bands=2)[:1] / -200}
    blank = seen | {sensor: np.full_like(seen[sensor], np.nan)}
    zero = seen | {sensor: np.zeros_like(seen[sensor])}
    np.testing.assert_array_equal(engine.predict(**blank), engine.predict(**zero))


# --- what gaps do to the map next to them -----------------------------------------------------------------------------


@pytest.mark.long
def test_few_pixels_beside_gaps_get_worse() -> None:
    """On a tile of the sample scene, by the bundled weights; `benchmarks.gaps` measures it on whole scenes."""
    paths = (gaps.SAMPLE / name for name in ("s2.tif", "s1.tif", "labels.tif"))
    scene = gaps.read_scene("sample", *paths, gaps.SIMULATED)
    part = np.s_[..., 256:512, 384:640]
    scene = gaps.Scene("part", scene.optical[part], scene.sar[part], scene.labels[part])
    cut, engine = gaps.cut_out(scene.labels.shape, 3), load_engine(default_weights(), EngineOptions(device="cpu"))
    totals = {
        name: np.sum(list(gaps.count_wrong(scene, cut, engine, gaps.FILLS[name]).values()), axis=0)
        for name in ("nearest", "mean")
    }
    pixels, before, after, changed = totals["nearest"]
    assert pixels > 3 * 3000
    assert 0 < after <= 1.15 * before
    assert changed < 0.8 * totals["mean"][3]


def test_the_benchmark_sees_no_harm_where_pixels_are_classified_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, folder in enumerate((tmp_path / "sample", tmp_path / "varied" / "scene")):
        name_classes(make_labelled_scene(folder, seed=seed).labels)
    monkeypatch.setattr(gaps, "SAMPLE", tmp_path / "sample")
    monkeypatch.setattr(gaps, "load_engine", lambda *_: PlaceEngine())
    gaps.main(["--data", str(tmp_path / "varied")])
    rows = json.loads(capsys.readouterr().out)["results"]
    assert len(rows) == len(gaps.FILLS) * (len(gaps.SENSORS) + 1)
    assert all((row["ratio"], row["changed"]) == (1, 0) and row["pixels"] and row["wrong"] for row in rows)
    assert [row["kept"] for row in rows if "kept" in row] == [True]


def test_mirroring_at_a_straight_edge_is_reflection() -> None:
    image = make_holes()[0]
    cut = image.copy()
    cut[:, :, :20] = np.nan
    wanted = np.pad(image[:, :, 20:], ((0, 0), (0, 0), (20, 0)), "reflect")
    np.testing.assert_array_equal(gaps.by_mirror(cut, CARD.optical), wanted)
    np.testing.assert_array_equal(gaps.by_nearest(cut, CARD.optical)[:, :, :20], image[:, :, 20:21].repeat(20, 2))
