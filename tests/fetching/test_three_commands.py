"""From a bounding box to a map, and to a trained network, in three commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.fetching.harness import Fetched, Site
from tests.helpers.programs import refnet
from tests.helpers.stac_items import AREA, EPSG, lonlat


@pytest.mark.long
def test_a_bounding_box_becomes_a_map_and_a_network(site: Site, tmp_path: Path) -> None:
    west, south, east, north = lonlat(AREA, EPSG).bounds
    place = tmp_path / "place"
    site.fetch(place, "--bbox", f"{west},{south},{east},{north}", area=None)
    files = ["--optical", place / "s2.tif", "--sar", place / "s1.tif"]
    done = refnet("predict", *files, "-o", place / "lulc.tif", seconds=500)
    assert done.returncode == 0, done.stderr
    assert "guess" not in done.stderr
    with rasterio.open(place / "lulc.tif") as file:
        assert (file.shape, tuple(file.transform)[:6], file.crs.to_epsg()) == Fetched(place).grid
        assert np.count_nonzero(file.read(1)) > 0.9 * file.width * file.height
    done = refnet("train", place / "regions.toml", "-o", tmp_path / "run", "--steps", "3", seconds=500)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run").rglob("*.safetensors"))
