"""Labels in formats that are not read: the message says which are, and how to convert the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from refnet_cli.cli.main import run


@pytest.mark.parametrize("name", ["points.csv", "labels.kml"])
def test_the_endings_are_listed(name: str, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = shared / "cases" / "remedy-that-does-not-help"
    assert run(["evaluate", str(case / "map.tif"), str(case / name)]) == 65
    said = capsys.readouterr().err
    for part in ("GeoTIFF", ".gpkg", ".geojson", ".shp", ".fgb", "ogr2ogr", str(case / name)):
        assert part in said
