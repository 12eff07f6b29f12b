"""Maps of seasons by refnet predict: bytes, resume after a stop, quality, STAC Item, report and messages."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from refnet_cli.errors import OptionsError
from refnet_cli.prediction.job import resolve_season
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.scene.season_files import read_season
from tests.helpers.batches import here
from tests.helpers.quick import few
from tests.helpers.scenes import PlaceEngine, use_small_blocks
from tests.helpers.seasons import DAYS, SHAPE, make_season, table_of
from tests.helpers.small_models import write_model

COMBINES = ("composite", "ensemble")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blocks(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_season(tmp_path_factory.mktemp("season"))


def options(folder: Path, output: Path, **changes: Any) -> PredictOptions:
    given = {"season": folder, "mask_clouds": True, "coreg": "off", "outputs": ("quality", "probabilities")}
    return PredictOptions(output=output, **given | changes)


def sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.*"))}


def layers(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as file:
        return np.asarray(file.read())


class Stopping(PlaceEngine):
    """Stops the run after some calls."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def predict(self, optical: NDArray[np.float32], sar: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.calls >= self.most:
            time.sleep(0.5)  # the rows that are finished are written in another thread
            raise KeyboardInterrupt
        return super().predict(optical, sar)


@pytest.mark.parametrize("combine", few(COMBINES, "ensemble"))
def test_a_stopped_run_continues_to_equal_bytes(folder: Path, tmp_path: Path, combine: Any) -> None:
    """As do a table in place of the folder, another number of threads, and other batches."""
    whole = predict(options(folder, tmp_path / "a" / "map.tif", combine=combine), make_engine(tmp_path / "a"))
    for number, (season, threads, batch) in enumerate(((folder, 1, 3), (table_of(folder), 3, 5))):
        place = tmp_path / f"b{number}"
        again = options(season, place / "map.tif", combine=combine, read_threads=threads)
        with pytest.raises(KeyboardInterrupt):
            predict(again, make_engine(place, Stopping(whole.tiles["run"] // 2)))
        engine = make_engine(place)
        engine.batch = batch
        resumed = predict(again, engine)
        assert resumed.resumed_rows > 0
        assert sums(place) == sums(tmp_path / "a")


def make_engine(folder: Path, engine: PlaceEngine | None = None) -> PlaceEngine:
    folder.mkdir(exist_ok=True)
    return engine or PlaceEngine()


@pytest.mark.parametrize("combine", COMBINES)
def test_what_a_map_of_a_season_says(folder: Path, tmp_path: Path, combine: Any) -> None:
    output = tmp_path / "map.tif"
    outputs = ("quality", "report", "stac")
    report = predict(options(folder, output, combine=combine, outputs=outputs), PlaceEngine())
    quality = layers(tmp_path / "map_quality.tif")
    assert quality.shape == (3, *SHAPE)
    assert {0, 1, 2, 5} <= {*np.unique(quality[2])}
    seen = {name: number for name, number in report.counts.items() if name.startswith("seen_")}
    assert list(seen) == [f"seen_{day}" for day in DAYS]
    if combine == "ensemble":
        assert sum(seen.values()) == quality[2].sum()
        assert report.tiles["run"] > 2 * len(layers(output))  # patches of all dates
    np.testing.assert_array_equal(layers(output)[0] > 0, (quality[2] > 0) & (quality[0] == 3))
    item = json.loads((tmp_path / "map.stac.json").read_text())
    assert item["properties"]["start_datetime"] == f"{DAYS[0]}T00:00:00Z"
    assert item["properties"]["end_datetime"] == f"{DAYS[-1]}T23:59:59Z"
    assert [band["name"] for band in item["assets"]["quality"]["bands"]] == ["sensors", "reason", "dates"]
    page = (tmp_path / "map_report.html").read_text()
    assert all(f"seen_{day}" in page for day in DAYS)
    with rasterio.open(output) as file:
        tags = file.tags()
    decisions = {found["what"]: found for found in json.loads(tags["REFNET_DECISIONS"])}
    assert decisions["season"]["value"] == [f"{day}: s2.tif + s1.tif" for day in DAYS]
    assert decisions["optical.offset@2021-06-01"]["value"] == 1000
    assert decisions["sar.scale@2021-06-21"]["value"] == "db"
    assert json.loads(tags["REFNET_OPTIONS"])["combine"] == combine


def test_one_date_gives_the_pixels_of_the_plain_map(folder: Path, tmp_path: Path) -> None:
    place = make_season(tmp_path / "one", DAYS[:1], (90, 80))
    (scene,) = read_season(place)
    plain = replace(options(place, tmp_path / "plain.tif"), season=None, optical=scene.optical, sar=scene.sar)
    predict(plain, PlaceEngine())
    for combine in COMBINES:
        predict(options(place, tmp_path / f"{combine}.tif", combine=combine), PlaceEngine())
        for ending in ("", "_probabilities"):
            expected = layers(tmp_path / f"plain{ending}.tif")
            np.testing.assert_array_equal(layers(tmp_path / f"{combine}{ending}.tif"), expected)
        np.testing.assert_array_equal(
            layers(tmp_path / f"{combine}_quality.tif")[:2], layers(tmp_path / "plain_quality.tif")
        )


def test_options_that_contradict_a_season(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    for given, match in (
        ({"combine": "ensemble", "optical": path}, "--combine needs several dates"),
        ({"season": folder, "optical": path}, "Omit --optical and --sar"),
    ):
        with pytest.raises(OptionsError, match=match):
            resolve_season(PredictOptions(output=tmp_path / "y.tif", **given))
    with pytest.raises(OptionsError, match="must be one of composite, ensemble"):
        options(folder, path, combine="mean")


def test_the_command(folder: Path, tmp_path: Path, capfd: Any) -> None:
    weights = write_model(tmp_path / "small.onnx")
    done = here(
        capfd, "predict", "--season", table_of(folder), "--combine", "ensemble", "--mask-clouds", "--weights", weights,
        "-o", tmp_path / "map.tif", "-o", "quality",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "5, 2021-05-02 to 2021-08-20, ensemble" in done.err
    assert "each of 5 dates saw" in done.err
    assert "clouds and shadows masked" in done.err
    (tmp_path / "empty").mkdir()
    done = here(capfd, "predict", "--season", tmp_path / "empty", "-o", tmp_path / "no.tif")
    assert done.code == 66, done.err
