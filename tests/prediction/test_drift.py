"""A map says how far to trust it: scenes unlike what was learned from, levels that were not, and unlikely classes."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from refnet_cli.errors import WeightsError
from refnet_cli.model.card import Card
from refnet_cli.model.weight_files import read_card
from refnet_cli.prediction.distribution import BandDrift, InputDistribution, describe_distributions
from refnet_cli.prediction.drift import compare, distributions_of, warn_of_band_drift, warn_of_level
from refnet_cli.prediction.inspection import inspect
from refnet_cli.prediction.low_confidence import describe_shares, limit_of
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.prediction.report import Report
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.sensors.decisions import Decision
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.fit import fit
from tests.helpers.scenes import CARD, PlaceEngine, make_labelled_scene, make_pair, write
from tests.helpers.trainings import learned, small_config

BANDS = CARD.optical.bands
NAMES = {"optical": BANDS, "sar": CARD.sar.bands}
Pair = tuple[Path, Path]


def crop_of(seed: int, side: int = 128) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What `tests.helpers.scenes.make_pair` draws, with other numbers."""
    random = np.random.default_rng(seed)
    optical = random.integers(100, 900, (4, side, side)).astype(np.float32)
    optical[3] += 1500
    power = np.array([0.08, 0.015])[:, None, None] * random.gamma(4, 0.25, (2, side, side))
    return optical, (10 * np.log10(power)).astype(np.float32)


def knowing(**training: Any) -> Card:
    """Card of weights that learned from ground as `tests.helpers.scenes.make_pair` draws it."""
    seen = describe_distributions([crop_of(seed) for seed in range(4)], NAMES)
    return replace(CARD, training={"seen": seen} | training)


KNOWING = knowing()


def make_map(pair: Pair, card: Card, **changes: Any) -> Report:
    options = PredictOptions(*pair, pair[0].with_name("lulc.tif"), coreg="off", sar_scale="power", **changes)
    return predict(options, PlaceEngine(card))


def unlike(warnings: list[str]) -> list[str]:
    return [warning for warning in warnings if "scene differs from the training data" in warning]


def brighter(optical: np.ndarray, sar: np.ndarray) -> None:
    optical *= 3


def louder(optical: np.ndarray, sar: np.ndarray) -> None:
    sar *= 10


@pytest.mark.parametrize(
    ("change", "bands"), [(None, set()), (brighter, set(BANDS)), (louder, {"VV", "VH"})], ids=["like", "bright", "loud"]
)
def test_predict_and_inspect_name_the_bands_and_say_what_to_do(tmp_path: Path, change: Any, bands: set[str]) -> None:
    pair = make_pair(tmp_path, 200, 220, holes=change)
    report = make_map(pair, KNOWING)
    assert report.unlike.keys() == {*BANDS, "VV", "VH"}
    far = {band for band, drift in report.unlike.items() if drift["above"] > 0.25}
    assert far == bands
    said = unlike(report.warnings)
    assert len(said) == bool(bands)
    for text in said:
        assert all(band in text for band in bands)
        assert "limit 25%" in text
        assert "-o confidence" in text
        assert "refnet train --init" in text
    found = inspect(*pair, KNOWING, SceneOptions(sar_scale="power"))
    assert (found.unlike, unlike(found.warnings)) == (report.unlike, said)
    assert json.loads(json.dumps(report.to_dict()))["unlike"].keys() == report.unlike.keys()


def test_a_warning_says_how_far_it_is() -> None:
    found = {
        "B02": BandDrift(1980.0, (120.0, 410.0, 1450.0), 0.0, 0.62, 0.0, 0.1),
        "B03": BandDrift(700.0, (120.0, 610.0, 1450.0), 0.0, 0.0, 0.3, 0.02),
        "B04": BandDrift(700.0, (120.0, 610.0, 1450.0), 0.01, 0.24, 0.0, 0.2),
    }
    (text,) = warn_of_band_drift(found, "some-weights")
    assert "B02: 62% of the pixels are above 1,450 (median 1,980, in training 410)" in text
    assert "B03: 30% of the pixels are lower than the other bands predict" in text
    assert "B04" not in text
    assert "some-weights" in text


def test_the_causes_are_those_of_the_sensor() -> None:
    drift = BandDrift(-2.0, (-18.0, -11.0, -4.0), 0.0, 0.6, 0.0, 0.0)
    for bands, optical in ((("VV", "VH"), False), (("VV", "B02"), True), (("B02",), True)):
        (text,) = warn_of_band_drift(dict.fromkeys(bands, drift), "some-weights")
        assert ("haze" in text, "offset" in text) == (optical, optical)


def test_cards_that_do_not_say_what_was_seen_are_judged_by_means(tmp_path: Path) -> None:
    report = make_map(make_pair(tmp_path, 100, 100, holes=louder), CARD)
    assert report.unlike == {}
    assert not unlike(report.warnings)
    assert abs(report.drift["VV"]) > 2
    assert any("VV by +" in warning for warning in report.warnings)


def test_any_number_of_threads_and_any_part_of_the_map_says_the_same(tmp_path: Path) -> None:
    """Empty blocks are passed over, however many they are."""

    def empty(optical: np.ndarray, sar: np.ndarray) -> None:
        optical[:, :1024] = 0

    pair = make_pair(tmp_path, 1300, 1100, holes=empty)
    found = []
    for threads in (1, 3):
        with ScenePair.open(*pair, *NAMES.values(), read_threads=threads) as scene:
            found.append(compare(KNOWING, scene))
    assert found[0] == found[1]
    assert found[0].keys() == {*BANDS, "VV", "VH"}
    assert not warn_of_band_drift(found[0], "")


def test_a_sensor_that_measured_nothing_is_not_compared(tmp_path: Path) -> None:
    def deaf(optical: np.ndarray, sar: np.ndarray) -> None:
        sar[...] = np.nan

    pair = make_pair(tmp_path, 200, 200, holes=deaf)
    report = make_map(pair, KNOWING, missing="use-other")
    assert report.unlike.keys() == set(BANDS)
    assert not unlike(report.warnings)


def test_what_cannot_be_read_is_not_compared(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, 1024, 600)
    with rasterio.open(pair[0]) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    with ScenePair.open(*pair, *NAMES.values(), SceneOptions(on_read_error="mask")) as scene:
        assert not warn_of_band_drift(compare(KNOWING, scene), "")
    content = bytearray(pair[0].read_bytes())
    content[offset : offset + 64] = b"\xff" * 64
    with ScenePair.open(*pair, *NAMES.values()) as scene:
        pair[0].write_bytes(content)
        found = compare(KNOWING, scene)
    assert found.keys() == {*BANDS, "VV", "VH"}
    assert not warn_of_band_drift(found, "")


@pytest.mark.parametrize(
    "entry", ["text", {"radar": {}}, {"optical": {}}, {"sar": KNOWING.training["seen"]["optical"]}]
)
def test_entries_of_a_card_that_do_not_fit_are_refused(entry: Any) -> None:
    with pytest.raises(WeightsError, match=r"training\.seen is invalid"):
        distributions_of(replace(CARD, training={"seen": entry}))


@pytest.mark.parametrize(
    ("level", "learned", "said"),
    [
        ("L1C", None, "do not list L1C as training data"), ("L1C", ["L2A"], "trained on L2A only"),
        ("L1C", ["L2A", "unknown"], "do not list L1C as training data"), ("L1C", ["L1C", "L2A"], ""),
        ("L1C", ["L1C"], ""), ("L2A", None, ""), ("L2A", ["L2A"], ""), ("L2A", ["L1C"], "trained on L1C only"),
        ("L2A", ["L1C", "unknown"], ""), ("unknown", ["L2A"], ""), ("unknown", ["L1C"], ""), (None, ["L2A"], ""),
    ],
)  # fmt: skip
def test_levels_that_were_not_learned_from_are_warned_of(level: str | None, learned: Any, said: str) -> None:
    decisions = [Decision("optical.scale", 1.0, "")] + [Decision("optical.level", level, "")] * (level is not None)
    card = replace(CARD, training={} if learned is None else {"levels": learned})
    found = warn_of_level(decisions, card)
    assert len(found) == bool(said)
    assert all(said in warning and CARD.name in warning for warning in found)


@pytest.mark.parametrize(("learned", "warned"), [(["L2A"], True), (["L1C", "L2A"], False)])
def test_the_warning_of_the_level_depends_on_the_card(tmp_path: Path, learned: list[str], warned: bool) -> None:
    optical, sar = make_pair(tmp_path, 100, 100)
    with rasterio.open(optical, "r+") as file:
        file.update_tags(PROCESSING_LEVEL="Level-1C")
    card = replace(CARD, training={"levels": learned})
    said = make_map((optical, sar), card).warnings, inspect(optical, sar, card).warnings
    assert [any("is L1C" in warning for warning in warnings) for warnings in said] == [warned, warned]
    with ScenePair.open(optical, sar, *NAMES.values()) as pair:
        assert not any("L1C" in warning for warning in pair.warnings)


class SureEngine(PlaceEngine):
    """Sure of a pixel's class where the near infrared is bright; ends the program after some batches."""

    left = -1

    def predict(self, optical: np.ndarray, sar: np.ndarray) -> np.ndarray:
        if not self.left:
            raise SystemExit(143)
        self.left -= 1
        shares = np.full((len(optical), 10, *optical.shape[2:]), 0.02, np.float32)
        shares[:, 1] = 0.3
        shares[:, 0] = 0.3  # no data, which counts as none
        shares[:, 2] = np.where(np.nan_to_num(optical[:, 3]) > 2100, 0.5, 0.2)
        return shares / shares.sum(1, keepdims=True)


def unsure(optical: Path) -> float:
    """Share of the pixels of which that engine is not sure."""
    with rasterio.open(optical) as file:
        return float((file.read(4) <= 2100).mean())


def test_low_confidence_pixels_are_counted_once_each(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, 300, 200)
    options = PredictOptions(*pair, tmp_path / "lulc.tif", coreg="off")
    report = predict(options, SureEngine())
    assert report.low_confidence == pytest.approx(unsure(pair[0]), abs=1e-12)
    assert any("no class reaches a probability of 0.5 (limit 50%)" in warning for warning in report.warnings)
    assert predict(replace(options, threshold=0.4), SureEngine()).low_confidence == report.low_confidence
    assert predict(replace(options, scheme="worldcover"), SureEngine()).low_confidence == report.low_confidence


@pytest.mark.parametrize("batches", [1, 4])
def test_a_run_that_continues_counts_all_rows(tmp_path: Path, batches: int) -> None:
    pair = make_pair(tmp_path, 500, 130)
    options = PredictOptions(*pair, tmp_path / "lulc.tif", coreg="off")
    mortal = SureEngine()
    mortal.left = batches
    with suppress(SystemExit):
        predict(options, mortal)
    report = predict(options, SureEngine())
    assert report.resumed_rows > 0
    assert report.low_confidence == pytest.approx(unsure(pair[0]), abs=1e-12)


@pytest.mark.parametrize(
    ("high", "limit"), [(None, 0.5), (0.0, 0.1), (0.05, 0.1), (0.2, 0.3), (0.3, 0.45), (0.4, 0.5), (1, 0.5)]
)
def test_the_limit_follows_held_out_scenes(high: float | None, limit: float) -> None:
    known = {} if high is None else {"calibration": {"low_confidence": describe_shares([0.0, high, high, high])}}
    assert limit_of(replace(CARD, scores=known)) == pytest.approx(limit)


@pytest.mark.parametrize("entry", ["much", {"median": 0.1}, {"p95": 2}, {"p95": "0.1"}])
def test_a_limit_that_makes_no_sense_is_refused(entry: Any) -> None:
    with pytest.raises(WeightsError, match=r"scores\.calibration\.low_confidence"):
        limit_of(replace(CARD, scores={"calibration": {"low_confidence": entry}}))


@pytest.mark.long
def test_training_says_what_it_has_seen(tmp_path: Path) -> None:
    """Its own ground is like it, and so is the one that it held out; levels are of what it learned from."""
    scenes = make_labelled_scene(tmp_path / "north"), make_labelled_scene(tmp_path / "south", "validation", seed=1)
    with rasterio.open(scenes[0].optical, "r+") as file:
        file.update_tags(PROCESSING_LEVEL="Level-2A")
    config = TrainConfig(
        scenes=scenes, scheme="esri-io", encoder="test_resnet", width=16, steps=1, batch=2, crop=64, tile=160,
        jitter=0.05, device="cpu",
    )  # fmt: skip
    card = read_card(fit(config, tmp_path / "run").weights)
    assert card.training["levels"] == ["L2A"]
    assert distributions_of(card).keys() == {"optical", "sar"}
    low = card.scores["calibration"]["low_confidence"]
    assert (low["probability"], low["scenes"]) == (0.5, 1)
    assert 0 <= low["median"] <= low["p95"] <= 1
    for scene in config.scenes:
        with ScenePair.open(scene.optical, scene.sar, *NAMES.values()) as pair:
            assert not warn_of_band_drift(compare(card, pair), card.name)


def test_other_ground_than_that_of_a_training_is_unlike_it(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scene, card = small_config(tmp_path_factory).scenes[0], learned(tmp_path_factory).card
    with rasterio.open(scene.optical) as file:
        values, names = file.read(), file.descriptions
    random = np.random.default_rng(0)
    for number, other in enumerate(
        (values * 2 + 2000, values + np.array([600, 350, 200, 50])[:, None, None], random.permutation(values.ravel())),
    ):
        optical = write(tmp_path / f"{number}.tif", other.reshape(values.shape).astype(np.uint16), names)
        options = SceneOptions(optical_offset=0, optical_scale="dn")
        with ScenePair.open(optical, scene.sar, *NAMES.values(), options) as pair:
            (said,) = warn_of_band_drift(compare(card, pair), card.name)
        assert "B0" in said
        assert "VV" not in said


def read_places(shared: Path) -> list[dict[str, Any]]:
    """Real places: country, level, and some pixels of each sensor."""
    places = []
    for about in sorted((shared / "data" / "places").glob("*/about.json")):
        described = json.loads(about.read_text(encoding="utf-8"))
        place = {"country": described["country"], "level": described["level"]}
        for name, bands in NAMES.items():
            file = about.with_name("s2.tif" if name == "optical" else "s1.tif")
            if file.exists():
                with rasterio.open(file) as raster:
                    values = raster.read([raster.descriptions.index(band) + 1 for band in bands]).astype(np.float32)
                values[:, (values == 0).all(0)] = np.nan
                values = values.reshape(len(bands), -1)
                values = values[:, np.isfinite(values).all(0)]
                place[name] = values[:, :: max(values.shape[1] // 1500, 1)]  # each counts alike, as crops do
        places.append(place)
    return places


def test_most_places_of_other_countries_are_like_the_rest_and_wrong_values_are_not(shared: Path) -> None:
    places = read_places(shared)
    haze = np.array([[900], [550], [350], [120]], np.float32)
    fired: dict[str, list[bool]] = {}
    for country in {place["country"] for place in places}:
        for name, bands in NAMES.items():
            others = [p[name] for p in places if name in p and p["country"] != country and p["level"] != "L1C"]
            seen = InputDistribution.of(np.concatenate(others, axis=1), bands, name)
            assert seen is not None
            for place in (p for p in places if name in p and p["country"] == country and p["level"] != "L1C"):
                values = place[name]
                wrong = {"plain": values, "noise": np.random.default_rng(0).uniform(0, 5000, values.shape)}
                wrong |= {"haze": 0.9 * values + haze} if name == "optical" else {"+10 dB": values + 10}
                for what, changed in wrong.items():
                    found = seen.compare(changed.astype(np.float32), name)
                    if found:
                        fired.setdefault(f"{name} {what}", []).append(bool(warn_of_band_drift(found, "")))
    shares = {what: float(np.mean(fires)) for what, fires in fired.items()}
    assert max(shares["optical plain"], shares["sar plain"]) < 0.15
    assert min(shares["optical haze"], shares["sar +10 dB"]) > 0.75
    assert min(shares["optical noise"], shares["sar noise"]) > 0.98
