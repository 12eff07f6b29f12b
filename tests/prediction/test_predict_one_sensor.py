"""Maps from one sensor: what they are, which weights may make them, and what says that a sensor was absent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from refnet_cli.batch import run as batch
from refnet_cli.batch.plan import plan
from refnet_cli.batch.scene_list import read_scenes
from refnet_cli.batch.task import Task
from refnet_cli.batch.task_list import read_tasks
from refnet_cli.batch.templates import Templates
from refnet_cli.cli.main import run
from refnet_cli.engines import load as engine
from refnet_cli.engines.load import load_engine
from refnet_cli.engines.options import EngineOptions
from refnet_cli.errors import ConfigError, InputError, OptionsError, WeightsError
from refnet_cli.evaluation.evaluate import evaluate
from refnet_cli.model.card import Card
from refnet_cli.model.one_sensor import check_sensors
from refnet_cli.model.weight_files import default_weights
from refnet_cli.prediction.memory import Demand
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.sensors.quality import QUALITY
from refnet_cli.sensors.sensor import Modality
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.validation import evaluate_weights
from tests.helpers import multi_device_engines
from tests.helpers.batches import digests, here, make_scene, rewrite
from tests.helpers.messages import messages
from tests.helpers.scenes import CARD, PLACE, PlaceEngine, grid_of, make_labelled_scene, make_pair, write
from tests.helpers.small_models import write_model

EITHER = replace(CARD, tile=128, training={"modality_dropout": 0.2})
ALONE: tuple[Modality, ...] = ("optical", "sar")
SAID = {
    "optical": "none given; the map is from Sentinel-1 alone",
    "sar": "none given; the map is from Sentinel-2 alone",
}


class LinearEngine(PlaceEngine):
    """A network of which all is known: each pixel's logits are a linear map of its standardised bands, 0 where NaN."""

    def __init__(self, card: Card = EITHER) -> None:
        super().__init__(card)
        self.kernel = np.random.default_rng(2).normal(size=(4, 6)).astype(np.float32)

    def predict(self, optical: np.ndarray, sar: np.ndarray) -> np.ndarray:
        self.calls += len(optical)
        bands = [standardised(optical, 1, self.card.optical), standardised(sar, 1, self.card.sar)]
        logits = np.einsum("kb,nbhw->nkhw", self.kernel, np.nan_to_num(np.concatenate(bands, 1)))
        shares = np.zeros((len(optical), self.card.network.classes, *optical.shape[2:]), np.float32)
        shares[:, 1:5] = np.exp(logits)
        return np.asarray(shares / shares.sum(1, keepdims=True), np.float32)


def standardised(image: np.ndarray, axis: int, modality: Any) -> np.ndarray:
    shape = [-1 if number == axis else 1 for number in range(image.ndim)]
    return np.asarray((image - np.reshape(modality.mean, shape)) / np.reshape(modality.std, shape), np.float32)


def read(path: Path, band: int = 1) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(band)


def tags(path: Path) -> dict[str, str]:
    with rasterio.open(path) as file:
        return file.tags()


def only(sensor: Modality, pair: tuple[Path, Path], output: Path, **more: Any) -> PredictOptions:
    """Options for a map from one of a pair's sensors."""
    return PredictOptions(**{sensor: pair[ALONE.index(sensor)]}, output=output, **more)


def punch(optical: np.ndarray, sar: np.ndarray) -> None:
    optical[:, 20:50, 10:90] = 0
    sar[:, 100:140, 30:170] = np.nan


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return make_pair(tmp_path, 200, 210, holes=punch)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ONNX model that either sensor suffices for."""
    return write_model(tmp_path_factory.mktemp("weights") / "either.onnx", card=EITHER)


@pytest.fixture(scope="module")
def strict_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ONNX model that needs both sensors."""
    return write_model(tmp_path_factory.mktemp("weights") / "both.onnx", card=replace(CARD, tile=128))


@pytest.mark.parametrize(
    ("training", "alone"),
    [
        ({}, ()),
        ({"modality_dropout": 0.0}, ()),
        ({"modality_dropout": 0.2}, ("optical", "sar")),
        ({"sensors_alone": []}, ()),
        ({"sensors_alone": ["sar", "optical"]}, ("optical", "sar")),
        ({"sensors_alone": ["sar"], "modality_dropout": 0.2}, ("sar",)),
        ({"without": "sar"}, ("optical",)),
        ({"without": "optical", "sensors_alone": ["optical"]}, ("sar",)),
        ({"without": None, "sensors_alone": ["optical"]}, ("optical",)),
    ],
    ids=str,
)
def test_a_card_says_which_sensors_suffice(training: dict[str, Any], alone: tuple[str, ...]) -> None:
    card = replace(CARD, training=training)
    assert card.sensors_alone == alone
    check_sensors(card, None)
    pairs: list[tuple[Modality, Modality]] = [("optical", "sar"), ("sar", "optical")]
    for present, absent in pairs:
        if present in alone:
            check_sensors(card, absent)
        else:
            with pytest.raises(WeightsError, match=f"Give --{absent} too"):
                check_sensors(card, absent)


@pytest.mark.parametrize("listed", ["sar", ["radar"], [["sar"]], {"sar": 1}, 1], ids=str)
def test_a_list_in_a_card_that_is_none(listed: object) -> None:
    with pytest.raises(WeightsError, match="sensors_alone"):
        assert replace(CARD, training={"sensors_alone": listed}).sensors_alone


def test_the_info_of_weights_lists_the_sensors_that_suffice(model: Path, strict_model: Path, capfd: Any) -> None:
    for weights, alone in ((model, ["optical", "sar"]), (strict_model, [])):
        done = here(capfd, "weights", "info", weights, "--json")
        assert (done.code, json.loads(done.out)["sensors_alone"]) == (0, alone)


@pytest.mark.parametrize("sensor", ALONE)
def test_the_map_is_the_answer_to_the_mean_of_the_absent_sensor(
    sensor: Modality, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """Computed here from the files' numbers alone."""
    own = {"optical_offset": 0, "optical_scale": "dn"} if sensor == "optical" else {"sar_scale": "power"}
    report = predict(only(sensor, pair, tmp_path / "map.tif", **own), LinearEngine())
    with rasterio.open(pair[ALONE.index(sensor)]) as file:
        stored = file.read().astype(np.float64)
        assert grid_of(Path(report.output)) == grid_of(Path(file.name))
    kernel = LinearEngine().kernel
    if sensor == "optical":
        valid = (stored > 0).all(0)
        logits = np.tensordot(kernel[:, :4], standardised(stored, 0, CARD.optical), 1)
    else:
        valid = np.isfinite(stored).all(0)
        logits = np.tensordot(kernel[:, 4:], standardised(10 * np.log10(stored), 0, CARD.sar), 1)
    ordered = np.sort(logits, 0)
    sure = valid & (ordered[-1] - ordered[-2] > 1e-3)
    found = read(Path(report.output))
    wanted = np.array(CARD.scheme.codes)[logits.argmax(0)]
    assert sure.mean() > 0.8
    assert np.array_equal(found[sure], wanted[sure])
    assert len(np.unique(found[sure])) > 1
    assert np.array_equal(found > 0, valid)


@pytest.mark.parametrize("sensor", ALONE)
def test_it_is_the_map_of_a_pair_whose_other_file_holds_nothing(
    sensor: Modality, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    outputs = ("probabilities", "confidence", "quality")
    absent = ALONE[1 - ALONE.index(sensor)]
    shape = (4, 200, 210) if absent == "optical" else (2, 200, 210)
    names = CARD.optical.bands if absent == "optical" else CARD.sar.bands
    kind = np.uint16 if absent == "optical" else np.float32
    empty = write(tmp_path / "empty.tif", np.zeros(shape, kind), names)
    both = {sensor: pair[ALONE.index(sensor)], absent: empty}
    alone, other = tmp_path / "alone", tmp_path / "pair"
    predict(only(sensor, pair, alone / "map.tif", outputs=outputs), LinearEngine())
    predict(PredictOptions(**both, output=other / "map.tif", outputs=outputs, missing="use-other"), LinearEngine())
    for name in ("map", "map_probabilities", "map_confidence", "map_quality"):
        assert np.array_equal(read(alone / f"{name}.tif"), read(other / f"{name}.tif")), name


def test_missing_use_other_changes_no_class_of_one_sensor(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for missing in ("nodata", "use-other"):
        predict(only("sar", pair, tmp_path / f"{missing}.tif", missing=missing), LinearEngine())
    assert np.array_equal(read(tmp_path / "nodata.tif"), read(tmp_path / "use-other.tif"))
    mapped = read(tmp_path / "nodata.tif") > 0
    assert np.array_equal(read(tmp_path / "use-other.tif", 2), np.where(mapped, QUALITY.index("SAR only"), 0))


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_engines_take_nothing_of_a_sensor_for_its_mean(kind: str) -> None:
    """Those of the default weights, in torch and in ONNX Runtime; of any number of tiles."""
    loaded = load_engine(default_weights().with_suffix(f".{kind}"), EngineOptions(device="cpu"))
    card, random = loaded.card, np.random.default_rng(1)
    optical, sar = (
        (np.reshape(m.mean, (1, -1, 1, 1)) + random.normal(0, 1, (1, len(m.bands), 64, 64))
         * np.reshape(m.std, (1, -1, 1, 1))).astype(np.float32)
        for m in (card.optical, card.sar)
    )  # fmt: skip
    assert card.sensors_alone == ALONE
    answers = []
    for given in ((optical, None), (None, sar)):
        means = [
            image if image is not None else np.broadcast_to(np.float32(m.mean)[None, :, None, None], other.shape).copy()
            for image, other, m in zip(given, (optical, sar), (card.optical, card.sar), strict=True)
        ]
        nothing = [
            np.full_like(other, np.nan) if image is None else image
            for image, other in zip(given, (optical, sar), strict=True)
        ]
        answers.append(loaded.predict(*nothing))
        np.testing.assert_allclose(answers[-1], loaded.predict(*means), atol=2e-5)
    assert np.abs(answers[0] - answers[1]).max() > 0.05


def test_weights_that_need_both_sensors_are_refused(
    pair: tuple[Path, Path], strict_model: Path, tmp_path: Path, capfd: Any
) -> None:
    before = sorted(tmp_path.iterdir())
    for sensor, lacking, satellite in (("optical", "SAR", "Sentinel-1"), ("sar", "optical", "Sentinel-2")):
        path = pair[ALONE.index(sensor)]
        done = here(capfd, "predict", f"--{sensor}", path, "-o", tmp_path / "map.tif", "--weights", strict_model)
        assert (done.code, done.out) == (78, "")
        for text in (f"No {lacking} files are given", satellite, "free", "refnet weights info", "modality_dropout"):
            assert text in done.err
        with pytest.raises(WeightsError, match=f"without {satellite}"):
            predict(only(sensor, pair, tmp_path / "map.tif"), PlaceEngine())
    assert sorted(tmp_path.iterdir()) == before
    blind = LinearEngine(replace(CARD, training={"without": "sar"}))
    predict(only("optical", pair, tmp_path / "map.tif"), blind)
    with pytest.raises(WeightsError, match="without Sentinel-2"):
        predict(only("sar", pair, tmp_path / "other.tif"), blind)


def test_without_any_files(tmp_path: Path, capfd: Any) -> None:
    for words in ([], ["--config", tmp_path / "c.toml"]):
        (tmp_path / "c.toml").write_text(f'output = "{tmp_path / "map.tif"}"\n')
        done = here(capfd, "predict", *words, *(["-o", tmp_path / "map.tif"] if not words else []))
        assert done.code == 2
        assert "Nothing to map: give --optical, --sar or both" in done.err
    with pytest.raises(OptionsError, match="neither optical nor SAR"):
        PredictOptions(output=tmp_path / "map.tif")
    with pytest.raises(OptionsError, match="There is no output file"):
        PredictOptions("s2.tif")


def test_a_config_may_name_one_sensor(pair: tuple[Path, Path], model: Path, tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "c.toml").write_text(f'optical = "s2.tif"\noutput = "map.tif"\nweights = "{model}"\n')
    done = here(capfd, "predict", "--config", tmp_path / "c.toml")
    assert done.code == 0, done.err
    assert f"Sentinel-1  {SAID['sar']}" in done.err.splitlines()
    assert tags(tmp_path / "map.tif")["REFNET_SAR"] == SAID["sar"]


@pytest.mark.parametrize("sensor", ALONE)
def test_everything_says_that_a_sensor_was_absent(
    sensor: Modality, pair: tuple[Path, Path], model: Path, tmp_path: Path, capfd: Any
) -> None:
    absent = ALONE[1 - ALONE.index(sensor)]
    path, output = pair[ALONE.index(sensor)], tmp_path / "maps" / "lulc.tif"
    words = [f"--{sensor}", path, "-o", output, "--weights", model, "--date", "2020-07-01", "--json"]
    done = here(capfd, "predict", *words, *(word for kind in ("report", "stac", "quality") for word in ("-o", kind)))
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["sensors"] == [sensor]
    assert report["options"][absent] is None
    assert f"{'Sentinel-1' if absent == 'sar' else 'Sentinel-2'}  {SAID[absent]}" in done.err.splitlines()
    assert set(report["drift"]) == set(CARD.optical.bands if sensor == "optical" else CARD.sar.bands)
    found = tags(output)
    assert (found[f"REFNET_{absent.upper()}"], found[f"REFNET_{sensor.upper()}"]) == (SAID[absent], path.name)
    satellites = ("Sentinel-2", "Sentinel-1") if sensor == "optical" else ("Sentinel-1", "Sentinel-2")
    item = json.loads((tmp_path / "maps" / "lulc.stac.json").read_text())
    lineage = item["properties"]["processing:lineage"]
    assert f"from {satellites[0]} {path.name}." in lineage
    assert satellites[1] not in lineage
    page = (tmp_path / "maps" / "lulc_report.html").read_text()
    assert f"Land cover from {satellites[0]}</p>" in page
    assert SAID[absent] in page
    assert (f'id="picture-{sensor}"' in page, f'id="picture-{absent}"' in page) == (True, False)
    seen = read(tmp_path / "maps" / "lulc_quality.tif")
    assert set(np.unique(seen)) == {0, QUALITY.index("optical only" if sensor == "optical" else "SAR only")}
    assert np.array_equal(seen > 0, read(output) > 0)
    assert not [warning for warning in report["warnings"] if "sensor" in warning or "no data" in warning]


def test_the_dates_are_those_of_the_sensor_that_is_there(tmp_path: Path) -> None:
    optical, sar = make_pair(tmp_path, 64, 64)
    named = sar.rename(tmp_path / "S1A_IW_20200703T050912_DVP_RTC30_G_gpuned_1234_VV.tif")
    options = PredictOptions(sar=named, output=tmp_path / "map.tif", outputs=("stac",), sar_scale="power")
    predict(options, LinearEngine())
    assert json.loads((tmp_path / "map.stac.json").read_text())["properties"]["datetime"] == "2020-07-03T05:09:12Z"
    with pytest.raises(OptionsError, match="needs a date"):
        predict(PredictOptions(optical, output=tmp_path / "other.tif", outputs=("stac",)), LinearEngine())


def test_a_sensor_that_saw_nothing_is_refused(tmp_path: Path) -> None:
    empty = write(tmp_path / "s2.tif", np.zeros((4, 64, 64), np.uint16), CARD.optical.bands)
    with pytest.raises(InputError, match="no valid pixel"):
        predict(PredictOptions(empty, output=tmp_path / "map.tif"), LinearEngine())


class Stopped(LinearEngine):
    """Ends the program, as a signal does, after some tiles."""

    def predict(self, optical: np.ndarray, sar: np.ndarray) -> np.ndarray:
        if self.calls > 5:
            raise SystemExit(143)
        return super().predict(optical, sar)


def test_runs_with_one_sensor_and_with_both_are_different_runs(tmp_path: Path) -> None:
    """What was interrupted is gone on with by the same sensors only; the result is that of an undisturbed run."""
    pair = make_pair(tmp_path, 600, 150)
    chosen = only("optical", pair, tmp_path / "map.tif", coreg="off")
    both = replace(chosen, sar=pair[1])
    predict(replace(chosen, output=tmp_path / "whole.tif"), LinearEngine())
    for again, resumed in ((chosen, True), (both, False)):
        with pytest.raises(SystemExit):
            predict(chosen, Stopped())
        report = predict(again, LinearEngine())
        assert (report.resumed_rows > 0, report.renewed) == (resumed, not resumed)
        if resumed:
            assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_several_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes of their own, to which the absent sensor travels as NaN."""
    monkeypatch.setitem(engine.ENGINES, "torch", multi_device_engines.load_as_torch)
    optical, _ = make_pair(tmp_path, 300, 64)
    report = predict(PredictOptions(optical, output=tmp_path / "map.tif", device="cpu,cpu", overlap=0))
    assert report.engine["device"] == "cpu, cpu"
    assert report.valid_share == 1


def test_the_estimate_of_memory_covers_one_sensor(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: Any) -> None:
    demands: list[Demand] = []

    def fit_to_memory(demand: Demand, batch: int, threads: int, most: int | None) -> tuple[int, int]:
        demands.append(demand)
        return batch, threads

    monkeypatch.setattr("refnet_cli.prediction.job.fit_to_memory", fit_to_memory)
    predict(only("sar", pair, tmp_path / "map.tif"), LinearEngine())
    assert {demand.bands for demand in demands} == {6}  # the network takes arrays of both


TABLE = "optical,sar,output\n{0}/s2.tif,{0}/s1.tif,m/0.tif\n{1}/s2.tif,,m/1.tif\n,{2}/s1.tif,m/2.tif\n"


@pytest.fixture
def scenes(tmp_path: Path) -> list[tuple[Path, Path]]:
    return [make_scene(tmp_path / str(number), 64, 80, number) for number in range(3)]


def planned(text: str, folder: Path, weights: Path, **more: Any) -> list[Task]:
    templates = Templates(**{name: more.pop(name) for name in ("optical", "sar", "output") if name in more})
    return list(plan(read_scenes(text, folder), templates, {"weights": weights} | more, folder))


def sensors(tasks: Sequence[Task]) -> list[tuple[str, ...]]:
    return [task.options.sensors for task in tasks]


def test_a_batch_of_pairs_and_single_sensors(
    scenes: list[tuple[Path, Path]], model: Path, tmp_path: Path, capfd: Any
) -> None:
    (tmp_path / "s.csv").write_text(TABLE.format(0, 1, 2))
    words = ["--weights", model, "--coreg", "off", "-o", tmp_path / "t.jsonl"]
    done = here(capfd, "batch", "plan", tmp_path / "s.csv", *words)
    assert done.code == 0, done.err
    assert "1 of 3 scenes without SAR files, mapped from Sentinel-2 alone" in done.err
    assert "1 of 3 scenes without optical files, mapped from Sentinel-1 alone" in done.err
    tasks = read_tasks(tmp_path / "t.jsonl")
    assert sensors(tasks) == [("optical", "sar"), ("optical",), ("sar",)]
    assert [Task.from_line(task.to_line(), tmp_path / "x") for task in tasks] == tasks
    assert len({task.id for task in tasks}) == 3
    ran = here(capfd, "batch", "run", tmp_path / "t.jsonl")
    assert (ran.code, ran.statuses) == (0, {"done": 3}), ran.err
    assert here(capfd, "batch", "run", tmp_path / "t.jsonl").statuses == {"skipped": 3}
    files: list[tuple[Path | None, Path | None]] = [scenes[0], (scenes[1][0], None), (None, scenes[2][1])]
    for number, (optical, sar) in enumerate(files):
        predict(PredictOptions(optical, sar, tmp_path / "one" / f"{number}.tif", weights=model, coreg="off"))
    assert digests(tmp_path / "one") == digests(tmp_path / "m")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optical,output\na/s2.tif,m.tif\n", ("optical",)),
        ("sar,output\na/s1.tif,m.tif\n", ("sar",)),
        ("# sar;output\na/s1.tif;m.tif\n", ("sar",)),
        ("optical,sar,output\na/s2.tif,,m.tif\n", ("optical",)),
        ("output;SAR;Optical\nm.tif;a/s1.tif;\n", ("sar",)),
    ],
)
def test_tables_of_one_sensor(text: str, expected: tuple[str, ...], tmp_path: Path, model: Path) -> None:
    (task,) = planned(text, tmp_path, model)
    assert task.options.sensors == expected
    assert task.options.output == tmp_path / "m.tif"


def test_templates_of_one_sensor(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields of a file are those of the optical one, or without it of SAR's."""
    monkeypatch.chdir(tmp_path)
    (task,) = planned("a/s2.tif\n", tmp_path, model, sar="none", output="{parent}/{stem}_map.tif")
    assert (task.options.sensors, task.options.output) == (("optical",), tmp_path / "a/s2_map.tif")
    (task,) = planned("sar\na/s1.tif\n", tmp_path, model, optical="none", output="{parent}/{stem}_map.tif")
    assert (task.options.sensors, task.options.output) == (("sar",), tmp_path / "a/s1_map.tif")
    text = "optical,sar,output\n,a/s1.tif,m.tif\n"
    with pytest.raises(OptionsError, match=r"\{stem\}"):
        planned(text, tmp_path, model, optical="{stem}.tif")


@pytest.mark.parametrize(
    ("text", "more", "error", "message"),
    [
        ("a/s2.tif\n", {"output": "{stem}.tif"}, OptionsError, "The scenes have no sar.* --sar none"),
        ("optical,s1,output\na.tif,b.tif,m.tif\n", {}, OptionsError, "The scenes have no sar"),
        ("sar,s2,output\na.tif,b.tif,m.tif\n", {}, OptionsError, "The scenes have no optical"),
        ("optical,sar,output\n,,m.tif\n", {}, OptionsError, "output m.tif has neither optical nor SAR"),
        ("optical,sar,output\na.tif,,m.tif\n", {"coreg": "auto"}, OptionsError, "m.tif cannot be planned .*--coreg"),
        ("optical,sar,output\n,b.tif,m.tif\n", {"mask_clouds": True}, OptionsError, "mask-clouds needs optical files"),
        ("name\n", {}, OptionsError, "The scenes have no sar"),
    ],
)
def test_lists_that_do_not_say_that_a_sensor_is_absent(
    text: str, more: dict[str, Any], error: type[Exception], message: str, tmp_path: Path, model: Path
) -> None:
    with pytest.raises(error, match=message):
        planned(text, tmp_path, model, **more)


def test_a_batch_of_one_sensor_needs_weights_that_can(tmp_path: Path, strict_model: Path) -> None:
    with pytest.raises(WeightsError, match=r"The scene for .*m/1\.tif has no SAR files, .*Add its SAR files"):
        planned(TABLE.format("a", "b", "c"), tmp_path, strict_model)


def test_stac_items_of_either_sensor(tmp_path: Path, model: Path) -> None:
    """An item of one sensor lacks all assets of the other's template; one that lacks some of them is refused."""

    def items(*assets: tuple[str, ...]) -> str:
        features = [
            {"id": f"i{number}", "properties": {"datetime": "2020-07-01T00:00:00Z"},
             "assets": {name: {"href": f"./{number}/{name}.tif"} for name in names}}
            for number, names in enumerate(assets)
        ]  # fmt: skip
        return json.dumps({"type": "FeatureCollection", "features": features})

    given = {"optical": "{B02},{B03}", "sar": "{vv},{vh}", "output": str(tmp_path / "{id}.tif")}
    both, optical, sar = ("B02", "B03", "vv", "vh"), ("B02", "B03"), ("vv", "vh")
    with messages() as said:
        found = planned(items(both, optical, sar), tmp_path, model, **given)
    assert sensors(found) == [("optical", "sar"), ("optical",), ("sar",)]
    assert len([line for line in said if "does not exist" not in line]) == 2
    assert sensors(planned(items(optical, sar), tmp_path, model, **given)) == [("optical",), ("sar",)]
    assert sensors(planned(items(sar), tmp_path, model, **given | {"optical": "none"})) == [("sar",)]
    for wrong in ((both, ("B02", "vv", "vh")), (both, (*optical, "vh")), (optical,), (sar, sar)):
        with pytest.raises(OptionsError, match="The fields of a scene are"):
            planned(items(*wrong), tmp_path, model, **given)


@pytest.mark.parametrize(
    "line",
    [{"output": "c"}, {"optical": None, "sar": None, "output": "c"}, {"sar": ["b"]}, {"optical": [], "output": "c"}],
    ids=str,
)
def test_tasks_without_files_or_map(line: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ConfigError):
        read_tasks(tmp_path / "t.jsonl")


@pytest.mark.parametrize("sensor", ALONE)
def test_blocks_of_one_sensor_are_put_together(
    sensor: Modality, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """To the bytes of a single run, also where the blocks are planned with a grid that is not optical's."""
    monkeypatch.setattr(batch, "load", lambda options, weights: ClosedEngine())
    pair = make_scene(tmp_path / "a", 520, 180, holes=punch)
    row = {sensor: str(pair[ALONE.index(sensor)]), "output": str(tmp_path / "out" / "map.tif")}
    tasks = list(plan([row], Templates(outputs=("quality", "report")), {"weights": model}, tmp_path, 512))
    assert len(tasks) == 2
    rewrite(tmp_path / "t.jsonl", tasks)
    assert here(capfd, "batch", "run", tmp_path / "t.jsonl").statuses == {"done": 2}
    merged = here(capfd, "batch", "merge", tmp_path / "t.jsonl")
    assert merged.statuses == {"done": 1}, merged.out
    whole = replace(tasks[0].options, output=tmp_path / "whole" / "map.tif", weights=None)
    predict(whole, ClosedEngine())
    assert digests(tmp_path / "whole") == digests(tmp_path / "out")


class ClosedEngine(LinearEngine):
    """One that a batch can close."""

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights that either sensor suffices for."""
    import torch

    from refnet_cli.model.refnet import REFNet
    from refnet_cli.model.weights import save_weights

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_weights(REFNet(CARD.network), EITHER, path)
    return path


@pytest.mark.parametrize("sensor", ALONE)
def test_weights_are_scored_on_a_scene_of_one_sensor_as_its_map_is(
    sensor: Modality, network: Path, strict_model: Path, tmp_path: Path
) -> None:
    scene = replace(make_labelled_scene(tmp_path / "north"), **{ALONE[1 - ALONE.index(sensor)]: None})
    config = TrainConfig(scenes=(scene,), scheme="esri-io", split="none", crop=64)
    scores, by_scene = evaluate_weights(network, config, "cpu")
    predict(PredictOptions(scene.optical, scene.sar, tmp_path / "map.tif", network, device="cpu"))
    mapped = evaluate(tmp_path / "map.tif", scene.labels)
    assert by_scene["north"] == pytest.approx(mapped.overall_accuracy)
    assert scores.pixels == mapped.pixels


def test_scoring_on_one_sensor_needs_weights_that_can(network: Path, tmp_path: Path) -> None:
    from refnet_cli.model.weights import load_weights, save_weights

    net, card = load_weights(network)
    save_weights(net, replace(card, training={}), tmp_path / "both.safetensors")
    scenes = [make_labelled_scene(tmp_path / name, seed=seed) for seed, name in enumerate(("north", "south"))]
    config = TrainConfig(
        scenes=(scenes[0], replace(scenes[1], sar=None)), scheme="esri-io", split="region", fold="south", crop=64
    )
    with pytest.raises(WeightsError, match="Scene south has no SAR files,"):
        evaluate_weights(tmp_path / "both.safetensors", config, "cpu")


def test_sar_on_the_grid_of_another_file(tmp_path: Path, model: Path) -> None:
    """SAR in longitude and latitude has no grid of its own for a map."""
    _, sar = make_pair(tmp_path, 64, 64)
    with rasterio.open(sar) as file:
        values = file.read()
    degrees = rasterio.Affine(1e-4, 0, 14.999, 0, -1e-4, 47.856)
    turned = write(tmp_path / "degrees.tif", values, CARD.sar.bands, degrees, "EPSG:4326", None)
    grid = write(tmp_path / "grid.tif", np.zeros((1, 40, 50), np.uint8), ("grid",), PLACE)
    output = tmp_path / "map.tif"
    words = ["predict", "--sar", str(turned), "-o", str(output), "--weights", str(model)]
    assert run(words) == 64
    assert run([*words, "--grid", str(grid)]) == 0
    assert grid_of(output) == grid_of(grid)
