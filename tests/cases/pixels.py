"""What refnet reads of a pair of files, as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import Patch, ScenePair
from refnet_cli.tiles.window import Window

BANDS = ("B02", "B03", "B04", "B08")
Paths = Path | list[Path]


def read_pair(
    optical: Paths, sar: Paths, bands: tuple[str, ...] = BANDS, options: SceneOptions | None = None
) -> Patch:
    """Read all pixels of a pair on the optical grid."""
    with ScenePair.open(optical, sar, bands, ("VV", "VH"), options) as pair:
        return pair.read(Window(0, 0, *pair.grid.shape))


def assert_same(one: Patch, other: Patch) -> None:
    """Both hold the same values, bit by bit, and are not empty."""
    assert one.valid.any()
    np.testing.assert_array_equal(one.optical, other.optical)
    np.testing.assert_array_equal(one.sar, other.sar)
