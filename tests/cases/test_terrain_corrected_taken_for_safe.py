"""Terrain-corrected SAR as ASF HyP3 and S1-NRB deliver it: a zip, and a folder with a manifest."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

from refnet_cli.scene.pair import ScenePair
from tests.cases.pixels import BANDS, read_pair


@pytest.mark.parametrize("kind", ["hyp3", "nrb", "nrb zip", "folder of hyp3"])
def test_products_are_read_in_place(shared: Path, tmp_path: Path, kind: str) -> None:
    folder = shared / "cases" / "terrain-corrected-taken-for-safe"
    (hyp3,), (nrb,) = folder.glob("*.zip"), folder.glob("*_NRB_*")
    given = {"hyp3": hyp3, "nrb": nrb}.get(kind, tmp_path / "given")
    if kind == "nrb zip":
        given = Path(shutil.make_archive(str(tmp_path / nrb.name), "zip", folder, nrb.name))
    elif kind == "folder of hyp3":
        given.mkdir()
        shutil.copy(hyp3, given)
    patch = read_pair(folder / "s2.tif", given)
    for band, name in zip(patch.sar, ("vv", "vh"), strict=True):
        (image,) = (nrb / "measurement").glob(f"*-{name}-*.tif")
        with rasterio.open(image) as file:
            power = file.read(1)
        known = np.isfinite(band)
        assert known.mean() > 0.9
        np.testing.assert_allclose(band[known], 10 * np.log10(power[known]), atol=1e-4)
    with ScenePair.open(folder / "s2.tif", given, BANDS, ("VV", "VH")) as pair:
        decided = {found.what: found for found in pair.decisions}
        assert decided["sar.scale"].value == "power"
        assert decided["sar.scale"].how.startswith("name:")
        # The product is an input, never to be replaced.
        assert any(hyp3.name in str(path) or nrb.name in str(path) for path in pair.files)
