"""Bands without names whose colour interpretation says which is red."""

from __future__ import annotations

from pathlib import Path

import pytest

from refnet_cli.errors import OptionsError
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from tests.cases.pixels import BANDS, assert_same, read_pair


def test_red_green_blue_are_known_by_their_colours(shared: Path) -> None:
    folder = shared / "cases" / "colour-interpretation-ignored"
    found = read_pair(folder / "s2_rgbn.tif", folder / "s1.tif")
    assert_same(found, read_pair(folder / "s2.tif", folder / "s1.tif"))


def test_the_fourth_band_is_a_guess_that_is_said(shared: Path) -> None:
    folder = shared / "cases" / "colour-interpretation-ignored"
    files = folder / "s2_rgbn.tif", folder / "s1.tif"
    with ScenePair.open(*files, BANDS, ("VV", "VH")) as pair:
        (how,) = (found.how for found in pair.decisions if found.what == "optical.bands")
        assert "band 4" in how
        assert any("band 4" in warning for warning in pair.warnings)
    with pytest.raises(OptionsError, match="--optical-bands"):
        ScenePair.open(*files, BANDS, ("VV", "VH"), SceneOptions(strict=True))
