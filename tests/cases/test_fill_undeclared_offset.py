"""A fill that is not declared decides no offset, and is no data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.tiles.window import Window

BANDS = ("B02", "B03", "B04", "B08")


def read(folder: Path, name: str) -> tuple[Any, dict[str, Any], list[str]]:
    with ScenePair.open(folder / name, folder / "s1.tif", BANDS, ("VV", "VH"), SceneOptions()) as pair:
        patch = pair.read(Window(0, 0, *pair.grid.shape))
        return patch, {found.what: found.value for found in pair.decisions}, pair.warnings


@pytest.mark.parametrize(
    ("name", "fill"), [("s2_minus9999.tif", -9999), ("s2_minus32768.tif", -32_768), ("s2_one.tif", 1)]
)
def test_it_is_read_as_if_the_fill_were_declared(shared: Path, name: str, fill: int) -> None:
    folder = shared / "cases" / "fill-undeclared-offset"
    right, decided, warnings = read(folder, "s2_declared.tif")
    assert (decided["optical.offset"], warnings) == (1000, [])
    found, decisions, warnings = read(folder, name)
    assert (decisions["optical.offset"], decisions["optical.fill"]) == (1000, fill)
    np.testing.assert_array_equal(found.optical, right.optical)
    assert any(f"{fill} in 8.90%" in warning for warning in warnings)
