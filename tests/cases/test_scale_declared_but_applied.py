"""A scale that the values had already been multiplied with makes no reflectance, and is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from refnet_cli.cli.main import run


@pytest.mark.parametrize("name", ["s2_scale.tif", "s2_scale_offset.tif"])
def test_it_is_refused(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    folder = shared / "cases" / "scale-declared-but-applied"
    arguments = ["--optical", str(folder / name), "--sar", str(folder / "s1.tif"), "--coreg", "off"]
    assert run(["predict", *arguments, "-o", str(tmp_path / "map.tif")]) == 65
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert name in message
    assert "not reflectance" in message
    assert "gdal_translate -a_scale 1 -a_offset 0" in message
    assert not (tmp_path / "map.tif").exists()
    assert run(["inspect", *arguments]) == 65


def test_the_same_without_the_scale_is_taken(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared / "cases" / "scale-declared-but-applied"
    assert run(["inspect", "--optical", str(folder / "s2_right.tif"), "--sar", str(folder / "s1.tif")]) == 0
    assert "The files fit the weights" in capsys.readouterr().out
