"""Labels and zones in a GeoPackage in which QGIS keeps styles too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyogrio
import pytest

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.cli.main import run
from refnet_cli.evaluation.labels import open_labels
from refnet_cli.outputs.areas.zones import read_zones
from refnet_cli.training.config import TrainScene
from tests.helpers.scenes import grid_of


@pytest.fixture
def case(shared: Path) -> Path:
    return shared / "cases" / "geopackage-with-styles"


def test_the_table_of_styles_is_no_layer(case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(case / "map.tif")]
    assert run([*words, str(case / "labels.gpkg")]) == 0
    scores = capsys.readouterr().out
    about, _, shapes, values = pyogrio.raw.read(case / "labels.gpkg", layer="labels")
    alone = tmp_path / "alone.gpkg"
    pyogrio.raw.write(
        alone, shapes, values, about["fields"], crs=about["crs"], geometry_type="Polygon", driver="GPKG"
    )  # fmt: skip
    assert run([*words, str(alone)]) == 0
    assert capsys.readouterr().out == scores
    assert "overall_accuracy" in scores


def test_an_option_chooses_among_several(case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = tmp_path / "both.gpkg"
    shutil.copyfile(case / "labels.gpkg", both)
    about, _, shapes, values = pyogrio.raw.read(both, layer="labels")
    pyogrio.raw.write(
        both, shapes[:1], [column[:1] for column in values], about["fields"], crs=about["crs"],
        geometry_type="Polygon", driver="GPKG", layer="first", append=True,
    )  # fmt: skip
    words = ["evaluate", str(case / "map.tif"), str(both)]
    assert run(words) == 64
    assert "'labels', 'first'" in (said := capsys.readouterr().err)
    assert "--layer" in said
    pixels = []
    for layer in ("labels", "first"):
        assert run([*words, "--layer", layer, "--json"]) == 0
        pixels.append(capsys.readouterr().out)
    assert pixels[0] != pixels[1]


def test_zones_and_scenes_take_it_too(case: Path) -> None:
    grid = grid_of(case / "map.tif")
    assert list(read_zones(case / "labels.gpkg", grid)) == ["1", "2", "3"]
    scene = TrainScene(case / "a.tif", case / "b.tif", case / "labels.gpkg", label_layer="labels")
    labels = open_labels(scene.labels, grid, SCHEMES["terramesh"], layer=scene.label_layer)
    assert not labels.warnings
