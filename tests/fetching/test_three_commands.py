"""From a bounding box to a map, and to a trained network, in three commands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform_bounds

from tests.fetching.harness import Fetched, Site
from tests.helpers.pages import commands_of, pages
from tests.helpers.programs import refnet
from tests.helpers.stac_items import AREA, EPSG, lonlat
from tests.helpers.stac_scenes import serving


@pytest.mark.long
def test_the_command_of_the_readme_fetches_its_place(tmp_path: Path) -> None:
    """As it stands there, out of a catalogue on this machine; what is fetched can be trained on."""
    (fetching,) = (line for line in commands_of(pages()["README.md"]) if line.startswith("refnet fetch"))
    with serving(tmp_path, side=2310):
        words = [*shlex.split(fetching)[1:], "--source", "local.toml", "--allow-host", "127.0.0.1"]
        done = refnet(*words, cwd=tmp_path, seconds=500)
    assert done.returncode == 0, done.stderr
    for name in ("s2.tif", "s1.tif", "labels.tif"):
        with rasterio.open(tmp_path / "berlin" / name) as file:
            west, south, east, north = transform_bounds(file.crs, 4326, *file.bounds)
            assert west <= 13.2 < 13.5 <= east
            assert south <= 52.4 < 52.6 <= north
            assert (file.read(1) != file.nodata).mean() > 0.95
    done = refnet("train", "berlin/regions.toml", "--dry-run", "--json", cwd=tmp_path, seconds=500)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["time"]["steps"] == 100


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
