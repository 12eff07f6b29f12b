"""The benchmark of several dates runs, and the page of docs/ shows what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from benchmarks import season
from tests.helpers.pages import ROOT, page
from tests.helpers.small_models import write_model


def test_the_table_of_the_page_is_the_result() -> None:
    (result,) = (ROOT / "benchmarks" / "results").glob("*-season.json")
    rows = json.loads(result.read_text())["results"]
    assert season.to_table(rows) in page("how-to/several-dates")


def test_every_date_is_clouded(tmp_path: Path) -> None:
    labels = season.make_place(tmp_path, 0, 128)
    shares, infrared = [], []
    for day in season.DATES:
        with rasterio.open(tmp_path / f"place_{day}" / "s2.tif") as file:
            bands = file.read()
            assert file.descriptions[-1] == "SCL"
        shares.append((bands[4] == season.CLOUD).mean())
        infrared.append(bands[3])
    assert min(shares) > 0.4
    assert labels.shape == (128, 128)
    assert not np.array_equal(infrared[0], infrared[1])


@pytest.mark.long
def test_the_benchmark(tmp_path: Path) -> None:
    rows = season.run(1, 128, write_model(tmp_path / "small.onnx"))
    assert len(rows) == 6
    for row in rows:
        assert row["difference"] == pytest.approx(row["mapped"] * row["accuracy"])
    assert len(season.to_table(rows).splitlines()) == 8
