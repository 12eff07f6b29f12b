"""Names and places in files next to an image, which are not read."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import rasterio.shutil

from refnet_cli.cli.main import run
from tests.cases.pixels import assert_same, read_pair


@pytest.mark.parametrize("name", ["s2_names_in_aux.tif", "s2_place_in_aux.tif"])
def test_the_message_names_the_sidecar_and_its_advice_helps(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for file in (shared / "cases" / "sidecar-ignored").iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    monkeypatch.chdir(tmp_path)
    assert run(["predict", "--optical", name, "--sar", "s1.tif", "-o", "map.tif"]) == 65
    message = capsys.readouterr().err
    assert f"{name}.aux.xml" in message
    assert not os.path.exists("map.tif")
    (advice,) = re.findall(r"`gdal_translate (\S+) (\S+)`", message)
    rasterio.shutil.copy(advice[0], advice[1], driver="GTiff")  # what gdal_translate does
    Path(f"{advice[0]}.aux.xml").unlink()
    found = read_pair(tmp_path / advice[1], tmp_path / "s1.tif")
    assert_same(found, read_pair(tmp_path / "s2.tif", tmp_path / "s1.tif"))
