"""What people see of weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refnet_cli.cli.card_text import describe_card
from refnet_cli.cli.main import run
from refnet_cli.model.card import Card
from refnet_cli.model.weight_files import default_weights, read_card
from tests.helpers.scenes import CARD
from tests.helpers.small_models import write_model

IOU = {"Water": 0.9, "Trees": None, "Crops": 0.95}
VALIDATION = {
    "overall_accuracy": 0.947, "mean_iou": 0.9, "labelled": {"Water": 300, "Trees": 0, "Crops": 1200}, "iou": IOU,
}  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("weights") / "w.onnx")


def test_the_bundled_weights_take_ten_lines() -> None:
    rows = dict(describe_card(read_card(default_weights()), default_weights()))
    assert [*rows] == [
        "Weights", "File", "Bands", "Classes", "Tile", "Training", "Scores", "IoU", "Licence", "Notice",
    ]  # fmt: skip
    assert rows["Bands"] == "Sentinel-2 B02 B03 B04 B08, Sentinel-1 VV VH; either sensor is enough"
    assert "Sentinel-1 alone" in rows["Scores"]
    assert rows["IoU"].endswith("; not tested: Clouds")


def test_of_weights_of_ones_own(path: Path) -> None:
    training = {"scenes": {"a": "train", "b": "validation"}, "pixels": {"train": {"Water": 1200}}, "steps_done": 1}
    rows = dict(describe_card(replace(CARD, training=training, scores={"validation": VALIDATION}), path))
    assert rows["Training"] == "1 scene, 1,200 labelled pixels, 1 step"
    assert rows["Scores"] == "95% right, mean IoU 0.90 on 1,500 pixels held out"
    assert rows["IoU"].startswith("Crops 0.95, Water 0.90; not tested: Trees, ")
    assert rows["Bands"].endswith("; both sensors are needed")
    assert "Notice" not in rows
    leaky = replace(CARD, scores={"validation": VALIDATION | {"leaky": True}})
    assert dict(describe_card(leaky, path))["Scores"].endswith("held out at random, which flatters")


@pytest.mark.parametrize(
    ("scores", "said"),
    [({}, "unknown"), ({"best": 1}, "--json prints them"), ({"validation": {"kappa": 1}}, "in a form of their own"),
     ({"both": 0.9}, "in a form of their own"), ({"validation": [1]}, "in a form of their own")],
)  # fmt: skip
def test_scores_in_other_forms(scores: dict[str, Any], said: str, path: Path) -> None:
    assert dict(describe_card(replace(CARD, scores=scores), path))["Scores"].startswith(said)


@pytest.mark.parametrize(
    ("training", "said"),
    [({"sensors_alone": ["optical"]}, "Sentinel-1 may be absent"), ({"without": "optical"}, "Sentinel-2 may be absent"),
     ({"modality_dropout": 0.3}, "either sensor is enough"), ({"scenes": 3, "pixels": [], "levels": "L2A"}, "needed")],
)  # fmt: skip
def test_sensors_that_are_enough(training: dict[str, Any], said: str, path: Path) -> None:
    assert dict(describe_card(replace(CARD, training=training), path))["Bands"].endswith(said)


def test_info_and_list(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["weights", "info", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split(maxsplit=1) == ["Weights", "free, ONNX model, 0.0 MB"]
    assert run(["weights", "info", str(path), "--json"]) == 0
    assert Card.from_dict(_without_alone(capsys.readouterr().out)) == read_card(path)
    assert run(["weights", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["path"] for entry in listed if entry["default"]] == [str(default_weights())]
    assert run(["weights", "list", "-q"]) == 0
    quiet = capsys.readouterr()
    assert (quiet.out.splitlines(), quiet.err) == ([entry["path"] for entry in listed], "")


def _without_alone(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    assert found.pop("sensors_alone") == []
    return found
