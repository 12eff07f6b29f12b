"""Alpha bands are masks, and no bands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from refnet_cli.scene.pair import ScenePair
from tests.cases.pixels import BANDS, assert_same, read_pair


@pytest.fixture
def folder(shared: Path) -> Path:
    """The case's folder."""
    return shared / "cases" / "alpha-counted-as-band"


def masked(path: Path) -> np.ndarray:
    """Where the last band of a file is 0."""
    with rasterio.open(path) as file:
        return np.asarray(file.read(file.count) == 0)


@pytest.mark.parametrize("name", ["s2_4_alpha.tif", "s2_12_alpha.tif"])
def test_optical_bands_with_alpha(folder: Path, name: str) -> None:
    found, plain = read_pair(folder / name, folder / "s1.tif"), read_pair(folder / "s2.tif", folder / "s1.tif")
    holes = masked(folder / name)
    np.testing.assert_array_equal(found.optical_valid, plain.optical_valid & ~holes)
    np.testing.assert_array_equal(found.optical[:, ~holes], plain.optical[:, ~holes])


def test_twelve_bands_and_alpha_are_l2a(folder: Path) -> None:
    files = folder / "s2_12_alpha.tif", folder / "s1.tif"
    with ScenePair.open(*files, (*BANDS, "B11", "B12"), ("VV", "VH")) as pair:
        decided = {found.what: found.value for found in pair.decisions}
    assert decided["optical.bands"] == [2, 3, 4, 8, 11, 12]
    assert decided["optical.level"] == "L2A"


def test_sar_bands_with_alpha(folder: Path) -> None:
    found = read_pair(folder / "s2.tif", folder / "s1_alpha.tif")
    plain = read_pair(folder / "s2.tif", folder / "s1.tif")
    holes = masked(folder / "s1_alpha.tif")
    np.testing.assert_array_equal(found.sar_valid, plain.sar_valid & ~holes)
    if not holes.any():
        assert_same(found, plain)
