"""Labels of other codes than the map's, and a map in a scheme of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from refnet_cli.cli.main import run

WORLDCOVER = """
[mapping]
10 = "Trees"
30 = "Rangeland"
40 = "Crops"
50 = "Built area"
60 = "Bare ground"
"""


@pytest.fixture
def case(shared: Path) -> Path:
    return shared / "cases" / "evaluate-has-no-mapping"


def agreement(map_path: Path, labels: Path, meanings: dict[int, int]) -> float:
    """Share of pixels with a known label that the map shows as that label's class, counted by hand."""
    with rasterio.open(map_path) as first, rasterio.open(labels) as second:
        predicted, stored = first.read(1), second.read(1)
    expected = np.zeros_like(stored)
    for code, meaning in meanings.items():
        expected[stored == code] = meaning
    known = (expected > 0) & (predicted > 0)
    return float((expected == predicted)[known].mean())


def score(capsys: pytest.CaptureFixture[str], *words: object) -> float:
    assert run(["evaluate", *map(str, words), "--json"]) == 0
    return float(json.loads(capsys.readouterr().out)["overall_accuracy"])


def codes_of(path: Path) -> dict[str, int]:
    with rasterio.open(path) as file:
        tags = file.tags(1)
    return {name: int(tag[6:]) for tag, name in tags.items() if tag.startswith("CLASS_") and tag[6:].isdigit()}


def test_a_code_for_unknown(case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "codes.toml").write_text("ignore = [255]")
    found = score(capsys, case / "map.tif", case / "labels_255.tif", "--mapping", tmp_path / "codes.toml")
    same = {code: code for code in codes_of(case / "map.tif").values()}
    assert found == pytest.approx(agreement(case / "map.tif", case / "labels_255.tif", same))


def test_worldcover_against_esri(case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "codes.toml").write_text(WORLDCOVER)
    found = score(capsys, case / "map.tif", case / "labels_worldcover.tif", "--mapping", tmp_path / "codes.toml")
    codes = codes_of(case / "map.tif")
    names = {10: "Trees", 30: "Rangeland", 40: "Crops", 50: "Built area", 60: "Bare ground"}
    meanings = {code: codes[name] for code, name in names.items()}
    assert found == pytest.approx(agreement(case / "map.tif", case / "labels_worldcover.tif", meanings))


@pytest.mark.parametrize("name", ["labels_255.tif", "labels_worldcover.tif"])
def test_the_messages_name_an_option_that_exists(
    name: str, case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(case / "map.tif"), str(case / name)]) == 65
    assert "--mapping codes.toml" in capsys.readouterr().err
    assert run(["evaluate", "--help"]) == 0
    assert "--mapping" in capsys.readouterr().out


def test_a_map_in_a_scheme_of_ones_own(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = score(capsys, case / "own_map.tif", case / "own_labels.tif", "--scheme", case / "own.toml")
    assert found == pytest.approx(agreement(case / "own_map.tif", case / "own_labels.tif", {1: 1, 2: 2}))
