"""Results are those on record: pixels, tags and texts of all outputs, a training, an ONNX model, a batch in blocks.

The command line alone makes them, so that the same test runs on code that is arranged in another way. When a result is
meant to change, `tests.helpers.record_results` makes the record again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from refnet_cli import __version__
from tests.helpers import record_results
from tests.helpers.record_results import PAIRS, RECORD, SAMPLES, export, hash_files, machine, predict, run_batch, train


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, str]]:
    """The results on record, where this machine can repeat them to the bit."""
    record = json.loads(RECORD.read_text())
    here: dict[str, str] = machine()
    other = [f"{name} is {here.get(name)}, not {value}" for name, value in record["machine"].items()
             if here.get(name) != value]  # fmt: skip
    if other:
        pytest.skip(f"the record holds on another kind of machine: {'; '.join(other)}")
    results: dict[str, dict[str, str]] = record["results"]
    return results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def training(recorded: Any, folder: Path) -> dict[str, str]:
    return train(folder)


def hold(name: str, found: dict[str, str], recorded: dict[str, dict[str, str]]) -> None:
    """Results have the items on record, each with its hash."""
    known = recorded[name]
    wrong = [item for item in known | found if known.get(item) != found.get(item)]
    if wrong:
        pytest.fail(f"{name}: not as recorded are {', '.join(wrong)}", pytrace=False)


@pytest.mark.long
def test_training(training: dict[str, str], recorded: Any) -> None:
    hold("training", training, recorded)


@pytest.mark.long
@pytest.mark.usefixtures("training")
def test_export(folder: Path, recorded: Any) -> None:
    hold("export", export(folder), recorded)


@pytest.mark.long
@pytest.mark.usefixtures("training")
def test_batch_in_blocks(folder: Path, recorded: Any) -> None:
    hold("batch", run_batch(folder), recorded)


@pytest.mark.long
@pytest.mark.usefixtures("training")
@pytest.mark.parametrize("name", SAMPLES)
def test_sample_scene(folder: Path, recorded: Any, name: str) -> None:
    hold(name, predict(folder, name), recorded)


@pytest.mark.long
@pytest.mark.usefixtures("training", "shared")
@pytest.mark.parametrize("name", PAIRS)
def test_real_pair(folder: Path, recorded: Any, name: str) -> None:
    hold(name, predict(folder, name), recorded)


def test_a_failure_names_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pixel, one tag, one file; a version and the checksum of the weights change nothing."""

    def write(pixel: int, tag: str, version: str, weights: str) -> dict[str, str]:
        monkeypatch.setattr(record_results, "__version__", version)
        values = np.zeros((1, 8, 8), np.uint8)
        values[0, 3, 4] = pixel
        profile = {"driver": "GTiff", "width": 8, "height": 8, "count": 1, "dtype": "uint8", "crs": "EPSG:32722",
                   "transform": rasterio.Affine(10, 0, 0, 0, -10, 0)}  # fmt: skip
        with rasterio.open(tmp_path / "map.tif", "w", **profile) as raster:
            raster.write(values)
            raster.update_tags(MADE=f"{tag} {version} {weights}")
        (tmp_path / "map.stac.json").write_text(f'{{"file:size": {len(version)}, "version": "{version}"}}')
        return hash_files(tmp_path, weights)

    before = {"map": write(1, "a", __version__, "0" * 64)}
    hold("map", write(1, "a", "10.11.12", "1" * 64), before)
    with pytest.raises(pytest.fail.Exception, match=r"^map: not as recorded are map\.tif pixels$"):
        hold("map", write(2, "a", __version__, "0" * 64), before)
    with pytest.raises(pytest.fail.Exception, match=r"^map: not as recorded are map\.tif tags$"):
        hold("map", write(1, "b", __version__, "0" * 64), before)
    with pytest.raises(pytest.fail.Exception, match=r"^map: not as recorded are map\.stac\.json$"):
        hold("map", {name: text for name, text in before["map"].items() if "stac" not in name}, before)
