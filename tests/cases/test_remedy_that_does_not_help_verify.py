"""A map that gdal_translate has rewritten is said to be rewritten, not damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from refnet_cli.cli.main import run


def test_a_rewritten_map(shared: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = shared / "cases" / "remedy-that-does-not-help"
    assert run(["verify", str(folder / "map_translated.tif")]) == 65
    said = capfd.readouterr().err
    assert "was rewritten by another program" in said
    assert "damaged" not in said
    # The advice: verify the file that refnet wrote.
    assert run(["verify", str(folder / "map.tif")]) == 0
