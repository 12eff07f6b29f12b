"""All outputs of a map from one pass: they agree, they come whole or not at all, and interrupted runs go on to them."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.cli.main import run
from refnet_cli.errors import InputError, OptionsError, OutputError, StorageError
from refnet_cli.outputs import OUTPUTS
from refnet_cli.outputs.cog import REASONS
from refnet_cli.outputs.pictures.html_report import HtmlReport
from refnet_cli.outputs.polygons.polygons import Polygons
from refnet_cli.outputs.rows import STEPS, Rows
from refnet_cli.prediction.job import files_of
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from tests.helpers.quick import few
from tests.helpers.scenes import CARD, PlaceEngine, make_pair, write

EVERY = tuple(kind for kind in OUTPUTS if kind != "classes")
ALL_OPTIONS: dict[str, Any] = {"outputs": EVERY, "date": "2020-07-01", "coreg": "off"}


def holes(optical: np.ndarray, sar: np.ndarray) -> None:
    optical[:, 20:50, 60:90] = 0
    sar[:, 100:130, 20:50] = np.nan
    optical[:, 230:235] = 0
    sar[:, 162:170] = np.nan  # rows 227 to 238 of the grid


def options(pair: tuple[Path, Path], **changes: Any) -> PredictOptions:
    return PredictOptions(*pair, pair[0].parent / "maps" / "lulc.tif", **ALL_OPTIONS | changes)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "maps").mkdir()
    return make_pair(tmp_path, 264, 150, sar_pixel=14, holes=holes)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as raster:
        return raster.read()


def test_all_outputs_agree(pair: tuple[Path, Path]) -> None:
    report = predict(options(pair), PlaceEngine())
    folder = pair[0].parent / "maps"
    codes = read(folder / "lulc.tif")[0]
    shares = read(folder / "lulc_probabilities.tif")
    probability, entropy, margin = read(folder / "lulc_confidence.tif").astype(int)
    sensors, reason = read(folder / "lulc_quality.tif")
    mapped = codes > 0
    assert 0.5 < mapped.mean() < 1
    scheme = CARD.scheme
    # Classes of equal probability, to 1/250, are told apart by the map alone.
    number = np.searchsorted(scheme.codes, codes)
    chosen = np.take_along_axis(shares, np.minimum(number, 8)[None], 0)[0]
    assert (chosen == shares.max(0))[mapped].all()
    assert (shares[:, ~mapped] == 255).all()
    assert np.abs(shares[:, mapped].sum(0, dtype=int) - STEPS).max() <= len(shares) / 2
    assert (probability == chosen)[mapped].all()
    second = np.sort(shares, 0)[-2].astype(int)
    assert np.abs(probability - second - margin)[mapped].max() <= 1
    true = shares[:, mapped] / STEPS
    wanted = -(true * np.log(np.maximum(true, 1e-30))).sum(0) / np.log(9)
    assert np.abs(entropy[mapped] / STEPS - wanted).max() < 0.01  # as exactly as steps of 1/250 tell
    assert {layer for band in (probability, entropy, margin) for layer in band[~mapped]} == {255}
    assert ((sensors == 3) == mapped).all()
    assert [REASONS[value] for value in (reason[35, 75], reason[160, 50], reason[232, 5], reason[0, 0])] == [
        "no optical measurement", "no SAR measurement", "neither sensor's measurement", "mapped",
    ]  # fmt: skip
    meta, _, _, fields = pyogrio.raw.read(folder / "lulc_polygons.gpkg")
    columns = dict(zip(meta["fields"], fields, strict=True))
    for code, name in zip(scheme.codes, scheme.names, strict=True):
        one = columns["class_code"] == code
        assert columns["pixels"][one].sum() == (codes == code).sum()
        assert columns["area_ha"][one].sum() == pytest.approx(report.areas_hectares[name], rel=1e-6)
    table = json.loads((folder / "lulc_areas.json").read_text())
    assert report.areas_hectares["Trees"] == pytest.approx(
        next(line["hectares"] for line in table["classes"] if line["class_name"] == "Trees")
    )
    assert {file["path"] for made in report.files.values() for file in made} == {str(p) for p in folder.iterdir()}
    assert {file["name"]: file["sha256"] for made in report.files.values() for file in made} == hashes(folder)
    item = json.loads((folder / "lulc.stac.json").read_text())
    for asset in item["assets"].values():
        if not asset["href"].startswith("urn:"):
            assert (folder / asset["href"]).is_file()


def test_confidence_is_to_the_nearest_step() -> None:
    random = np.random.default_rng(0)
    probabilities = np.moveaxis(random.dirichlet(np.full(10, 0.4), (40, 50)), -1, 0).astype(np.float32)
    rows = Rows(0, probabilities, np.ones((40, 50), bool), CARD.scheme)
    shares = probabilities[1:] / probabilities[1:].sum(0, dtype=float)
    second, first = np.sort(shares, 0)[-2:]
    wanted = first, -(shares * np.log(np.maximum(shares, 1e-30))).sum(0) / np.log(9), first - second
    assert np.abs(rows.confidence / STEPS - wanted).max() < 0.51 / STEPS


class Mortal(PlaceEngine):
    """Ends the program, as a signal does, when it has made some batches, each of a tile."""

    batch = 1

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def predict(self, optical: np.ndarray, sar: np.ndarray) -> np.ndarray:
        if not self.left:
            raise SystemExit(143)
        self.left -= 1
        return super().predict(optical, sar)


@pytest.mark.parametrize(
    "changes",
    [pytest.param({}, marks=pytest.mark.long), {"smooth": 2, "threshold": 0.26, "missing": "use-other"}],
    ids=str,
)
def test_interrupted_runs_go_on_to_the_same_bytes_of_all(tmp_path: Path, changes: dict[str, Any]) -> None:
    pair = make_pair(tmp_path, 600, 60, sar_pixel=14, holes=holes)
    (tmp_path / "maps").mkdir()
    chosen = options(pair, overlap=32, **changes)
    folder = tmp_path / "maps"
    predict(chosen, PlaceEngine())
    wanted = hashes(folder)
    assert set(wanted) == {path.name for path in files_of(chosen)}
    for file in folder.iterdir():
        file.unlink()
    deaths, resumed = 0, set()
    while not chosen.output.exists():
        with suppress(SystemExit):
            resumed.add(predict(chosen, Mortal(5)).resumed_rows)
        deaths += 1
        assert deaths < 20
    assert deaths > 2
    assert max(resumed) > 0
    assert hashes(folder) == wanted


def test_where_other_outputs_are_wanted_a_run_begins_anew(pair: tuple[Path, Path]) -> None:
    """What was kept for the map alone is not enough for probabilities."""
    with pytest.raises(SystemExit):
        predict(options(pair, overlap=32, outputs=(), date=None), Mortal(4))
    report = predict(options(pair, overlap=32, outputs=("probabilities",), date=None), PlaceEngine())
    assert (report.resumed_rows, report.renewed) == (0, True)


@pytest.mark.parametrize("broken", few([Polygons, HtmlReport], Polygons))
def test_where_one_output_fails_none_appears(
    pair: tuple[Path, Path], broken: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(broken, "_complete", fail)
    with pytest.raises(StorageError, match="Free some space"):
        predict(options(pair), PlaceEngine())
    assert not list((pair[0].parent / "maps").iterdir())


@pytest.mark.parametrize("end", [OSError(1, "Operation not permitted"), SystemExit(143)], ids=["refused", "signal"])
def test_the_map_moves_into_place_last(
    pair: tuple[Path, Path], end: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new map next to a description of the old one would look right, and the next run would not know of it."""
    chosen = options(pair, outputs=("areas", "style"), date=None, overwrite=True)
    predict(chosen, PlaceEngine())
    wanted = hashes(chosen.output.parent)
    chosen.output.write_text("old")
    replace, moved = os.replace, []

    def move(source: Path, target: Path) -> None:
        if target.name == "lulc_areas.csv":
            raise end
        moved.append(target.name)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", move)
        with pytest.raises((OutputError, SystemExit)):
            predict(chosen, PlaceEngine())
    assert moved == ["lulc.tif.aux.xml", "lulc.sld", "lulc.qml", "lulc_areas.json"]
    assert chosen.output.read_text() == "old"
    report = predict(chosen, PlaceEngine())
    assert report.resumed_rows == (264 if isinstance(end, SystemExit) else 0)
    assert hashes(chosen.output.parent) == wanted


def test_outputs_lie_where_they_are_told_to(pair: tuple[Path, Path]) -> None:
    folder = pair[0].parent
    made = predict(
        options(pair, outputs=("confidence=" + str(folder / "sure.tif"), "stac=" + str(folder / "item.json"))),
        PlaceEngine(),
    )
    assert {kind: files[0]["path"] for kind, files in made.files.items()} == {
        "classes": str(folder / "maps" / "lulc.tif"),
        "confidence": str(folder / "sure.tif"),
        "stac": str(folder / "item.json"),
    }
    assets = json.loads((folder / "item.json").read_text())["assets"]
    assert {kind: asset["href"] for kind, asset in assets.items() if kind != "model"} == {
        "classes": "./maps/lulc.tif", "confidence": "./sure.tif",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": ("polygon",)}, "'polygon' is unknown; choose from classes, "),
        ({"outputs": ("areas=",)}, "'areas=' has no path"),
        ({"outputs": ("areas", "areas=a.csv")}, "'areas' is given twice"),
        ({"outputs": (), "min_area": 1.0, "date": None}, "--min-area needs the output 'polygons': add --output"),
        ({"outputs": (), "date": "2020-07-01"}, "--date needs the output 'stac'"),
        ({"outputs": ("stac",), "date": "July"}, "not a date"),
        ({"threshold": 1.0}, "must be a probability"),
        ({"smooth": 17}, "from 0 to 16 pixels"),
        ({"min_area": -1.0}, "must be 0 or more"),
    ],
)  # fmt: skip
def test_impossible_outputs_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        options((tmp_path / "a.tif", tmp_path / "b.tif"), **changes)


def test_companions_are_no_inputs_either(pair: tuple[Path, Path]) -> None:
    """The JSON next to the table of areas is written over, so it may be nothing that is read."""
    zones = pair[0].parent / "zones.json"
    ring = [[12, 45], [18, 45], [18, 50], [12, 50], [12, 45]]
    zones.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    table = pair[0].parent / "zones.csv"
    with pytest.raises(OptionsError, match="same file"):
        predict(options(pair, outputs=(f"areas={table}",), zones=zones, date=None), PlaceEngine())


def test_a_threshold_makes_unsure_pixels_no_data_and_says_why(pair: tuple[Path, Path]) -> None:
    folder = pair[0].parent / "maps"
    changes: dict[str, Any] = {"outputs": ("confidence", "quality"), "date": None}
    predict(options(pair, **changes), PlaceEngine())
    codes, probability = read(folder / "lulc.tif")[0], read(folder / "lulc_confidence.tif")[0]
    report = predict(options(pair, threshold=0.701, **changes), PlaceEngine())
    unsure = (codes > 0) & (probability < 0.701 * STEPS)
    assert 0.1 < unsure.mean() < 0.9
    told = probability != 175  # which stands for probabilities on both sides of the threshold
    found = read(folder / "lulc.tif")[0]
    assert np.array_equal(found[told], np.where(unsure, 0, codes)[told])
    reason = read(folder / "lulc_quality.tif")[1]
    assert ((reason == REASONS.index("low probability")) == (found == 0) & (codes > 0)).all()
    assert "threshold" in json.loads(rasterio.open(report.output).tags()["REFNET_OPTIONS"])


@pytest.mark.long
def test_classes_that_become_one_are_added_up(pair: tuple[Path, Path]) -> None:
    """In another scheme, a class's probability is that of all that became it."""
    folder = pair[0].parent / "maps"
    predict(options(pair, outputs=("probabilities",), date=None), PlaceEngine())
    before = read(folder / "lulc_probabilities.tif") / STEPS
    predict(options(pair, outputs=("probabilities",), date=None, scheme="dfc2020"), PlaceEngine())
    after, codes = read(folder / "lulc_probabilities.tif") / STEPS, read(folder / "lulc.tif")[0]
    names = SCHEMES["dfc2020"].names
    assert len(after) == len(names)
    mapped = codes > 0
    source = dict(zip(CARD.scheme.names, before, strict=True))
    for layer, name in ((after[names.index("Water")], "Water"), (after[names.index("Forests")], "Trees")):
        np.testing.assert_allclose(layer[mapped], source[name][mapped], atol=1 / STEPS)
    lost = (source["Snow/ice"] + source["Clouds"])[mapped]
    np.testing.assert_allclose(after[:, mapped].sum(0), 1 - lost, atol=(len(names) + 2) / 2 / STEPS)


@pytest.mark.long
def test_the_place_of_a_files_scheme_is_not_told(pair: tuple[Path, Path]) -> None:
    folder = pair[0].parent
    mapping = "\n".join(f'"{name}" = {80 if name == "Water" else 0}' for name in CARD.scheme.names)
    found = []
    for place in (folder / "one.toml", folder / "maps" / "two.toml"):
        place.write_text(f'scheme = "worldcover"\n[mapping]\n{mapping}\n')
        predict(options(pair, outputs=("report",), date=None, scheme=str(place)), PlaceEngine())
        found.append(hashes(folder / "maps"))
        with rasterio.open(folder / "maps" / "lulc.tif") as file:
            assert json.loads(file.tags()["REFNET_OPTIONS"])["scheme"] == "worldcover"
        assert str(folder).encode() not in (folder / "maps" / "lulc_report.html").read_bytes()
    assert found[0].items() <= found[1].items()


def test_quality_tells_clouds_and_damage(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    optical = random.integers(100, 900, (5, 560, 560)).astype(np.uint16)
    optical[4] = 0
    optical[4, 100:200, 50:90] = 1 << 10
    (tmp_path / "maps").mkdir()
    _, sar = make_pair(tmp_path, 560, 560)
    path = write(tmp_path / "s2.tif", optical, ("B02", "B03", "B04", "B08", "QA60"), nodata=None)
    with rasterio.open(sar) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_1_2", "TIFF", bidx=1))
    content = bytearray(sar.read_bytes())
    content[offset : offset + 64] = b"\xff" * 64
    sar.write_bytes(content)
    chosen = options((path, sar), mask_clouds=True, on_read_error="mask", outputs=("quality",), date=None)
    report = predict(chosen, PlaceEngine())
    assert report.counts["sar_unreadable"] >= 48 * 256
    sensors, reason = read(tmp_path / "maps" / "lulc_quality.tif")
    clear = np.s_[520:555, 270:500]  # beyond what is resampled into neighbours
    assert (reason[100:200, 50:90] == REASONS.index("cloud")).all()
    assert (sensors[100:200, 50:90] == 2).all()
    assert (reason[clear] == REASONS.index("damaged file")).all()
    assert (sensors[clear] == 1).all()
    assert (reason[:512] == REASONS.index("cloud")).sum() == 100 * 40
    assert (reason == 0).mean() > 0.9


@pytest.mark.long
def test_an_interrupted_run_does_not_forget_what_could_not_be_read(tmp_path: Path) -> None:
    """Once the damaged part was done, a map of any share of damage would have appeared without a warning."""
    (tmp_path / "maps").mkdir()
    pair = make_pair(tmp_path, 1300, 300, sar_pixel=10)
    with rasterio.open(pair[0]) as file:
        places = [int(file.get_tag_item(f"BLOCK_OFFSET_{column}_1", "TIFF", bidx=1)) for column in (0, 1)]
    content = bytearray(pair[0].read_bytes())
    for place in places:
        content[place : place + 64] = b"\xff" * 64
    pair[0].write_bytes(content)
    chosen = options(pair, on_read_error="mask", outputs=(), date=None, overlap=32)

    def go_on_to_the_end() -> None:
        while not chosen.output.exists():
            with suppress(SystemExit):
                predict(chosen, Mortal(9))

    with pytest.raises(InputError, match=r"^20% of .* is unreadable \(limit 5%\)"):
        go_on_to_the_end()
    assert not list(chosen.output.parent.iterdir())


def test_the_command_line_makes_and_prints_outputs(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closing(PlaceEngine):
        def close(self) -> None:
            self.calls = -1

    engine = Closing()
    monkeypatch.setattr("refnet_cli.prediction.predict.load", lambda options, weights: engine)
    monkeypatch.setattr("refnet_cli.prediction.job.verify", lambda weights: engine.card)
    call = ["predict", "--optical", str(pair[0]), "--sar", str(pair[1]), "-q"]
    folder = pair[0].parent / "maps"
    assert run([*call, "-o", str(folder / "lulc.tif"), "-o", "preview", "-o", f"areas={folder / 'a.csv'}", "-0"]) == 0
    assert engine.calls == -1
    made = [str(folder / name) for name in ("lulc.tif", "lulc_preview.png", "a.csv", "a.json")]
    assert capsys.readouterr().out.split("\0") == [*made, ""]
    assert run([*call, "-o", "-"]) == 2
    assert "cannot go to stdout" in capsys.readouterr().err
    assert run([*call, "-o", "a.tif", "-o", "b.tif"]) == 2
    assert "two class maps" in capsys.readouterr().err
