"""Large exports that Earth Engine cuts into files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.cases.pixels import read_pair


def uncut(folder: Path, sensor: str) -> np.ndarray:
    """The two tiles next to each other."""
    tiles = []
    for column in ("0000000000", "0000000048"):
        with rasterio.open(folder / f"{sensor}-0000000000-{column}.tif") as file:
            tiles.append(file.read())
    return np.concatenate(tiles, axis=2)


@pytest.mark.parametrize("given", ["list", "reversed list", "folder"])
def test_tiles_are_one_image(shared: Path, given: str) -> None:
    folder = shared / "cases" / "export-tiles-not-joined"
    if given == "folder":
        found = read_pair(folder, folder)
    else:
        step = -1 if given == "reversed list" else 1
        found = read_pair(*(sorted(folder.glob(f"{sensor}-*.tif"))[::step] for sensor in ("s2", "s1")))
    assert found.valid.all()
    np.testing.assert_array_equal(found.optical, uncut(folder, "s2").astype(np.float32))
    np.testing.assert_allclose(found.sar, uncut(folder, "s1"), atol=1e-4)
