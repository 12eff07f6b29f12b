"""One number far below the noise that fills a part of a SAR image is no data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.tiles.window import Window

BANDS = ("B02", "B03", "B04", "B08")


def read(folder: Path, name: str) -> tuple[Any, dict[str, Any], list[str]]:
    with ScenePair.open(folder / "s2.tif", folder / name, BANDS, ("VV", "VH"), SceneOptions()) as pair:
        patch = pair.read(Window(0, 0, *pair.grid.shape))
        return patch, {found.what: found.value for found in pair.decisions}, pair.warnings


@pytest.mark.parametrize(("name", "fill"), [("s1_m99.tif", -99), ("s1_m50.tif", -50), ("s1_tiny.tif", 1e-10)])
def test_the_fill_is_no_data_and_the_rest_is_as_without_it(shared: Path, name: str, fill: float) -> None:
    folder = shared / "cases" / "sar-fill-within-range"
    right, _, _ = read(folder, "s1.tif")
    found, decisions, warnings = read(folder, name)
    with rasterio.open(folder / name) as file:
        hole = (file.read() == np.float32(fill)).all(axis=0)
    assert hole.mean() > 0.2
    np.testing.assert_array_equal(found.sar_valid, right.sar_valid & ~hole)
    np.testing.assert_allclose(found.sar[:, ~hole], right.sar[:, ~hole], atol=1e-4)
    assert decisions["sar.fill"] == pytest.approx(fill, rel=1e-5)
    assert any("26.96%" in warning and "nodata" in warning for warning in warnings)
