"""Mistakes that look like a scene of one sensor: empty paths, lists of the other sensor, weights that need both."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refnet_cli.batch.plan import plan
from refnet_cli.batch.scene_list import read_scenes
from refnet_cli.batch.task import Task
from refnet_cli.batch.task_list import read_tasks
from refnet_cli.batch.templates import Templates
from refnet_cli.cli.main import run
from refnet_cli.errors import ConfigError, OptionsError
from refnet_cli.model.card import Card
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.training.regions_file import read_regions
from tests.helpers.batches import here
from tests.helpers.scenes import CARD, PlaceEngine, make_pair
from tests.helpers.small_models import write_model

EITHER = replace(CARD, training={"modality_dropout": 0.2})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ONNX model that either sensor suffices for."""
    return write_model(tmp_path_factory.mktemp("weights") / "either.onnx", card=replace(EITHER, tile=128))


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Files of both sensors, in the working directory, which an empty path would name."""
    monkeypatch.chdir(tmp_path)
    return make_pair(tmp_path, 64, 80)


def planned(text: str, folder: Path, weights: Path, **templates: str) -> list[Task]:
    return list(plan(read_scenes(text, folder), Templates(**templates), {"weights": weights}, folder))


@pytest.mark.parametrize("empty", ['""', '["s2.tif", ""]'])
def test_empty_paths_in_a_config(pair: tuple[Path, Path], tmp_path: Path, capfd: Any, empty: str) -> None:
    (tmp_path / "c.toml").write_text(f'optical = {empty}\nsar = "{pair[1].name}"\noutput = "m.tif"\n')
    assert run(["predict", "--config", str(tmp_path / "c.toml")]) == 78
    assert "has an empty path" in capfd.readouterr().err
    assert not (tmp_path / "m.tif").exists()


def test_empty_paths_of_a_training(tmp_path: Path) -> None:
    scene = '[[scenes]]\noptical = "s2.tif"\nsar = ""\nlabels = "l.tif"\n'
    (tmp_path / "r.toml").write_text(f'name = "x"\nclasses = "worldcover"\n{scene}')
    with pytest.raises(ConfigError, match="sar has an empty path"):
        read_regions(tmp_path / "r.toml")


@pytest.mark.parametrize("empty", ["", [], [""]], ids=str)
def test_empty_paths_in_a_task(tmp_path: Path, empty: Any) -> None:
    line = {"optical": ["/a/s2.tif"], "output": "/a/m.tif"}
    for sensor, entry, right in (("sar", None, True), ("sar", empty, False), ("optical", empty, False)):
        (tmp_path / "t.jsonl").write_text(json.dumps({"sar": None} | line | {sensor: entry}))
        if right:
            assert read_tasks(tmp_path / "t.jsonl")[0].options.sensors == ("optical",)
        else:
            with pytest.raises(ConfigError, match="empty"):
                read_tasks(tmp_path / "t.jsonl")


@pytest.mark.parametrize(
    ("table", "templates"),
    [
        ("optical,s1,output\ns2.tif,,m.tif\n", {"sar": "{s1}"}),
        ("optical,vv,vh,output\ns2.tif,,,m.tif\n", {"sar": "{vv},{vh}"}),
        ("optical,vv,vh,output\ns2.tif,a.tif,,m.tif\n", {"sar": "{vv},{vh}"}),
        ("s2,sar,output\n,s1.tif,m.tif\n", {"optical": "{s2}"}),
        ("optical,output\ns2.tif,m.tif\n", {"sar": ""}),
        ("optical,sar,place\ns2.tif,s1.tif,\n", {"output": "{place}"}),
    ],
)
def test_empty_paths_of_templates(
    pair: tuple[Path, Path], tmp_path: Path, model: Path, table: str, templates: dict[str, str]
) -> None:
    """They name no folder, least of all the working directory, which holds files of both sensors."""
    with pytest.raises(OptionsError, match="empty path"):
        planned(table, tmp_path, model, **templates)


def test_a_list_of_paths_without_optical_files_is_of_sar(
    pair: tuple[Path, Path], tmp_path: Path, model: Path, capfd: Any
) -> None:
    for text, more in (("s1.tif\n", []), ("s1.tif\0", ["-0"])):  # the second list of tasks replaces the first
        (tmp_path / "paths").write_text(text)
        words = ["--optical", "none", "--map", "{stem}_map.tif", "--weights", model, "-o", tmp_path / "t.jsonl", *more]
        done = here(capfd, "batch", "plan", tmp_path / "paths", *words)
        assert done.code == 0, done.err
        (task,) = read_tasks(tmp_path / "t.jsonl")
        assert (task.options.optical, task.options.sar) == (None, (tmp_path / "s1.tif",))
        assert task.options.output == tmp_path / "s1_map.tif"


@pytest.mark.parametrize("sensor", ["optical", "sar"])
def test_no_scene_has_files_of_a_sensor_but_one_has(tmp_path: Path, model: Path, sensor: str) -> None:
    with pytest.raises(OptionsError, match=f"--{sensor} none says that no scene has"):
        planned("optical,sar,output\na.tif,b.tif,m.tif\n", tmp_path, model, **{sensor: "none"})
    row = "a.tif,," if sensor == "sar" else ",b.tif,"
    assert len(planned(f"optical,sar,output\n{row}m.tif\n", tmp_path, model, **{sensor: "none"})) == 1


@pytest.mark.parametrize(
    ("training", "needed"),
    [
        ({}, "Sentinel-2 or Sentinel-1"),
        ({"sensors_alone": ["optical"]}, "Sentinel-2"),
        ({"sensors_alone": ["sar"]}, "Sentinel-1"),
        ({"sensors_alone": ["optical", "sar"]}, None),
        ({"modality_dropout": 0.1}, None),
    ],
    ids=str,
)
def test_use_other_with_weights_that_need_both(
    pair: tuple[Path, Path], tmp_path: Path, training: dict[str, Any], needed: str | None
) -> None:
    def warnings(card: Card, **options: Any) -> list[str]:
        report = predict(PredictOptions(*pair, output=tmp_path / "m.tif", coreg="off", **options), PlaceEngine(card))
        return [text for text in report.warnings if "were not trained to predict without" in text]

    card = replace(CARD, training=training)
    found = warnings(card, missing="use-other")
    assert [re.findall(r"without (.+?)[:.]", text) for text in found] == ([[needed]] if needed else [])
    assert warnings(card) == []
